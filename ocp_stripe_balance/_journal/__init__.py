"""
The durable record of calls, written before the first byte of a call leaves and after its outcome is known.

It is in a file of SQLite's or on a server of PostgreSQL's; the rules are the same.

| state      | meaning                                   | the same call again                            |
|------------|-------------------------------------------|------------------------------------------------|
| sending    | it may be under way, or was interrupted   | waits while its owner lives, then is resumed   |
| succeeded  | the entry exists                          | answered from here                             |
| rejected   | Stripe said no                            | answered from here, or tried again (401, 429…) |
| not_sent   | nothing moved                             | sent                                           |
| unknown    | it may have moved                         | resumed with the first bytes, for 23 hours     |
"""

from ocp_stripe_balance._journal.book import Book
from ocp_stripe_balance._journal.database import READING, DatabaseError
from ocp_stripe_balance._journal.file import has_journal
from ocp_stripe_balance._journal.journal import Journal, Written, back_up
from ocp_stripe_balance._journal.lease import is_alive
from ocp_stripe_balance._journal.pages import Pages, most_used
from ocp_stripe_balance._journal.past import Past, call_of_total
from ocp_stripe_balance._journal.records import Decision, Lease, Record, intent_of
from ocp_stripe_balance._journal.totals import WrongTotal

__all__ = [
    "READING",
    "Book",
    "DatabaseError",
    "Decision",
    "Journal",
    "Lease",
    "Pages",
    "Past",
    "Record",
    "Written",
    "WrongTotal",
    "back_up",
    "call_of_total",
    "has_journal",
    "intent_of",
    "is_alive",
    "most_used",
]
