"""
Validation against the published JSON Schema: a fast verdict, and a rich explanation of a refusal.

jsonschema-rs gives the verdict; jsonschema, forty times slower to import and run, is imported only
to explain one. Both see the same plain JSON value, so they see the same thing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.placeholders import is_unfilled, says_nothing
from ocp_stripe_balance._text.plain import MAX_SHOWN, kind_of, nearest, shown
from ocp_stripe_balance.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import jsonschema
    import jsonschema_rs

    from ocp_stripe_balance._tools.manifest import ToolSpec

_MAX_DEPTH = 32
_MAX_PROBLEMS = 20
_MAX_NODES = 1_000  # to explain each takes its time, and lists that contain each other have no end
KEY_PARAMETER = "idempotency_key"
_REASONS = {"reference", "description"}
_ONE_OBJECT = "pass one JSON object with the parameters by name"
# Within these, which valid parameters of ours keep, a copy needs no further look.
_MAX_PLAIN_DEPTH = 2
_MAX_PLAIN_ITEMS = 64
_LONGEST_AMOUNT = 19  # characters
_SHOWN = 40
_MAX_INT_BITS = 256  # far past every bound of ours, near enough to print


@dataclass(frozen=True, slots=True)
class _Unusable:
    """
    Stands in the plain copy where a value was that JSON cannot hold; already explained.
    """


_NOT_PLAIN = _Unusable()


class ParameterValidator:
    """
    Checks the parameters of one tool against its published schema.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        """
        Prepare for *schema*, a JSON Schema 2020-12 document; nothing is compiled before the first check.
        """
        self._schema = schema
        self._optional = frozenset(schema["properties"]) - frozenset(schema.get("required", ()))
        self._fast: jsonschema_rs.Draft202012Validator | None = None

    def check(self, parameters: object) -> tuple[dict[str, Any], list[Problem]]:
        """
        A private copy of *parameters* in plain JSON types, and all that is wrong with them.

        Optional parameters that are null are left out, because models in strict mode send them so, and so are those
        that say nothing, such as ``N/A``.
        """
        if parameters is None:
            parameters = {}
        plain = _plain_object(parameters, 0) if type(parameters) is dict else None
        if plain is not None:
            plain = self._said(plain)
            if self._is_valid(plain):
                return plain, []
        return self._explained(parameters)

    def _explained(self, parameters: object) -> tuple[dict[str, Any], list[Problem]]:
        """
        The same for parameters that are not what models send, or are wrong.
        """
        try:
            is_object = isinstance(parameters, Mapping)
            copier = _Copier()
            copied = copier.copy(parameters, "") if is_object else {}
        except Exception as error:  # noqa: BLE001  a type of the caller's own that cannot be read
            message = f"cannot be read: {type(error).__name__}"
            return {}, [Problem(path="parameters", message=message, hint=_ONE_OBJECT)]
        if not is_object:
            return {}, [Problem(path="parameters", message=_is(parameters), hint=_ONE_OBJECT)]
        problems = copier.problems
        plain = self._said(copied)
        if not problems and self._is_valid(plain):
            return plain, []
        problems.extend(_explain(self._schema, plain))
        return plain, problems[:_MAX_PROBLEMS]

    def _said(self, plain: dict[str, Any]) -> dict[str, Any]:
        """
        The parameters without the optional ones that say nothing.
        """
        return {name: value for name, value in plain.items() if name not in self._optional or self._says(name, value)}

    def _says(self, name: str, value: object) -> bool:
        if value is None or name == KEY_PARAMETER:
            return value is not None  # whose name a key is decides what it says
        is_meant = value == "" and {"const": ""} in self._schema["properties"][name].get("anyOf", ())
        return is_meant or not (is_unfilled(value, name) if name in _REASONS else says_nothing(value))

    def _is_valid(self, plain: dict[str, Any]) -> bool:
        if self._fast is None:
            self._fast = _compile(self._schema)
        return self._fast.is_valid(plain)


class ResponseValidator:
    """
    Compares what Stripe sent with the published response schema.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        """
        Prepare for *schema*, a JSON Schema 2020-12 document.
        """
        self._schema = schema
        self._fast: jsonschema_rs.Draft202012Validator | None = None

    def warnings(self, data: object) -> list[str]:
        """
        Where *data* differs from the schema, a sentence each; never a reason to doubt the success.
        """
        if self._fast is None:
            self._fast = _compile(self._schema)
        try:
            if self._fast.is_valid(data) and not _has_float(data):
                return []
            found = [
                f"the response differs from its schema at {_path(error.absolute_path) or 'the top'}: {_differs(error)}"
                for error in _slow(self._schema, is_exact=True).iter_errors(data)
            ]
        except (ValueError, RecursionError) as error:
            found = [f"the response could not be compared with its schema: {type(error).__name__}"]
        return found[:_MAX_PROBLEMS]


@cache
def parameter_validator(tool: ToolSpec) -> ParameterValidator:
    """
    The one of a tool's parameters; its schema is read when it is first asked for.
    """
    return ParameterValidator(tool.parameters_json_schema)


@cache
def response_validator(tool: ToolSpec) -> ResponseValidator:
    """
    The one of a tool's response; its schema is read when it is first asked for.
    """
    return ResponseValidator(tool.response_json_schema)


def _compile(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    with no_fork:
        import jsonschema_rs  # 40 ms that only the first call needs

        validator = jsonschema_rs.Draft202012Validator(schema)
        validator.is_valid({})  # the first time it takes a lock, and may let other threads run meanwhile
    return validator


def _has_float(data: Any) -> bool:
    left = [data]
    for value in left:
        kind = type(value)
        if kind is float:
            return True
        if kind is dict:
            left += value.values()
        elif kind is list:
            left += value
    return False


def _slow(schema: dict[str, Any], *, is_exact: bool = False) -> jsonschema.Draft202012Validator:
    """
    The validator that explains; for an exact one, -500.0 is no integer.
    """
    with no_fork:
        import jsonschema  # 100 ms that only a refusal needs

    def pattern(
        _validator: object, regex: str, instance: object, _schema: object
    ) -> Iterator[jsonschema.ValidationError]:
        # ECMA 262, which JSON Schema prescribes, lets $ match at the very end only; Python also before a last newline.
        regex = re.sub(r"\$$", r"\\Z", regex)
        if isinstance(instance, str) and not re.search(regex, instance):
            yield jsonschema.ValidationError(f"{shown(instance)} does not match {regex!r}")

    extend: Any = jsonschema.validators.extend  # its types are not published
    types = jsonschema.Draft202012Validator.TYPE_CHECKER
    if is_exact:
        types = types.redefine("integer", lambda _, value: type(value) is int)
    validator: jsonschema.Draft202012Validator = extend(
        jsonschema.Draft202012Validator, {"pattern": pattern}, type_checker=types
    )(schema)
    return validator


def _plain_object(value: dict[Any, Any], depth: int) -> dict[str, Any] | None:
    """
    A copy of what JSON parsers make, or None where anything is not just that.
    """
    if depth > _MAX_PLAIN_DEPTH or len(value) > _MAX_PLAIN_ITEMS:
        return None
    copy = {}
    for name, item in value.items():
        # What nearly all are comes first, without another call.
        plain = item if type(item) is str and item.isascii() else _plain_value(item, depth)
        if plain is _NOT_PLAIN or type(name) is not str or not (name.isascii() or _is_encodable(name)):
            return None
        copy[name] = plain
    return copy


def _plain_value(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if _is_encodable(value) else _NOT_PLAIN
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value.bit_length() <= _MAX_INT_BITS else _NOT_PLAIN
    if kind is dict:
        copy = _plain_object(value, depth + 1)
        return _NOT_PLAIN if copy is None else copy
    if kind is list and len(value) <= _MAX_PLAIN_ITEMS and depth <= _MAX_PLAIN_DEPTH:
        items = [_plain_value(item, depth + 1) for item in value]
        return _NOT_PLAIN if any(item is _NOT_PLAIN for item in items) else items
    return _NOT_PLAIN


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Copier:
    """
    Copies a value into dict, list, str, int, float, bool and None, and notes what JSON cannot hold.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._nodes = 0

    def copy(self, value: Any, path: str, depth: int = 0) -> Any:  # noqa: C901, PLR0911  one return per JSON type
        self._nodes += 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(str.__str__(value), path)
        if isinstance(value, int):
            if value.bit_length() > _MAX_INT_BITS:
                return self._unusable(path, "is an integer of far too many digits")
            return int(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                return self._unusable(path, f"{float(value)!r} is not a number JSON can hold")
            return float(value)
        if depth >= _MAX_DEPTH:
            return self._unusable(path, f"is nested more than {_MAX_DEPTH} deep")
        if self._nodes > _MAX_NODES:
            return self._unusable(path, f"is past the {_MAX_NODES:,} values that one call may have")
        if isinstance(value, Mapping):
            return self._object(value, path, depth)
        if isinstance(value, list | tuple):
            return self._list(value, path, depth)
        return self._unusable(path, f"a Python {type(value).__name__} is not a JSON value")

    def _text(self, text: str, path: str) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError:
            return self._unusable(path, f"{shown(text)} has a lone surrogate, which UTF-8 cannot encode")
        return text

    def _list(self, value: Any, path: str, depth: int) -> Any:
        copy = []
        for index, item in enumerate(value):
            copy.append(self.copy(item, f"{path}[{index}]", depth + 1))
            if self._is_full():
                return self._unusable(path, f"is past the {_MAX_NODES:,} values that one call may have")
        return copy

    def _object(self, value: Mapping[Any, Any], path: str, depth: int) -> Any:
        copy: dict[str, Any] = {}
        for name, item in value.items():
            below = f"{path}.{_key(name)}" if path else _key(name)
            if not isinstance(name, str):
                self._unusable(below, f"the key {shown(name)} is {kind_of(name)}, and JSON keys are strings")
            elif not isinstance(self._text(str.__str__(name), below), _Unusable):
                copy[str.__str__(name)] = self.copy(item, below, depth + 1)
            if self._is_full():
                self._unusable(path, f"is past the {_MAX_NODES:,} values that one call may have")
                break
        return copy

    def _is_full(self) -> bool:
        return self._nodes > _MAX_NODES or len(self.problems) >= _MAX_PROBLEMS

    def _unusable(self, path: str, message: str) -> _Unusable:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Problem(path=path or "parameters", message=message))
        return _Unusable()


def _explain(schema: dict[str, Any], plain: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    for error in _slow(schema).iter_errors(plain):
        if error.instance == "" and error.validator == "pattern" and "minLength" in error.schema:
            continue  # that it is empty says it all
        problems.extend(itertools.islice(_explain_one(schema, plain, error), _MAX_PROBLEMS))
        if len(problems) >= _MAX_PROBLEMS:
            break
    return list(dict.fromkeys(problems))


def _explain_one(schema: dict[str, Any], plain: dict[str, Any], error: jsonschema.ValidationError) -> Iterator[Problem]:
    path = _path(error.absolute_path)
    name = next(iter(error.absolute_path), None)
    spec = schema["properties"].get(name, {})
    if isinstance(error.instance, _Unusable):
        return
    if error.validator == "required" and not path:
        for missing in schema["required"]:
            if missing not in plain:
                hint = schema["properties"][missing].get("x-hint", "")
                yield Problem(path=missing, message="required parameter is missing", hint=hint)
    elif error.validator == "additionalProperties" and not path:
        yield from _unknown_names(schema, plain)
    elif error.validator == "anyOf" and error.context:
        yield from _nearest_branch(schema, plain, error)
    elif error.validator == "propertyNames" or "propertyNames" in error.absolute_schema_path:
        message = f"the key {shown(error.instance)} {_why_key(error)}"
        yield Problem(path=path, message=message, hint=spec.get("x-hint", ""))
    else:
        hint = _amount_hint(error.instance, plain, schema) if spec.get("format") == "minor-units" else ""
        yield Problem(path=path, message=_why(error), hint=hint or spec.get("x-hint", ""))


def _unknown_names(schema: dict[str, Any], plain: dict[str, Any]) -> Iterator[Problem]:
    known = list(schema["properties"])
    for name in plain:
        if name not in schema["properties"]:
            near = nearest(name, known)
            hint = f"did you mean {near[0]}?" if near else f"the parameters are {', '.join(known)}"
            yield Problem(path=_key(name), message="unknown parameter", hint=hint)


def _nearest_branch(
    schema: dict[str, Any], plain: dict[str, Any], error: jsonschema.ValidationError
) -> Iterator[Problem]:
    """
    Explain the alternative of an anyOf whose type the value has; where none has it, say what is there.
    """
    branches: Any = error.validator_value
    for index, branch in enumerate(branches):
        if branch.get("type") == "object" and isinstance(error.instance, dict):
            for sub in error.context or ():
                if sub.relative_schema_path and sub.relative_schema_path[0] == index:
                    yield from _explain_one(schema, plain, sub)
            return
    name = next(iter(error.absolute_path), None)
    hint = schema["properties"].get(name, {}).get("x-hint", "")
    yield Problem(path=_path(error.absolute_path), message=_is(error.instance), hint=hint)


def _why(error: jsonschema.ValidationError) -> str:  # noqa: PLR0911  one return per keyword
    """
    What is wrong with the value, in words: one line per keyword our schemas use.
    """
    value: Any = error.instance
    limit: Any = error.validator_value
    match error.validator:
        case "type":
            return _is(value)
        case "maxLength":
            return f"has {len(value):,} characters; at most {limit} are allowed"
        case "minLength":
            return "is empty"
        case "minimum" | "maximum":
            bound = "smallest" if error.validator == "minimum" else "largest"
            return f"{shown(value)} is out of range: the {bound} allowed is {limit}"
        case "minProperties":
            return "is an empty object"
        case "maxProperties":
            return f"has {len(value)} keys; at most {limit} are allowed"
        case "pattern" if "\0" in value:
            return f"{shown(value)} has a NUL character"
        case "not" if value == 0:
            return "0 changes nothing"
        case "pattern" | "not" if isinstance(value, str):
            return f"{shown(value)} is not allowed here{_culprits(value, error)}"
        case _:
            return f"{shown(value)} is not allowed here"


def _differs(error: jsonschema.ValidationError) -> str:
    """
    How a value of a response is not as the schema has it: no value is told, which may be somebody's address.
    """
    value: Any = error.instance
    limit: Any = error.validator_value
    match error.validator:
        case "type":
            return f"{kind_of(value)} instead of {limit if isinstance(limit, str) else ' or '.join(limit)}"
        case "required":
            missing = [name for name in limit if name not in value]
            return f"without {' and '.join(missing)}"
        case "enum" if isinstance(value, str) and re.fullmatch(r"[a-z0-9_.]{1,80}", value):
            return f"{value} is not among the values it knows"
        case rule:
            return f"{kind_of(value)} that is not as its {rule} has it"


def _culprits(text: str, error: jsonschema.ValidationError) -> str:
    """
    The characters that break the rule, where the rule is about characters.
    """
    rule: Any = error.validator_value
    if error.validator == "pattern":
        found = {char for char in text[:MAX_SHOWN] if not re.search(rule, char) or char == "\n"}
        is_about_characters = any(char not in found for char in text[:MAX_SHOWN])
    else:
        patterns = [branch["pattern"] for branch in rule.get("anyOf", ()) if "pattern" in branch]
        found = {char for char in text[:MAX_SHOWN] if any(re.search(pattern, char) for pattern in patterns)}
        is_about_characters = True
    return f" because of {', '.join(map(repr, sorted(found)[:5]))}" if found and is_about_characters else ""


def _why_key(error: jsonschema.ValidationError) -> str:
    key: Any = error.instance
    match error.validator:
        case "maxLength":
            return f"has {len(key):,} characters; at most {error.validator_value} are allowed"
        case "minLength":
            return "is empty"
        case "not":
            return "is reserved for this tool's own use"
        case _:
            return "has a square bracket or a NUL character"


def _amount_hint(value: object, plain: dict[str, Any], schema: dict[str, Any]) -> str:
    """
    For a decimal text or a fraction: the integer it stands for in the call's own currency.
    """
    field = next((name for name, spec in schema["properties"].items() if spec.get("format") == "currency"), "")
    currency = plain.get(field)
    if not isinstance(currency, str) or not re.fullmatch("[A-Za-z]{3}", currency) or isinstance(value, bool):
        return ""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,12}\s*", value):
        return (
            f"pass the integer {int(value)}, without quotes, if you mean {money.to_text(int(value), currency)} "
            "(amounts count the smallest unit)"
        )
    if isinstance(value, str | float) and len(str(value)) <= _LONGEST_AMOUNT:
        minor = money.to_minor(str(value), currency)
        if minor:
            what = f"{minor} for {money.to_text(minor, currency)}"
            return f"pass an integer in the smallest unit: {what}, negative to credit and positive to debit"
    return ""


def _is(value: object) -> str:
    return kind_of(value) if isinstance(value, dict | list) or value is None else f"{shown(value)} is {kind_of(value)}"


def _key(name: object) -> str:
    """
    A key as it reads in a path: plain where it is an identifier, quoted and cut where it is not.
    """
    text = name if isinstance(name, str) else shown(name)
    return text if re.fullmatch(r"[\w$-]{1,64}", text, re.ASCII) else f"{text[:_SHOWN]!a}{'…' * (len(text) > _SHOWN)}"


def _path(parts: Iterable[Any]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{_key(part)}" if path else _key(part)
    return path
