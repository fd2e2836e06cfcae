"""
What every wire must do, over real sockets: aiohttp, and a transport of httpx that is handed in.

The servers send exactly the given bytes in the given segments.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import certifi
import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from ocp_stripe_balance._stripe.aiohttp_wire import AiohttpWire
from ocp_stripe_balance._stripe.httpx_wire import HttpxWire
from ocp_stripe_balance._stripe.network import Network
from ocp_stripe_balance._stripe.request import Request
from ocp_stripe_balance._stripe.wire import CUT_OFF, MAX_BODY_BYTES, LostError, UnsentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ocp_stripe_balance._stripe.wire import Received, Wire

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]

SECRET = "sk_test_planted0key"
BODY = b"a=b"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
STRAY = b"HTTP/1.1 402 No\r\nContent-Length: 5\r\n\r\nstray"


def request_to(url: str, path: str = "/v1/x", **headers: str) -> Request:
    return Request(method="POST", url=url + path, body=BODY, headers=headers, api_key=SecretStr(SECRET))


async def turns(number: int = 2) -> None:
    """
    Let the loop turn: after two, what was written has been read.
    """
    for _ in range(number):
        await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """
    One whole request, or nothing where the client is gone.
    """
    try:
        return await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(BODY))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """
    The URL of a server that hands each connection, with its number, to *handler*, and closes it after that.
    """
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())  # type: ignore[arg-type] # a handler runs in a task
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await handler(reader, writer, len(tasks))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://localhost:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await turns(5)  # in which transports close their sockets
        assert [] == [end for end in ends if isinstance(end, Exception)]


def answering(*answers: Iterable[bytes], closes: bool = False) -> Handler:
    """
    A handler that sends the segments of one answer after another, over any connections, and of the last for ever.
    """
    left = [list(answer) for answer in answers]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while await read_request(reader):
            for segment in left[0] if len(left) == 1 else left.pop(0):
                writer.write(segment)
                await turns()
            if closes:
                return

    return handle


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
    """
    Answers with the path that was asked for, in several segments.
    """
    while raw := await read_request(reader):
        path = raw.split()[1]
        for segment in (b"HTTP/1.1 200 OK\r\n", b"Content-Length: %d\r\n\r\n" % len(path), path[:3], path[3:]):
            writer.write(segment)
            await turns()


_USUAL = ssl.create_default_context(cafile=certifi.where())  # read once: it takes 30 ms


def over_aiohttp(**network: Any) -> Wire:
    return AiohttpWire(Network(**network), max_connections=2)


def over_httpx(ca_file: str | None = None) -> Wire:
    verify = ssl.create_default_context(cafile=ca_file) if ca_file else _USUAL
    limits = httpx.Limits(max_connections=2)
    return HttpxWire(httpx.AsyncHTTPTransport(verify=verify, limits=limits))


WIRES: dict[str, Callable[..., Wire]] = {"aiohttp": over_aiohttp, "httpx": over_httpx}


@pytest.fixture(params=list(WIRES))
def made(request: pytest.FixtureRequest) -> Callable[..., Wire]:
    """
    Makes one wire or the other.
    """
    return WIRES[request.param]


@pytest.fixture
async def http(made: Callable[..., Wire]) -> AsyncIterator[Wire]:
    wire = made()
    yield wire
    await wire.aclose()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """
    What was not closed complains when it is collected, and warnings are errors.
    """
    yield
    gc.collect()


async def exchanged(answer: Iterable[bytes], *, closes: bool = False) -> Received:
    """
    What is read of one answer.
    """
    exchange = over_aiohttp()
    try:
        async with serving(answering(answer, closes=closes)) as url, asyncio.timeout(20):
            return await exchange.exchange(request_to(url), 5)
    finally:
        await exchange.aclose()


async def what_became_of(http: Wire, url: str) -> str:
    """
    A response, or that it was lost, in words: which of both it is, is left to the wire; it is never called unsent.
    """
    try:
        return repr(await http.exchange(request_to(url), 5))
    except LostError as error:
        return repr(error) + str(error) + repr(vars(error))


# What is read

WHOLE = [
    (b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    (
        b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nC: d\r\n\r\n",
        b"hello",
    ),
    (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: x\r\n\r\n"
        + OK.replace(b"\r\n\r\n", b"\r\nA: b\r\n\r\n"),
        b"{}",
    ),
    (b"HTTP/1.1 200 \r\na: b\r\nContent-Length: 0\r\n\r\n", b""),
]


@pytest.mark.parametrize(("raw", "body"), WHOLE)
async def test_a_response_split_anywhere_is_read_alike(http: Wire, raw: bytes, body: bytes) -> None:
    """In two segments cut at every place, and byte by byte, over one connection that stays usable."""
    cuts: list[Sequence[bytes]] = [[raw[:at], raw[at:]] for at in range(1, len(raw))]
    cuts.append([raw[at : at + 1] for at in range(len(raw))])
    connections = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        connections.append(number)
        await answering(*cuts)(reader, writer, number)

    async with serving(handle) as url:
        for _ in cuts:
            received = await http.exchange(request_to(url), 5)
            assert (200, body, None, "b") == (*received[:1], *received[2:], received.headers["A"])
            assert not {"c", "link"} & set(received.headers)
        await http.aclose()
    assert [1] == connections


names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: f"x-{name}")
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)


@st.composite
def responses(draw: st.DrawFn) -> tuple[list[bytes], tuple[int, dict[str, str], bytes]]:
    """
    Segments of a valid response, and what it says.
    """
    status = draw(st.integers(200, 599).filter(lambda each: each not in {204, 304}))
    headers = draw(st.dictionaries(names, values, max_size=4))
    body = draw(st.binary(max_size=60))
    raw = f"HTTP/1.1 {status} X\r\n".encode()
    raw += b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())
    if draw(st.booleans()):
        raw += b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        cut = draw(st.integers(0, len(body)))
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
        raw += b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    places = sorted({0, len(raw), *draw(st.lists(st.integers(0, len(raw)), max_size=12))})
    return [raw[a:b] for a, b in itertools.pairwise(places)], (status, headers, body)


@given(responses())
@hypothesis_settings(max_examples=150)
def test_segmentation_changes_nothing(case: tuple[list[bytes], tuple[int, dict[str, str], bytes]]) -> None:
    """However a valid response is cut, it is the same status, headers and body."""
    segments, (status, headers, body) = case
    received = asyncio.run(exchanged(segments))
    told = {name: value for name, value in received.headers.items() if name.startswith("x-")}
    assert (status, headers, body, None) == (received.status, told, received.body, received.lost_body)


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (OK, 200, b"{}"),
        (b"HTTP/1.1 204 No\r\n\r\n", 204, b""),
        (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", 204, b""),
        (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", 304, b""),
        (b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n" + STRAY, 304, b""),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}" + STRAY, 200, b"{}"),
        (b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
        (b"\r\n" + OK, 200, b"{}"),
        (OK + STRAY, 200, b"{}"),
        (OK + STRAY[:1], 200, b"{}"),
        (OK + b"garbage", 200, b"{}"),
        (OK + b"\r\n\r\n" + STRAY, 200, b"{}"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}", 200, b"{"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + OK, 200, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + STRAY, 200, b""),
        (b"HTTP/1.1 301 X\r\nLocation: http://elsewhere.test/\r\nContent-Length: 0\r\n\r\n", 301, b""),
        (b"HTTP/1.1 200 OK\r\nX: \xff\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    ],
)
@pytest.mark.promise("answers.own")
async def test_nothing_after_a_response_is_the_next_answer(raw: bytes, status: int, body: bytes) -> None:
    """
    The response is read to its end, or is lost where nonsense came with it, and the next request has its own answer.

    Transports of httpx take what comes right behind a response for the next one; ours does not.
    """
    wire = over_aiohttp()
    async with serving(answering([raw], [OK.replace(b"200", b"299")])) as url:
        told = await what_became_of(wire, url)
        again = await wire.exchange(request_to(url), 5)
        await wire.aclose()
    assert f"Received(status={status}, " in told or told.startswith("LostError(")
    assert body in raw
    assert 299 == again.status


@pytest.mark.parametrize("stray", [STRAY, b"garbage"])
@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.promise("answers.own")
async def test_late_bytes_end_an_idle_connection(http: Wire, stray: bytes, is_busy: bool) -> None:
    """What comes while nobody asked is dropped with the connection, whether or not the loop has read it yet."""
    late, sent = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await read_request(reader)
        writer.write(OK)
        if number == 1:
            await late.wait()
            writer.write(stray)  # in the client's kernel at once
            sent.set()
        await reader.read()

    async with serving(handle) as url:
        await http.exchange(request_to(url), 5)
        late.set()
        await (sent.wait() if is_busy else turns(5))
        assert 200 == (await http.exchange(request_to(url), 5)).status
        await http.aclose()


async def test_a_body_may_end_with_the_connection(http: Wire) -> None:
    """Where the head gives no length."""
    async with serving(answering([b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"], closes=True)) as url:
        received = await http.exchange(request_to(url), 5)
    assert (200, b"hello", None) == (received.status, received.body, received.lost_body)


# What is no response


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"H",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200",
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + OK,
        b"HTTP/1.1 101 S\r\n\r\n" + OK,
        b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n" + OK,
        b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n" + OK,
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 -200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/3.7 200 OK\r\n\r\n",
        b"http/1.1 200 ok\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00",
        b"<html>",
        b"{}",
        b"\0" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\0: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    ],
)
@pytest.mark.parametrize("is_split", [False, True])
async def test_what_is_no_response_leaves_the_outcome_open(http: Wire, raw: bytes, is_split: bool) -> None:
    """Cut short, malformed, of two lengths or no HTTP: never called unsent, and never the next answer."""
    fresh = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        fresh.append(number)
        segments = [raw[at : at + 1] for at in range(len(raw))] if is_split else [raw]
        await answering(segments if number == 1 else [OK], closes=True)(reader, writer, number)

    async with serving(handle) as url:
        assert SECRET not in await what_became_of(http, url)
        await turns(5)  # in which the end of the connection is seen
        received = await http.exchange(request_to(url), 5)
        assert (200, b"{}") == (received.status, received.body)
    assert [1, 2] == fresh


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)
async def test_a_body_that_breaks_off_takes_nothing_from_the_status(http: Wire, raw: bytes) -> None:
    """The money moved when the 200 arrived; that its body is not whole is told beside it."""
    async with serving(answering([raw], closes=True)) as url:
        received = await http.exchange(request_to(url), 5)
    assert (200, True) == (received.status, raw.endswith(received.body) or received.body in raw)
    assert "the connection was lost" in (received.lost_body or "")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"])
async def test_a_reset_is_never_called_unsent(http: Wire, sent: bytes) -> None:
    """Before the head it is a lost answer, after it a lost body."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await read_request(reader)
        writer.write(sent)
        await turns()
        writer.transport.abort()

    async with serving(handle) as url:
        if sent.endswith(b"hello"):
            received = await http.exchange(request_to(url), 5)
            assert (200, b"hello", True) == (received.status, received.body, bool(received.lost_body))
        else:
            with pytest.raises(LostError):
                await http.exchange(request_to(url), 5)


async def test_a_server_that_closes_idle_connections_costs_no_call(http: Wire) -> None:
    """The next call has a fresh connection, whether or not the loop has seen the end of the old one."""
    closing, closed = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await read_request(reader)
        writer.write(OK)
        await closing.wait()
        closing.clear()
        writer.get_extra_info("socket")._sock.shutdown(socket.SHUT_RDWR)
        closed.set()

    async with serving(handle) as url:
        for is_seen in (False, True, False):
            assert 200 == (await http.exchange(request_to(url), 5)).status
            closing.set()
            await closed.wait()
            closed.clear()
            await turns(5 if is_seen else 0)
        await http.aclose()


async def test_a_connection_closed_as_the_request_leaves_is_a_lost_answer(http: Wire) -> None:
    """The bytes may have arrived, so it is not called unsent, and is not sent again from here."""
    requests = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        requests.append(await read_request(reader))
        writer.write(OK)
        await reader.read(1)
        requests.append(b"second")
        writer.transport.abort()

    async with serving(handle) as url:
        await http.exchange(request_to(url), 5)
        with pytest.raises(LostError):
            await http.exchange(request_to(url), 5)
    assert 2 == len(requests)


# Too much


async def flood(writer: asyncio.StreamWriter, head: bytes, more: bytes) -> None:
    writer.write(head)
    while not writer.is_closing():
        writer.write(more)
        await writer.drain()


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"", b"x" * 30_000),
        (b"HTTP/1.1 200 ", b"x" * 30_000),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 30_000),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 5_000),
    ],
)
async def test_a_head_without_end_is_not_read_on(http: Wire, head: bytes, more: bytes) -> None:
    """Far before memory is full there is no answer to be expected, and the connection is given up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await read_request(reader)
        await flood(writer, head, more)

    async with serving(handle) as url, asyncio.timeout(20):
        with pytest.raises(LostError):
            await http.exchange(request_to(url), 5)


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n", b"x" * 30_000),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 30_000),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"7530\r\n" + b"x" * 30_000 + b"\r\n",
        ),
    ],
)
async def test_a_body_without_end_is_cut_off(http: Wire, head: bytes, more: bytes) -> None:
    """With and without a length; the status stands, and the connection goes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await read_request(reader)
        await flood(writer, head, more)

    async with serving(handle) as url, asyncio.timeout(20):
        received = await http.exchange(request_to(url), 5)
    assert (200, MAX_BODY_BYTES, CUT_OFF) == (received.status, len(received.body), received.lost_body)


@pytest.mark.parametrize(("size", "lost_body"), [(MAX_BODY_BYTES, None), (MAX_BODY_BYTES + 1, CUT_OFF)])
async def test_the_border_is_one_megabyte(size: int, lost_body: str | None) -> None:
    """A body of exactly that size is whole; one byte more is told."""
    received = await exchanged([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size])
    assert (200, MAX_BODY_BYTES, lost_body) == (received.status, len(received.body), received.lost_body)


# The ten faults: whether the request may have arrived, and that it is sent once


async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """
    Close without a word.
    """


class Fault(NamedTuple):
    """
    A server that fails, and what a wire must say of it.
    """

    is_unsent: bool
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = never
    """After it has read the request."""
    url: str | None = None
    """Where there is no server that would hear anything."""
    is_on_reuse: bool = False
    """Whether the connection served another request before."""
    scheme: str = "http"
    reads: bool = True


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConte")
    await turns()


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


FAULTS = {
    "refused": Fault(is_unsent=True, url="refused"),
    "black hole": Fault(is_unsent=True, url="full"),
    "dns": Fault(is_unsent=True, url="http://no-such-host.invalid"),
    "tls to a plain port": Fault(is_unsent=True, scheme="https", reads=False),
    "reset on accept": Fault(is_unsent=False, behave=reset, reads=False),
    "lost reply": Fault(is_unsent=False, behave=reset),
    "half a reply": Fault(is_unsent=False, behave=half),
    "silence": Fault(is_unsent=False, behave=silent),
    "idle close race": Fault(is_unsent=False, is_on_reuse=True),
    "loss on a reused connection": Fault(is_unsent=False, behave=reset, is_on_reuse=True),
}


@contextlib.contextmanager
def unheard(kind: str) -> Iterator[str]:
    """
    An address of this machine where nobody listens, or where no more connections are taken.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        address = listener.getsockname()
        if kind == "full":
            listener.listen(0)
            for _ in range(3):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)  # noqa: FBT003  its signature
                with contextlib.suppress(BlockingIOError):
                    filler.connect(address)
        yield f"http://127.0.0.1:{address[1]}"


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.promise("outcomes.unsent-is-proved")
async def test_each_fault_is_told_for_what_it_is_and_sends_once(http: Wire, name: str, method: str) -> None:
    """Unsent only where no byte can have arrived; and no wire sends a request a second time by itself."""
    fault, heard = FAULTS[name], []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        if fault.is_on_reuse:
            await read_request(reader)
            writer.write(OK)
        if fault.reads and (raw := await read_request(reader)):
            heard.append(raw)
        await fault.behave(reader, writer)

    async with serving(handle) as url:
        with contextlib.ExitStack() as stack:
            to = fault.url or url.replace("http", fault.scheme)
            if to in {"refused", "full"}:
                to = stack.enter_context(unheard(to))
            if fault.is_on_reuse:
                await http.exchange(request_to(to), 5)
            with pytest.raises((UnsentError, LostError, TimeoutError)) as caught:
                await http.exchange(request_to(to)._replace(method=method), 0.4)
        await http.aclose()
    assert fault.is_unsent == isinstance(caught.value, UnsentError)
    assert len(heard) <= (0 if fault.is_unsent else 1)


# Before anything is sent


async def test_a_refused_connection_is_unsent(http: Wire) -> None:
    """Nobody listens."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(UnsentError):
            await http.exchange(request_to(f"http://127.0.0.1:{unheard.getsockname()[1]}"), 5)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:0", "http://[::1", "http://x:99999", "ftp://x", "x", "http://", "http://é.test"]
)
async def test_an_impossible_address_is_unsent(http: Wire, url: str) -> None:
    """What is no address of HTTP goes nowhere, port 0 included."""
    with pytest.raises(UnsentError):
        await http.exchange(request_to(url), 5)


async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: int) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass


async def test_a_connection_that_is_not_made_in_time_is_unsent(http: Wire) -> None:
    """Half of the call's time goes into it at most, the TLS handshake included."""
    loop = asyncio.get_running_loop()
    async with serving(silence) as url:
        began = loop.time()
        with pytest.raises(UnsentError):
            await http.exchange(request_to(url.replace("http", "https")), 0.2)
        assert 0.09 < loop.time() - began < 2


async def test_a_call_whose_time_is_up_is_unsent(http: Wire) -> None:
    """A connection that is ready too late is not used: others may have the call by now."""
    paths = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        while raw := await read_request(reader):
            paths.append(raw.split()[1])
            writer.write(OK)

    async with serving(handle) as url:
        await http.exchange(request_to(url, "/v1/first"), 5)
        with pytest.raises((UnsentError, TimeoutError)):
            await http.exchange(request_to(url, "/v1/late"), 0)
        await turns(5)
        await http.aclose()
    assert [b"/v1/first"] == paths


async def test_a_failure_of_any_kind_before_the_connection_is_unsent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Certificates that cannot be read, or no thread for DNS."""
    wire = over_aiohttp(ca_file=str(tmp_path / "missing"))
    with pytest.raises(UnsentError):
        await wire.exchange(request_to("https://localhost:9"), 5)

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(UnsentError, match="thread"):
        await wire.exchange(request_to("http://localhost:9"), 5)
    await wire.aclose()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/x\r\nEvil: 1", {}),
        ("/v1/x HTTP/1.1\r\n\r\n", {}),
        ("/v1/x y", {}),
        ("/v1/x\0", {}),
        ("/v1/x\t", {}),
        ("/v1/é", {}),
        ("/v1/x", {"A": "b\r\nEvil: 1"}),
        ("/v1/x", {"A": "b\nEvil: 1"}),
        ("/v1/x", {"A": "b\rEvil: 1"}),
        ("/v1/x", {"A": "b\0"}),
        ("/v1/x", {"A": "b\x7f"}),
        ("/v1/x", {"A": "\x1b[2J"}),
        ("/v1/x", {"A": "é"}),
        ("/v1/x", {"A": "\u010d\u010a"}),
        ("/v1/x", {"A: b\r\nEvil": "1"}),
        ("/v1/x", {"A b": "1"}),
        ("/v1/x", {"A:": "1"}),
        ("/v1/x", {"": "1"}),
    ],
)
@pytest.mark.promise("path.stays")
async def test_what_would_be_read_as_something_else_is_never_sent(
    http: Wire, path: str, headers: dict[str, str]
) -> None:
    """No value of a path or a header can add a header, end the head, or change the line it stands in."""
    connections = []

    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter, number: int) -> None:
        connections.append(number)
        await reader.read()

    async with serving(handle) as url:
        with pytest.raises(UnsentError) as caught:
            await http.exchange(request_to(url, path, **headers), 5)
        assert SECRET not in repr(caught.value)
    assert [] == connections


async def test_a_full_pool_is_unsent_and_gives_its_slots_back(http: Wire) -> None:
    """Who waits for a connection in vain is told so in time, and the connections serve again after that."""
    async with serving(silence) as url:
        running = [asyncio.create_task(http.exchange(request_to(url), 5)) for _ in range(2)]
        await turns(20)
        with pytest.raises(UnsentError):
            await http.exchange(request_to(url), 0.1)
        waiting = asyncio.create_task(http.exchange(request_to(url), 5))
        await turns()
        for task in (waiting, *running):
            task.cancel()
        assert [True] * 3 == [
            isinstance(each, asyncio.CancelledError)
            for each in await asyncio.gather(waiting, *running, return_exceptions=True)
        ]


async def test_many_calls_share_few_connections(http: Wire) -> None:
    """Each waits its turn and gets its own answer."""
    connections = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        connections.append(number)
        await echo(reader, writer, number)

    async with serving(handle) as url:
        paths = [f"/v1/{number}" for number in range(50)]
        answers = await asyncio.gather(*(http.exchange(request_to(url, path), 5) for path in paths))
        await http.aclose()
    assert [path.encode() for path in paths] == [answer.body for answer in answers]
    assert [1, 2] == sorted(connections)


# Time and cancellation


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_the_deadline_holds_in_the_head(http: Wire, sent: bytes) -> None:
    """A server that says nothing, or not enough, is waited for until then."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await read_request(reader)
        writer.write(sent)
        await reader.read()

    async with serving(handle) as url:
        with pytest.raises(TimeoutError):
            await http.exchange(request_to(url), 0.4)


async def test_the_deadline_holds_in_the_body(http: Wire) -> None:
    """The status stands, and what came of the body."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await reader.read()

    async with serving(handle) as url:
        received = await http.exchange(request_to(url), 0.4)
    assert (200, b"hello") == (received.status, received.body)
    assert "deadline" in (received.lost_body or "")


async def test_cancelled_anywhere_the_next_call_has_its_own_answer(
    http: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """After every number of the loop's turns, beside two others: no slot is lost, no answer mixed up."""
    is_done, number = False, 0
    async with serving(echo) as url:
        await http.exchange(request_to(url, "/v1/first"), 5)
        while not is_done or number < 30:
            number += 1
            tasks = [asyncio.create_task(http.exchange(request_to(url, f"/v1/{number}/{i}"), 5)) for i in range(3)]
            await turns(number)
            is_done = all(task.done() for task in tasks)
            tasks[0].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [f"/v1/{number}/{i}".encode() for i in (1, 2)] == [each.body for each in results[1:]]  # type: ignore[union-attr]
        gc.collect()
        await http.aclose()
    assert [] == caplog.records


async def test_closing_cancels_no_caller_that_nobody_cancelled() -> None:
    """Who waits for a connection is told that nothing was sent."""
    wire = over_aiohttp()
    async with serving(silence) as url:
        running = [asyncio.create_task(wire.exchange(request_to(url), 5)) for _ in range(2)]
        await turns(20)
        waiting = asyncio.create_task(wire.exchange(request_to(url), 5))
        await turns(5)
        await wire.aclose()
        (end,) = await asyncio.gather(waiting, return_exceptions=True)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert isinstance(end, UnsentError)


def test_a_wire_that_nobody_closes_makes_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Also where its loop ends at once."""

    async def call() -> None:
        async with serving(echo) as url:
            await over_aiohttp().exchange(request_to(url), 5)

    asyncio.run(call())
    gc.collect()
    assert [] == caplog.records


# Loops and ends


def test_one_wire_serves_one_loop_after_another() -> None:
    """Each loop has its own connections, and closes them."""
    exchange = over_aiohttp()

    async def call() -> list[int]:
        async with serving(echo) as url:
            statuses = [(await exchange.exchange(request_to(url), 5)).status for _ in range(2)]
            await exchange.aclose()
            return statuses

    assert [[200, 200]] * 3 == [asyncio.run(call()) for _ in range(3)]


async def test_one_wire_serves_two_loops_at_once() -> None:
    """In turns, from two threads, each over its own connection."""
    http, connections = over_aiohttp(), []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        connections.append(number)
        await echo(reader, writer, number)

    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    async with serving(handle) as url:
        for _ in range(3):
            assert 200 == (await http.exchange(request_to(url), 5)).status
            there = asyncio.run_coroutine_threadsafe(http.exchange(request_to(url), 5), other)
            assert 200 == (await asyncio.wrap_future(there)).status
        await http.aclose()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(turns(5), other))
    other.call_soon_threadsafe(other.stop)
    await asyncio.to_thread(thread.join)
    other.close()
    assert [1, 2] == connections


async def test_closing_ends_calls_under_way_truthfully(http: Wire) -> None:
    """One that waits for its answer is never called unsent, whoever waits for a connection ends, no socket is left."""
    heard = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if await reader.read(4) == b"POST":
            heard.set()
        await silence(reader, writer, number)

    async with serving(handle) as url:
        sent = asyncio.create_task(http.exchange(request_to(url), 1))
        connecting = asyncio.create_task(http.exchange(request_to(url.replace("http", "https")), 0.4))
        async with asyncio.timeout(20):
            await heard.wait()
        waiting = asyncio.create_task(http.exchange(request_to(url), 1))
        await turns()
        await http.aclose()
        ends = await asyncio.gather(sent, connecting, waiting, return_exceptions=True)
    assert isinstance(ends[0], LostError | asyncio.CancelledError)
    assert all(isinstance(end, UnsentError | asyncio.CancelledError | TimeoutError) for end in ends[1:])


async def test_a_body_cut_by_our_own_closing_is_not_whole(http: Wire) -> None:
    """Also where the end of the connection would be the end of the body."""
    begun = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await turns(5)
        begun.set()
        await reader.read()

    async with serving(handle) as url:
        task = asyncio.create_task(http.exchange(request_to(url), 5))
        await begun.wait()
        await http.aclose()
        received = await task
    assert (200, b"hel", True) == (received.status, received.body, bool(received.lost_body))


def test_a_loop_may_end_right_after_closing() -> None:
    """No socket waits for a turn of the loop that never comes."""
    exchange = over_aiohttp()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(OK)
                connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(exchange.exchange(request_to(url), 5))
        loop.run_until_complete(exchange.aclose())
        loop.close()
        thread.join()
    gc.collect()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """
    A certificate for localhost that signed itself, and its key.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-out", str(made), "-keyout", str(key)], check=True, capture_output=True)  # noqa: S603
    return made, key


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


async def test_tls_carries_calls_over_one_connection(
    made: Callable[..., Wire], tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    """Byte by byte, with a certificate authority of one's own; late bytes and idle ends cost no call here either."""
    http = made(ca_file=str(certificate[0]))
    connections = []
    end = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        connections.append(number)
        for _ in range(3):
            await read_request(reader)
            for at in range(len(OK)):
                writer.write(OK[at : at + 1])
                await turns()
        if number == 1:
            await end.wait()
            writer.write(STRAY)
            await turns(5)

    async with serving(handle, tls) as url:
        for _ in range(3):
            assert b"{}" == (await http.exchange(request_to(url), 5)).body
        assert [1] == connections
        end.set()
        await turns(5)
        for _ in range(3):
            assert b"{}" == (await http.exchange(request_to(url), 5)).body
        await http.aclose()
    assert [1, 2] == connections


async def test_a_certificate_that_nobody_signed_is_unsent(http: Wire, tls: ssl.SSLContext) -> None:
    """The handshake fails before a byte of the request leaves."""
    async with serving(silence, tls) as url:
        with pytest.raises(UnsentError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.exchange(request_to(url), 5)
