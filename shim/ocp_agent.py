"""
The OCP host of ocp-stripe-balance under the OCP SDK's name, for environments without the SDK.

Python prefers the SDK's package folder ``ocp_agent/`` over this file, so an installed SDK wins.
"""

from ocp_stripe_balance._host.contract import AgentContext
from ocp_stripe_balance.agent import OCPAgent
from ocp_stripe_balance.errors import APINotFound

__all__ = ["APINotFound", "AgentContext", "OCPAgent"]
