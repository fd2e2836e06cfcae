"""
What Stripe remembers of idempotency keys: https://docs.stripe.com/api/idempotent_requests
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ocp_stripe_balance.sandbox._errors import key_in_use, wrong_endpoint, wrong_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance.sandbox._form import Form

LIFE_S = 24 * 3600


@dataclass(slots=True, kw_only=True)
class StoredReply:
    """
    The first reply under a key; `status` is 0 while the first request runs.
    """

    path: str
    form: Form
    created: float
    request_id: str
    status: int = 0
    body: bytes = b""


class IdempotencyKeys:
    """
    The keys of one account: one namespace for all endpoints, each key remembered for 24 hours.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """
        Start empty.
        """
        self._now = now
        self._replies: dict[str, StoredReply] = {}

    def dump(self) -> dict[str, Any]:
        """
        The finished replies as JSON.
        """
        return {
            key: {**asdict(reply), "body": reply.body.decode()} for key, reply in self._replies.items() if reply.status
        }

    def load(self, dumped: dict[str, Any]) -> None:
        """
        Remember what was dumped.
        """
        for key, reply in dumped.items():
            self._replies[key] = StoredReply(**{**reply, "body": reply["body"].encode()})

    def begin(self, key: str, path: str, form: Form, request_id: str) -> StoredReply | None:
        """
        The stored reply to answer with, or None where this request is the first under its key.

        Raises:
            StripeError: other parameters, another path, or the first request still running.
        """
        stored = self._replies.get(key)
        if stored is not None and self._now() - stored.created >= LIFE_S:
            stored = None
        if stored is None:
            self._replies[key] = StoredReply(path=path, form=form, created=self._now(), request_id=request_id)
            return None
        if stored.path != path:
            raise wrong_endpoint(key, path, stored.path)
        if stored.form != form:
            raise wrong_parameters(key)
        if not stored.status:
            raise key_in_use(key)
        return stored

    def store(self, key: str, status: int, body: bytes) -> None:
        """
        Remember the reply.
        """
        self._replies[key].status = status
        self._replies[key].body = body

    def forget(self, key: str) -> None:
        """
        The request failed before it was executed: the key is free again.
        """
        self._replies.pop(key, None)
