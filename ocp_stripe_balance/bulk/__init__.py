"""
Many entries from one file: planned, approved once, run, and gone on with after whatever ended the run.

    async with Bulk() as bulk:
        plan = await bulk.plan(Path("outage.csv"), Path("outage.plan"), common=Common(reference="outage", …))
        async for result in await bulk.run(plan):
            …
"""

from ocp_stripe_balance.bulk.choosing import Chosen, Where
from ocp_stripe_balance.bulk.door import Bulk
from ocp_stripe_balance.bulk.plan import Plan, PlannedRow, open_plan
from ocp_stripe_balance.bulk.planning import Expected
from ocp_stripe_balance.bulk.reading import Form
from ocp_stripe_balance.bulk.report import Status
from ocp_stripe_balance.bulk.rows import Common
from ocp_stripe_balance.bulk.running import RowResult, Run

__all__ = [
    "Bulk",
    "Chosen",
    "Common",
    "Expected",
    "Form",
    "Plan",
    "PlannedRow",
    "RowResult",
    "Run",
    "Status",
    "Where",
    "open_plan",
]
