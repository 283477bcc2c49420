"""``adasd completion``: print a script with which a shell completes commands and options.

eval "$(adasd completion bash)"
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

import shtab

from cluster.cli import commands, is_installed, summary


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="adasd completion", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell that shall read the script")
    return made


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    print(shtab.complete(everything(), shell=parser().parse_args(argv).shell))
    return 0


def everything() -> argparse.ArgumentParser:
    """One parser with every installed command as a subcommand."""
    whole = argparse.ArgumentParser(prog="adasd")
    whole.add_argument("--version", action="store_true", help="the version")
    subcommands = whole.add_subparsers()
    for name, module in commands().items():
        if is_installed(module):
            own = importlib.import_module(module).parser()
            subcommands.add_parser(name, help=summary(module), parents=[own], add_help=False)
    return whole
