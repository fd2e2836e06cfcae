"""
The package as it is installed: the shim beside an SDK, in a wheel and in an editable install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import TOOL

import ocp_stripe_balance

if TYPE_CHECKING:
    from ocp_stripe_balance.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
SDK = "class OCPAgent:\n    is_sdk = True\n"


@pytest.fixture(scope="module", params=["wheel", "editable"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A wheel of the repository, built without a network.
    """
    folder = tmp_path_factory.mktemp(request.param)
    program = (
        f"import hatchling.build, os; os.chdir({str(ROOT)!r}); "
        f"print(hatchling.build.build_{'wheel' if request.param == 'wheel' else 'editable'}({str(folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    return folder / done.stdout.split()[-1]


def imported(site: Path) -> str:
    """
    Which ocp_agent a program finds that has *site* as its only additional site directory.
    """
    program = (
        f"import site, sys; site.addsitedir({str(site)!r}); "
        f"sys.path += [p for p in {sys.path!r} if 'site-packages' in p]; "
        "import ocp_agent; print(ocp_agent.__file__, getattr(ocp_agent.OCPAgent, 'is_sdk', False))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def install(wheel: Path, site: Path) -> list[Path]:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        return [site / name for name in archive.namelist()]


def install_sdk(site: Path) -> None:
    (site / "ocp_agent").mkdir()
    (site / "ocp_agent" / "__init__.py").write_text(SDK)


def uninstall_sdk(site: Path) -> None:
    (site / "ocp_agent" / "__init__.py").unlink()
    for cached in (site / "ocp_agent").rglob("*.pyc"):
        cached.unlink()
    for folder in [*(site / "ocp_agent").rglob("*"), site / "ocp_agent"]:
        folder.rmdir()


@pytest.mark.parametrize("order", ["ours first", "sdk first"])
def test_an_installed_sdk_wins_and_either_can_go(built: Path, tmp_path: Path, order: str) -> None:
    """Whichever came first, ocp_agent is the SDK while it is there, and ours when it is gone."""
    site = tmp_path / "site"
    site.mkdir()
    if order == "sdk first":
        install_sdk(site)
    files = install(built, site)
    if order == "ours first":
        assert f"{site / 'ocp_agent.py'} False" == imported(site)
        install_sdk(site)
    assert f"{site / 'ocp_agent' / '__init__.py'} True" == imported(site)
    uninstall_sdk(site)
    assert f"{site / 'ocp_agent.py'} False" == imported(site)
    install_sdk(site)
    for path in files:
        path.unlink()
    assert f"{site / 'ocp_agent' / '__init__.py'} True" == imported(site)


def test_wheel_has_the_data_and_nothing_more(tmp_path: Path) -> None:
    """Package, schemas, manifest, the shim and metadata; no tests, no shared folders."""
    program = (
        f"import hatchling.build, os; os.chdir({str(ROOT)!r}); print(hatchling.build.build_wheel({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {"ocp_agent.py", "ocp_stripe_balance"} == {top for top in tops if not top.endswith(".dist-info")}
    data = {f"ocp_stripe_balance/schemas/{path.name}" for path in (ROOT / "schemas").iterdir()}
    assert data | {"ocp_stripe_balance/tool_manifest.json", "ocp_stripe_balance/py.typed"} <= names


def test_what_extras_bring_is_imported_only_when_used() -> None:
    """Every door can be opened with the base install alone; and that has what the doors need."""
    program = (
        "import sys, asyncio, ocp_stripe_balance, ocp_stripe_balance.exports as exports, ocp_stripe_balance.cli\n"
        "from ocp_stripe_balance import OCPAgent, Settings, register\n"
        "asyncio.run(OCPAgent(settings=Settings(api_key='sk_test_x')).register_api('stripe'))\n"
        "[exports.export_tools(form) for form in exports.FORMATS]\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    heavy = {
        "openai",
        "anthropic",
        "google",
        "langchain_core",
        "mcp",
        "agents",
        "pydantic_ai",
        "opentelemetry",
        "requests",
    }
    assert not heavy & set(done.stdout.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {
        "aiohttp",
        "aiolimiter",
        "certifi",
        "httpx",
        "jsonschema",
        "jsonschema-rs",
        "platformdirs",
        "pydantic",
        "pydantic-settings",
        "typer",
        "yarl",
    }
    assert needed == {each.partition(">")[0] for each in project["dependencies"]}


def test_nothing_shadows_the_sdk_from_the_root() -> None:
    """A root on sys.path must not hide an installed SDK."""
    assert not list(ROOT.glob("ocp_agent*"))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_call_needs_no_metadata_of_the_package(form: str, stripe_thread: Sandbox, tmp_path: Path) -> None:
    """Copied, zipped or frozen, without what installers write beside it; with all that it depends on."""
    package = Path(ocp_stripe_balance.__file__).parent
    site = tmp_path / "site"
    site.mkdir()
    for entry in package.parent.iterdir():
        if not entry.name.startswith(("ocp_", "__pycache__")):
            (site / entry.name).symlink_to(entry)
    if form == "folder":
        shutil.copytree(package, tmp_path / "own" / package.name)
    else:
        shutil.make_archive(str(tmp_path / "own"), "zip", package.parent, package.name)
    own = tmp_path / ("own" if form == "folder" else "own.zip")
    variables = {"STRIPE_SECRET_KEY": stripe_thread.api_key, "STRIPE_API_BASE": stripe_thread.url}

    call = ["call", TOOL, f"customer={stripe_thread.create_customer()}", "amount=-500", "currency=usd"]
    words = [["--version"], call, ["journal", "list"]]
    program = f"from ocp_stripe_balance.cli import main\nfor each in {words}: main(each)"
    told = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-P", "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables, "PYTHONPATH": f"{own}{os.pathsep}{site}"},
    ).stdout
    assert told.startswith("ocp-stripe-balance unknown\n")
    assert "was credited 5.00 usd" in told
    assert "credit 5.00 usd" in told.splitlines()[-1]
