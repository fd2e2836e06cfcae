"""
A tool explained in Markdown, from its data.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocp_stripe_balance._tools.manifest import ToolSpec


def documentation(tool: ToolSpec) -> str:
    """
    What it does, every parameter with an example, the response, and what a call can end with.
    """
    where = f"`{tool.method} {tool.path}`"
    if tool.effect.source == "journal":
        where = "Answered from the journal; Stripe is only read."
    short = f"`{tool.short_name}` for short, as MCP has it."
    lines = [f"## {tool.name}", "", tool.description, "", where, "", short, "", "### Parameters", ""]
    for name, spec in tool.parameters.items():
        required = "required" if spec["required"] else "optional"
        example = json.dumps(spec["schema"]["examples"][0])
        lines.append(
            f"- **{name}** ({spec['type']}, {required}, {spec['location']}): {spec['description']} Example: `{example}`"
        )
    lines += ["", "### Response", ""]
    for name, spec in tool.response_schema["properties"].items():
        kind = spec.get("type", "string or object") + (" or null" if spec.get("nullable") else "")
        lines.append(f"- **{name}** ({kind}): {spec['description']}")
    if tool.reads:
        lines += [
            "",
            "### Outcomes",
            "",
            "- `succeeded`: the result has it.",
            "- `not_sent`, `rejected`: the error says why.",
        ]
        return "\n".join(lines)
    lines += [
        "",
        "### Outcomes",
        "",
        "- `succeeded`: it is done; the result has the entry.",
        "- `not_sent`: nothing left this process and nothing moved; mend the call as the error says.",
        "- `rejected`: Stripe said no and nothing moved; the error says why.",
        "- `unknown`: it may have moved. Call again with the same parameters and the idempotency key in the error.",
    ]
    return "\n".join(lines)
