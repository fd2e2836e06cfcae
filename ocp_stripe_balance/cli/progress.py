"""
How far a command is: a bar on a terminal, and nothing elsewhere.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

from ocp_stripe_balance.cli.output import is_plain


@contextlib.contextmanager
def progress(noun: str, words: Callable[[], str] = str) -> Iterator[Callable[[int, int | None], None]]:
    """
    What to tell how many are done, and of how many where that is known; *words* are asked for as often as it is drawn.
    """
    if is_plain(sys.stderr):
        yield lambda _done, _all: None
        return
    from rich.console import Console  # only a terminal needs it
    from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Words(ProgressColumn):
        def render(self, _task: Task) -> Text:
            return Text(words())

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), Words())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(noun, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
