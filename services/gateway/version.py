"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """As in pyproject.toml; ``0+source`` if the package is not installed."""
    try:
        return installed("adasd-serve")
    except PackageNotFoundError:
        return "0+source"
