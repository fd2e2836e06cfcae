"""
The pages that people read, and running what they show.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import programs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
BIN = Path(sys.executable).parent


def block(page: Path, name: str) -> str:
    """
    The block of code that a comment with this name stands above.
    """
    match = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert match
    return match[1]


def names_of(page: Path, name: str) -> dict[str, Any]:
    """
    What a page's Python defines.
    """
    names: dict[str, Any] = {}
    exec(block(page, name), names)  # noqa: S102  the page's own code
    return names


def run(*command: str, code: int = 0, cwd: Path | None = None, **environment: Any) -> str:
    """
    What a command prints, which ends with that code.
    """
    variables = {**os.environ, "PATH": f"{programs.folder()}:{BIN}:{os.environ['PATH']}", **environment}
    done = subprocess.run(  # noqa: S603  our own commands
        command, capture_output=True, text=True, check=False, timeout=50, cwd=cwd, env=variables
    )
    assert code == done.returncode, done.stdout + done.stderr
    return done.stdout


def commands(page: Path) -> Iterator[tuple[str, int]]:
    """
    The command lines of a page, each with the exit code that is said behind it. What is in ``sh`` blocks is not run.
    """
    for text in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in text.splitlines():
            said = re.fullmatch(r"(.+?)(?:  # exit code (\d))?", line)
            assert said, line
            yield said[1], int(said[2] or 0)
