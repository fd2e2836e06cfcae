"""
What leaves to a user: the result of a call, of a dry run, and the proposal a person decides on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ocp_stripe_balance._domain import Money, Origin, Scope
from ocp_stripe_balance._text import money
from ocp_stripe_balance._text.plain import escaped, local
from ocp_stripe_balance._tools import shapes
from ocp_stripe_balance._tools.trimming import trimmed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ocp_stripe_balance.errors import Outcome


PLAN = "bulkPlan"
"""What a proposal of a plan has in place of a tool's name."""
_OF_READS = ("outcome", "summary", "data", "request_id", "warnings")


class CustomerBalanceTransaction(BaseModel):
    """
    One entry of a customer's balance: https://docs.stripe.com/api/customer_balance_transactions/object

    Fields that Stripe adds later are kept, and values it adds to its lists are accepted.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    id: str
    object: Literal["customer_balance_transaction"]
    amount: int
    """Smallest currency unit; negative is a credit, positive a debit."""
    currency: str
    """ISO 4217 code in lower case."""
    customer: str | dict[str, Any]
    """The customer's ID, or the whole customer where it was expanded."""
    ending_balance: int
    """The customer's balance after this entry; negative lowers the next invoice."""
    created: int
    """Seconds since the Unix epoch."""
    livemode: bool
    type: str
    """``adjustment`` for entries made through the API."""
    description: str | None = None
    metadata: dict[str, str] | None = None
    invoice: str | dict[str, Any] | None = None
    credit_note: str | dict[str, Any] | None = None
    checkout_session: str | dict[str, Any] | None = None
    customer_account: str | None = None

    @property
    def effect(self) -> str:
        """
        What it did, as ``credit 5.00 usd``.
        """
        return money.effect(self.amount, self.currency)

    def describe(self) -> str:
        """
        The entry in a sentence.
        """
        after = money.standing(self.ending_balance, self.currency, was=True)
        return escaped(f"{self.id}: {self.customer_id} was {money.done(self.amount, self.currency)}, and then {after}")

    @property
    def customer_id(self) -> str:
        """
        The customer's ID, expanded or not.
        """
        return self.customer if isinstance(self.customer, str) else str(self.customer.get("id"))


class Customer(BaseModel):
    """
    A customer, as far as it matters for the balance: https://docs.stripe.com/api/customers/object

    Of a deleted one there are only `id` and `deleted`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: str
    object: Literal["customer"]
    name: str | None = None
    email: str | None = None
    balance: int | None = None
    """In `currency`, smallest unit; negative is a credit that lowers the next invoice."""
    currency: str | None = None
    """ISO 4217 code in lower case; None until a first entry or invoice fixes it for good."""
    invoice_credit_balance: dict[str, int] | None = None
    """Per currency, where it was expanded. There, positive is a credit."""
    deleted: bool = False
    livemode: bool | None = None
    metadata: dict[str, str] | None = None

    def describe(self) -> str:
        """
        The customer in a sentence.
        """
        who = escaped(f"{self.id} ({self.name})" if self.name and not self.deleted else self.id)
        if self.deleted:
            return f"{who} was deleted"
        if self.balance is None or self.currency is None:
            return f"{who} has no currency yet, and no balance"
        return f"{who} {escaped(money.standing(self.balance, self.currency))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """
    Stripe's answer to a call that succeeded, and how it came about.
    """

    tool: str
    """The tool that was called."""
    data: dict[str, Any]
    """The JSON object as Stripe sent it, pages of a list put together; empty where it was none (see `warnings`)."""
    status_code: int
    headers: Mapping[str, str]
    """Response headers, looked up without regard to case."""
    idempotency_key: str | None
    """The key the call was made under; the same key again returns the same result. None of a call that only reads."""
    request_id: str | None
    """Stripe's ``req_…``."""
    attempts: int
    """How many times the request was sent, or tried to be."""
    replayed: bool
    """Whether Stripe answered from the first request under this key instead of moving money again."""
    warnings: tuple[str, ...]
    """What was surprising about the answer. The call succeeded all the same."""
    total: int | None = None
    """Of a list: how many entries there are in all of what was asked for, where that is known."""
    is_full: bool = False
    """Whether all of it was asked for, also where a model reads it."""
    moved: bool = False
    """Whether it made an entry, now or, where `replayed`, the first time."""
    outcome: Literal["succeeded"] = "succeeded"

    @property
    def ok(self) -> bool:
        """
        True: a call that did not succeed raises.
        """
        return True

    @property
    def transaction(self) -> CustomerBalanceTransaction | None:
        """
        The transaction as a typed model, or None where Stripe sent something else (see `warnings`).
        """
        try:
            return CustomerBalanceTransaction.model_validate(self.data)
        except ValidationError:
            return None

    @property
    def transactions(self) -> list[CustomerBalanceTransaction] | None:
        """
        The entries of a list as typed models, newest first, or None where Stripe sent something else.
        """
        if self.data.get("object") != "list":
            return None
        try:
            return [CustomerBalanceTransaction.model_validate(entry) for entry in self.data["data"]]
        except (ValidationError, LookupError, TypeError):
            return None

    @property
    def customers(self) -> list[Customer] | None:
        """
        The customers of a list as typed models, or None where Stripe sent something else.
        """
        if self.data.get("object") != "list":
            return None
        try:
            return [Customer.model_validate(customer) for customer in self.data["data"]]
        except (ValidationError, LookupError, TypeError):
            return None

    @property
    def customer(self) -> Customer | None:
        """
        The customer as a typed model, or None where Stripe sent something else.
        """
        try:
            return Customer.model_validate(self.data)
        except ValidationError:
            return None

    @property
    def reason(self) -> str:
        """
        The phrase of the status, as on the SDK's response.
        """
        return HTTPStatus(self.status_code).phrase if self.status_code in set(HTTPStatus) else ""

    @property
    def content(self) -> bytes:
        """
        The data as JSON bytes, as on the SDK's response.
        """
        return json.dumps(self.data).encode()

    def json(self) -> dict[str, Any]:
        """
        The same as `data`.
        """
        return self.data

    def describe(self) -> str:
        """
        What happened in a sentence, such as ``cus_… was credited 5.00 usd, and now is in credit 5.00 usd``.
        """
        again = " (the stored result of the first request under this key)" if self.replayed else ""
        if self.moved and (entry := self.transaction) is not None:
            when = "then" if self.replayed else "now"
            stands = money.standing(entry.ending_balance, entry.currency, was=self.replayed)
            done = money.done(entry.amount, entry.currency)
            return escaped(f"{entry.customer_id} was {done}, and {when} {stands}{again}")
        if self.data.get("object") == "balance_calls":
            return self._on_record()
        entries = self.transactions
        listed = entries if entries is not None else self.customers
        if listed is not None:
            more = "; there are more" if self.data.get("has_more") else ""
            of_all = f" of {self.total}" if self.total not in {None, len(listed)} else ""
            return f"{len(listed)}{of_all} {self._noun(self.total or len(listed))}{_sums(entries or ())}{more}"
        found = self.transaction or self.customer
        if found is None:
            return f"the call succeeded, but the answer is not what {self.tool} returns"
        return f"{found.describe()}{again}"

    def _on_record(self) -> str:
        """
        How much a look into the journal found.
        """
        names = {"calls": "call", "proposals": "proposal", "refusals": "refusal"}
        found = {name: len(self.data[many]) for many, name in names.items()}
        said = [f"{count} {name}{'s' * (count != 1)}" for name, count in found.items() if count]
        more = "; there are more, and these are the newest" if self.data["has_more"] else ""
        nothing = "nothing is on record here, which knows its own calls only"
        return f"on record: {', '.join(said)}{more}" if said else nothing

    def _noun(self, count: int) -> str:
        """
        What a list is of, by its address.
        """
        is_of_customers = str(self.data.get("url")).rpartition("/")[2] == "customers"
        one, many = ("customer", "customers") if is_of_customers else ("entry", "entries")
        return one if count == 1 else many

    def to_dict(self) -> dict[str, Any]:
        """
        The result as JSON for programs, the data without what the response schema does not know.
        """
        facts = {
            "outcome": self.outcome,
            "summary": self.describe(),
            "data": trimmed(self.tool, self.data),
            "idempotency_key": self.idempotency_key,
            "request_id": self.request_id,
            "attempts": self.attempts,
            "replayed": self.replayed,
            "warnings": list(self.warnings),
        }
        return facts if self.idempotency_key else {name: facts[name] for name in facts if name in _OF_READS}

    def for_model(self) -> dict[str, Any]:
        """
        What a model needs of it: the summary, the entry or rows, the balance, the key and what is surprising.
        """
        if self.is_full:
            return self.to_dict()
        facts = {
            "outcome": self.outcome,
            "summary": self.describe(),
            **self._shaped(trimmed(self.tool, self.data)),
            "total": self.total,
            "idempotency_key": self.idempotency_key,
            "replayed": self.replayed if self.idempotency_key else None,
            "warnings": list(self.warnings),
        }
        return {name: value for name, value in facts.items() if name == "rows" or value not in (None, [], {})}

    def _shaped(self, known: dict[str, Any]) -> dict[str, Any]:
        if self.data.get("object") == "balance_calls":
            return shapes.record(known)
        if self.transaction is not None:
            return shapes.entry(known)
        if self.transactions is not None:
            return shapes.entries(known["data"])
        if self.customer is not None:
            return shapes.customer(known)
        if self.customers is not None:
            return shapes.customers(known["data"])
        return {"data": shapes.filled(known)}


def _sums(entries: Iterable[CustomerBalanceTransaction]) -> str:
    """
    What the entries of a list add up to, in each currency.
    """
    sums: dict[tuple[bool, str], int] = {}
    for entry in entries:
        kind = (entry.amount > 0, entry.currency)
        sums[kind] = sums.get(kind, 0) + entry.amount
    said = [money.done(amount, currency) for (_, currency), amount in sorted(sums.items())]
    return f": {', '.join(said)}" if said else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """
    What a call would send, and whether it would be sent. Nothing was sent and nothing recorded.
    """

    verdict: Literal["send", "ask", "refused", "replay", "resume", "wait", "conflict", "too_old"]
    """``send`` it; ``ask`` a person first; ``replay`` the recorded result; ``resume`` or ``wait`` for a call that is
    open; the rest would be errors."""
    message: str
    """Why, in a sentence."""
    rule: str | None
    """The rule of the policy behind ``ask`` and ``refused``."""
    method: str
    """Empty where the call is answered from the journal, as are URL, headers and body."""
    url: str
    headers: Mapping[str, str]
    """As they would be sent, the API key masked."""
    body: str
    """Form-encoded."""
    idempotency_key: str | None
    """None of a call that only reads."""
    warnings: tuple[str, ...] = ()
    outcome: Literal["not_sent"] = "not_sent"

    def to_dict(self) -> dict[str, Any]:
        """
        The dry run as JSON for the model.
        """
        facts = {**asdict(self), "headers": dict(self.headers), "warnings": list(self.warnings), "dry_run": True}
        return {name: value for name, value in facts.items() if value not in (None, "")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileResult:
    """
    What the ledger says of one call.
    """

    key: str
    customer: str
    outcome: Outcome
    """succeeded, not_sent (it was never applied) or still unknown."""
    transaction: dict[str, Any] | None = None
    advice: str = ""
    """What a person should check, where it is still unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What a person decided about one proposal; made by `Proposal.approve` and `Proposal.deny`.
    """

    proposal_id: str
    is_approved: bool
    by: str
    """Who decided, for the audit."""
    reason: str = ""
    how: str = ""
    """How they signed in: ``password``, ``oidc``, ``shell``, ``session`` (of an MCP client) or ``program``."""
    shown: str = ""
    """The digest of what they were shown (`shown_digest`)."""
    person: str = ""
    """Who they are by proof, where *by* is only what they call themselves."""

    def __post_init__(self) -> None:
        """
        Refuse what the audit could not hold.

        Raises:
            ValueError: a field is no text.
        """
        texts: tuple[object, ...] = (self.by, self.reason, self.how, self.shown, self.person)
        for text in texts:
            if not isinstance(text, str) or any("\ud800" <= char <= "\udfff" for char in text):
                message = "by, reason, how, shown and person are texts"
                raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """
    One person's answer to a proposal, as it is on record.
    """

    by: str
    how: str
    """As in `Answer`."""
    at: float
    """Seconds since the Unix epoch."""
    reason: str = ""
    shown: str = ""
    """The digest of what they were shown; empty where that was not said."""
    person: str = ""
    """Who they are by proof, where that is not *by*."""

    def describe(self) -> str:
        """
        Who it was, how they came in, and when.
        """
        came = ", ".join(filter(None, (self.how, self.person if self.person != self.by else "")))
        return f"{self.by}{f' ({came})' if came else ''} at {local(self.at)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """
    A call that waits for a person: exactly what would be sent, for whom, and why somebody is asked.
    """

    id: str
    key: str
    """Idempotency key of the call; calling again with it runs the call once it is approved."""
    tool: str
    arguments: str
    """The validated parameters as JSON; an approval is for these and no others."""
    base_url: str
    mode: str
    account: str
    customer: str
    customer_name: str | None
    """As Stripe has it, or None where it could not be read."""
    amount: int
    """Smallest currency unit; negative is a credit, positive a debit."""
    currency: str
    balance_before: int | None
    """The customer's balance in this currency, or None where it could not be read."""
    reference: str | None
    rule: str
    """The key in the policy that wants a person asked."""
    why: str
    context_id: str
    agent_type: str
    user: str | None
    asked_at: float
    expires_at: float
    """Seconds since the Unix epoch; an approval is good until then."""
    state: Literal["waiting", "approved", "denied", "expired", "used"] = "waiting"
    decided_at: float | None = None
    decided_by: str | None = None
    reason: str | None = None
    key_origin: Origin = Origin.CALLER
    """Whose name for the decision the key is."""
    moves_money: bool = True
    needed: int = 1
    """How many people have to say yes; until then it waits."""
    approvals: tuple[Vote, ...] = ()
    """Who said yes so far."""
    denial: Vote | None = None
    """Who said no, which ended it."""

    @property
    def scope(self) -> Scope:
        """
        The server, the mode and the account that it is about.
        """
        return Scope(self.base_url, self.mode, self.account)

    @property
    def is_plan(self) -> bool:
        """
        Whether it is about all rows of a plan at once.
        """
        return self.key_origin is Origin.PLAN

    @property
    def moved(self) -> tuple[Money, ...]:
        """
        What it would move: of a plan, in each currency and direction.
        """
        sums = self.parameters.get("sums") if self.is_plan else None
        if sums is not None:
            return tuple(Money(each["amount"], each["currency"]) for each in sums)
        return (Money(self.amount, self.currency),) if self.moves_money else ()

    @property
    def effect(self) -> str:
        """
        What it would do, as ``credit 5.00 usd``, or of a plan ``3,000 entries: credit 15,000.00 usd``.
        """
        return str(self.parameters["effect"]) if self.is_plan else money.effect(self.amount, self.currency)

    @property
    def balance_after(self) -> int | None:
        """
        The customer's balance once it is done.
        """
        return None if self.balance_before is None else self.balance_before + self.amount

    @property
    def parameters(self) -> dict[str, Any]:
        """
        The parameters by name.
        """
        parameters: dict[str, Any] = json.loads(self.arguments)
        return parameters

    def approve(self, *, by: str, reason: str = "", how: str = "", shown: str = "", person: str = "") -> Answer:
        """
        The answer that lets the call run, once; where the policy wants two people, together with another's.
        """
        said = {"by": by, "reason": reason, "how": how, "shown": shown, "person": person}
        return Answer(proposal_id=self.id, is_approved=True, **said)

    def deny(self, *, by: str, reason: str = "", how: str = "", shown: str = "", person: str = "") -> Answer:
        """
        The answer that stops the call for good.
        """
        said = {"by": by, "reason": reason, "how": how, "shown": shown, "person": person}
        return Answer(proposal_id=self.id, is_approved=False, **said)

    def describe(self) -> str:
        """
        The proposal in lines for a person; text of the model's or Stripe's cannot add a line or a terminal escape.
        """

        def balance(minor: int | None) -> str:
            return "not known" if minor is None else money.balance(minor, self.currency)

        words = self.parameters
        before, after = balance(self.balance_before), balance(self.balance_after)
        lines = {
            "effect": f"{self.effect} ({self.mode} mode)",
            **(words["shown"] if self.is_plan else {}),
            "transaction": words.get("transaction"),
            "customer": None if self.is_plan else f"{self.customer} ({self.customer_name or 'name not known'})",
            "balance": f"{before} when asked, {after} after this call" if self.amount and not self.is_plan else None,
            "reference": words.get("reference", self.reference),
            "description": words.get("description"),
            "metadata": json.dumps(words["metadata"]) if words.get("metadata") else None,
            "asked by": f"{self.user or 'no named user'} ({self.agent_type}, {self.context_id})",
            "because": f"{self.why} ({self.rule})",
            "needs": f"{self.needed} people to say yes" if self.needed > 1 else None,
            "yes": "; ".join(each.describe() for each in self.approvals) if self.needed > 1 else None,
            "key": self.key,
            "account": f"{self.account or 'of the API key'} at {self.base_url}",
            "expires": local(self.expires_at),
        }
        return "\n".join(f"{name:<11} {escaped(value)}" for name, value in lines.items() if value)


_SHOWN = (
    "id", "key", "tool", "arguments", "base_url", "mode", "account", "customer", "customer_name", "amount", "currency",
    "balance_before", "reference", "rule", "why", "context_id", "agent_type", "user", "asked_at", "expires_at",
)  # fmt: skip
"""What a person decides on; what others decided about it meanwhile is no part of it."""


def shown_digest(proposal: Proposal) -> str:
    """
    The SHA-256 of all that a person is shown of a proposal, in hexadecimal: the same for as long as it stands.
    """
    facts = {name: getattr(proposal, name) for name in _SHOWN}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
