"""
The README is short, and what it shows is what happens.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pictures
from helpers import ledger
from pages import README, ROOT, block, commands, run
from programs import started

from ocp_stripe_balance.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path


def test_the_readme_is_read_in_three_minutes() -> None:
    """At most 700 words; the depth is in docs."""
    assert len(README.read_text("utf-8").split()) <= 700


def test_demo_prints_what_the_readme_and_the_picture_show() -> None:
    """Line by line; only the drawn IDs differ."""
    printed = run("ocp-stripe-balance", "demo")
    assert block(README, "demo").strip() in pictures.shown(printed)
    assert pictures.PICTURE.read_text("utf-8") == pictures.draw(pictures.shown(printed)), "make docs-reference"


async def test_snippet_credits_a_customer(tmp_path: Path) -> None:
    """The README's program, as a file, against the sandbox."""
    (tmp_path / "credit.py").write_text(block(README, "snippet"))
    with Sandbox() as stripe:
        customer = stripe.create_customer()
        variables: dict[str, Any] = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
        for words in ([sys.executable], started()):  # the same reference, so the same decision
            assert "-500\n" == run(*words, str(tmp_path / "credit.py"), customer, **variables)
        assert 1 == len(await ledger(stripe, customer))


async def test_shown_command_lines_run() -> None:
    """Every ocp-stripe-balance command shown runs as it is written; the sandbox until it is stopped."""
    shown = [line.removeprefix(".venv/bin/") for line, _ in commands(README) if "ocp-stripe-balance" in line]
    assert ["sandbox", "credit"] == [line.split()[1] for line in shown]
    with Sandbox() as stripe:
        customer = stripe.create_customer()
        variables: dict[str, Any] = {"STRIPE_SECRET_KEY": stripe.api_key, "STRIPE_API_BASE": stripe.url}
        run("bash", "-c", shown[1], CUSTOMER=customer, **variables)  # tests/doors/test_cli.py runs the sandbox
        assert 1 == len(await ledger(stripe, customer))


def test_make_targets_are_there() -> None:
    """The commands of README, CONTRIBUTING and docs/performance.md are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    pages = README, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "performance.md"
    text = "".join(page.read_text("utf-8") for page in pages)
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "check", "bench", "bench-compare", "docs-serve"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
