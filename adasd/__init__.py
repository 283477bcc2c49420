"""AdaSD Serve: adaptive speculative decoding. This package is the library; it needs no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adasd.local import Answer, LocalPair

__version__ = "0.1.0"

__all__ = ["Answer", "LocalPair"]


def __getattr__(name: str) -> object:
    """Load the in-process pair on first use, so that ``adasd.session`` and ``adasd.control`` need no torch."""
    if name in __all__:
        from adasd import local

        return getattr(local, name)
    raise AttributeError(f"module 'adasd' has no attribute {name!r}")
