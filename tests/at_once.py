"""
Start a program at the process of `programs`, which has imported the package. This file imports next to nothing.
"""

import _signal  # type: ignore[import-not-found]  # it is there, below `signal`
import _socket
import marshal
import os
import sys
from array import array


class Started:
    """
    A program in that environment, with those streams and in the folder at hand; a stream is closed that is no file.
    """

    def __init__(self, address: str, words: list[str], environment: dict[str, str], streams: list[int]) -> None:
        opened = [number for number, stream in enumerate(streams) if is_open(stream)]
        self._server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._server.connect(address)
        self._server.sendmsg(
            [b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", [streams[n] for n in opened]))]
        )
        asked = marshal.dumps((words, environment, os.getcwd(), opened))  # noqa: PTH109  pathlib takes long to import
        self._server.sendall(len(asked).to_bytes(4, "big") + asked)
        self.pid = int(self._server.recv(8))

    def pass_on(self, number: int, _frame: object) -> None:
        """
        A signal for the program; one that has ended hears it no more.
        """
        try:  # noqa: SIM105  contextlib would be an import
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def wait(self) -> int:
        """
        How it ended, as `subprocess` tells it.
        """
        code = int(self._server.recv(8))
        self._server.close()
        return code


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def run() -> int:
    """
    Be the program, as far as who started this one can see.
    """
    started = Started(sys.argv[1], sys.argv[2:], dict(os.environ), [0, 1, 2])
    signals = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)
    for number in signals:
        _signal.signal(number, started.pass_on)
    code = started.wait()
    for number in signals:
        _signal.signal(number, _signal.SIG_IGN)  # one that comes too late changes nothing
    if code < 0:
        if -code != _signal.SIGKILL:
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(run())
