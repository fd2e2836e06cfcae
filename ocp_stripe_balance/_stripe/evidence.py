"""
What an answer proves: that Stripe did or knows what was asked for, or refused it, or only that somebody answered.

A gateway's page, an error under 200, an entry under 404, or the entry of another call or customer prove nothing. An
object of Stripe's with fields that nobody knows, or one that is cut off, is still that object:
https://docs.stripe.com/upgrades#what-changes-does-stripe-consider-to-be-backwards-compatible

Why it proves nothing is told in words of ours: what stands there may be somebody else's.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ocp_stripe_balance._stripe.attempts import Reply
    from ocp_stripe_balance._tools.manifest import ToolSpec

MARK = "ocp_call"
"""The metadata key that says by which call an entry was made."""
REFERENCE = "ocp_reference"
"""The one that has its business reason."""
_ANY_CASE = {"currency", "email"}
# As the schemas have it: printable, and nothing that means something in a path.
_mode_of = re.compile(r"[sr]k_(test|live)_").match
_is_id = re.compile(r"(?!\.{1,2}$)[!-\"$&-.0->@-\[\]-~]{1,255}").fullmatch


class Expected(NamedTuple):
    """
    What an answer must say to be the one to this very request.
    """

    object: str
    """Stripe's name of the type, such as ``customer_balance_transaction``."""
    fields: tuple[tuple[str, Any], ...]
    """What was asked for, by the field that says it: an ID where an object may be expanded; of an update all of it."""
    mark: str | None = None
    """The key of the call, where its entry carries it; empty where it carries none, None where it may be any."""
    list_path: str | None = None
    """Where the list of such objects is, where it is one."""
    is_read: bool = False
    """Whether all of it is to be used; of a write it is enough that Stripe answered."""
    is_live: bool | None = None
    """The mode that the API key names; None where it names none."""

    def for_key(self, api_key: str) -> Expected:
        """
        The same of a request with that API key.
        """
        mode = _mode_of(api_key)
        return self if mode is None else self._replace(is_live=mode[1] == "live")

    def doubt(self, reply: Reply) -> str | None:
        """
        Why a 2xx reply does not prove that this request was answered; None where it does.
        """
        if self.list_path is not None and reply.lost_body is not None:
            return None  # whoever reads it asks for a shorter page
        if reply.data is None:
            return _lost(reply) if self.is_read else self._doubt_of_begun(reply)
        if self.is_read and reply.body.flaw is not None:
            return reply.body.flaw
        return self._doubt_of(reply.data) if self.list_path is None else self._doubt_of_list(reply.data)

    def doubt_of_no(self, reply: Reply) -> str | None:
        """
        Why any other reply is not the refusal that it looks like; None where it may be one.
        """
        if self._is_in(reply.body.begun if reply.data is None else reply.data):
            return f"there is a {self.object} in it"
        is_to_be_stripes = self.is_read or reply.request_id is not None or reply.body.flaw is not None
        return "it is not Stripe's answer" if is_to_be_stripes and reply.error is None else None

    def _is_in(self, data: Any) -> bool:
        """
        Whether there is such an object, or one with this call's mark, at any depth.
        """
        left = [data]
        while left:
            value = left.pop()
            if isinstance(value, dict):
                if value.get("object") == self.object or (self.mark and marks_of(value).get(MARK) == self.mark):
                    return True
                left += value.values()
            elif isinstance(value, list):
                left += value
        return False

    def _doubt_of_begun(self, reply: Reply) -> str | None:
        """
        The same of a body that is cut off or cannot be read.

        What arrived whole proves it once it has type and ID; before that, only what was lost on its way from Stripe.
        """
        begun = reply.body.begun
        if begun is None:
            return _lost(reply)
        if self._doubt_of(begun, is_whole=False) is not None:
            return "what arrived of it is something else"
        is_believed = {"object", "id"} <= begun.keys() or (reply.lost_body is not None and _is_from_stripe(reply))
        return None if is_believed else _lost(reply)

    def _doubt_of_list(self, data: Any) -> str | None:
        if not isinstance(data, dict) or data.get("object") != "list" or not isinstance(data.get("data"), list):
            return "it is not a list"
        if data.get("error") is not None:
            return "there is an error beside it"
        if unquote(str(data.get("url"))) != self.list_path:
            return "it is another list"
        has_more = data.get("has_more")
        if not isinstance(has_more, bool):
            return "it does not say whether there is more"
        if has_more and not data["data"]:
            return "it says that there is more, and has nothing"
        doubts = (self._doubt_of(item) for item in data["data"])
        return next((f"of something in it, {doubt}" for doubt in doubts if doubt is not None), None)

    def _doubt_of(self, data: Any, *, is_whole: bool = True) -> str | None:
        if not isinstance(data, dict):
            return "it is not a JSON object"
        if data.get("error") is not None:
            return "there is an error beside it"
        if (is_whole or "object" in data) and data.get("object") != self.object:
            return f"it is not a {self.object}"
        if (is_whole or "id" in data) and not is_id(data.get("id")):
            return "it has no ID"
        if self.is_live is not None and data.get("livemode") is (not self.is_live):
            return f"it is of {'test' if self.is_live else 'live'} mode, and the API key is not"
        return self._doubt_of_fields(data, is_whole=is_whole)

    def _doubt_of_fields(self, data: dict[str, Any], *, is_whole: bool) -> str | None:
        mark = None if self.mark is None else marks_of(data).get(MARK)
        if mark is not None and mark != self.mark:
            return f"its {MARK} is another call's"
        is_marked = mark is not None or not is_whole
        for name, wanted in self.fields:
            said = data.get(name)
            said = said.get("id") if isinstance(said, dict) and name != "metadata" else said
            if not (_is_same(name, said, wanted) or (said is None and is_marked)):
                return f"its {name} is another"
        return None


def expected_of(tool: ToolSpec, parameters: Mapping[str, Any], mark: str | None = None) -> Expected:
    """
    What the answer to a call with these valid parameters must say.
    """
    kind, is_list, places = _shape(tool)
    fields = [(field, parameters[name]) for name, field in places if _is_told(field, parameters.get(name))]
    return Expected(kind, tuple(fields), mark, tool.path.format_map(parameters) if is_list else None, tool.reads)


def marks_of(data: dict[str, Any]) -> dict[str, Any]:
    """
    The metadata of an object of Stripe's, where marks of ours may be.
    """
    metadata = data.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def is_id(value: object) -> bool:
    """
    Whether it can be the ID of an object of Stripe's: opaque, but a word.
    """
    return isinstance(value, str) and _is_id(value) is not None


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
    effect, is_update = tool.effect, itself is not None and not tool.reads
    for name, spec in tool.parameters.items():
        is_shown = name in {effect.amount, effect.currency} or (is_update and spec["location"] == "body")
        is_asked_for = spec["location"] in {"path", "query"} or is_shown
        if name not in named and name in properties and is_asked_for:
            named[name] = name
    return kind, is_list, tuple(named.items())


def _is_told(field: str, wanted: object) -> bool:
    return isinstance(wanted, (str, int)) or (field == "metadata" and isinstance(wanted, dict))


def _is_same(name: str, said: object, wanted: object) -> bool:
    if isinstance(wanted, dict):  # sets these keys, and unsets those that are empty
        shown = said if isinstance(said, dict) else {}
        return all((shown.get(key) or "") == value for key, value in wanted.items())
    if isinstance(wanted, str):
        # IDs that only look alike are two.
        is_alike = name in _ANY_CASE and isinstance(said, str) and said.isascii() and said.lower() == wanted.lower()
        return said == wanted or is_alike
    return said == wanted and type(said) is not bool


def _is_from_stripe(reply: Reply) -> bool:
    is_json = "json" in str(reply.headers.get("content-type", "json"))
    return is_json and reply.request_id is not None


def _lost(reply: Reply) -> str:
    return reply.lost_body or reply.body.flaw or "it cannot be read"
