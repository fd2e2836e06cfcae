"""
What a 2xx proves: that Stripe did or knows what was asked for, or only that somebody answered.

A gateway's page, an error under 200, or the entry of another call or customer prove nothing. An object of Stripe's with
fields that nobody knows, or one that is cut off, is still that object:
https://docs.stripe.com/upgrades#what-changes-does-stripe-consider-to-be-backwards-compatible
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json

from ocp_stripe_balance._text.plain import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocp_stripe_balance._stripe.attempts import Reply
    from ocp_stripe_balance._tools.manifest import ToolSpec

MARK = "ocp_call"
"""The metadata key that says by which call an entry was made."""


class Expected(NamedTuple):
    """
    What an answer must say to be the one to this very request.
    """

    object: str
    """Stripe's name of the type, such as ``customer_balance_transaction``."""
    fields: tuple[tuple[str, Any], ...]
    """What was asked for, by the field that says it: an ID where an object may be expanded."""
    mark: str | None = None
    """The key of the call, where its entry carries it."""
    is_list: bool = False
    """Whether it is a list of such objects."""
    is_read: bool = False
    """Whether all of it is to be used; of a write it is enough that Stripe answered."""

    def doubt(self, reply: Reply) -> str | None:
        """
        Why a 2xx reply does not prove that this request was answered; None where it does.
        """
        if reply.lost_body is None and reply.data is not None:
            return self._doubt_of_list(reply.data) if self.is_list else self._doubt_of(reply.data)
        if self.is_list and reply.lost_body is not None:
            return None  # whoever reads it asks for a shorter page
        return (reply.lost_body or "it cannot be read") if self.is_read else self._doubt_of_piece(reply)

    def _doubt_of_piece(self, reply: Reply) -> str | None:
        """
        The same of a body that is cut off or cannot be read.

        The beginning of the object proves it, and so do Stripe's own headers over what may be one.
        """
        piece = self._piece(reply.body)
        if self._doubt_of(piece or {}, is_whole=False) is not None:
            return "what arrived of it is something else"  # in words of ours: nothing was masked in this piece
        if piece is not None and "object" in piece:
            return None
        may_be_one = piece is not None or (reply.lost_body is not None and not reply.body)
        return None if may_be_one and _is_from_stripe(reply) else "it cannot be read"

    def _piece(self, body: bytes) -> dict[str, Any] | None:
        """
        What can be read of a JSON object that is cut off, but for the last value, which may be cut; None of another.
        """
        try:
            piece = from_json(body, allow_partial="trailing-strings")
        except ValueError:
            return None
        if not isinstance(piece, dict):
            return None
        if piece:
            name, value = piece.popitem()
            if name == "object" and _is_begun(value, self.object):
                piece[name] = self.object
        return piece

    def _doubt_of_list(self, data: Any) -> str | None:
        if not isinstance(data, dict) or data.get("object") != "list" or not isinstance(data.get("data"), list):
            return "it is not a list"
        doubts = (self._doubt_of(item) for item in data["data"])
        return next((doubt for doubt in doubts if doubt is not None), None)

    def _doubt_of(self, data: Any, *, is_whole: bool = True) -> str | None:
        if not isinstance(data, dict):
            return "it is not a JSON object"
        if (is_whole or "object" in data) and data.get("object") != self.object:
            return f"its object is {shown(data.get('object'))}, not {self.object}"
        if (is_whole or "id" in data) and not (isinstance(data.get("id"), str) and data["id"]):
            return "it has no id"
        metadata = data.get("metadata")
        mark = metadata.get(MARK) if self.mark is not None and isinstance(metadata, dict) else None
        if mark is not None and mark != self.mark:
            return f"its {MARK} is {shown(mark)}, the mark of another call"
        is_marked = mark is not None or not is_whole
        for name, wanted in self.fields:
            said = data.get(name)
            said = said.get("id") if isinstance(said, dict) else said
            if not (_is_same(said, wanted) or (said is None and is_marked)):
                return f"its {name} is {shown(said)}, not {shown(wanted)}"
        return None


def expected_of(tool: ToolSpec, parameters: Mapping[str, Any], mark: str | None = None) -> Expected:
    """
    What the answer to a call with these valid parameters must say.
    """
    kind, is_list, places = _shape(tool)
    fields = tuple((field, parameters[name]) for name, field in places if isinstance(parameters.get(name), str | int))
    return Expected(kind, fields, mark, is_list, tool.reads)


@cache
def _shape(tool: ToolSpec) -> tuple[str, bool, tuple[tuple[str, str], ...]]:
    """
    The type of object a tool answers with, whether as a list, and which parameters name which of its fields.
    """
    schema = tool.response_json_schema
    is_list = "list" in schema["properties"]["object"].get("enum", ())
    if is_list:
        schema = schema["$defs"][schema["properties"]["data"]["items"]["$ref"].rpartition("/")[2]]
    properties = schema["properties"]
    object_schema = properties["object"]
    kind = object_schema["const"] if "const" in object_schema else object_schema["enum"][0]
    itself = re.search(r"\{(\w+)\}$", tool.path)
    named = {itself[1]: "id"} if itself else {}
    effect = tool.effect
    for name, spec in tool.parameters.items():
        is_asked_for = spec["location"] in {"path", "query"} or name in {effect.amount, effect.currency}
        if name not in named and name in properties and is_asked_for:
            named[name] = name
    return kind, is_list, tuple(named.items())


def _is_same(said: object, wanted: object) -> bool:
    if isinstance(wanted, str):
        return isinstance(said, str) and said.casefold() == wanted.casefold()
    return said == wanted and type(said) is not bool


def _is_begun(said: object, whole: str) -> bool:
    return isinstance(said, str) and len(said) * 2 >= len(whole) and whole.startswith(said)


def _is_from_stripe(reply: Reply) -> bool:
    is_json = "json" in str(reply.headers.get("content-type", "json"))
    return is_json and str(reply.request_id).startswith("req_")
