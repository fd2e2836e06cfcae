"""
What commands are given: paths, files of JSON, and what is wrong with it.
"""

import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from ocp_stripe_balance.cli.options import TIME_HELP
from ocp_stripe_balance.errors import InvalidParametersError, Problem

_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def read_json(source: str, path: str) -> Any:
    """
    The value in a file, or in standard input where *source* is ``-``: UTF-8 whatever the locale, as JSON is.

    Raises:
        InvalidParametersError: the argument at *path* names no such file.
    """
    from ocp_stripe_balance._text.parsing import parsed  # that little needs

    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return parsed(data.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        hint = "pass a file with one JSON object, or - for standard input"
        raise fail(path, f"{source!r} cannot be read ({error})", hint) from error
    except (ValueError, RecursionError) as error:
        raise fail(path, f"{source!r} is not JSON ({error})", "pass one JSON object") from error


def as_full(path: str) -> str:
    """
    The path as the shell that it was typed into means it.
    """
    return path if path.startswith("~") else str(Path(path).absolute())


def moment_of(text: str, option: str) -> float:
    """
    The time that an option says, in seconds since the Unix epoch.

    Raises:
        InvalidParametersError: it says none.
    """
    span = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if span:
        return time.time() - int(span[1]) * _SPANS[span[2]]
    try:
        return datetime.fromisoformat(text).timestamp()  # without a zone it is local, as times are printed
    except (ValueError, OverflowError):
        raise fail(option, f"{text!r} is not a time", f"pass {TIME_HELP}") from None


def fail(path: str, message: str, hint: str) -> InvalidParametersError:
    """
    The error of one argument.
    """
    return InvalidParametersError([Problem(path=path, message=message, hint=hint)])
