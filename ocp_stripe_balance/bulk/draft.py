"""
The rows of a file while it is planned: in a database of its own on the disk, so that memory does not grow with them.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, NamedTuple, Self

from ocp_stripe_balance._domain import Money
from ocp_stripe_balance._text.spelling import one_spelling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from ocp_stripe_balance.bulk.rows import Row

_TABLES = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, line INTEGER, customer TEXT, amount INTEGER, currency TEXT, reference TEXT,
    parameters TEXT, key TEXT, is_paid INTEGER DEFAULT 0
);
CREATE INDEX by_customer ON rows (customer, reference, line);
CREATE TABLE customers (
    id TEXT PRIMARY KEY, is_there INTEGER, is_deleted INTEGER, currency TEXT
) WITHOUT ROWID;
"""
_TOGETHER = """
SELECT MIN(customer), SUM(amount), currency FROM rows WHERE NOT is_paid GROUP BY currency, amount > 0
"""
_PER_CUSTOMER = """
SELECT customer, SUM(amount), currency FROM rows WHERE NOT is_paid
GROUP BY customer, currency, amount > 0 HAVING COUNT(*) > 1
"""
_FAR_FROM_MEDIAN = """
SELECT line, customer, amount, COUNT(*) OVER () FROM rows
WHERE currency = ? AND (amount > 0) = ? AND (ABS(amount) > ? OR ABS(amount) * ? < ?)
ORDER BY ABS(amount) DESC, line LIMIT ?
"""
_FAR = 10  # times the median, or a tenth of it


class Named(NamedTuple):
    """
    A customer whom a file names, as Stripe has it.
    """

    is_there: bool
    is_deleted: bool = False
    currency: str | None = None


class DraftRow(NamedTuple):
    """
    A row that is to be planned.
    """

    number: int
    line: int
    parameters: dict[str, Any]
    key: str | None
    customer: Named | None
    """None where it could not be read."""


class Sum(NamedTuple):
    """
    What the rows of one currency and direction add up to, in its smallest unit; negative for credits.
    """

    moved: Money
    number: int
    smallest: int
    largest: int
    median: int
    bars: list[tuple[int, int, int]]
    """How many amounts are from one amount to another."""


class Draft:
    """
    The rows of one file.
    """

    def __init__(self) -> None:
        """
        Begin without any.
        """
        # A file that goes with the connection; what takes long is done in a thread.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")

    def __enter__(self) -> Self:
        """
        Itself.
        """
        return self

    def __exit__(self, *_: object) -> None:
        """
        Forget it all.
        """
        self._db.close()

    def add(self, row: Row) -> int:
        """
        One more row; how many there are.
        """
        given = row.parameters
        reference = one_spelling(given["reference"])
        values = (row.line, given["customer"], given["amount"], given["currency"], reference, json.dumps(given))
        insert = "INSERT INTO rows (line, customer, amount, currency, reference, parameters) VALUES (?, ?, ?, ?, ?, ?)"
        return self._db.execute(insert, values).lastrowid or 0

    def __len__(self) -> int:
        """
        How many rows there are.
        """
        return int(self._db.execute("SELECT COUNT(*) FROM rows").fetchone()[0])

    # Customers

    def addresses(self) -> list[tuple[str, int]]:
        """
        The e-mail addresses that stand for customers, each with its first line.
        """
        query = "SELECT customer, MIN(line) FROM rows WHERE customer LIKE '%@%' GROUP BY customer"
        return self._db.execute(query).fetchall()

    def resolve(self, address: str, customer: str) -> None:
        """
        Name a customer by the ID instead.
        """
        self._db.execute(
            "UPDATE rows SET customer = :id, parameters = json_set(parameters, '$.customer', :id) WHERE customer = :at",
            {"id": customer, "at": address},
        )

    def unread(self) -> Iterator[str]:
        """
        The IDs of customers of which nothing is known yet.
        """
        query = (
            "SELECT DISTINCT customer FROM rows WHERE customer > ? AND customer NOT LIKE '%@%'"
            " AND customer NOT IN (SELECT id FROM customers) ORDER BY customer LIMIT 1000"
        )
        after = ""
        while found := self._db.execute(query, (after,)).fetchall():
            (after,) = found[-1]
            for (name,) in found:
                yield name

    def learn(self, customer: str, named: Named) -> bool:
        """
        Know a customer; whether any row is for it.
        """
        if not self._db.execute("SELECT 1 FROM rows WHERE customer = ? LIMIT 1", (customer,)).fetchone():
            return False
        values = (customer, named.is_there, named.is_deleted, named.currency)
        self._db.execute("INSERT OR REPLACE INTO customers VALUES (?, ?, ?, ?)", values)
        return True

    def strangers(self) -> Iterator[tuple[int, str, bool]]:
        """
        Lines whose customer Stripe does not have any more, or never had: line, ID, and whether it was deleted.
        """
        query = (
            "SELECT line, customer, is_deleted FROM rows JOIN customers ON id = customer"
            " WHERE is_deleted OR NOT is_there ORDER BY line"
        )
        for line, customer, is_deleted in self._db.execute(query):
            yield line, customer, bool(is_deleted)

    def twins(self) -> Iterator[tuple[int, str, int]]:
        """
        Lines that name a customer and a reason that an earlier line names: line, customer and the earlier line.
        """
        query = """
            SELECT line, customer, first FROM rows JOIN (
                SELECT customer, reference, MIN(number) AS earliest, MIN(line) AS first FROM rows
                GROUP BY customer, reference HAVING COUNT(*) > 1
            ) USING (customer, reference) WHERE number != earliest ORDER BY line
        """
        yield from self._db.execute(query)

    def repeated(self) -> tuple[int, int]:
        """
        How many customers are in it more than once, and how many there are.
        """
        query = "SELECT COUNT(*) FILTER (WHERE n > 1), COUNT(*) FROM (SELECT COUNT(*) AS n FROM rows GROUP BY customer)"
        more, number = self._db.execute(query).fetchone()
        return int(more), int(number)

    def fixing(self) -> dict[str, int]:
        """
        How many rows in which currency are for customers who have none yet.
        """
        query = (
            "SELECT rows.currency, COUNT(*) FROM rows JOIN customers ON id = customer"
            " WHERE customers.currency IS NULL GROUP BY 1 ORDER BY 1"
        )
        return dict(self._db.execute(query).fetchall())

    # What would become of them

    def batches(self, size: int) -> Iterator[list[DraftRow]]:
        """
        The rows in the order of their lines, so many at a time.
        """
        query = """
            SELECT number, line, parameters, key, is_there, is_deleted, currency_of.currency
            FROM rows LEFT JOIN customers AS currency_of ON id = customer
            WHERE number > ? AND is_there IS NOT 0 AND is_deleted IS NOT 1 AND customer NOT LIKE '%@%'
            ORDER BY number LIMIT ?
        """
        after = 0
        while found := self._db.execute(query, (after, size)).fetchall():
            after = found[-1][0]
            yield [_row(*each) for each in found]

    def judge(self, judged: Iterable[tuple[int, str, bool]]) -> None:
        """
        Keep of rows, by their numbers, the key and whether they are paid already.
        """
        update = "UPDATE rows SET key = ?, is_paid = ? WHERE number = ?"
        self._db.executemany(update, ((key, is_paid, number) for number, key, is_paid in judged))

    def paid(self) -> int:
        """
        How many rows are paid already.
        """
        return int(self._db.execute("SELECT COUNT(*) FROM rows WHERE is_paid").fetchone()[0])

    def totals(self, size: int, *, per_customer: bool) -> Iterator[list[tuple[str, Money]]]:
        """
        What is still to be moved, so many sums at a time: of all together, or of each customer who is in it twice.

        Of the others, each row was asked about.
        """
        query = _PER_CUSTOMER if per_customer else _TOGETHER
        cursor = self._db.execute(query)
        while found := cursor.fetchmany(size):
            yield [(customer, Money(amount, currency)) for customer, amount, currency in found]

    # What they add up to

    def sums(self) -> list[Sum]:
        """
        What the rows add up to, the largest number of rows first.
        """
        query = (
            "SELECT currency, amount > 0, COUNT(*), SUM(amount), MIN(ABS(amount)), MAX(ABS(amount)) FROM rows"
            " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        )
        found = self._db.execute(query).fetchall()
        return [
            Sum(Money(total, currency), number, smallest, largest, *self._spread(currency, sign, number))
            for currency, sign, number, total, smallest, largest in found
        ]

    def outliers(self, sums: Sequence[Sum], most: int) -> tuple[int, list[tuple[int, str, Money]]]:
        """
        How many amounts are far from the median, and the first of them: line, customer and amount.
        """
        number, named = 0, list[tuple[int, str, Money]]()
        for each in sums:
            moved, median = each.moved, each.median
            values = (moved.currency, moved.amount > 0, median * _FAR, _FAR, median, most)
            found = self._db.execute(_FAR_FROM_MEDIAN, values).fetchall()
            number += found[0][3] if found else 0
            named += [(line, customer, Money(amount, moved.currency)) for line, customer, amount, _ in found]
        return number, named[:most]

    def _spread(self, currency: str, sign: int, number: int) -> tuple[int, list[tuple[int, int, int]]]:
        """
        The median, and how many amounts there are in each step of 1, 2, 5, 10 and so on.
        """
        query = "SELECT ABS(amount), COUNT(*) FROM rows WHERE currency = ? AND (amount > 0) = ? GROUP BY 1 ORDER BY 1"
        median, seen = 0, 0
        bars: dict[int, int] = {}
        for amount, count in self._db.execute(query, (currency, sign)):
            seen += count
            median = median or (amount if seen * 2 >= number else 0)
            step = _step(amount)
            bars[step] = bars.get(step, 0) + count
        return median, [(step, _next(step) - 1, count) for step, count in sorted(bars.items())]


def _row(*values: Any) -> DraftRow:
    number, line, parameters, key, is_there, is_deleted, currency = values
    named = None if is_there is None else Named(bool(is_there), bool(is_deleted), currency)
    return DraftRow(number, line, json.loads(parameters), key, named)


def _step(amount: int) -> int:
    """
    The largest of 1, 2, 5, 10, 20 and so on that is not above.
    """
    power: int = 10 ** (len(str(amount)) - 1)
    return power * max(first for first in (1, 2, 5) if first * power <= amount)


def _next(step: int) -> int:
    return step // 2 * 5 if str(step).startswith("2") else step * 2
