"""``adasd methods``: list drafting and acceptance methods with their sources."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from adasd.config import SpeculationConfig
from adasd.control.draft_sources import KNOWN, MODEL
from adasd.methods.policy import Described
from adasd.methods.registry import DEFAULT_DRAFTING, EXACT_TESTS, acceptance_methods, drafting_methods
from adasd.requests import Mode


def main(argv: Sequence[str]) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="adasd methods", description=__doc__)
    parser.parse_args(argv)
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
    return 0


def table(title: str, policies: Sequence[Described], default: str) -> Table:
    """One line per policy."""
    made = Table(title=title, title_justify="left")
    for column in ("name", "what it does", "source"):
        made.add_column(column, no_wrap=column == "name", overflow="fold")
    for policy in policies:
        mark = "*" if policy.name == default else ""
        made.add_row(policy.name + mark, policy.summary, policy.source)
    return made
