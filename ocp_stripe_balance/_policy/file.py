"""
The policy as people write it: a TOML file, or the same keys as arguments.

Amounts are text in the currency's own units ("20.00" in usd, "2000" in jpy): a bare number could be read as cents.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError
from pydantic_core import PydanticCustomError

from ocp_stripe_balance._domain import Direction
from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import escaped, nearest, shown
from ocp_stripe_balance._text.spelling import one_spelling
from ocp_stripe_balance.errors import ConfigurationError

Per = Literal["customer", "user", "agent_type", "context", "all"]

OTHER = "other"
DEFAULT_LIMIT = Decimal("1000.00")
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MAX_AMOUNT = 10**9
_MAX_CALLS = 10**6
_MAX_WINDOW_S = 366 * 86400
_CURRENCY_WINDOW_S = 600.0


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("policy", "{why}", {"why": message})


def _amount(value: object) -> Decimal:
    if isinstance(value, Decimal) and value.is_finite() and 0 <= value < _MAX_AMOUNT and value == round(value, 3):
        return round(value, 3)
    if not isinstance(value, str | Decimal):
        raise _wrong(
            f'{shown(value)} could be read as cents; write it as text in the currency\'s units, such as "20.00"'
        )
    if isinstance(value, Decimal) or not re.fullmatch(r"\d{1,9}(\.\d{1,3})?", value, re.ASCII):
        raise _wrong(
            f"{shown(value)} is not an amount; write digits and perhaps a point, without sign, currency or thousands "
            'separator, such as "1000.00"'
        )
    return Decimal(value)


def _window(value: object) -> float:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", value, re.ASCII) if isinstance(value, str) else None
    seconds = float(int(match[1]) * _SPANS[match[2]]) if match else 0.0
    if seconds > _MAX_WINDOW_S:
        raise _wrong(f"{shown(value)} is too long; the longest is 366d")
    if not seconds:
        raise _wrong(f'{shown(value)} is not a span of time; write "10m", "24h", "30d" or "4w"')
    return seconds


def _duplicate_window(value: object) -> float | None:
    if value is False or value is None:
        raise _wrong('write "off" to switch it off')
    return None if value == "off" else _window(value)


def _currency(value: object) -> str:
    if value == OTHER:
        raise _wrong("other is for limits and approval; a budget names its currencies")
    if not isinstance(value, str) or not re.fullmatch("[A-Za-z]{3}", value, re.ASCII):
        raise _wrong(f'{shown(value)} is not a currency; write a three-letter ISO 4217 code, such as "usd"')
    return value.lower()


def _currency_or_other(value: object) -> str:
    return OTHER if value == OTHER else _currency(value)


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-Z^-~]{1,255}", value, re.ASCII):
        raise _wrong(f'{shown(value)} is not a customer; write an ID, or a pattern with * and ?, such as "cus_*"')
    return value


def one_person(name: str) -> str:
    """
    The one spelling of all names of a person: up to an ``@``, in lower case.
    """
    return one_spelling(name.partition("@")[0] or name)


def _person(value: object) -> str:
    if not isinstance(value, str) or not one_person(value):
        raise _wrong(f"{shown(value)} is not a name")
    return one_person(value)


Amount: TypeAlias = Annotated[Decimal, BeforeValidator(_amount)]
Window: TypeAlias = Annotated[float, BeforeValidator(_window)]
Currency: TypeAlias = Annotated[str, BeforeValidator(_currency)]
CurrencyOrOther: TypeAlias = Annotated[str, BeforeValidator(_currency_or_other)]
Pattern: TypeAlias = Annotated[str, BeforeValidator(_pattern)]
Expandable: TypeAlias = Annotated[str, Field(strict=True, pattern=r"^[a-z_]{1,64}(\.[a-z_]{1,64}){0,3}$")]
MetadataKey: TypeAlias = Annotated[str, Field(strict=True, pattern=r"^[^\[\]]{1,40}$")]


def _once_each(value: object) -> object:
    """
    A table in which no currency, and no person, stands twice in other letters.
    """
    if isinstance(value, dict):
        seen = [one_person(str(name)) for name in value]
        twice = next((name for name in seen if seen.count(name) > 1), None)
        if twice is not None:
            raise _wrong(f"{twice} stands there twice")
    return value


Amounts: TypeAlias = Annotated[dict[Currency, Amount], BeforeValidator(_once_each)]
AmountsOrOther: TypeAlias = Annotated[dict[CurrencyOrOther, Amount], BeforeValidator(_once_each)]
Person: TypeAlias = Annotated[str, BeforeValidator(_person)]
AmountsOfPeople: TypeAlias = Annotated[dict[Person, AmountsOrOther], BeforeValidator(_once_each)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Customers(_Section):
    """
    Whose balance may be changed; a customer who is denied is never allowed.
    """

    allow: tuple[Pattern, ...] | None = None
    """IDs or patterns with ``*`` and ``?``; without it, everyone who is not denied."""
    deny: tuple[Pattern, ...] = ()
    """IDs or patterns with ``*`` and ``?``."""


class Require(_Section):
    """
    What a call must say beyond the tool's required parameters.
    """

    stated_effect: StrictBool = False
    """Whether each call must state its effect in words, which is compared with the amount."""
    reference: StrictBool = False
    """Whether each call must have a business reason, which is paid once."""
    description: StrictBool = False
    """Whether each call must have a description."""
    metadata: tuple[MetadataKey, ...] = ()
    """Metadata keys that each call must have, with a value that is not empty."""


class Limits(_Section):
    """
    The largest credit and debit of one call, by currency; ``other`` stands for every currency not listed.
    """

    credit: AmountsOrOther = {}
    """The largest credit; 1,000.00 where neither its currency nor ``other`` is named."""
    debit: AmountsOrOther = {}
    """The largest debit; 1,000.00 where neither its currency nor ``other`` is named."""


class Budget(_Section):
    """
    How much may move within a rolling window, each currency for itself.
    """

    per: Per
    """Whose calls are added up: one customer's, one user's, one agent type's, one context's, or all."""
    window: Window
    """How far back calls count: ``10m``, ``24h``, ``30d``, ``4w``."""
    credit: Amounts = {}
    """How much may be credited."""
    debit: Amounts = {}
    """How much may be debited."""


class Approval(_Section):
    """
    When a person decides, and how.
    """

    always: StrictBool = False
    """Whether a person decides on every call."""
    above: AmountsOrOther = {}
    """A call of more than this waits for a person, and so does a plan of many that adds up to more; ``other`` stands
    for every currency not listed."""
    two_people_above: AmountsOrOther = {}
    """A call of more than this waits for two people, and so does a plan that adds up to more; ``other`` as above."""
    largest: AmountsOfPeople = {}
    """The largest amount that each person may approve, by name and currency, as in ``[approval.largest.kim]``. The name
    ``other`` stands for everybody not named; without it, nobody else approves anything."""
    not_by_requester: StrictBool = False
    """Whether who asks, the user of the agent, may not be among those who approve."""
    queue: StrictBool = False
    """Whether a proposal waits in the journal where no approver was given."""
    in_session: StrictBool = False
    """Whether an MCP client may be asked too, beside the queue. Some clients answer by themselves, and nobody here can
    tell that from a person's answer."""
    expires: Window = 86400.0
    """How long a proposal, and an approval of it, is good for: ``90m``, ``24h``, ``7d``."""

    @property
    def hears_clients(self) -> bool:
        """
        Whether the yes of an MCP client counts: it is that of who asks, for whom the client answers.
        """
        return self.in_session and not self.not_by_requester


class Policy(BaseModel):
    """
    What calls may do. Without any argument: the defaults that protect.

    Raises:
        ConfigurationError: naming every key that is misspelt or impossible.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    allow_live: StrictBool | None = None
    """Whether live-mode keys may be used; wins over the setting of the same name."""
    directions: tuple[Direction, ...] = ("credit", "debit")
    """Which of ``credit`` and ``debit`` is allowed."""
    currencies: tuple[Currency, ...] | None = None
    """The only currencies that are allowed."""
    default_currency: Currency | None = None
    """The currency that a customer without one gets with the first entry; without it, models are told to ask for it."""
    calls_per_minute: StrictInt | None = Field(None, ge=1, le=_MAX_CALLS)
    """How many calls within any minute, all customers together."""
    duplicate_window: Annotated[float | None, BeforeValidator(_duplicate_window)] = 600.0
    """How long the same customer, amount and currency under another key counts as a suspected duplicate; or ``off``."""
    unreadable_customers: Literal["warn", "refuse"] = "warn"
    """Where the API key may not read the customer to check its currency: ``warn`` or ``refuse``."""
    expand: tuple[Expandable, ...] | None = None
    """The only fields a call may expand; what is within one has its own name, as ``invoice.customer``."""
    customers: Customers = Customers()
    require: Require = Require()
    limits: Limits = Limits()
    budgets: tuple[Budget, ...] = ()
    approval: Approval = Approval()

    def __init__(self, /, **values: Any) -> None:
        """
        Check *values*, which have the keys of the file.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = [_explain(problem) for problem in error.errors(include_url=False)]
        else:
            problems = list(_decimals(self)) + [
                f"budgets[{number}]: has neither credit nor debit"
                for number, budget in enumerate(self.budgets)
                if not budget.credit and not budget.debit
            ]
            if self.approval.in_session and not self.approval.queue:
                problems.append("approval.in_session: needs queue = true, for what the client does not decide")
            if self.currencies is not None and self.default_currency not in {None, *self.currencies}:
                problems.append(f"default_currency: {self.default_currency} is not among currencies")
        if problems:
            raise ConfigurationError("The policy is not valid:", lines=problems, hint="Correct it and start again.")

    def limit(self, direction: Direction, currency: str) -> tuple[str, Decimal]:
        """
        The rule and the largest amount, in the currency's units, of one call.
        """
        limits = getattr(self.limits, direction)
        for key in (currency, OTHER):
            if key in limits:
                return f"limits.{direction}.{key}", limits[key]
        return "default limit", DEFAULT_LIMIT

    def threshold(self, currency: str) -> tuple[str, Decimal] | None:
        """
        The rule and the amount above which a person decides, or None where nobody is asked.
        """
        return self._above("above", currency)

    def two_people_above(self, currency: str) -> tuple[str, Decimal] | None:
        """
        The rule and the amount above which two people decide, or None where one does.
        """
        return self._above("two_people_above", currency)

    def _above(self, name: str, currency: str) -> tuple[str, Decimal] | None:
        amounts = getattr(self.approval, name)
        key = currency if currency in amounts else OTHER
        return (f"approval.{name}.{key}", amounts[key]) if key in amounts else None

    @property
    def counts(self) -> bool:
        """
        Whether some rule adds up calls of all kinds.
        """
        return bool(self.budgets or self.calls_per_minute)

    @property
    def longest_window_s(self) -> float:
        """
        How far back recorded calls still count.
        """
        minute = 60.0 if self.calls_per_minute else 0.0
        return max(
            [_CURRENCY_WINDOW_S, minute, self.duplicate_window or 0.0, *(budget.window for budget in self.budgets)]
        )


def load_policy(source: object) -> Policy:
    """
    The policy of a TOML file, of a dict with the same keys, or one that is a `Policy` already.

    Raises:
        ConfigurationError: it cannot be read, or is not valid.
    """
    if isinstance(source, Policy):
        return source
    if isinstance(source, dict):
        if not all(isinstance(name, str) for name in source):
            raise ConfigurationError("The policy is not valid: its keys are text.")
        return Policy(**source)
    with no_fork:
        import tomllib  # only a file needs it

    try:
        path = Path(str(source)).expanduser()
        text = path.read_bytes().decode().removeprefix("\ufeff")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError:
        raise ConfigurationError(f"The policy {shown(source)} is not UTF-8 text; save it as such.") from None
    except (OSError, RuntimeError, ValueError) as error:
        hint = "A policy is the path of a TOML file: in OCP_STRIPE_POLICY, policy= or --policy."
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"The policy {source} cannot be read: {why}.", hint=hint) from None
    try:
        return Policy(**tomllib.loads(text))
    except ConfigurationError as error:
        error.args = (str(error.args[0]).replace("The policy", escaped(f"The policy {path}"), 1),)
        raise
    except (ValueError, RecursionError) as error:  # among them tomllib.TOMLDecodeError
        hint = (
            "Text stands in straight quotes, true and false without quotes in lower case, each key once, and every "
            "budget under a [[budgets]] of its own, with two brackets. The mistake may be on the line before."
        )
        raise ConfigurationError(f"The policy {path} is not TOML: {error}.", hint=hint) from None


def _decimals(policy: Policy) -> list[str]:
    """
    Amounts with more decimals than their currency has.
    """
    places = {"limits": policy.limits} | {f"budgets[{number}]": each for number, each in enumerate(policy.budgets)}
    amounts = [
        (f"{place}.{direction}.{currency}", currency, amount)
        for place, section in places.items()
        for direction in ("credit", "debit")
        for currency, amount in getattr(section, direction).items()
    ]
    of_people = {"above": policy.approval.above, "two_people_above": policy.approval.two_people_above}
    of_people |= {f"largest.{person}": each for person, each in policy.approval.largest.items()}
    amounts += [
        (f"approval.{place}.{currency}", currency, amount)
        for place, each in of_people.items()
        for currency, amount in each.items()
    ]
    return [
        f"{path}: {amount} has more decimals than {currency}, which has {money.exponent(currency)}"
        for path, currency, amount in amounts
        if currency != OTHER and amount != round(amount, money.exponent(currency))
    ]


def _explain(problem: Any) -> str:
    path, model = "", Policy
    names: list[str] = []
    for part in problem["loc"]:
        if part == "[key]":
            continue
        names = list(getattr(model, "model_fields", {})) or names
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        field = getattr(model, "model_fields", {}).get(part)
        model = _model_in(field.annotation) if field else model
    match problem["type"]:
        case "extra_forbidden":
            near = nearest(str(problem["loc"][-1]), names)
            if not near and len(problem["loc"]) > 1 and problem["loc"][-1] in Policy.model_fields:
                return f"{path}: unknown key; {problem['loc'][-1]} stands above the first [section], or under its own"
            known = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(sorted(names))}"
            return f"{path}: unknown key; {known}"
        case "missing":
            return f"{path}: is missing"
        case "literal_error":
            return f"{path}: {_choice(problem)}"
        case kind:
            return f"{path}: {_PLAIN.get(kind) or problem['msg'].replace('Input should be', 'should be')}"


_PLAIN = {
    "tuple_type": 'write a list, such as ["usd"]',
    "dict_type": 'write a table, such as { usd = "20.00" }',
    "model_type": "write a section of its own, with keys and values",
    "bool_type": "write true or false, without quotes",
    "int_type": "write a whole number, without quotes",
    "string_type": "write text in quotes",
}


def _choice(problem: Any) -> str:
    given, choices = problem["input"], problem["ctx"]["expected"]
    near = nearest(given, re.findall(r"'(\w+)'", choices)) if isinstance(given, str) else []
    return f"{shown(given)} is none of {choices.replace(' or ', ', ')}" + (f"; did you mean {near[0]}?" if near else "")


def _model_in(annotation: Any) -> Any:
    """
    The section a field's type holds, in a list or a table of them, or the type itself.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(inner) for inner in getattr(annotation, "__args__", ())]
    return next((inner for inner in found if hasattr(inner, "model_fields")), annotation)
