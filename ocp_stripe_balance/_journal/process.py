"""
Whether a process still runs, told by its ID and by when it began.

IDs come again, after a restart of a container even the same ones in the same order.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_QUERY_LIMITED_INFORMATION, _SYNCHRONIZE = 0x1000, 0x100000
_WAIT_TIMEOUT, _INVALID_PARAMETER = 0x102, 87


def began(pid: int) -> str | None:
    """
    When that process began, in a form that only compares; empty where that cannot be told, None where there is none.
    """
    return _ASK.get(sys.platform, _began_on_posix)(pid)


def _began_on_linux(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # it is gone, or those of others are hidden
        return _began_on_posix(pid)
    state, start = fields[0], fields[19]
    return None if state in {b"Z", b"X"} else f"{_boot()}:{start.decode()}"


def _began_on_posix(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        return ""
    return ""


def _began_on_windows(pid: int) -> str | None:
    """
    The same by the system's own calls: there ``os.kill`` would end the process, or press Ctrl-C in its console.
    """
    kernel = _kernel32()
    handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION | _SYNCHRONIZE, 0, pid)
    if not handle:
        return None if kernel.GetLastError() == _INVALID_PARAMETER else ""
    try:
        if kernel.WaitForSingleObject(handle, 0) != _WAIT_TIMEOUT:
            return None  # it has ended, and somebody still looks at it
        times = [ctypes.c_uint64() for _ in range(4)]
        is_told = kernel.GetProcessTimes(handle, *(ctypes.byref(time) for time in times))
        return str(times[0].value) if is_told else ""
    finally:
        kernel.CloseHandle(handle)


@cache
def _boot() -> str:
    """
    The name of this start of the machine: the times of processes are counted from it.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()  # imports no codec
    except OSError:
        return ""


@cache
def _kernel32() -> Any:
    """
    Windows' own calls, with handles as wide as they are.
    """
    kernel = vars(ctypes)["WinDLL"]("kernel32")  # a name that is there on Windows only
    kernel.OpenProcess.restype = ctypes.c_void_p
    kernel.WaitForSingleObject.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    kernel.GetProcessTimes.argtypes = [ctypes.c_void_p] + [ctypes.POINTER(ctypes.c_uint64)] * 4
    kernel.CloseHandle.argtypes = [ctypes.c_void_p]
    return kernel


_ASK: dict[str, Callable[[int], str | None]] = {"linux": _began_on_linux, "win32": _began_on_windows}
