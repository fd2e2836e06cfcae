"""
No fork cuts an import of ours in two.
"""

from __future__ import annotations

import os
import threading
import time

import pytest

from ocp_stripe_balance._process.importing import importing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of systems with forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_waits_until_another_thread_has_imported() -> None:
    """And the child can import itself: the lock is free there."""
    done: list[str] = []
    is_importing, is_forking = threading.Event(), threading.Event()

    def imports() -> None:
        with importing:
            is_importing.set()
            is_forking.wait(5)
            time.sleep(0.2)  # the fork would be over by then
            done.append("imported")

    thread = threading.Thread(target=imports)
    thread.start()
    is_importing.wait(5)
    is_forking.set()
    child = os.fork()
    if child == 0:
        other = threading.Thread(target=lambda: os._exit(0 if importing.acquire(timeout=5) else 1))
        other.start()
        other.join()
    done.append("forked")
    thread.join()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ["imported", "forked"] == done
