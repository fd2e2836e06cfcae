"""
Programs at once: a process that has imported the package forks one for each start.

Imports are nine tenths of the time of a short program. What happens at the start and the end of Python itself is tested
with the real program, `CLI`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import marshal
import multiprocessing
import os
import pkgutil
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from importlib import import_module
from io import BytesIO, TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import SimpleNamespace
from typing import IO, Any, NoReturn

import at_once

import ocp_stripe_balance
from ocp_stripe_balance._stripe.client import SystemClock
from ocp_stripe_balance.cli import main

CLI = str(Path(sys.executable).parent / "ocp-stripe-balance")
# What the package imports only when it is used.
_LATE = ("aiohttp", "httpx", "jsonschema", "jsonschema_rs", "platformdirs", "sqlite3", "typer._adapters")


def run(*words: str, stdin: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """
    A command of ours as it ended, in that environment and the folder at hand.
    """
    with TemporaryFile() as given, TemporaryFile() as printed, TemporaryFile() as told:
        given.write(stdin.encode())
        given.seek(0)
        streams = [each.fileno() for each in (given, printed, told)]
        code = at_once.Started(_address(), [CLI, *words], environment, streams).wait()
        return subprocess.CompletedProcess(words, code, _all_of(printed), _all_of(told))


def _all_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


def started() -> list[str]:
    """
    Words that start at once the program behind them: `CLI`, or what Python takes, a file or -c.
    """
    return [sys.executable, "-IS", at_once.__file__, _address()]


@cache
def folder() -> Path:
    """
    Where shells find the command line that is started at once, and a ``python`` that starts what it takes so.
    """
    made = TemporaryDirectory(prefix="ocp-")
    atexit.register(made.cleanup)
    where = Path(made.name)
    for name, words in (("ocp-stripe-balance", [*started(), CLI]), ("python", started())):
        program = where / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o700)
    return where


@cache
def processes() -> Any:
    """
    The `multiprocessing` whose processes have the imports behind them.
    """
    context = multiprocessing.get_context("forkserver")
    agents = [name for name in _imports() if ".mcp" not in name]  # which takes longer than all the rest
    context.set_forkserver_preload([*agents, "pytest", "hypothesis.stateful"])
    return context


def _imports() -> list[str]:
    modules = pkgutil.walk_packages(ocp_stripe_balance.__path__, "ocp_stripe_balance.")
    return [*(module.name for module in modules if not module.name.endswith("__main__")), *_LATE]


def share() -> None:
    """
    Let processes that this one starts find the process that forks here: its imports take two seconds.
    """
    os.environ["TEST_PROGRAMS"] = _address()


@cache
def _address() -> str:
    """
    Where the process that forks is found; it ends with the one that started it.
    """
    if given := os.environ.get("TEST_PROGRAMS"):
        return given
    made = TemporaryDirectory(prefix="ocp-")
    address = str(Path(made.name) / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        number = listening.fileno()
        words = [sys.executable, __file__, str(number)]
        server = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[number])  # noqa: S603  this file
    atexit.register(made.cleanup)
    atexit.register(server.communicate)
    return address


def _serve(listening: socket.socket) -> None:
    """
    Fork a program for whoever asks, until nobody is there who could.
    """
    for name in [*_imports(), "helpers"]:
        with contextlib.suppress(ImportError):  # an extra that is not installed
            import_module(name)
    be_impatient()
    with contextlib.redirect_stdout(TextIOWrapper(BytesIO())):
        main(["tools"])  # what is made once by the first command, too
    assert 1 == threading.active_count(), "a fork takes one thread along"
    gc.freeze()  # or each program would copy what it only looks at
    waited_for: list[Any] = [listening, sys.stdin]
    while select.select(waited_for, [], [])[0] == [listening]:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _attend(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def be_impatient() -> None:
    """
    Waits between attempts take a tenth of their time: how long they are is tested with a clock of the test's own.
    """
    SystemClock.sleep = staticmethod(lambda seconds: asyncio.sleep(seconds / 10))  # type: ignore[arg-type]  # by another name
    with contextlib.suppress(ImportError):  # an extra that is not installed
        server: Any = import_module("uvicorn.server")
        server.asyncio = SimpleNamespace(**{**vars(asyncio), "sleep": SystemClock.sleep})


def _attend(connection: socket.socket) -> NoReturn:
    """
    Fork the program, and tell how it ended.
    """
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    asked = connection.makefile("rb")
    words, environment, where, opened = marshal.loads(asked.read(int.from_bytes(asked.read(4), "big")))  # noqa: S302  our own
    program = os.fork()
    if program == 0:
        asked.close()
        connection.close()
        _become(words, environment, where, dict(zip(opened, streams, strict=True)))
    connection.sendall(b"%8d" % program)
    threading.Thread(target=_end_with, args=(connection, program), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(b"%8d" % code)
    os._exit(0)


def _end_with(connection: socket.socket, program: int) -> None:
    """
    Kill the program as soon as what stands in for it is killed.
    """
    with contextlib.suppress(ConnectionResetError):  # killed before it read what it was told
        connection.recv(1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(program, signal.SIGKILL)


def _become(words: list[str], environment: dict[str, str], where: str, streams: dict[int, int]) -> NoReturn:
    """
    Be a program as if it had been started anew.
    """
    for number in range(3):
        os.close(number)
    for number, stream in streams.items():
        os.dup2(stream, number)
        os.close(stream)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    how: dict[str, Any] = {"encoding": encoding, "errors": errors or None, "closefd": False}
    sys.stdin = open(0, **how) if 0 in streams else None  # noqa: SIM115  to its end
    sys.stdout = open(1, "w", **how) if 1 in streams else None  # noqa: SIM115
    how |= {"errors": "backslashreplace", "buffering": 1}
    sys.stderr = open(2, "w", **how) if 2 in streams else None  # noqa: SIM115
    os.chdir(where)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    code, sys.argv = 0, words
    sys.executable = environment.get("PYTHON_AT_ONCE", sys.executable)
    if words[0] == CLI:
        code = main()
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})  # noqa: S102  the test's own
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    if words[0] != CLI and sys.stdout:
        sys.stdout.flush()
    # As Python ends a program, but for taking it apart: that would copy all there is.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
