"""
Which version of the package this is.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """
    The version, or ``unknown`` where the package was copied, frozen or zipped without its metadata.
    """
    try:
        return version("ocp-stripe-balance") or "unknown"
    except PackageNotFoundError:
        return "unknown"
