"""
The policy on the command line: check explains a file, explain says what would become of a call.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ocp_stripe_balance.cli.given import as_full, read_json
from ocp_stripe_balance.cli.money import tool_named
from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import printable, say, show_text, wrap
from ocp_stripe_balance.verbs import CREATE

if TYPE_CHECKING:
    from ocp_stripe_balance._policy import Finding
    from ocp_stripe_balance.models import DryRun

_SIGNS = {"allowed": "ok", "refused": "NO", "ask": "ASK"}


app = typer.Typer(help="The guardrails in force.")


@app.command()
async def check(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="TOML; by default what OCP_STRIPE_POLICY names")
    ] = None,
    *,
    as_json: Json = False,
) -> int:
    """
    Explain a policy in sentences, or what is wrong with it.
    """
    from ocp_stripe_balance._policy import in_words, load_policy, remarks  # pydantic
    from ocp_stripe_balance.settings import Settings  # pydantic

    settings = Settings(policy=None) if file else Settings()
    policy = load_policy(file) if file else settings.policy_in_force
    words, noted = in_words(policy, allow_live=settings.allow_live), remarks(policy)
    if as_json:
        rules = [{"topic": topic, "sentence": sentence} for topic, sentence in words]
        ctx.obj.print_facts({"policy": file or settings.policy_source(), "rules": rules, "remarks": noted})
        return 0
    name = file or ("The policy in force" if settings.policy else "No policy is set. The default")
    show_text(f"{name} is valid. A call is sent only where every line allows it.\n", keep="\n")
    for topic, sentence in words:
        print(wrap(printable(f"{topic:<12}{sentence}"), "  ", "              "))
    if noted:
        print("\nWorth knowing:")
    for sentence in noted:
        print(wrap(printable(f"- {sentence}"), "  ", "    "))
    return 0


@app.command()
async def show(ctx: typer.Context, *, as_json: Json = False) -> int:
    """
    The policy in force, in sentences.
    """
    return await check(ctx, as_json=as_json)


@app.command()
async def explain(
    ctx: typer.Context,
    call: Annotated[str, typer.Argument(metavar="CALL", help="file with the parameters as JSON, or -")],
    *,
    tool: Annotated[str, typer.Option(metavar="TOOL", help="a tool's name")] = CREATE,
    policy: Annotated[str | None, typer.Option(metavar="FILE", help="a policy that is not in force yet")] = None,
    mode: Annotated[
        Literal["test", "live"] | None,
        typer.Option(metavar="test|live", help="by default that of the API key, else test"),
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="whose call it is, for budgets per user")] = None,
    agent_type: Annotated[str, typer.Option(metavar="TYPE", help="for budgets per agent type")] = "ai_agent",
    as_json: Json = False,
) -> int:
    """
    What would become of a call, and why; sends nothing.
    """
    from ocp_stripe_balance.agent import OCPAgent  # what --help does not need
    from ocp_stripe_balance.settings import Settings  # pydantic

    settings = Settings(policy=as_full(policy)) if policy else Settings()
    parameters = read_json(call, "CALL")
    async with OCPAgent(agent_type, user, settings=settings) as agent:
        api: Any = await agent.register_api("stripe")
        said, foreseen = await api.explain(await tool_named(agent, tool), parameters, mode)
    if as_json:
        ctx.obj.print_facts(
            {"verdict": foreseen.verdict, "message": foreseen.message, "rules": [_facts(each) for each in said]}
        )
    else:
        source = policy or settings.policy_source()
        say(f"By {source}:" if source else "No policy is set (OCP_STRIPE_POLICY, or --policy FILE); by the defaults:")
        _show(said, foreseen)
    return 0 if foreseen.verdict in {"send", "replay", "resume", "wait"} else 2


def _show(said: "list[Finding]", foreseen: "DryRun") -> None:
    for finding in said:
        text = f"{_SIGNS[finding.verdict]:<4} {finding.rule}: {finding.words().message}"
        print(wrap(printable(text), "", "     "))
    far = "As far as the policy goes: " if foreseen.verdict in {"send", "ask"} else ""
    print(wrap(printable(far + foreseen.message), "\n" if said else "", "     "))
    if far:
        say("The customer was not looked up; 'call --dry-run' does that too.")


def _facts(finding: "Finding") -> dict[str, Any]:
    facts = {
        "rule": finding.rule,
        "verdict": finding.verdict,
        **finding.words()._asdict(),
        "free_at": finding.free_at,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}
