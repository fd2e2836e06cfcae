"""
Which of many calls have ended, or have not, by their keys alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ocp_stripe_balance._journal.statements import statements

if TYPE_CHECKING:
    from collections.abc import Collection

    from ocp_stripe_balance._domain import Scope
    from ocp_stripe_balance._journal.book import Book


def open_keys(book: Book, scope: Scope) -> set[str]:
    """
    The keys under which `Book.find_key` finds a call whose outcome is to be found out.
    """
    return {row["key"] for row in book.db.execute(statements("keys")["open_keys"], scope._asdict())}


def ended_keys(book: Book, keys: Collection[str], scope: Scope) -> set[str]:
    """
    The keys, of some that follow from what is asked, whose own calls ended for good.
    """
    values = {"keys": json.dumps([*keys]), **scope._asdict()}
    return {row["key"] for row in book.db.execute(statements("keys")["ended_keys"], values)}
