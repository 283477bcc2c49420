"""``adasd methods``: list drafting and acceptance methods with their sources and parameters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from adasd.config import SpeculationConfig
from adasd.control.draft_sources import KNOWN, MODEL
from adasd.methods.policy import Described
from adasd.methods.registry import (
    DEFAULT_DRAFTING,
    EXACT_TESTS,
    acceptance_methods,
    drafting_methods,
    parameters,
)
from adasd.requests import Mode


def parser() -> argparse.ArgumentParser:
    """The options: none but ``--help``."""
    return argparse.ArgumentParser(prog="adasd methods", description=__doc__)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    parser().parse_args(argv)
    defaults, console = SpeculationConfig(), Console()
    drafting = defaults.drafting or DEFAULT_DRAFTING[Mode.EXACT]
    console.print(table("drafting: when the draft stops", drafting_methods(), drafting))
    console.print(
        table("acceptance in mode exact: the target's own distribution", EXACT_TESTS, defaults.verification)
    )
    console.print(
        table("acceptance in mode adaptive: what is relaxed", acceptance_methods(), defaults.acceptance)
    )
    console.print(table("draft sources: where blocks come from", KNOWN, MODEL))
    console.print("further draft models (drafts in the configuration) are sources by their names")
    console.print(
        "* default; a request chooses with speculation.drafting, speculation.acceptance and speculation.draft"
    )
    for kind, methods in (("drafting", drafting_methods()), ("acceptance", acceptance_methods())):
        console.print(f"parameters of {kind} methods, behind the name, with their defaults")
        for method in methods:
            for parameter in parameters(type(method)):
                console.print(
                    f"  {method.name}:{parameter.name}={parameter.default}  {parameter.metadata['help']}"
                )
    return 0


def table(title: str, methods: Sequence[Described], default: str) -> Table:
    """One row per method; ``default`` may have parameters."""
    made = Table(title=title, title_justify="left")
    for column in ("name", "what it does", "source"):
        made.add_column(column, no_wrap=column == "name", overflow="fold")
    for method in methods:
        name = f"{default}*" if method.name == default.partition(":")[0] else method.name
        made.add_row(name, method.summary, method.source)
    return made
