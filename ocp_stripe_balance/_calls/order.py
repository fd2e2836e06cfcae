"""
What the agent asks for, checked against everything that can be known without looking anything up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._calls.endings import Invalid
from ocp_stripe_balance._calls.stated import stated_effect_problem
from ocp_stripe_balance._domain import Key, Origin, ToolCall
from ocp_stripe_balance._text.placeholders import says_nothing
from ocp_stripe_balance._text.plain import shown
from ocp_stripe_balance._text.secrets import holds_key, redact
from ocp_stripe_balance._tools.validation import KEY_PARAMETER
from ocp_stripe_balance.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import SecretStr

    from ocp_stripe_balance._domain import Money
    from ocp_stripe_balance._tools.manifest import ToolSpec
    from ocp_stripe_balance._tools.validation import ParameterValidator

_MAX_METADATA_KEYS = 50  # https://docs.stripe.com/metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    One valid call.
    """

    tool: ToolSpec
    arguments: dict[str, Any]
    """The parameters by name, without the key and the stated effect."""
    key: Key | None
    """The idempotency key, where the caller gave one, or it follows from what is asked."""
    tool_call: ToolCall | None = None
    """The name that a model's host gave the call, where it gave one."""
    stated_effect: str | None = None
    """The effect in words, where the caller said it; compared with the amount as soon as that is known."""
    notes: tuple[str, ...] = ()
    """What was left out of what the caller said."""

    def without_key(self) -> Order:
        """
        The same, where nobody was told of the key that the model gave.
        """
        name = shown(self.key.text) if self.key is not None else ""
        note = f"{KEY_PARAMETER} was left out: {name} names no call of {self.tool.name} that this journal knows"
        return replace(self, key=None, notes=(*self.notes, note))


def take_order(  # noqa: PLR0913  a call and what it is held against
    tool: ToolSpec,
    validator: ParameterValidator,
    parameters: object,
    keys: Sequence[object],
    *,
    tags_calls: bool,
    api_key: SecretStr | None,
) -> Order | Invalid:
    """
    The order that *parameters* make, or all that is wrong with them.

    Args:
        tool: what is called.
        validator: of its parameters.
        parameters: as the agent gave them.
        keys: idempotency keys given beside the parameters, or the `ToolCall` that the call is; None where none was.
        tags_calls: whether entries get a metadata key of ours.
        api_key: which no parameter may have in it.
    """
    # Hosts name every call; one that only reads needs no name.
    tool_call, given = _apart(keys) if KEY_PARAMETER in tool.parameters else (None, [])
    origin = Origin.CALLER if given else Origin.MODEL
    said, parameters = parameters, _without_empty_key(parameters)
    if len(given) == 1 and type(parameters) is dict and KEY_PARAMETER not in parameters:
        parameters, given = {**parameters, KEY_PARAMETER: given[0]}, []
    arguments, problems = validator.check(parameters)
    notes = () if problems else _left_out(_named(said), arguments)
    if tool_call is not None and not isinstance(tool_call.id, str):
        problems.append(Problem(path=KEY_PARAMETER, message=f"{shown(tool_call.id)} is no ID of a tool call"))
    given += [arguments[KEY_PARAMETER]] if given and arguments.get(KEY_PARAMETER) is not None else []
    if len(given) > 1 and len({key if isinstance(key, str) else id(key) for key in given}) > 1:
        hint = "give it once: as idempotency_key=, as the parameter, or as the header Idempotency-Key"
        problems.append(Problem(path=KEY_PARAMETER, message="is given twice, with different values", hint=hint))
    elif given and KEY_PARAMETER not in arguments and (not problems or arguments):
        arguments, problems = validator.check({**_named(parameters), KEY_PARAMETER: given[0]})
    if not problems:
        problems = _key_problems(arguments, api_key)
        if tool.moves_money:
            problems = [*_tag_problems(arguments, tags_calls=tags_calls), *problems]
        if notes and tool.effect.kind == "update":
            problems = [*_nothing_to_change(tool, arguments, _named(said)), *problems]
    stated = tool.stated_parameter
    effect = arguments.pop(stated, None) if stated and not problems else None
    if problems:
        return Invalid(_masked(problems, api_key), tool=tool.name)
    moved = tool.money_of(arguments)
    if effect is not None and moved is not None and (wrong := check_stated_effect(tool, effect, moved)) is not None:
        return wrong
    key = arguments.pop(KEY_PARAMETER, None)
    named = None if key is None else Key(key, origin)
    return Order(tool=tool, arguments=arguments, key=named, tool_call=tool_call, stated_effect=effect, notes=notes)


def _apart(keys: Sequence[object]) -> tuple[ToolCall | None, list[object]]:
    """
    The tool call among them, and the idempotency keys.
    """
    tool_call, given = None, []
    for key in keys:
        if isinstance(key, ToolCall):
            tool_call = tool_call or key
        elif key is not None:
            given.append(key)
    return tool_call, given


def _without_empty_key(parameters: object) -> object:
    """
    The parameters without a key of the model's that says nothing.
    """
    if not isinstance(parameters, dict) or not says_nothing(parameters.get(KEY_PARAMETER)):
        return parameters
    return {name: value for name, value in parameters.items() if name != KEY_PARAMETER}


def _left_out(said: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """
    What is told of parameters that say nothing.
    """
    if said.keys() <= arguments.keys():
        return ()
    left = {name: value for name, value in said.items() if name not in arguments and value is not None}
    return tuple(f"{name} was left out: {shown(value)} says nothing" for name, value in left.items())


def check_stated_effect(tool: ToolSpec, effect: str, moved: Money) -> Invalid | None:
    """
    Where what the caller said is not what the call does.
    """
    problem = stated_effect_problem(tool.stated_parameter or "", effect, *moved)
    return None if problem is None else Invalid([problem], tool=tool.name)


def _masked(problems: Sequence[Problem], api_key: SecretStr | None) -> list[Problem]:
    """
    The problems without the API key, which a refused value may have in it.
    """
    secret = None if api_key is None else api_key.get_secret_value()
    return [
        Problem(path=redact(each.path, secret), message=redact(each.message, secret), hint=redact(each.hint, secret))
        for each in problems
    ]


def _named(parameters: object) -> Mapping[str, Any]:
    return parameters if isinstance(parameters, Mapping) else {}


def _nothing_to_change(tool: ToolSpec, arguments: Mapping[str, Any], said: Mapping[str, Any]) -> list[Problem]:
    """
    Where an update says nothing that it would change.
    """
    schema = tool.parameters_json_schema
    if set(arguments) - {*schema["required"], KEY_PARAMETER, "expand"}:
        return []
    left = [name for name in said if name in schema["properties"] and name not in arguments and name != KEY_PARAMETER]
    message = "says nothing, and nothing else is to be changed"
    hints = {name: schema["properties"][name].get("x-hint", "") for name in left}
    return [Problem(path=name, message=f"{shown(said[name])} {message}", hint=hint) for name, hint in hints.items()]


def _tag_problems(arguments: Mapping[str, Any], *, tags_calls: bool) -> list[Problem]:
    """
    Where the caller's metadata leaves no room for ours under Stripe's limit of 50 keys.
    """
    ours = int(tags_calls) + ("reference" in arguments)
    room = _MAX_METADATA_KEYS - ours
    if len(arguments.get("metadata") or {}) <= room:
        return []
    message = f"has {len(arguments['metadata'])} keys; at most {room} are left"
    hint = f"Stripe allows {_MAX_METADATA_KEYS}, and this tool adds {ours} of its own (ocp_call, ocp_reference)"
    return [Problem(path="metadata", message=message, hint=hint)]


def _key_problems(arguments: Mapping[str, Any], api_key: SecretStr | None) -> list[Problem]:
    """
    Where a parameter has an API key in it, which would end up in Stripe's ledger and our journal.
    """
    secret = None if api_key is None else api_key.get_secret_value()
    found = []
    for name, value in arguments.items():
        if _holds_key_anywhere(value, secret):
            message = "has what looks like an API key in it"
            hint = "leave it out; a key belongs nowhere in a call, and whoever wrote it there should roll it"
            found.append(Problem(path=name, message=message, hint=hint))
    return found


def _holds_key_anywhere(value: Any, secret: str | None) -> bool:
    if isinstance(value, str):
        return holds_key(value, secret)
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return isinstance(value, list) and any(isinstance(text, str) and holds_key(text, secret) for text in value)
