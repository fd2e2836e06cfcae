"""
The command line in real shells: streams that are closed or full, other encodings, and whatever ends a program.

What moved is told wherever it still can be, and the exit code is the outcome's.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from helpers import TOOL, ledger, run
from programs import CLI, started
from terminal import in_pipe

from ocp_stripe_balance.cli import main, stopping
from ocp_stripe_balance.cli.running import command
from ocp_stripe_balance.plugin import StripeAPI

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocp_stripe_balance.sandbox import Sandbox


def shell(line: str, stripe: Sandbox, *, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """
    A line of a shell as it ended; ``ours`` in it is our program, started at once, and ``really ours`` started anew.
    """
    line = line.replace("really ours ", f"{shlex.quote(CLI)} ")
    variables = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url, "OCP_STRIPE_MAX_ATTEMPTS": "1"}
    done = subprocess.run(  # noqa: S603  our own program
        ["/bin/sh", "-c", line.replace("ours ", f"{shlex.join([*started(), CLI])} ", 1)],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=50,
        env={**os.environ, **variables, **environment},
    )
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"Exception ignored" not in done.stderr
    return done


CREDIT = f"ours call {TOOL} customer={{customer}} amount=-500 currency=usd --idempotency-key k7"


@pytest.mark.parametrize(
    ("program", "streams", "told"),
    [
        ("ours", ">&-", "stderr"),
        ("really ours", ">/dev/full", "stderr"),
        ("ours", "2>&-", "stdout"),
        ("ours", "<&- 2>/dev/full", "stdout"),
        ("really ours", ">&- 2>&- <&-", None),
        ("ours", "| true", "stderr"),
    ],
)
async def test_money_that_moved_is_told(
    stripe_thread: Sandbox, tmp_path: Path, program: str, streams: str, told: str | None
) -> None:
    """On stderr where stdout is gone; the exit code says that it moved, and the journal is no place for output."""
    customer = stripe_thread.create_customer()
    redirected, _, piped = streams.partition("|")
    words = CREDIT.format(customer=customer).replace("ours", program)
    line = f"({words} {redirected}; echo $? >{tmp_path}/code) | {piped or 'cat'}"
    done = shell(line, stripe_thread)
    assert "0" == (tmp_path / "code").read_text().strip()
    assert 1 == len(await ledger(stripe_thread, customer))
    if told is not None:
        text = getattr(done, told)
        assert b"was credited 5.00 usd" in text
        assert b"k7" in text
    assert "succeeded" in run("calls", "show", "k7").stdout


@pytest.mark.parametrize(("program", "streams"), [("really ours", "2>&-"), ("ours", "2>/dev/full")])
async def test_what_may_have_moved_is_told_somewhere(stripe_thread: Sandbox, program: str, streams: str) -> None:
    """Without standard error, the outcome and the key go to standard output, which has nothing else then."""
    customer = stripe_thread.create_customer()
    stripe_thread.faults.add("reset", path="balance", times=None)
    done = shell(f"{CREDIT.format(customer=customer).replace('ours', program)} {streams}", stripe_thread)
    assert 4 == done.returncode
    assert b"unknown: " in done.stdout
    assert b"calls resume k7" in done.stdout


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"ours call {TOOL} amount=x 2>&- >&-", 2),
        (f"ours call {TOOL} amount=-5 currency=usd customer=cus_none 2>/dev/full", 3),
        (f"ours call {TOOL} --json - <&-", 2),
        ("ours tools >/dev/full", 1),
        ("ours --help >&-", 1),
        ("really ours nonsense 2>&-", 2),
        ("ours tools --json | head -1", 0),
    ],
)
def test_exit_codes_are_true_whatever_the_streams(stripe_thread: Sandbox, line: str, code: int) -> None:
    """And nobody sees a traceback."""
    assert code == shell(line, stripe_thread).returncode


async def test_a_decision_and_a_resumed_call_are_told_too(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """All that changes something: approving, and sending again."""
    customer = stripe_thread.create_customer()
    (tmp_path / "policy.toml").write_text("[approval]\nalways = true\nqueue = true\n")
    policy: dict[str, Any] = {"OCP_STRIPE_POLICY": str(tmp_path / "policy.toml")}
    waiting = shell(CREDIT.format(customer=customer), stripe_thread, **policy)
    assert b"waits for a person" in waiting.stderr
    done = shell("ours approvals approve k7 --yes >&-", stripe_thread, **policy)
    assert (0, True) == (done.returncode, b"approved: credit 5.00 usd" in done.stderr)
    stripe_thread.faults.add("reset", path="balance", times=1)
    assert 4 == shell(CREDIT.format(customer=customer), stripe_thread, **policy).returncode
    done = shell("ours calls resume k7 >/dev/full", stripe_thread, **policy)
    assert (0, True) == (done.returncode, b"was credited 5.00 usd" in done.stderr)
    assert 1 == len(await ledger(stripe_thread, customer))


LOCALES: list[dict[str, str]] = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"PYTHONIOENCODING": "cp1252"},
]


# One call after the other, each word of which is a line.
CALLS = "import sys; from ocp_stripe_balance.cli import main; sys.exit(max(main(c.splitlines()) for c in sys.argv[1:]))"


@pytest.mark.parametrize("locale", LOCALES, ids=lambda each: ",".join(each.values()))
async def test_what_is_read_is_utf_8_in_every_locale(
    stripe_thread: Sandbox, tmp_path: Path, locale: dict[str, str]
) -> None:
    """Files, standard input and words; with the mark that some editors begin a file with."""
    words = "Grüße, 東京 €"
    first, second, third = (
        {"customer": stripe_thread.create_customer(), "amount": -5, "currency": "usd", "description": words}
        for _ in range(3)
    )
    data = [b"\xef\xbb\xbf" + json.dumps(each, ensure_ascii=False).encode() for each in (first, second)]
    (tmp_path / "call.json").write_bytes(data[0])
    calls = [
        ["--json", str(tmp_path / "call.json")],
        ["--json", "-"],
        [f"{name}={each}" for name, each in third.items()],
    ]
    lines = ["\n".join(["call", TOOL, *each]) for each in calls]
    python = [sys.executable] if "LC_ALL" in locale else started()
    variables = {"STRIPE_SECRET_KEY": stripe_thread.api_key, "STRIPE_API_BASE": stripe_thread.url, **locale}
    done = subprocess.run(  # noqa: S603  our own program
        [*python, "-c", CALLS, *lines], input=data[1], capture_output=True, check=False, env={**os.environ, **variables}
    )
    assert 0 == done.returncode
    for call in (first, second, third):
        assert [words] == [entry["description"] for entry in await ledger(stripe_thread, str(call["customer"]))]


def test_what_is_not_utf_8_is_refused(stripe_thread: Sandbox, tmp_path: Path) -> None:
    """As some shells write files; with the reason."""
    (tmp_path / "call.json").write_bytes(json.dumps({"customer": "cus_1"}).encode("utf-16"))
    for line in (f"call {TOOL} --json {tmp_path}/call.json", f"policy explain {tmp_path}/call.json"):
        done = shell(f"ours {line}", stripe_thread)
        assert (2, True) == (done.returncode, b"cannot be read" in done.stderr)


@contextlib.contextmanager
def under_way(stripe: Sandbox, *starter: str) -> Iterator[subprocess.Popen[str]]:
    """
    A call whose request has arrived, and which waits for the answer.
    """
    customer = stripe.create_customer()
    stripe.faults.add("stall", seconds=30, path="balance")
    words = shlex.split(CREDIT.format(customer=customer))[1:]
    variables = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
    with subprocess.Popen(  # noqa: S603  our own program
        [*starter, CLI, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        while not any("balance" in request.target for request in list(stripe.requests)):
            assert process.poll() is None
            time.sleep(0.01)
        yield process


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 4)])
async def test_whatever_ends_a_call_says_that_it_may_have_moved(stripe_thread: Sandbox, name: str, code: int) -> None:
    """With the key, and in the journal; 128 and the signal's number is what service managers read."""
    with under_way(stripe_thread, *([] if name == "SIGTERM" else started())) as process:
        process.send_signal(getattr(signal, name))
        stdout, stderr = process.communicate(timeout=30)
    assert (code, "") == (process.returncode, stdout)
    assert "unknown: " in stderr
    assert "calls resume k7" in stderr
    assert "Traceback" not in stderr
    assert "unknown" == json.loads(run("calls", "show", "k7", "--json").stdout)["calls"][0]["outcome"]


@pytest.mark.parametrize("gap_s", [0.0, 0.005, 0.02, 0.1])
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 4)])
def test_further_signals_do_not_change_what_is_told(stripe_thread: Sandbox, name: str, code: int, gap_s: float) -> None:
    """An impatient person, or a service manager that repeats itself."""
    with under_way(stripe_thread, *started()) as process:
        for _ in range(4):
            process.send_signal(getattr(signal, name))
            time.sleep(gap_s)
        _, stderr = process.communicate(timeout=30)
    assert code == process.returncode
    assert "unknown: " in stderr
    assert "nothing was sent" not in stderr.lower()
    assert "Traceback" not in stderr


def test_a_signal_raises_nothing_where_it_would_only_be_printed() -> None:
    """In a finalizer; elsewhere what it interrupts may end."""

    class Kept:
        pass

    told: list[bool] = []
    with stopping.stopped_by(told.append):
        kept = Kept()
        weakref.finalize(kept, signal.raise_signal, signal.SIGTERM)
        del kept
        signal.raise_signal(signal.SIGTERM)
    assert [False, True] == told


async def test_a_signal_that_is_ignored_stays_so(stripe_thread: Sandbox) -> None:
    """nohup: the terminal goes away, the call goes on."""
    with under_way(stripe_thread, "/usr/bin/env", "nohup") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert 143 == process.returncode


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
async def test_at_the_question_nothing_was_sent(stripe_thread: Sandbox, name: str, code: int) -> None:
    """The terminal is waited for in the middle of a call; the signal ends that too."""
    customer = stripe_thread.create_customer()
    variables = {"STRIPE_SECRET_KEY": stripe_thread.api_key, "STRIPE_API_BASE": stripe_thread.url}
    ours, theirs = pty.openpty()
    with (
        subprocess.Popen(  # noqa: S603  our own program
            [*started(), CLI, *shlex.split(CREDIT.format(customer=customer))[1:]],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        ) as process
    ):
        assert process.stderr is not None
        asked = ""
        while "[y/N]" not in asked:
            asked += process.stderr.read(1)
        process.send_signal(getattr(signal, name))
        _, stderr = process.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert (code, "Interrupted; nothing was sent.") == (process.returncode, stderr.strip())
    assert [] == await ledger(stripe_thread, customer)


def test_ctrl_c_in_the_first_moments_is_quiet(tmp_path: Path, stripe_thread: Sandbox) -> None:
    """While modules are imported, nobody could say more than a traceback."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = shell("really ours tools; exit $?", stripe_thread, PYTHONPATH=str(tmp_path))
    assert (130, b"", b"") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_after_the_result_changes_nothing(
    stripe_thread: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It was told; the exit code is that of success, and nothing is said twice."""
    aclose = StripeAPI.aclose

    async def late(api: StripeAPI) -> None:
        await aclose(api)
        signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(StripeAPI, "aclose", late)
    words = shlex.split(CREDIT.format(customer=stripe_thread.create_customer()))[1:]
    done = in_pipe(*words, stripe=stripe_thread)
    assert (0, 1, 0) == (done.code, done.out.count("succeeded"), done.err.count("nterrupted"))


def test_the_sandbox_ends_in_peace() -> None:
    """As docker stop and systemd end it."""
    words = [*started(), CLI, "sandbox", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # noqa: S603
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    assert (0, b"Interrupted.") == (process.returncode, stderr.strip())


def test_windows_has_neither_these_signals_nor_handlers_of_loops(
    stripe_thread: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is no SIGHUP, Ctrl-Break is SIGBREAK, and an event loop takes no handler: the call is made all the same."""

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler", refuse)
    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    monkeypatch.setenv("STRIPE_SECRET_KEY", stripe_thread.api_key)
    monkeypatch.setenv("STRIPE_API_BASE", stripe_thread.url)
    monkeypatch.setattr(sys, "stdin", None)
    customer = stripe_thread.create_customer()
    assert 0 == main(shlex.split(CREDIT.format(customer=customer))[1:])
    assert "was credited 5.00 usd" in capfd.readouterr().out
    stopped: list[int] = []
    with stopping.stopped_by(lambda _: stopped.append(1)):
        signal.raise_signal(signal.SIGUSR1)
    assert ([1], 128 + signal.SIGUSR1) == (stopped, stopping.exit_code(2))
    assert signal.SIG_DFL == signal.getsignal(signal.SIGUSR1)


def test_a_command_to_copy_is_one_for_the_shell_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted as that shell quotes, and of a module as modules are started."""
    monkeypatch.setattr(sys, "argv", ["/a b/ocp"])
    assert "'/a b/ocp' calls resume 'k'\"'\"'1'" == command("calls", "resume", "k'1")
    monkeypatch.setattr(sys, "argv", ["/lib/ocp_stripe_balance/__main__.py"])
    assert f"{sys.executable} -m ocp_stripe_balance tools" == command("tools")
    monkeypatch.setattr(sys, "argv", [r"C:\a b\ocp.exe"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        said = command("calls", "resume", "k 1")
    assert r'"C:\a b\ocp.exe" calls resume "k 1"' == said


def test_known_errors_of_a_process_without_streams(stripe_thread: Sandbox) -> None:
    """pythonw: Python itself has no streams at all there."""
    program = "import sys; from ocp_stripe_balance import cli; sys.stdin = sys.stdout = sys.stderr = None; "
    program += "sys.exit(cli.main())"
    done: Any = subprocess.run(  # noqa: S603
        [
            *started(),
            "-c",
            program,
            *shlex.split(CREDIT.format(customer=stripe_thread.create_customer()))[1:],
        ],
        capture_output=True,
        check=False,
        env={**os.environ, "STRIPE_SECRET_KEY": stripe_thread.api_key, "STRIPE_API_BASE": stripe_thread.url},
    )
    assert 0 == done.returncode
