"""
Forms as Stripe reads them: bracketed names become nested values, and declared parameters are checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from ocp_stripe_balance.sandbox._errors import StripeError

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)\Z")
_MAX_AMOUNT = 99_999_999_999  # Stripe documents no bound; see docs/sandbox.md
_MAX_KEY, _MAX_VALUE = 40, 500  # https://docs.stripe.com/metadata
_MAX_LEVELS = 4  # https://docs.stripe.com/expand
_MAX_PAGE = 100  # https://docs.stripe.com/api/pagination

Form = dict[str, Any]


def decode(*encoded: bytes) -> Form:
    """
    Nested values of query and body together, as Stripe takes them: text, list (``a[]=``) or dict (``a[b]=``).
    """
    form: Form = {}
    for part in encoded:
        for name, value in parse_qsl(part.decode("utf-8", "replace"), keep_blank_values=True):
            _put(form, name, value)
    return form


def _put(form: Form, name: str, value: str) -> None:
    match = _NAME.match(name)
    if match is None:
        form[name] = value
        return
    keys = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
    place: Any = form
    for key, below in zip(keys, [*keys[1:], None], strict=True):
        if below is None:
            place.append(value) if isinstance(place, list) else place.__setitem__(key, value)
        else:
            empty: Any = [] if below == "" else {}
            if isinstance(place, list):
                place.append(empty)
                place = empty
            elif isinstance(place.get(key), type(empty)):
                place = place[key]
            else:
                place[key] = empty
                place = empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """
    One parameter an operation takes.
    """

    kind: str
    """integer, string, currency, metadata, expand, limit or range."""
    required: bool = False
    max_length: int = 5000


def check(form: Form, declared: dict[str, Param]) -> Form:
    """
    The parameters with their types; what is not given is not there.

    Raises:
        StripeError: 400, as Stripe words it; no idempotency key remembers these.
    """
    for name in form:
        if name not in declared:
            raise StripeError(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
    checked: Form = {}
    for name, param in declared.items():
        if name in form:
            checked[name] = _CHECKS[param.kind](name, form[name], param)
        elif param.required:
            raise StripeError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    return checked


def _integer(name: str, value: Any, _param: Param) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,19}", value, re.ASCII):
        raise StripeError(400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    number = int(value)
    if abs(number) > _MAX_AMOUNT:
        message = f"Amount must be no more than {_MAX_AMOUNT}"
        raise StripeError(400, message, code="amount_too_large", param=name)
    return number


def _string(name: str, value: Any, param: Param) -> str:
    if not isinstance(value, str):
        raise StripeError(400, f"Invalid string: {value}", param=name)
    if not value:
        message = (
            f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a field; however "
            f"'{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty value."
        )
        raise StripeError(400, message, code="parameter_invalid_empty", param=name)
    if len(value) > param.max_length:
        message = f"Invalid string: {value[:4]}...{value[-4:]}; must be at most {param.max_length} characters"
        raise StripeError(400, message, param=name)
    return value


def _emptyable(name: str, value: Any, param: Param) -> str | None:
    return None if value == "" else _string(name, value, param)


def _currency(name: str, value: Any, param: Param) -> str:
    return _string(name, value, param).lower()


def _metadata(name: str, value: Any, _param: Param) -> dict[str, str] | None:
    if value == "":
        return None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise StripeError(400, "Invalid hash", param=name)
    for key, item in value.items():
        if len(key) > _MAX_KEY:
            raise StripeError(400, f"Invalid key: {key} must be a string under 40 characters", param=name)
        if len(item) > _MAX_VALUE:
            raise StripeError(400, f"Invalid val: {item[:20]}… must be a string under 500 characters", param=name)
    return value


def _expand(name: str, value: Any, _param: Param) -> list[str]:
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise StripeError(400, "Invalid array", param=name)
    for item in items:
        if item.count(".") >= _MAX_LEVELS:
            raise StripeError(400, f"You cannot expand more than 4 levels of a property ({item}).", param=name)
    return items


def _limit(name: str, value: Any, param: Param) -> int:
    limit = _integer(name, value, param)
    if not 1 <= limit <= _MAX_PAGE:
        raise StripeError(400, f"This value must be between 1 and 100 (you passed {limit}).", param=name)
    return limit


def _range(name: str, value: Any, param: Param) -> dict[str, int]:
    if isinstance(value, str):
        moment = _integer(name, value, param)
        return {"gte": moment, "lte": moment}
    if not isinstance(value, dict) or not set(value) <= {"gt", "gte", "lt", "lte"}:
        raise StripeError(400, "Invalid hash", param=name)
    return {bound: _integer(f"{name}[{bound}]", item, param) for bound, item in value.items()}


_CHECKS = {
    "integer": _integer,
    "string": _string,
    "emptyable": _emptyable,
    "currency": _currency,
    "metadata": _metadata,
    "expand": _expand,
    "limit": _limit,
    "range": _range,
}
