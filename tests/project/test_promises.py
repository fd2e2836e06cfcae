"""
Each promise has tests that try to break it, and each test that names a promise names one that there is.
"""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PROMISES = {
    f"{topic}.{name}": promise
    for topic, promises in tomllib.loads((TESTS / "promises" / "promises.toml").read_text("utf-8")).items()
    for name, promise in promises.items()
}


@cache
def marked() -> dict[str, list[str]]:
    """
    The promises that tests name, each with those tests.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text("utf-8")
        tree = ast.parse(text) if "promise(" in text else ast.Module([], [])
        inner = [child for node in tree.body if isinstance(node, ast.ClassDef) for child in node.body]
        for node in [*tree.body, *inner]:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr == "promise":
                    found.setdefault(ast.literal_eval(mark.args[0]), []).append(f"{path.name}::{node.name}")
    return found


def test_each_promise_has_a_test() -> None:
    """A promise that nothing tries to break is a wish."""
    assert [] == sorted(set(PROMISES) - set(marked()))


def test_each_test_names_a_promise_that_there_is() -> None:
    """A promise that is given up takes the marks of its tests along."""
    assert [] == sorted(set(marked()) - set(PROMISES))
    names = [name for names in marked().values() for name in names]
    assert [] == [name for name in names if not name.partition("::")[2].lower().startswith("test")], "these never run"


def test_each_promise_says_what_it_is_and_where_it_comes_from() -> None:
    """One sentence, and a page of Stripe's, a standard, or a page of ours that is there."""
    for promise in PROMISES.values():
        assert {"sentence", "source"} == set(promise)
        assert promise["sentence"].endswith(".")
        source = promise["source"]
        assert source.startswith("https://") or (TESTS.parent / source).exists()
