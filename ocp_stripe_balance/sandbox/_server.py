"""
The HTTP side of the embedded Stripe: keys, headers, idempotency and faults around the operations.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import re
import secrets
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance.sandbox import _errors as errors
from ocp_stripe_balance.sandbox import _form
from ocp_stripe_balance.sandbox._faults import Fault, FaultKind, Faults
from ocp_stripe_balance.sandbox._idempotency import IdempotencyKeys
from ocp_stripe_balance.sandbox._ledger import Ledger, new_id
from ocp_stripe_balance.sandbox._limits import Limits
from ocp_stripe_balance.sandbox._operations import OPERATIONS, Operation

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

_MAX_RECORDED = 10_000
_MAX_KEY = 255  # https://docs.stripe.com/api/idempotent_requests
_FAULTS_PATH = "/_sandbox/faults"
_LIMITS_PATH = "/_sandbox/limits"
_HTML_502 = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """
    One request as it came over the wire.
    """

    method: str
    target: str
    """Path and query, still encoded."""
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """
        The value of a header, or None.
        """
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(slots=True)
class _Account:
    ledger: Ledger
    keys: IdempotencyKeys


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    headers: dict[str, str]
    content_type: str = "application/json"


class Sandbox:
    """
    An embedded Stripe on loopback, in memory, started by ``async with`` or ``with``.

    What it does and does not model, and what it chose where Stripe documents nothing: docs/sandbox.md.
    """

    def __init__(  # noqa: PLR0913  what a server is made with
        self,
        *,
        port: int = 0,
        api_key: str | None = None,
        seed: int = 0,
        path: str | os.PathLike[str] | None = None,
        rate_limit: float | None = None,
        endpoint_rate_limit: float | None = None,
        lock_s: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Prepare a sandbox.

        Args:
            port: to listen on, 0 for any free one.
            api_key: the secret key it accepts, ``sk_test_…``; drawn where left out.
            seed: of the faults that happen by chance.
            path: a file to keep keys, customers, entries and idempotency keys in; a sandbox with the same file goes on.
            rate_limit: requests per second that an API key may make, in all and to each endpoint.
            endpoint_rate_limit: to each endpoint, where it is another.
            lock_s: seconds a write holds its customer; another write meanwhile is answered with ``lock_timeout``.
            now: the time in seconds since the Unix epoch.
        """
        self.api_key = api_key or f"sk_test_{secrets.token_hex(12)}"
        """A secret key that may do everything."""
        self.read_only_key = f"rk_test_{secrets.token_hex(12)}"
        """A restricted key that may read customers."""
        self.faults = Faults(seed, self._refuse)
        self.requests: deque[RecordedRequest] = deque(maxlen=_MAX_RECORDED)
        """The newest requests, oldest first."""
        self.limits = Limits(
            rate_limit, rate_limit if endpoint_rate_limit is None else endpoint_rate_limit, lock_s, now
        )
        """What the limits let through and what not."""
        self._port = port
        self._path = Path(path) if path is not None else None
        self._site: web.TCPSite | None = None
        self._runner: web.ServerRunner | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refusing: asyncio.Future[None] | None = None
        self._listening_again: asyncio.Future[None] | None = None
        self._accounts: defaultdict[str, _Account] = defaultdict(lambda: _Account(Ledger(now), IdempotencyKeys(now)))
        if self._path is not None and self._path.exists():
            self._load(json.loads(self._path.read_text("utf-8")), api_key)

    @property
    def url(self) -> str:
        """
        The base URL, such as ``http://127.0.0.1:43210``.
        """
        return f"http://127.0.0.1:{self._port}"

    def create_customer(self, **fields: str | int) -> str:
        """
        The ID of a new customer, made without HTTP; *fields* as Stripe takes them, such as ``name`` and ``email``.
        """
        customer = self._accounts[""].ledger.create_customer(dict(fields))
        self._save()
        return customer.id

    async def __aenter__(self) -> Self:
        """
        Listen.
        """
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.01)
        await self._runner.setup()
        self._loop = asyncio.get_running_loop()
        await self._listen()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """
        Stop listening and drop all connections.
        """
        for task in (self._refusing, self._listening_again):
            if task is not None:
                task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    def __enter__(self) -> Self:
        """
        Listen, in a thread of its own.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stripe-sandbox", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.__aenter__(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        """
        Stop the thread.
        """
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _finish(self) -> None:
        """
        Stop listening, and end what a stall still holds: the loop is this sandbox's alone.
        """
        await self.__aexit__()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _listen(self) -> None:
        if self._runner is not None and self._runner.server is not None:
            self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
            await self._site.start()

    def _refuse(self, seconds: float) -> None:
        """
        Drop all connections and accept none for a while; when it returns, none is accepted.
        """

        async def refuse() -> None:
            if self._site is not None and self._runner is not None and self._runner.server is not None:
                await self._site.stop()
                for connection in self._runner.server.connections:
                    connection.force_close()
                self._listening_again = asyncio.ensure_future(listen_later())

        async def listen_later() -> None:
            await asyncio.sleep(seconds)
            await self._listen()

        if self._loop is None:
            return
        if self._thread is not None:
            asyncio.run_coroutine_threadsafe(refuse(), self._loop).result()
        else:
            self._refusing = asyncio.ensure_future(refuse())

    def _save(self) -> None:
        """
        Keep the state in the file; a reader sees the old or the new one, whole.
        """
        if self._path is None:
            return
        accounts = {name: [account.ledger.dump(), account.keys.dump()] for name, account in self._accounts.items()}
        state = {"api_key": self.api_key, "read_only_key": self.read_only_key, "accounts": accounts}
        beside = self._path.with_name(self._path.name + ".new")
        beside.write_text(json.dumps(state), "utf-8")
        beside.replace(self._path)

    def _load(self, state: dict[str, Any], api_key: str | None) -> None:
        self.api_key, self.read_only_key = api_key or state["api_key"], state["read_only_key"]
        for name, (ledger, keys) in state["accounts"].items():
            self._accounts[name].ledger.load(ledger)
            self._accounts[name].keys.load(keys)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path == _FAULTS_PATH:
            return self._set_faults(request, body)
        if request.path == _LIMITS_PATH:
            return web.json_response(self.limits.counts())
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
        self.requests.append(
            RecordedRequest(method=request.method, target=request.raw_path, headers=headers, body=body)
        )
        fault = self.faults.draw(request.path)
        if fault is not None and fault.kind is FaultKind.DUPLICATE:
            await self._answer(request, body, None)
        answer = await self._answer(request, body, fault)
        if request.method != "GET":
            self._save()
        return await _send(request, answer, fault)

    def _set_faults(self, request: web.BaseRequest, body: bytes) -> web.Response:
        """
        POST adds the fault that stands in the body, DELETE clears all; each says how things stand, as GET does.
        """
        try:
            if request.method == "POST":
                self.faults.add_text(body.decode())
            elif request.method == "DELETE":
                self.faults.clear()
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        told = {"waiting": self.faults.waiting(), "met": self.faults.met}
        return web.json_response(text=f"{json.dumps(told)}\n")

    async def _answer(self, request: web.BaseRequest, body: bytes, fault: Fault | None) -> _Answer:
        request_id = new_id("req_", 14)
        headers = _reply_headers(request, request_id)
        try:
            key = self._authenticate(request)
            _stop_at_the_door(fault, request)
            operation, ids = _route(request)
            account = self._account(request)
            self.limits.admit(f"{key} {request.headers.get('Stripe-Account', '')}", operation)
            self._authorize(key, operation)
            exchange = _Exchange(
                account=account,
                limits=self.limits,
                operation=operation,
                ids=ids,
                form=_form.decode(request.rel_url.raw_query_string.encode(), _body_of(request, body)),
                path=request.path,
                key=request.headers.get("Idempotency-Key") if request.method == "POST" else None,
                request_id=request_id,
                headers=headers,
                fault=fault,
            )
            return await exchange.run()
        except errors.StripeError as error:
            headers |= error.headers | (fault.headers if fault else {})
            return _Answer(error.status, _json(error.body), headers)

    def _authenticate(self, request: web.BaseRequest) -> str:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        key = value.strip()
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(key, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                key = ""
        if scheme.lower() not in {"basic", "bearer"} or not key:
            raise errors.no_key()
        if key not in {self.api_key, self.read_only_key}:
            raise errors.bad_key(key)
        return key

    def _authorize(self, key: str, operation: Operation) -> None:
        if key == self.read_only_key and operation.method != "GET":
            raise errors.not_permitted(key, "rak_customer_write")

    def _account(self, request: web.BaseRequest) -> _Account:
        name = request.headers.get("Stripe-Account", "")
        if name and not re.fullmatch(r"acct_\w{1,250}", name, re.ASCII):
            raise errors.bad_account(name)
        return self._accounts[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """
    One request to an operation, past the door.
    """

    account: _Account
    limits: Limits
    operation: Operation
    ids: dict[str, str]
    form: _form.Form
    path: str
    key: str | None
    request_id: str
    headers: dict[str, str]
    fault: Fault | None

    async def run(self) -> _Answer:
        """
        The answer, from memory where the idempotency key has one.
        """
        if self.key is None:
            await _stall_before(self.fault)
            async with self._customer_held():
                return _Answer(200, _json(self._apply()), self.headers)
        if len(self.key) > _MAX_KEY:
            raise errors.StripeError(400, "Idempotency keys must be at most 255 characters long.")
        stored = self.account.keys.begin(self.key, self.path, self.form, self.request_id)
        self.headers.update(
            {"Idempotency-Key": self.key, "Original-Request": self.request_id, "Stripe-Should-Retry": "false"}
        )
        if stored is not None:
            self.headers.update({"Original-Request": stored.request_id, "Idempotent-Replayed": "true"})
            if stored.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                del self.headers["Stripe-Should-Retry"]
            return _Answer(stored.status, stored.body, self.headers)
        try:
            await _stall_before(self.fault)
            async with self._customer_held():
                answer = self._execute()
        except BaseException:
            self.account.keys.forget(self.key)
            raise
        self.account.keys.store(self.key, answer.status, answer.body)
        return answer

    def _customer_held(self) -> contextlib.AbstractAsyncContextManager[None]:
        customer = None if self.operation.method == "GET" else self.ids.get("customer")
        return self.limits.hold(None if customer is None else (id(self.account), customer))

    def _execute(self) -> _Answer:
        """
        Run the operation; an error reply that the key remembers is returned, any other raised.
        """
        try:
            return _Answer(200, _json(self._apply()), self.headers)
        except errors.StripeError as error:
            if not error.is_stored:
                raise
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                del self.headers["Stripe-Should-Retry"]
            extra = self.fault.headers if self.fault else {}
            return _Answer(error.status, _json(error.body), self.headers | error.headers | extra)

    def _apply(self) -> dict[str, Any]:
        form = _form.check(self.form, self.operation.params)
        fails = self.fault is not None and self.fault.kind is FaultKind.SERVER_ERROR_STORED
        if self.fault is not None and fails and not self.fault.executed:
            raise errors.server_error(is_stored=True)
        shown = self.operation.run(self.account.ledger, form, **self.ids)
        if fails:
            raise errors.server_error(is_stored=True)
        return shown


def _stop_at_the_door(fault: Fault | None, request: web.BaseRequest) -> None:
    """
    The faults that answer before a request is looked at.
    """
    if fault is None or fault.executed:
        return
    if fault.kind is FaultKind.RATE_LIMIT:
        raise errors.rate_limit()
    if fault.kind is FaultKind.LOCK_TIMEOUT:
        raise errors.lock_timeout()
    if fault.kind is FaultKind.KEY_IN_USE:
        raise errors.key_in_use(request.headers.get("Idempotency-Key", ""))
    if fault.kind in {FaultKind.SERVER_ERROR, FaultKind.BAD_GATEWAY, FaultKind.RESET}:
        raise errors.server_error(is_stored=False)


async def _stall_before(fault: Fault | None) -> None:
    if fault is not None and fault.kind is FaultKind.STALL and not fault.executed:
        await asyncio.sleep(fault.seconds)


async def _send(request: web.BaseRequest, answer: _Answer, fault: Fault | None) -> web.StreamResponse:
    """
    Send the answer, or what a fault makes of it.
    """
    kind = fault.kind if fault else None
    if fault is not None and kind is FaultKind.STALL and fault.executed:
        await asyncio.sleep(fault.seconds)
    if kind is FaultKind.RESET:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if kind is FaultKind.BAD_GATEWAY:
        answer = _Answer(502, _HTML_502, {}, "text/html")
    elif kind is FaultKind.SERVER_ERROR and fault is not None and fault.executed:
        answer = _Answer(500, _json(errors.server_error(is_stored=False).body), fault.headers)
    elif kind is FaultKind.BROKEN_JSON:
        answer = _Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers)
    if kind in {FaultKind.CUT_BODY, FaultKind.DRIP} and fault is not None:
        return await _send_slowly(request, answer, fault)
    return web.Response(
        status=answer.status, body=answer.body, headers=answer.headers, content_type=answer.content_type
    )


async def _send_slowly(request: web.BaseRequest, answer: _Answer, fault: Fault) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_type = answer.content_type
    response.content_length = len(answer.body)
    await response.prepare(request)
    half = len(answer.body) // 2
    await response.write(answer.body[:half])
    if fault.kind is FaultKind.CUT_BODY:
        if request.transport is not None:
            request.transport.abort()
        return response
    with contextlib.suppress(ConnectionError):  # the client may not wait for the end
        for byte in answer.body[half:]:
            await asyncio.sleep(fault.seconds / half)
            await response.write(bytes([byte]))
    return response


def _route(request: web.BaseRequest) -> tuple[Operation, dict[str, str]]:
    # Stripe collapses repeated slashes, so an empty ID reaches another endpoint; so does it here.
    path = re.sub(r"/+", "/", request.path)
    for operation in OPERATIONS:
        match = operation.path.fullmatch(path)
        if match and operation.method == request.method:
            return operation, match.groupdict()
    raise errors.unknown_url(request.method, request.path)


def _body_of(request: web.BaseRequest, body: bytes) -> bytes:
    if body and request.content_type != "application/x-www-form-urlencoded":
        message = f"Invalid request: the Content-Type {request.content_type} is not supported; send a form."
        raise errors.StripeError(400, message)
    return body


def _reply_headers(request: web.BaseRequest, request_id: str) -> dict[str, str]:
    version = request.headers.get("Stripe-Version", load_manifest().version)
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?", version):
        version = load_manifest().version
    return {
        "Request-Id": request_id,
        "Stripe-Version": version,
        "Access-Control-Expose-Headers": "Request-Id, Stripe-Manage-Version, Stripe-Should-Retry",
        "Cache-Control": "no-cache, no-store",
    }


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
