"""
What is wrong with a list: all of it at once, by line and column, with what would be right.
"""

from __future__ import annotations

from ocp_stripe_balance.errors import InvalidFileError, Problem

_MOST = 500


class Mistakes:
    """
    The mistakes of one list; the first few hundred in words, all of them in number.
    """

    def __init__(self) -> None:
        """
        Begin with none.
        """
        self._found: list[tuple[int, str, str, str]] = []
        self.number = 0

    def note(self, line: int, column: str, message: str, hint: str) -> None:
        """
        Something is wrong with a cell, a line (without *column*), or all of the list (line 0), which is said once.
        """
        found = (line, column, message, hint)
        if not line and found in self._found:
            return
        self.number += 1
        if len(self._found) < _MOST:
            self._found.append(found)

    def raise_any(self, **facts: str) -> None:
        """
        Raise all there are, in the order of the lines; with *facts* of the error.

        Raises:
            InvalidFileError: there are some.
        """
        if not self.number:
            return
        found = sorted(self._found, key=lambda each: each[0])
        problems = [Problem(path=_path(line, column), message=what, hint=hint) for line, column, what, hint in found]
        if self.number > len(problems):
            problems.append(Problem(path="list", message=f"has {self.number - len(problems)} more mistakes"))
        raise InvalidFileError(problems, number=self.number, **facts)


def _path(line: int, column: str) -> str:
    if not line:
        return column or "list"
    return f"line {line}, {column}" if column else f"line {line}"
