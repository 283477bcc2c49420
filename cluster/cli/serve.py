"""``adasd serve``: serve a target with its drafts until told to stop.

The exit status is 0 after Ctrl-C or SIGTERM, 1 if the service could not start or failed, 2 if the configuration
is invalid. Its own Ray cluster ends with the command; with ``--address``, only the application does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from adasd.errors import ConfigError
from cluster.cli._settings import parse, parser_of, read_config
from cluster.runtime.lifecycle import ServeOptions, serve


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = parser_of("serve", "Serve a target with its drafts until told to stop.")
    add = made.add_argument_group("the command").add_argument
    add("--address", metavar="HOST:PORT", help="join this Ray cluster (auto finds a local one)")
    add("--dashboard", action="store_true", help="start Ray's dashboard too")
    add("--start-timeout-s", type=float, default=600.0, metavar="SECONDS", help="seconds until ready [600]")
    add("--restart", action="store_true", help="start again when Ray or the application goes down by itself")
    return made


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    arguments = parse(parser(), argv)
    try:
        config = read_config(arguments)
    except ConfigError as error:
        for sentence in str(error).splitlines():
            print(f"adasd serve: {sentence}", file=sys.stderr)
        return 2
    options = ServeOptions(
        arguments.address, arguments.dashboard, arguments.start_timeout_s, arguments.restart
    )
    return serve(config, options, Console())
