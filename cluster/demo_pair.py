"""Where the pair lies that is served when nobody names another."""

from __future__ import annotations

from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "models" / "demo"
