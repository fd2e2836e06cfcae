"""
The command line: ocp-stripe-balance demo, tools, call, journal, policy, approvals, sandbox and doctor.

Data goes to stdout, everything else to stderr. Exit codes: 0 succeeded, 2 not sent, 3 rejected, 4 unknown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._policy import live
from ocp_stripe_balance._text.parsing import parsed
from ocp_stripe_balance._text.version import package_version
from ocp_stripe_balance._tools.manifest import load_manifest, tool_at
from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.cli import approvals, journal, policy, stopping
from ocp_stripe_balance.cli.demo import demo
from ocp_stripe_balance.cli.output import (
    finished,
    prepare_streams,
    print_json,
    printable,
    read_text,
    say,
    sentence_of,
    show_dry_run,
    show_error,
    show_result,
    silence_streams,
    tell,
    wrap,
)
from ocp_stripe_balance.errors import (
    ConfigurationError,
    InvalidParametersError,
    OutcomeUnknownError,
    Problem,
    RejectedError,
    ToolError,
)
from ocp_stripe_balance.exports import FORMATS, export_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance.settings import Settings

_NO_KEY = "none: set STRIPE_SECRET_KEY or STRIPE_API_KEY; without a Stripe account, try ocp-stripe-balance sandbox"
_EXIT_CODES = {"succeeded": 0, "not_sent": 2, "rejected": 3, "unknown": 4}
_REVERSE = "reverseCustomerBalanceTransaction"
_TOOL = "postCustomersCustomerBalanceTransactions"


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code.
    """
    prepare_streams()
    stopping.forget()
    options = _options([_as_typed(word) for word in (sys.argv[1:] if argv is None else argv)])
    try:
        return finished(_exit_code(options))
    except OSError as error:
        return _cannot_print(error, options.done)
    finally:
        silence_streams()


def _options(argv: Sequence[str]) -> argparse.Namespace:
    """
    What the command line says.

    Raises:
        SystemExit: it is wrong, or asks for help.
    """
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(argv)
        if options.command == "call" and all("=" in word and word[0] != "-" for word in rest):
            options.assignments += rest  # argparse takes no positional after an option
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit as error:
        try:
            raise SystemExit(finished(int(error.code or 0))) from None
        except OSError as failure:  # help, to a closed output
            raise SystemExit(_cannot_print(failure, None)) from None
        finally:
            silence_streams()
    options.done = options.calling = None
    return options


def _as_typed(word: str) -> str:
    """
    A word of the command line as UTF-8, where the locale knows none.
    """
    with contextlib.suppress(UnicodeError):
        return os.fsencode(word).decode() if not word.isprintable() else word
    return word


def _exit_code(options: argparse.Namespace) -> int:
    """
    The exit code of a command, its errors told.

    Raises:
        OSError: standard output is closed or full.
    """
    try:
        return asyncio.run(_until_stopped(options))
    except ToolError as error:
        show_error(error, as_json=getattr(options, "as_json", False))
        if not isinstance(error, OutcomeUnknownError):
            return _EXIT_CODES[error.outcome]
        if error.retryable:
            tell(f"To find out: {_command('journal', 'resume', error.idempotency_key or '')}")
        return stopping.exit_code(_EXIT_CODES[error.outcome])
    except (KeyboardInterrupt, asyncio.CancelledError):
        # A call that may have been sent does not end so, but as unknown.
        say("Interrupted." if options.command not in {"call", "reverse"} else "Interrupted; nothing was sent.")
        return 0 if options.command == "sandbox" else stopping.exit_code(_EXIT_CODES["not_sent"])


async def _until_stopped(options: argparse.Namespace) -> int:
    """
    The exit code of a command, which Ctrl-C and its relatives cancel.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        # A call under way says whether it may have been sent; one that is over stays so.
        each = options.calling or task
        if each is not None:
            each.cancel()

    def stop() -> None:
        if options.calling is None and stopping.times() > 1:
            stopping.interrupt()
        loop.call_soon_threadsafe(cancel)

    with stopping.stopped_by(stop):
        return await _run(options)


def _command(*words: str) -> str:
    """
    A command of this program as a shell takes it.
    """
    is_module = sys.argv[0].endswith("__main__.py")
    program = [sys.executable, "-m", "ocp_stripe_balance"] if is_module else [sys.argv[0]]
    return subprocess.list2cmdline([*program, *words]) if os.name == "nt" else shlex.join([*program, *words])


def _cannot_print(error: OSError, done: str | None) -> int:
    """
    Standard output is closed or full; what was done stays done, and is said where it still can be.
    """
    if done is not None:
        say(done)
    if not isinstance(error, BrokenPipeError):
        say(f"The output cannot be written: {error}.")
    return 0 if done is not None else 1


def _run(options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    commands = {
        "demo": demo,
        "approvals": approvals.run,
        "journal": journal.run,
        "policy": policy.run,
        "tools": _tools,
        "call": _call,
        "reverse": _reverse,
        "sandbox": _sandbox,
        "doctor": _doctor,
    }
    return commands[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ocp-stripe-balance",
        description="Credit or debit a Stripe customer's balance: once per decision, with the outcome always told.",
        epilog="exit codes: 0 succeeded, 2 not sent, 3 rejected by Stripe, 4 outcome unknown",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {package_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("demo", help="an agent credits a customer of the sandbox; needs no key")

    _add_calls(commands)
    _add_sandbox(commands)
    journal.add_parser(commands)
    policy.add_parser(commands, _TOOL)
    approvals.add_parser(commands)

    doctor = commands.add_parser("doctor", help="which key, which mode, and does Stripe answer")
    doctor.add_argument("--json", dest="as_json", action="store_true", help="the findings as JSON")
    return parser


def _add_calls(commands: Any) -> None:
    tools = commands.add_parser("tools", help="the tools, or one of them explained")
    tools.add_argument("name", nargs="?", metavar="NAME", help="a tool's name")
    tools.add_argument("--json", dest="as_json", action="store_true", help="definitions and schemas as JSON")
    tools.add_argument("--format", dest="form", choices=FORMATS, help="definitions as a provider's API takes them")

    call = commands.add_parser(
        "call",
        help="call a tool",
        epilog=f"example: ocp-stripe-balance call {_TOOL} customer=cus_… amount=-500 currency=usd",
    )
    call.add_argument("tool", metavar="TOOL", help="a tool's name")
    call.add_argument(
        "assignments", nargs="*", metavar="KEY=VALUE", help="a parameter; metadata[key]=value, expand[]=field"
    )
    call.add_argument(
        "--json",
        dest="json_source",
        nargs="?",
        const="",
        metavar="FILE",
        help="print the result as JSON; with FILE (or - for standard input) also read the parameters from there",
    )
    call.add_argument("--idempotency-key", metavar="KEY", help="the name of this one decision")
    call.add_argument("--yes", action="store_true", help="do not ask before sending, unless the policy wants it")
    call.add_argument("--dry-run", action="store_true", help="show the request and the policy's verdict; send nothing")

    reverse = commands.add_parser("reverse", help="undo an entry by making the opposite one, once")
    reverse.add_argument("transaction", metavar="TRANSACTION", help="ID of the entry, cbtxn_…")
    reverse.add_argument("--customer", metavar="ID", help="whose entry; by default as the journal knows")
    reverse.add_argument("--description", metavar="TEXT", help="for the ledger (default: Reversal of TRANSACTION)")
    reverse.add_argument("--stated-effect", metavar="TEXT", help="what you expect it to do, such as 'debit 5.00 USD'")
    reverse.add_argument("--json", dest="as_json", action="store_true", help="print the result as JSON")
    reverse.add_argument("--yes", action="store_true", help="do not ask before sending, unless the policy wants it")
    reverse.add_argument("--dry-run", action="store_true", help="show the request and the verdict; send nothing")


def _add_sandbox(commands: Any) -> None:
    sandbox = commands.add_parser("sandbox", help="run an embedded Stripe until Ctrl-C")
    sandbox.add_argument("--port", type=int, default=0, metavar="N", help="port to listen on (default: any free one)")
    sandbox.add_argument("--file", metavar="PATH", help="keep the state in this file, over restarts")
    sandbox.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND[:OPTION=VALUE,…]",
        help="let something go wrong, such as reset:executed=true,times=2 (docs/sandbox.md has the list)",
    )
    sandbox.add_argument(
        "--rate-limit", type=float, metavar="N", help="requests per second an API key may make, in all and per endpoint"
    )
    sandbox.add_argument("--endpoint-rate-limit", type=float, metavar="N", help="per endpoint, where it is another")
    sandbox.add_argument(
        "--lock", type=float, default=0.0, metavar="SECONDS", help="how long a write holds its customer (default: 0)"
    )
    sandbox.add_argument("--seed", type=int, default=0, metavar="N", help="of the faults that happen by chance")
    sandbox.add_argument(
        "--json", dest="as_json", action="store_true", help="url, api_key and customer as one JSON line"
    )


async def _tools(options: argparse.Namespace) -> int:
    if options.form is not None:
        try:
            print_json(export_tools(options.form, [options.name] if options.name else None))
        except ValueError as error:
            raise _fail("NAME", str(error), "run 'ocp-stripe-balance tools'") from None
        return 0
    async with OCPAgent() as agent:
        await agent.register_api("stripe")
        if options.name is None:
            if options.as_json:
                print_json([_definition(tool) for tool in agent.list_tools()])
            else:
                for tool in agent.list_tools():
                    print(f"{tool.name}\n{wrap(tool.description)}\n")
            return 0
        tool = await _tool_named(agent, options.name)
        if options.as_json:
            print_json(_definition(tool))
        else:
            print(agent.get_tool_documentation(tool.name))
        return 0


async def _call(options: argparse.Namespace) -> int:
    options.as_json = options.json_source is not None
    if "=" in options.tool:
        raise _fail(
            "TOOL", f"{options.tool!r} is not a tool's name", "write the tool's name before --json and KEY=VALUE"
        )
    return await _make_call(options, options.tool, lambda tool: _parameters(tool, options), options.idempotency_key)


async def _reverse(options: argparse.Namespace) -> int:
    names = ("transaction", "customer", "description", "stated_effect")
    given = {name: getattr(options, name) for name in names}
    return await _make_call(options, _REVERSE, lambda _: given, None)


async def _make_call(
    options: argparse.Namespace, name: str, parameters_of: Callable[[ToolSpec], Any], key: str | None
) -> int:
    from ocp_stripe_balance.settings import Settings  # pydantic

    settings = Settings()
    is_at_terminal = sys.stdin is not None and sys.stdin.isatty()
    who: dict[str, Any] = {}
    if is_at_terminal:
        who = {"user": approvals.whoami(), "approver": approvals.ask_at_terminal, "asks_always": not options.yes}
    async with OCPAgent("command_line", settings=settings, **who) as agent:
        await agent.register_api("stripe")
        tool = await _tool_named(agent, name)
        parameters = parameters_of(tool)
        if key is None and isinstance(parameters, dict) and "idempotency_key" in tool.parameters:
            key = parameters.pop("idempotency_key", None)  # here it is a person's own, not a model's
        if options.dry_run:
            return show_dry_run(
                await agent.call_tool(tool.name, parameters, idempotency_key=key, dry_run=True),
                as_json=options.as_json,
            )
        options.calling = asyncio.ensure_future(agent.call_tool(tool.name, parameters, idempotency_key=key))
        result = await options.calling
        options.done = sentence_of(result)
        show_result(result, as_json=options.as_json)
        sys.stdout.flush()
        return 0


async def _sandbox(options: argparse.Namespace) -> int:
    from ocp_stripe_balance.sandbox import Sandbox  # a server that few commands need

    try:
        async with Sandbox(
            port=options.port,
            seed=options.seed,
            path=options.file,
            rate_limit=options.rate_limit,
            endpoint_rate_limit=options.endpoint_rate_limit,
            lock_s=options.lock,
        ) as stripe:
            for fault in options.fault:
                stripe.faults.add_text(fault)
            customer = stripe.create_customer(name="Ada Lovelace")
            if options.as_json:
                print(json.dumps({"url": stripe.url, "api_key": stripe.api_key, "customer": customer}), flush=True)
            else:
                say(f"An embedded Stripe listens at {stripe.url}, in memory, until Ctrl-C.")
                say("In another terminal:")
                print(f"export STRIPE_API_BASE={stripe.url}\nexport STRIPE_SECRET_KEY={stripe.api_key}")
                print(f"export CUSTOMER={customer}", flush=True)
                say(f"{_command('call', _TOOL)} customer=$CUSTOMER amount=-250 currency=usd")
            await asyncio.Event().wait()
    except (OSError, OverflowError) as error:
        message = f"The sandbox cannot listen on port {options.port}, or use its file: {error}."
        raise ConfigurationError(message, hint="Choose another --port or --file.") from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"The sandbox cannot start: {error}."
        raise ConfigurationError(message, hint="Mend --fault, --file, --rate-limit or --lock.") from error
    return 0


async def _doctor(options: argparse.Namespace) -> int:
    from ocp_stripe_balance._stripe.network import Network, advice  # pydantic
    from ocp_stripe_balance.settings import Settings, mode_of  # pydantic

    settings = Settings()
    key = settings.api_key
    findings: dict[str, Any] = {
        "api_key": f"from {settings.key_source()}" if key else _NO_KEY,
        "mode": mode_of(key.get_secret_value()) if key else None,
        "calls_allowed": _are_calls_allowed(settings),
        "policy": settings.policy_source() or "the defaults",
        "journal": _journal(settings),
        "journal_usable": await _is_journal_usable(settings),
        "api_base": settings.api_base,
        "api_version": settings.api_version,
        "account": settings.account or "the key's own",
        "reaches_stripe": None,
        "may_read_customers": None,
    }
    findings["reaches_stripe"], findings["may_read_customers"] = await _try_reading(settings)
    if ignored := advice(Network.of(settings).ignored()):
        findings["environment"] = ignored
    if options.as_json:
        print_json(findings)
    else:
        for name, value in findings.items():
            shown = (
                {True: "yes", False: "no", None: "not known"}.get(value, value) if not isinstance(value, str) else value
            )
            print(f"{name.replace('_', ' '):<20} {printable(str(shown))}")
    is_healthy = all(findings[name] is True for name in ("may_read_customers", "calls_allowed", "journal_usable"))
    return 0 if is_healthy else _EXIT_CODES["not_sent"]


def _journal(settings: Settings) -> str:
    try:
        return str(settings.journal_path or "off: kept in memory only")
    except ConfigurationError:
        return "nowhere"


async def _is_journal_usable(settings: Settings) -> bool | str:
    if settings.journal == "off":
        return True
    try:
        async with BackOffice(settings) as office:
            await office.check()
    except ToolError as error:
        return f"no: {error}"
    return True


def _are_calls_allowed(settings: Settings) -> bool | str:
    from ocp_stripe_balance.settings import mode_of  # pydantic

    if settings.api_key is None:
        return "no: there is no API key"
    mode = mode_of(settings.api_key.get_secret_value())
    finding = live(settings.policy_in_force, mode, allow_live=settings.allow_live)
    return True if finding.verdict == "allowed" else f"no: {finding.words().hint}"


async def _try_reading(settings: Settings) -> tuple[bool | str | None, bool | str | None]:
    """
    Whether Stripe answers, and whether the key may read customers; a sentence where not, None where nobody knows.
    """
    from ocp_stripe_balance._stripe.client import StripeClient  # that only a call needs
    from ocp_stripe_balance._stripe.evidence import expected_of  # as above
    from ocp_stripe_balance._stripe.network import Network  # as above
    from ocp_stripe_balance._stripe.request import Request  # as above

    headers = {"Stripe-Version": settings.api_version}
    if settings.account:
        headers["Stripe-Account"] = settings.account
    url = f"{settings.api_base}/v1/customers?limit=1"
    expected = expected_of(tool_at(load_manifest().tools, "GET", "/v1/customers"), {})
    request = Request(method="GET", url=url, body=b"", headers=headers, api_key=settings.api_key, expected=expected)
    client = StripeClient(timeout_s=min(settings.timeout, 10.0), max_attempts=1, network=Network.of(settings))
    try:
        await client.execute(request, tool="doctor", idempotency_key=None)
    except RejectedError as error:
        return True if error.request_id else None, f"no: HTTP {error.status}: {error.message}"
    except ToolError as error:
        return f"no: {error.args[0]}", None
    finally:
        await client.aclose()
    return True, True


async def _tool_named(agent: OCPAgent, name: str) -> ToolSpec:
    tool = agent.get_tool(name)
    if tool is None:
        await agent.call_tool(name)  # raises, naming the near ones
        raise AssertionError
    return tool


def _parameters(tool: ToolSpec, options: argparse.Namespace) -> Any:
    if "=" in (options.json_source or "") and not Path(options.json_source).exists():
        options.assignments.insert(0, options.json_source)  # argparse took it for the FILE of --json
        options.json_source = ""
    if not options.json_source:
        return _assigned(tool, options.assignments)
    if options.assignments:
        raise _fail("--json", "there are both a JSON source and KEY=VALUE parameters", "pass one of the two")
    try:
        return parsed(read_text(options.json_source))
    except (OSError, UnicodeDecodeError) as error:
        hint = "pass a file with one JSON object, or - for standard input"
        raise _fail("--json", f"{options.json_source!r} cannot be read ({error})", hint) from error
    except (ValueError, RecursionError) as error:
        raise _fail("--json", f"{options.json_source!r} is not JSON ({error})", "pass one JSON object") from error


def _assigned(tool: ToolSpec, assignments: Sequence[str]) -> dict[str, Any]:
    """
    Parameters from KEY=VALUE, typed as the tool's schema says; what does not fit is left to the validation.
    """
    parameters: dict[str, Any] = {}
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", target)
        if not equals or match is None:
            raise _fail(
                repr(assignment), "is not a parameter", "write KEY=VALUE, metadata[key]=value or expand[]=field"
            )
        name, key = match[1], match[2]
        kind = tool.parameters.get(name, {}).get("type")
        is_json = kind in {"array", "object"} and value[:1] in {"[", "{"} and key is None
        is_twin = name in parameters and (is_json or kind != "array")
        if is_twin and (key is None or not isinstance(parameters[name], dict) or key in parameters[name]):
            raise _fail(name, "is given twice", "pass it once")
        if is_json:
            parameters[name] = _json_value(name, value)
        elif kind == "array":
            parameters.setdefault(name, []).extend(value.split(",") if key is None else [value])
        elif kind == "object" and key is not None and isinstance(parameters.get(name, {}), dict):
            part = _part(tool, name, key)
            parameters.setdefault(name, {})[key] = int(value) if part == "integer" and _is_integer(value) else value
        elif _is_integer(value) and (kind == "integer" or _part(tool, name, None) == "integer"):
            parameters[name] = int(value)
        else:
            parameters[target] = value
    return parameters


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII) is not None


def _part(tool: ToolSpec, name: str, key: str | None) -> str | None:
    """
    The type of a parameter's key, or of an alternative to an object, where the schema knows it.
    """
    for branch in tool.parameters.get(name, {}).get("schema", {}).get("anyOf", ()):
        spec = branch.get("properties", {}).get(key, {}) if key is not None else branch
        if "type" in spec and spec["type"] != "object":
            return str(spec["type"])
    return None


def _json_value(name: str, text: str) -> Any:
    try:
        return parsed(text)
    except (ValueError, RecursionError) as error:
        raise _fail(
            name, f"{text[:60]!r} is not JSON ({error})", "write metadata[key]=value or expand[]=field"
        ) from error


def _fail(path: str, message: str, hint: str) -> InvalidParametersError:
    return InvalidParametersError([Problem(path=path, message=message, hint=hint)])


def _definition(tool: ToolSpec) -> dict[str, Any]:
    schemas = {"parameters": tool.parameters_json_schema, "response": tool.response_json_schema}
    return {**asdict(tool), "json_schema": schemas}
