"""
Imports point one way: doors over the service, over the rooms, over the domain; no circle, and nothing below a door
imports one.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import ocp_stripe_balance

PACKAGE = Path(ocp_stripe_balance.__file__).parent
NAME = "ocp_stripe_balance"

# From the bottom up: a part imports parts of lower floors, and itself. Imports for types alone count too.
FLOORS = [
    {"_text", "_process"},
    {"errors", "_domain"},
    {"_tools"},
    {"models"},
    {"_policy", "_journal"},
    {"settings"},
    {"_telemetry"},
    {"_stripe"},
    {"_host"},
    {"_calls"},
    {"plugin", "verbs"},
    {"agent", "backoffice", "exports", "sandbox"},
    {"serving"},
    {"sdk", "sync", "mcp", "bulk"},
    {"web"},
    {"cli", "__init__"},
    {"__main__"},
]
FLOOR_OF = {part: number for number, floor in enumerate(FLOORS) for part in floor}
# What is told of a request is told for its types only: the telemetry looks at it, and calls nothing there.
FOR_TYPES_ONLY = {("_telemetry", "_stripe")}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def statements_of(path: Path) -> list[ast.AST]:
    """
    Those of a file, also those within others.
    """
    found: list[ast.AST] = [*parsed(path).body]
    for node in found:
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            found += getattr(node, name, ())
    return found


def imports_of(path: Path) -> list[tuple[int, str]]:
    """
    The modules of ours that a file imports, each with its line.
    """
    found = []
    for node in statements_of(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == NAME:
            names = [f"{node.module}.{each.name}" for each in node.names] if node.module == NAME else [node.module]
            found += [(node.lineno, name) for name in names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, each.name) for each in node.names if each.name.split(".")[0] == NAME]
    return found


def wrong_directions() -> list[str]:
    """
    Each line that imports upwards, or sideways into another part of its floor.
    """
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = part_of(path)
        for line, name in imports_of(path):
            target = [*name.split("."), "__init__"][1]
            target = target if target in FLOOR_OF else "__init__"
            is_allowed = target == part or FLOOR_OF[target] < FLOOR_OF[part] or (part, target) in FOR_TYPES_ONLY
            if not is_allowed:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {part} imports {name}, which is not below it")
    return wrong


def test_every_part_has_its_floor() -> None:
    """A new file or folder at the root says where it stands."""
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts == set(FLOOR_OF)


def test_imports_point_one_way() -> None:
    """So there is no circle, and a room can be read without those above it."""
    assert [] == wrong_directions()


def test_the_modules_of_a_room_form_no_circle() -> None:
    """Within one part too: what imports each other at run time cannot be read one after the other."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join((NAME, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        graph[module] = {name for name in run_time_imports_of(path) if name != module}
    # Of a package, a module that is named is imported; the package itself only where it is no module that is named.
    graph = {module: {name if name in graph else name.rpartition(".")[0] for name in graph[module]} for module in graph}

    def circle(module: str, seen: tuple[str, ...]) -> tuple[str, ...] | None:
        if module in seen:
            return seen[seen.index(module) :]
        if module in done:
            return None
        for name in sorted(graph.get(module, ())):
            if (found := circle(name, (*seen, module))) is not None:
                return found
        done.add(module)
        return None

    done: set[str] = set()
    assert [] == [found for module in graph if (found := circle(module, ())) is not None]


def run_time_imports_of(path: Path) -> list[str]:
    """
    The modules of ours that a file imports when it is imported itself.
    """
    body = ast.Module([node for node in parsed(path).body if isinstance(node, ast.ImportFrom | ast.Import)], [])
    return [
        f"{node.module}.{each.name}"
        for node in ast.walk(body)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{NAME}.")
        for each in node.names
    ]


def test_the_root_tells_the_product() -> None:
    """Few files at the root, and short functions and classes everywhere."""
    assert len(list(PACKAGE.glob("*.py"))) <= 14
    long = []
    for path in PACKAGE.rglob("*.py"):
        for node in statements_of(path):
            most = {ast.FunctionDef: 60, ast.AsyncFunctionDef: 60, ast.ClassDef: 300}.get(type(node))
            if most is not None and (node.end_lineno or 0) - node.lineno + 1 > most:  # type: ignore[attr-defined]  # one of the three
                long.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")  # type: ignore[attr-defined]  # as above
    assert [] == long
