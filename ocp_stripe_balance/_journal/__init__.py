"""
The durable record of calls: SQLite, written before the first byte of a call leaves and after its outcome is known.

| state      | meaning                                   | the same call again                            |
|------------|-------------------------------------------|------------------------------------------------|
| sending    | it may be under way, or was interrupted   | waits while its owner lives, then is resumed   |
| succeeded  | the entry exists                          | answered from here                             |
| rejected   | Stripe said no                            | answered from here, or tried again (401, 429…) |
| not_sent   | nothing moved                             | sent                                           |
| unknown    | it may have moved                         | resumed with the first bytes, for 23 hours     |
"""

from ocp_stripe_balance._journal.admission import Admission, denial
from ocp_stripe_balance._journal.claim import MAX_RESEND_AGE_S
from ocp_stripe_balance._journal.rows import Call, Claim, Decision, Ruling, State, Verdict
from ocp_stripe_balance._journal.store import Journal

__all__ = [
    "MAX_RESEND_AGE_S",
    "Admission",
    "Call",
    "Claim",
    "Decision",
    "Journal",
    "Ruling",
    "State",
    "Verdict",
    "denial",
]
