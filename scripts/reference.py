"""
Writes the pages of docs/reference from the code: the settings, the policy, the tools, the errors, Python and the command line.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import typer

import ocp_stripe_balance
from ocp_stripe_balance import Policy, Settings, errors, models
from ocp_stripe_balance._tools.documentation import documentation
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.cli.app import app
from ocp_stripe_balance.settings import _variables
from ocp_stripe_balance.web.api.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_FOLDER = Path(__file__).parents[1] / "docs" / "reference"
_NOTE = "<!-- Written by scripts/reference.py; change the code and run make docs-reference. -->"


def pages() -> dict[str, str]:
    """
    Each page's name and text.
    """
    made = {
        "settings": _settings(),
        "policy": _policy(),
        "tools": _tools(),
        "errors": _errors(),
        "problems": _problems(),
        "python": _python(),
        "command-line": _command_line(),
    }
    return {f"{name}.md": f"{_NOTE}\n\n{text.strip()}\n" for name, text in made.items()}


def _words(cls: type) -> dict[str, str]:
    """
    What the strings under a class's fields say, and those under the attributes that its ``__init__`` sets.
    """
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    inside = [each.body for each in body.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    found = {}
    for block in [body.body, *inside]:
        for field, text in itertools.pairwise(block):
            target = field.targets[0] if isinstance(field, ast.Assign) else getattr(field, "target", None)
            name = getattr(target, "id", None) or getattr(target, "attr", None)
            if name and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[name] = _plain(str(text.value.value))
    return found


def _plain(text: str) -> str:
    """
    A docstring's words in one line of Markdown.
    """
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _sentence(thing: object) -> str:
    """
    The docstring, without its list of arguments and errors.
    """
    return _plain(re.split(r"\n\s*(?:Args|Raises|Returns):", inspect.getdoc(thing) or "")[0])


def _table(head: str, rows: Iterable[Sequence[str]]) -> str:
    columns = head.split(" | ")
    lines: list[Sequence[str]] = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _settings() -> str:
    words, rows = _words(Settings), []
    for name, field in Settings.model_fields.items():
        variables = ", else ".join(f"`{each}`" for each in _variables(name))
        default = {None: "none", True: "`true`", False: "`false`"}.get(field.default, f"`{field.default}`")
        rows.append((variables, f"`{name}`", default, words[name]))
    return f"""# Settings

Each is a variable of the environment, and an argument of `Settings(…)`. Arguments win: `OCPAgent(settings=Settings(timeout=10))`.

{_table("variable | argument | default | meaning", rows)}

A variable that is empty or only blanks is not set, but a key, a journal or a policy that is only blanks is refused, and so is a variable
that is there twice (`STRIPE_ACCOUNT` and `stripe_account`) with different values. A misspelt or impossible setting is a `ConfigurationError`
that names it, and says what to write; so are quotes around a value, a placeholder that nobody replaced, and what is no API key.

`register_api` and `call_tool` take `headers=` with `Authorization`, `Stripe-Account` and `Stripe-Version` (`call_tool` also
`Idempotency-Key`); no other header can be set. Proxies and `.netrc` from the environment are ignored. `OCPAgent(transport=…)` takes any
httpx transport instead of our own connections.
"""


def _policy() -> str:
    sections = []
    for name, field in Policy.model_fields.items():
        if (inner := _section_of(field)) is not None:
            shown = f"[[{name}]]" if name == "budgets" else f"[{name}]"
            sections.append(f"## `{shown}`\n\n{_sentence(inner)}\n\n{_table('key | default | meaning', _keys(inner))}")
    return "\n\n".join(
        [
            "# The policy",
            (
                "The keys of the TOML file that `OCP_STRIPE_POLICY` names; in code, those of `Policy(…)`. "
                'Amounts are text in the currency\'s own units: `"20.00"` usd, `"2000"` jpy. [Set limits](../policy.md) has one worth copying.'
            ),
            _table("key | default | meaning", _keys(Policy)),
            *sections,
        ]
    )


def _section_of(field: Any) -> Any:
    """
    The model of a table of the file, or of an array of such tables; None of a plain key.
    """
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((each for each in kinds if inspect.isclass(each) and issubclass(each, pydantic.BaseModel)), None)


def _keys(section: type[pydantic.BaseModel]) -> list[tuple[str, ...]]:
    words = _words(section)
    return [
        (f"`{name}`", _default(name, field), words[name])
        for name, field in section.model_fields.items()
        if _section_of(field) is None
    ]


def _default(name: str, field: Any) -> str:
    if field.is_required():
        return "required"
    if name in {"duplicate_window", "expires"}:
        return {600.0: "`10m`", 86400.0: "`24h`"}[field.default]
    if field.default is None or field.default in ({}, ()):
        return "none"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{list(field.default) if isinstance(field.default, tuple) else field.default}`".replace("'", '"')


def _tools() -> str:
    explained = "\n\n".join(documentation(tool) for tool in load_manifest().tools)
    return f"""# The tools

What a model may call. Unknown parameters are refused, with the nearest known name. `null` for an optional parameter means left out. One that
says nothing (`N/A`, `string`, `-`, blanks; as a reference also `unknown`, `todo`, `<reference>`, `test`, `0`) is left out with a warning.
`-500.0` is taken for `-500` where it is a number; text, other fractions and booleans are refused. This package's own metadata keys,
`ocp_call` and `ocp_reference`, count as keys. A reference is one however it is typed: spaces, case, dashes, quotes, widths and invisible
characters do not matter. `ocp-stripe-balance tools NAME` prints the same; `--json` prints definitions and schemas, which are also in the
folder `schemas` and in `tool_manifest.json` of the package.

{explained}
"""


def _errors() -> str:
    tree = inspect.getdoc(errors) or ""
    rows = []
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and issubclass(cls, errors.ToolError) and cls is not errors.ToolError:
            fields = "".join(f"<br>`.{field}` {text}" for field, text in _words(cls).items())
            rows.append((f"`{cls.outcome}`", f"`{name}`", f"{_sentence(cls)}{fields}"))
    fields = "\n".join(f"- `.{name}`: {text}" for name, text in _words(errors.ToolError).items())
    drawing, words = (
        "\n".join(line[4:] for line in part.splitlines()) for part in re.findall(r"(?m)(?:^    .*\n)+", tree)
    )
    what, after = (_plain(part) for part in tree.rsplit("\n\n", 3)[1::2])
    return f"""# Errors

All are in `ocp_stripe_balance.errors`. [The outcome](../outcomes.md) says what to do.

```text
{drawing}
```

{what}

```text
{words}
```

{after}

{_table("outcome | error | what happened, and what to do", rows)}

Every error has:

{fields}
"""


def _problems() -> str:
    explained = "\n\n".join(
        f"## {kind}\n\n**{each.title}** ({each.status}). {each.text}" for kind, each in KINDS.items()
    )
    return f"""# Problems

What [the gateway](../gateway.md) answers where a request did not get what it asked for: `application/problem+json`, whose `type` ends with one of
these names. The server has the same page for each, under `/problems`.

{explained}
"""


def _python() -> str:
    parts = ["# Python", "What `from ocp_stripe_balance import …` gives, but for [errors](errors.md)."]
    shown = [*ocp_stripe_balance.__all__, "Customer", "ReconcileResult"]
    for name in sorted(set(shown), key=str.lower):
        thing = getattr(models, name, None) or getattr(ocp_stripe_balance, name)
        if name in {"Settings", "Policy"} or (inspect.isclass(thing) and issubclass(thing, Exception)):
            continue
        parts += [f"## {name}", *_described(name, thing)]
    return "\n\n".join(parts)


def _described(name: str, thing: Any) -> Iterator[str]:
    yield _sentence(thing)
    if not inspect.isclass(thing):
        yield f"```text\n{_signature(name, thing)}\n```"
        return
    if fields := [f"- `{field}`: {text}" for field, text in _words(thing).items() if not field.startswith("_")]:
        yield "\n".join(fields)
    methods = []
    for method, value in _members(thing):
        called = value.fget if isinstance(value, property) else getattr(thing, method)
        shown = method if isinstance(value, property) else _signature(method, called)
        methods.append(f"- `{shown}`: {_sentence(called)}")
    if methods:
        yield "\n".join(methods)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """
    The public methods and properties of our own classes, those of its bases first.
    """
    for each in reversed(cls.__mro__):
        if each.__module__.startswith("ocp_stripe_balance"):
            for name, value in vars(each).items():
                is_callable = inspect.isfunction(value) or isinstance(value, property | classmethod)
                if is_callable and not name.startswith("_"):
                    yield name, value


def _signature(name: str, function: Any) -> str:
    """
    As it is called, without types.
    """
    parameters = [
        each.replace(annotation=inspect.Parameter.empty) for each in inspect.signature(function).parameters.values()
    ]
    shown = inspect.Signature([each for each in parameters if each.name not in {"self", "cls"}])
    return ("await " if inspect.iscoroutinefunction(function) else "") + f"{name}{shown}"


def _command_line() -> str:
    found = _commands("", typer.main.get_command(app))
    commands = "\n\n".join(_command(words, command) for words, command in found)
    return f"""# The command line

Data goes to stdout, everything else to stderr. Exit codes: 0 succeeded, 2 not sent, 3 rejected, 4 unknown; 1 where the output cannot be
written and nothing was done. A call that SIGTERM or SIGHUP interrupts is told and recorded as after Ctrl-C, and ends with 143 or 129.
Where standard input is a terminal, what moves money asks first, unless `--yes`; the policy may want a person all the same.
`NAME --help` says the same as this page. In the tables of `history` and `find`, a balance with a minus is in credit.

With `--json`, a command prints one JSON object whose `format` is 1; the number changes when a field goes or means something else, not when
one is added. Times are RFC 3339, amounts are integers in the smallest unit. What was asked for is on stdout: a list under its own name
(`calls`, `decisions`, `findings`, `proposals`, `tools`, `steps`, `rules`), else the fields themselves. An error, one of usage too, is such
an object on stderr, alone there, with the fields of [the error](errors.md); one of outcome `unknown` has in `to_find_out` the command that
finds out and moves no money, and in `to_finish` the one that sends the call again under its key, where that may be. `calls export` prints
an object a line instead, and `sandbox --json` one line.

{commands}
"""


def _commands(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """
    Each command that does something, with the words that it is called by.
    """
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            called = f"{words} {name}".strip()
            if getattr(inner, "invoke_without_command", True):
                yield called, inner
            yield from _commands(called, inner)


def _command(words: str, command: Any) -> str:
    given = [each for each in command.params if each.name != "help" and not each.hidden]
    arguments = [each for each in given if each.param_type_name == "argument"]
    options = [each for each in given if each.param_type_name == "option"]
    shown = " ".join([words, *(_argument(each) for each in arguments), *["[OPTIONS]"] * bool(options)])
    rows = [(f"`{_argument(each)}`", _plain(each.help or "")) for each in arguments]
    rows += [(f"`{_option(each)}`", _plain(each.help or "")) for each in options]
    table = f"\n\n{_table('what | meaning', rows)}" if rows else ""
    return f"## {words}\n\n`{shown}`\n\n{_plain(command.help or '')}{table}"


def _argument(each: Any) -> str:
    name = each.metavar or str(each.name).upper()
    return name + "…" * (each.nargs == -1) if each.required else f"[{name}{'…' * (each.nargs == -1)}]"


def _option(each: Any) -> str:
    return ", ".join(each.opts) + ("" if each.is_flag else f" {each.metavar or str(each.name).upper()}")


def main() -> int:
    """
    Write the pages, and delete those that are no more.
    """
    _FOLDER.mkdir(exist_ok=True)
    made = pages()
    for path in _FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (_FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
