"""
The command line.

Data goes to stdout, everything else to stderr. Exit codes: 0 succeeded, 2 not sent, 3 rejected, 4 unknown.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

import typer

from ocp_stripe_balance.cli import stopping
from ocp_stripe_balance.cli.app import program
from ocp_stripe_balance.cli.output import (
    finished,
    prepare_streams,
    say,
    sentence_of,
    show_error,
    silence_streams,
)
from ocp_stripe_balance.cli.running import Run, command
from ocp_stripe_balance.errors import NotSentError, OutcomeUnknownError, ToolError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

_EXIT_CODES = {"succeeded": 0, "not_sent": 2, "rejected": 3, "unknown": 4}
_MONEY = {"call", "credit", "debit", "reverse"}
_SERVERS = {"console", "mcp", "sandbox", "serve"}  # which end by being interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code.
    """
    prepare_streams()
    stopping.forget()
    run = _run([_as_typed(word) for word in (sys.argv[1:] if argv is None else argv)], is_program=argv is None)
    try:
        return finished(_exit_code(run))
    except OSError as error:
        return _cannot_print(error, run.done)
    finally:
        silence_streams()


def _run(words: list[str], *, is_program: bool) -> Run:
    """
    What the words stand for; ``journal`` is what ``calls`` was called before.
    """
    is_old_name = words[:1] == ["journal"]
    if is_old_name:
        words[0] = "calls"
        if "--json" not in words:
            say(f"'journal' is now '{' '.join(words[:2])}'; the old name goes with the next version.")
    return Run(words=words, is_program=is_program, is_old_name=is_old_name)


def _as_typed(word: str) -> str:
    """
    A word of the command line as UTF-8, where the locale knows none.
    """
    with contextlib.suppress(UnicodeError):
        return os.fsencode(word).decode() if not word.isprintable() else word
    return word


def _exit_code(run: Run) -> int:
    """
    The exit code of a command, its errors told.

    Raises:
        OSError: standard output is closed or full.
    """
    commands = program()
    if unclear := _unclear(commands, run.words):
        return _told(run, NotSentError(unclear))
    try:
        # A command is a coroutine, made when its words are understood; of help there is only an exit code.
        made = commands.main(run.words, "ocp-stripe-balance", standalone_mode=False, obj=run)
    except typer.TyperException as error:
        return _told(run, _misunderstood(error))
    except typer.Abort:
        return 2
    return made if isinstance(made, int) else _outcome(run, made)


def _unclear(command: Any, words: Sequence[str]) -> str | None:
    """
    What is wrong with an option that took the next one for its value, or is there twice: money would move otherwise.
    """
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    valued = [each for each in command.params if each.param_type_name == "option" and not each.is_flag]
    options = {name: each for each in valued for name in each.opts}
    seen = set()
    for word, following in pairwise([*takewhile("--".__ne__, rest), ""]):
        name, has_value, _ = word.partition("=")
        if name not in options:
            continue
        if not has_value and re.match("-.", following):
            return f"{name} has no value before {following}. Where that is its value, write {name}={following}."
        if name in seen and not options[name].multiple:
            return f"{name} is given twice. Pass it once."
        seen.add(name)
    return None


def _misunderstood(error: Any) -> NotSentError:
    """
    What is wrong with the words, and where help is.
    """
    message = error.format_message()
    if getattr(error, "option_name", "-x")[1:2].isdigit():
        message += " An amount has no sign: credit and debit say its direction."
    path = error.ctx.command_path if getattr(error, "ctx", None) else "ocp-stripe-balance"
    return NotSentError(message, hint=f"To see what there is: {path} --help")


def _outcome(run: Run, made: Coroutine[Any, Any, int]) -> int:
    import asyncio  # that --help does not need

    def stop(may_raise: bool) -> None:
        if run.is_over:  # how it ended is about to be said
            return
        is_called = run.calling is not None and run.calling.done()
        is_stuck = run.cancel is None or is_called or (run.calling is None and stopping.times() > 1)
        if is_stuck:
            stopping.interrupt(may_raise)
        if run.cancel is not None:
            run.cancel()

    with stopping.stopped_by(stop):
        try:
            ended: int | ToolError | None = asyncio.run(_until_stopped(run, made))
        except (KeyboardInterrupt, asyncio.CancelledError):
            run.is_over = True
            ended = None
        if run.is_program and (run.done is not None or not isinstance(ended, int)):
            stopping.ignore()
        if isinstance(ended, int):
            return ended
        return _interrupted(run) if ended is None else _told(run, ended)


async def _until_stopped(run: Run, made: Coroutine[Any, Any, int]) -> int | ToolError:
    """
    The exit code of a command, or its error: a signal that comes a moment later changes neither.
    """
    import asyncio  # as above

    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        # A call under way says whether it may have been sent; one that is over stays so.
        each = run.calling or task
        if each is not None:
            each.cancel()

    run.cancel = lambda: loop.call_soon_threadsafe(cancel)
    with stopping.waking(loop):
        try:
            ended: int | ToolError = await made
        except ToolError as error:
            ended = error
    run.is_over = True
    return ended


def _told(run: Run, error: ToolError, **commands: str) -> int:
    """
    The exit code of an error, which is told, with the commands that go on from there.
    """
    is_open = isinstance(error, OutcomeUnknownError)
    if is_open and error.next != "stop_and_tell" and error.idempotency_key:
        commands["to_find_out"] = command("calls", "reconcile")
        commands["to_finish"] = command("calls", "resume", error.idempotency_key)
    show_error(error, commands, as_json=run.as_json)
    code = _EXIT_CODES[error.outcome]
    return stopping.exit_code(code) if is_open else code


def _interrupted(run: Run) -> int:
    """
    Say what became of a call or a decision, as far as it is known.
    """
    if run.done is not None:
        if not run.is_shown:
            say(run.done)
        return 0
    if run.calling is None or run.calling.cancelled():
        # A call that may have been sent does not end so, but as unknown.
        ended = "Interrupted; nothing was sent." if run.name in _MONEY else "Interrupted."
        if run.as_json and run.name not in _SERVERS:
            show_error(NotSentError(ended), {}, as_json=True)
        else:
            say(ended)
        return 0 if run.name in _SERVERS else stopping.exit_code(_EXIT_CODES["not_sent"])
    if not run.calling.done():
        error = OutcomeUnknownError("The command was interrupted.", hint="")
        return _told(run, error, to_find_out=command("calls", "reconcile"))
    if isinstance(failure := run.calling.exception(), ToolError):
        return _told(run, failure)
    if failure is None:
        say(sentence_of(run.calling.result()))
    return 0


def _cannot_print(error: OSError, done: str | None) -> int:
    """
    Standard output is closed or full; what was done stays done, and is said where it still can be.
    """
    if done is not None:
        say(done)
    if not isinstance(error, BrokenPipeError):
        say(f"The output cannot be written: {error}.")
    return 0 if done is not None else 1
