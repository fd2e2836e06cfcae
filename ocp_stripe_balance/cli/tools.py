"""
The tools: listed, explained, and as each provider's API takes them.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ocp_stripe_balance.cli.given import fail
from ocp_stripe_balance.cli.money import tool_named
from ocp_stripe_balance.cli.options import Json
from ocp_stripe_balance.cli.output import print_json, show_text, wrap

if TYPE_CHECKING:
    from ocp_stripe_balance._tools.manifest import ToolSpec


async def tools(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="a tool's name, long or short")] = None,
    *,
    as_json: Json = False,
    form: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="as a provider's API takes them")
    ] = None,
) -> int:
    """
    The tools, or one of them explained.
    """
    from ocp_stripe_balance.agent import OCPAgent  # what --help does not need
    from ocp_stripe_balance.exports import export_tools  # as above

    if form is not None:
        try:
            print_json(export_tools(cast("Any", form), [name] if name else None))
        except ValueError as error:
            raise fail("NAME", str(error), "run 'ocp-stripe-balance tools'") from None
        return 0
    async with OCPAgent() as agent:
        await agent.register_api("stripe")
        if name is not None:
            tool = await tool_named(agent, name)
            if as_json:
                ctx.obj.print_facts(_definition(tool))
            else:
                show_text(agent.get_tool_documentation(tool.name), keep="\n")
        elif as_json:
            ctx.obj.print_list("tools", [_definition(tool) for tool in agent.list_tools()])
        else:
            for tool in agent.list_tools():
                print(f"{tool.name} ({tool.short_name})\n{wrap(tool.description)}\n")
    return 0


def _definition(tool: "ToolSpec") -> dict[str, Any]:
    schemas = {"parameters": tool.parameters_json_schema, "response": tool.response_json_schema}
    return {**asdict(tool), "json_schema": schemas}
