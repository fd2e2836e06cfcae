"""
A pytest plugin for the OCP SDK's own tests: every agent they make has our tools registered.

In a copy of its repository: ``PYTHONPATH=…/tests python -m pytest -p register_everywhere``.
"""

from __future__ import annotations

import functools
from typing import Any

import ocp_agent

import ocp_stripe_balance


def pytest_configure() -> None:
    """
    Let every new agent be registered with.
    """
    make = ocp_agent.OCPAgent.__init__

    @functools.wraps(make)
    def made(self: Any, *args: Any, **named: Any) -> None:
        make(self, *args, **named)
        ocp_stripe_balance.register(self)

    ocp_agent.OCPAgent.__init__ = made  # type: ignore[method-assign]


def pytest_report_header() -> str:
    """
    Say so.
    """
    return f"every agent of {ocp_agent.__file__} has the tools of {ocp_stripe_balance.__file__} registered"
