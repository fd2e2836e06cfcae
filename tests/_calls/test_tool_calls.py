"""
What is said where the ID of a tool call names no decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers import TOOL

from ocp_stripe_balance import ToolCall
from ocp_stripe_balance._calls.tool_calls import key_of

if TYPE_CHECKING:
    import pytest


def test_an_id_that_is_no_key_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Once and without the ID itself; with a conversation there is nothing to say."""
    assert key_of(ToolCall("call_0", "conversation 1"), TOOL, "{}") is not None
    assert "" == caplog.text
    assert key_of(ToolCall("call_0", None), TOOL, "{}") is None
    (line,) = caplog.records
    assert ("ocp_stripe_balance", "WARNING") == (line.name, line.levelname)
    assert "no conversation is named" in line.getMessage()
    assert "call_0" not in line.getMessage()
