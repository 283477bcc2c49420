"""The command line, ``adasd COMMAND``. Every module of this package is a command of the same name.

A command module has a docstring whose first line is "``adasd NAME``: what it does.", a function ``parser()`` that
returns its options (for completion), and a function ``main(argv)`` that returns the exit status. Other packages add
commands by an entry point in the group ``adasd.commands`` whose value is such a module. Modules whose names begin with
an underscore are not commands.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

from adasd import __version__
from adasd.errors import ConfigError

GROUP = "adasd.commands"
Main = Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``adasd``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"adasd {__version__}")
        return 0
    try:
        run = load(words[0], commands())
    except ConfigError as error:
        print(f"adasd: {error}", file=sys.stderr)
        return 2
    try:
        return run(words[1:])
    except BrokenPipeError:  # whoever reads the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in its buffer
        return 1


def overview() -> str:
    """The output of ``adasd`` alone: every command with the first line of its docstring."""
    lines = [f"  {name:<11} {summary(module)}" for name, module in commands().items()]
    return "\n".join(
        ["usage: adasd COMMAND [OPTIONS]", "", *lines, "", "adasd COMMAND --help lists its options."]
    )


def commands() -> dict[str, str]:
    """Command name -> module, sorted by name."""
    own = {name: f"{__name__}.{name}" for _, name, _ in iter_modules(__path__) if not name.startswith("_")}
    return dict(sorted((added(GROUP) | own).items()))


def added(group: str) -> dict[str, str]:
    """Modules that installed packages add under this entry point group, by name."""
    return {point.name: point.value for point in entry_points(group=group)}


def load(name: str, known: Mapping[str, str]) -> Main:
    """The ``main`` of a command. ConfigError if there is no such command, or if its code is not installed."""
    if name not in known:
        near = get_close_matches(name, known, 1)
        guess = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
        raise ConfigError(f"there is no command {name!r}{guess}")
    if not is_installed(known[name]):
        raise ConfigError(
            f"{name} comes with the source tree, not with the installed package; run it from a clone"
        )
    run: Main = importlib.import_module(known[name]).main
    return run


def is_installed(module: str) -> bool:
    """Whether a command's code is here; a wheel names some that only the source tree has."""
    return _source(module) is not None


def summary(module: str) -> str:
    """The first line of a command's docstring, read without importing the module."""
    source = _source(module)
    if source is None:
        return "(comes with the source tree)"
    line = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return line.partition(": ")[2].rstrip(".")


def _source(module: str) -> Path | None:
    """The module's file; None if its package is not installed."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
