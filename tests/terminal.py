"""
Commands on a pseudo-terminal or a pipe, in the process of the tests: a Python for each would take most of the time.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import signal
import struct
import termios
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ocp_stripe_balance.cli import main

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox

# What a question ends with.
_ASKING = (b"[y/N]", b"not decided)")


class Done(NamedTuple):
    """
    A command as it ended, and what it printed.
    """

    code: int
    out: str
    err: str = ""


def at_terminal(
    *words: str,
    stripe: Sandbox | None = None,
    answer: str = "",
    typed_ahead: str = "",
    interrupt_at: str = "",
    columns: int = 80,
    **environment: str,
) -> Done:
    """
    A command on a terminal of its own: *answer* is typed once a question is shown, *typed_ahead* before.

    Ctrl-C comes where *interrupt_at* is shown.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.write(ours, typed_ahead.encode())
    shown: list[bytes] = []

    def sit_there() -> None:
        rest, last = answer, interrupt_at
        while True:
            try:
                shown.append(os.read(ours, 65536))
            except OSError:  # the end, on Linux
                return
            if rest and b"".join(shown).rstrip().endswith(_ASKING):
                os.write(ours, rest.encode())
                rest = ""
            if last and last.encode() in b"".join(shown):
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # here, where it ends nobody's waiting
                last = ""

    person = threading.Thread(target=sit_there)
    person.start()
    with (
        open(theirs, closefd=False) as stdin,
        open(theirs, "w", closefd=False) as stdout,
        open(theirs, "w", closefd=False) as stderr,
    ):
        code = _main(words, (stdin, stdout, stderr), stripe, {"TERM": "xterm", **environment})
    os.close(theirs)
    person.join()
    os.close(ours)
    return Done(code, b"".join(shown).decode())


def in_pipe(*words: str, stripe: Sandbox | None = None, stdin: str = "", **environment: str) -> Done:
    """
    A command between pipes.
    """
    streams = [io.TextIOWrapper(io.BytesIO(text), "utf-8") for text in (stdin.encode(), b"", b"")]
    code = _main(words, (*streams,), stripe, environment)
    out, err = (stream.buffer.getvalue().decode() for stream in streams[1:])
    assert "\x1b" not in out + err
    return Done(code, out, err)


def _main(
    words: tuple[str, ...], streams: tuple[io.TextIOWrapper, ...], stripe: Sandbox | None, more: dict[str, str]
) -> int:
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(f"sys.{name}", stream)
        if stripe is not None:
            patch.setenv("STRIPE_SECRET_KEY", stripe.api_key)
            patch.setenv("STRIPE_API_BASE", stripe.url)
        for name, value in more.items():
            patch.setenv(name, value)
        return main(words)
