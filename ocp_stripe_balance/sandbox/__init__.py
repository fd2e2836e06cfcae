"""
An embedded Stripe: customers and their balance transactions over real HTTP on loopback, in memory.

    async with Sandbox() as stripe:
        agent = OCPAgent(settings=Settings(api_key=stripe.api_key, api_base=stripe.url))

``with Sandbox() as stripe`` does the same from code that is not async, in a thread of its own.
"""

from ocp_stripe_balance.sandbox._faults import FaultKind
from ocp_stripe_balance.sandbox._server import RecordedRequest, Sandbox

__all__ = ["FaultKind", "RecordedRequest", "Sandbox"]
