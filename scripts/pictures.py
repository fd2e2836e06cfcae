"""
Draws docs/demo.svg, a terminal that has run the demo.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"


def shown(printed: str) -> str:
    """
    The steps of the demo that the picture has, IDs left out, because each run draws others.
    """

    def without(found: re.Match[str]) -> str:
        short = f"{found[1]}_…"
        return short.ljust(len(found[0])) if found[2] else short  # in a table, the columns stay

    return re.sub(r"(cus|cbtxn)_\w+(  )?", without, printed[printed.index("3. ") :]).strip()


def draw(words: str) -> str:
    """
    The words as a terminal shows them; without Rich's fonts, which a browser would fetch.
    """
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    text = Text(f"$ make demo\n…\n\n{words}")
    text.highlight_regex(r"(?m)^\d\. .*$", "bold")
    text.highlight_regex("succeeded", "bold green")
    text.highlight_regex("not_sent", "bold yellow")
    console.print(text)
    picture = console.export_svg(title="ocp-stripe-balance", theme=MONOKAI, unique_id="demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL).replace(
        "Fira Code", "ui-monospace, Menlo, Consolas"
    )


def main() -> int:
    """
    Run the demo, and draw what it printed.
    """
    command = [str(Path(sys.executable).parent / "ocp-stripe-balance"), "demo"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603  our own command
    PICTURE.write_text(draw(shown(printed)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
