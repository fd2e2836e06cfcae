"""
A Stripe on loopback that does no more than answer, so that what is measured is the client.

Run as a script, it prints its port and answers until its stdin is closed:

- ``POST /v1/customers/{id}/balance_transactions`` makes an entry. For a customer ``cus_held_{group}_{number}`` the
  answer waits until the group is released.
- ``GET /v1/customers/{id}`` has the customer.
- ``GET /held/{group}`` counts the group's answers that wait, and ``POST /held/{group}/release`` lets them go.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Callable

# As Stripe lays it out; a template, because json.dumps with an indent is several times slower.
_ENTRY = """{
  "id": "cbtxn_%(id)s",
  "object": "customer_balance_transaction",
  "amount": %(amount)s,
  "checkout_session": null,
  "created": %(created)d,
  "credit_note": null,
  "currency": "%(currency)s",
  "customer": "%(customer)s",
  "customer_account": null,
  "description": %(description)s,
  "ending_balance": %(ending_balance)d,
  "invoice": null,
  "livemode": false,
  "metadata": %(metadata)s,
  "type": "adjustment"
}"""
_CUSTOMER = """{
  "id": "%(customer)s",
  "object": "customer",
  "address": null,
  "balance": %(balance)d,
  "created": 1680893993,
  "currency": "usd",
  "default_source": null,
  "delinquent": false,
  "description": null,
  "email": null,
  "invoice_prefix": "0759376C",
  "livemode": false,
  "metadata": {},
  "name": "Ada",
  "phone": null,
  "shipping": null,
  "tax_exempt": "none"
}"""
_REPLY = (
    b"HTTP/1.1 %d\r\nServer: nginx\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: keep-alive\r\nCache-Control: no-cache, no-store\r\n%sRequest-Id: req_%014d\r\n"
    b"Strict-Transport-Security: max-age=63072000; includeSubDomains; preload\r\n"
    b"Stripe-Version: 2026-10-28.endive\r\nVary: Origin\r\n\r\n%s"
)
_OF_KEY = b"Idempotency-Key: %s\r\nOriginal-Request: req_%014d\r\nStripe-Should-Retry: false\r\n"


class Request(NamedTuple):
    """
    One request that has arrived completely.
    """

    method: bytes
    path: str
    idempotency_key: bytes
    """Empty where there is none."""
    body: bytes


def split(received: bytes) -> tuple[Request | None, bytes]:
    """
    The first request, or None while some of it is still to come, and the bytes after it.

    Raises:
        ValueError: it is chunked or no HTTP; no client here sends such.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None, received
    head = received[:end]
    names = head.lower()  # found so, a header costs a tenth of a regular expression that ignores case
    if b"\r\ntransfer-encoding:" in names:
        raise ValueError("a chunked body")
    body_ends = end + 4 + int(_header(head, names, b"\r\ncontent-length:") or 0)
    if len(received) < body_ends:
        return None, received
    method, path, _ = head.split(b" ", 2)
    key = _header(head, names, b"\r\nidempotency-key:")
    return Request(method, path.decode(), key, received[end + 4 : body_ends]), received[body_ends:]


def _header(head: bytes, names: bytes, name: bytes) -> bytes:
    start = names.find(name)
    if start < 0:
        return b""
    end = head.find(b"\r\n", start + 2)
    return head[start + len(name) : end if end >= 0 else None].strip()


class Ledger:
    """
    The answers, with balances and answers held back.
    """

    def __init__(self) -> None:
        """
        Start with customers who owe nothing.
        """
        self._numbers = itertools.count(1)
        self._balances: defaultdict[str, int] = defaultdict(int)
        self._held: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)

    def answer(self, request: Request) -> bytes:
        """
        The whole reply, headers and body.
        """
        is_post = request.method == b"POST"
        match request.path.split("/")[1:]:
            case ["v1", "customers", customer, "balance_transactions"] if is_post:
                return self._reply(200, self._entry(customer, request.body), request.idempotency_key)
            case ["v1", "customers", customer] if not is_post:
                balance = self._balances[customer]
                return self._reply(200, _CUSTOMER % {"customer": customer, "balance": balance})
            case ["held", group] if not is_post:
                return self._reply(200, json.dumps({"held": len(self._held[group])}))
            case ["held", group, "release"] if is_post:
                for send in self._held.pop(group, []):
                    send()
                return self._reply(200, "{}")
        return self._reply(404, '{"error": {"type": "invalid_request_error"}}')

    def hold(self, group: str, send: Callable[[], None]) -> None:
        """
        Call *send* when the group is released.
        """
        self._held[group].append(send)

    def _entry(self, customer: str, body: bytes) -> str:
        form = dict(parse_qsl(body.decode()))
        metadata = {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")}
        self._balances[customer] += int(form["amount"])
        return _ENTRY % {
            "id": f"{next(self._numbers):024d}",
            "amount": form["amount"],
            "created": time.time(),
            "currency": form["currency"],
            "customer": customer,
            "description": json.dumps(form["description"]) if "description" in form else "null",
            "ending_balance": self._balances[customer],
            "metadata": json.dumps(metadata) if metadata else "{}",
        }

    def _reply(self, status: int, text: str, key: bytes = b"") -> bytes:
        body, number = text.encode(), next(self._numbers)
        of_key = _OF_KEY % (key, number) if key else b""
        return _REPLY % (status, len(body), of_key, number, body)


class Connection(asyncio.Protocol):
    """
    One connection: its requests are answered in the order they came.
    """

    def __init__(self, ledger: Ledger) -> None:
        """
        Have every request answered by *ledger*.
        """
        self._ledger = ledger
        self._received = b""
        self._is_held = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Keep what answers are written to.
        """
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """
        Answer every request that is complete now.
        """
        self._received += data
        self._answer_all()

    def _answer_all(self) -> None:
        while self._received and not self._is_held:
            try:
                request, self._received = split(self._received)
            except ValueError:
                self._transport.abort()
                return
            if request is None:
                return
            answer = self._ledger.answer(request)
            if request.method == b"POST" and request.path.startswith("/v1/customers/cus_held_"):
                self._hold(request.path.split("_")[2], answer)
            else:
                self._transport.write(answer)

    def _hold(self, group: str, answer: bytes) -> None:
        def send() -> None:
            self._is_held = False
            self._transport.write(answer)
            self._answer_all()

        self._is_held = True
        self._ledger.hold(group, send)


async def main() -> None:
    """
    Print the port and answer until stdin is closed, which also happens when whoever started us dies.
    """
    ledger = Ledger()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(ledger), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
