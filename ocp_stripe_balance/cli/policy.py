"""
The policy on the command line: check explains a file, explain says what would become of a call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._text.parsing import parsed
from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.cli.output import print_json, printable, read_text, say, wrap
from ocp_stripe_balance.errors import ConfigurationError, InvalidParametersError, Problem

if TYPE_CHECKING:
    import argparse

    from ocp_stripe_balance._policy import Finding
    from ocp_stripe_balance.models import DryRun

_SIGNS = {"allowed": "ok", "refused": "NO", "ask": "ASK"}


def add_parser(commands: Any, tool: str) -> None:
    """
    Add ``policy`` and its commands.
    """
    policy = commands.add_parser("policy", help="the guardrails in force")
    actions = policy.add_subparsers(dest="action", required=True, metavar="COMMAND")

    check = actions.add_parser("check", help="explain a policy in sentences, or what is wrong with it")
    check.add_argument(
        "file", nargs="?", metavar="FILE", help="a TOML file; by default the one OCP_STRIPE_POLICY names"
    )

    explain = actions.add_parser("explain", help="what would become of a call, and why; sends nothing")
    explain.add_argument("call", metavar="CALL", help="file with the parameters as JSON, or - for standard input")
    explain.add_argument("--tool", default=tool, metavar="TOOL", help="a tool's name (default: %(default)s)")
    explain.add_argument("--policy", metavar="FILE", help="a policy that is not in force yet")
    explain.add_argument("--mode", choices=["test", "live"], help="default: of the API key there is, else test")
    explain.add_argument("--user", metavar="NAME", help="whose call it is, for budgets per user")
    explain.add_argument("--agent-type", default="ai_agent", metavar="TYPE", help="for budgets per agent type")
    explain.add_argument("--json", dest="as_json", action="store_true", help="the findings as JSON")


async def run(options: argparse.Namespace) -> int:
    """
    Run one policy command and return its exit code.
    """
    return await {"check": _check, "explain": _explain}[options.action](options)


async def _check(options: argparse.Namespace) -> int:
    from ocp_stripe_balance._policy import in_words, load_policy, remarks  # pydantic
    from ocp_stripe_balance.settings import Settings  # pydantic

    settings = Settings(policy=None) if options.file else Settings()
    policy = load_policy(options.file) if options.file else settings.policy_in_force
    name = options.file or ("The policy in force" if settings.policy else "No policy is set. The default")
    print(printable(f"{name} is valid. A call is sent only where every line allows it."), end="\n\n")
    for topic, sentence in in_words(policy, allow_live=settings.allow_live):
        print(wrap(printable(f"{topic:<12}{sentence}"), "  ", "              "))
    if noted := remarks(policy):
        print("\nWorth knowing:")
        for sentence in noted:
            print(wrap(printable(f"- {sentence}"), "  ", "    "))
    return 0


async def _explain(options: argparse.Namespace) -> int:
    from ocp_stripe_balance.settings import Settings  # pydantic

    settings = Settings(policy=_as_full(options.policy)) if options.policy else Settings()
    parameters = _parameters(options.call)
    async with OCPAgent(options.agent_type, options.user, settings=settings) as agent:
        api: Any = await agent.register_api("stripe")
        tool = agent.get_tool(options.tool)
        if tool is None:
            await agent.call_tool(options.tool)  # raises, naming the near ones
            raise AssertionError
        said, foreseen = await api.explain(tool, parameters, options.mode)
    if options.as_json:
        print_json({"verdict": foreseen.verdict, "message": foreseen.message, "rules": [_facts(each) for each in said]})
    else:
        source = options.policy or settings.policy_source()
        say(f"By {source}:" if source else "No policy is set (OCP_STRIPE_POLICY, or --policy FILE); by the defaults:")
        _show(said, foreseen)
    return 0 if foreseen.verdict in {"send", "replay", "resume", "wait"} else 2


def _show(said: list[Finding], foreseen: DryRun) -> None:
    for finding in said:
        text = f"{_SIGNS[finding.verdict]:<4} {finding.rule}: {finding.words().message}"
        print(wrap(printable(text), "", "     "))
    far = "As far as the policy goes: " if foreseen.verdict in {"send", "ask"} else ""
    print(wrap(printable(far + foreseen.message), "\n" if said else "", "     "))
    if far:
        say("The customer was not looked up; 'call --dry-run' does that too.")


def _facts(finding: Finding) -> dict[str, Any]:
    facts = {
        "rule": finding.rule,
        "verdict": finding.verdict,
        **finding.words()._asdict(),
        "free_at": finding.free_at,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _as_full(path: str) -> str:
    """
    The path as the shell that it was typed into means it.
    """
    return path if path.startswith("~") else str(Path(path).absolute())


def _parameters(source: str) -> Any:
    try:
        text = read_text(source)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source} cannot be read: {error}.") from error
    try:
        return parsed(text)
    except (ValueError, RecursionError) as error:
        problem = Problem(path=source, message=f"is not JSON ({error})", hint="write one object of parameters")
        raise InvalidParametersError([problem]) from error
