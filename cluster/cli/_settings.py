"""Options of the commands that read a configuration: one per setting, with its description and default."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from adasd.errors import ConfigError
from adasd.pairs.known import PAIRS, resolve_pair
from adasd.requests import Mode
from cluster.data import DEMO, packaged
from services import settings
from services.config import ServeConfig

SECTIONS = {"target.": "target tier", "draft.": "draft tier", "speculation.": "speculation", "": "service"}
COMMON = {
    *(
        "target.model",
        "target.dtype",
        "target.device",
        "target.num_gpus",
        "target.num_slots",
        "target.max_context",
    ),
    *("draft.model", "draft.dtype", "draft.device", "draft.num_gpus", "draft.max_replicas"),
    *(
        "speculation.mode",
        "speculation.drafting",
        "speculation.acceptance",
        "speculation.max_relaxed_fraction",
    ),
    *("host", "port", "grpc_port", "model_name", "api_keys_file"),
}
"""Settings that ``--help`` lists; ``--help-all`` lists every one."""


class ShowHelp(argparse.Action):
    """Print the help and leave. ``const``: the destinations that it leaves out."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        for action in parser._actions:
            if action.dest in self.const:
                action.help = argparse.SUPPRESS
        if self.const:
            parser.epilog = f"{len(self.const)} more options: {parser.prog} --help-all"
        parser.print_help()
        parser.exit()


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for ``adasd NAME`` that accepts every setting."""
    parser = argparse.ArgumentParser(
        prog=f"adasd {name}",
        usage=f"adasd {name} [OPTIONS]",
        description=f"{description} Settings also come from ADASD_* variables and from --config.",
        allow_abbrev=False,
        add_help=False,
    )
    rare = frozenset(settings.options()) - COMMON
    for flags, left_out, sentence in (
        (("-h", "--help"), rare, "show the usual options"),
        (("--help-all",), frozenset(), "show every option"),
    ):
        parser.add_argument(
            *flags, action=ShowHelp, nargs=0, const=left_out, default=argparse.SUPPRESS, help=sentence
        )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file with the same names (target.dtype)"
    )
    parser.add_argument(
        "--pair",
        metavar="|".join(PAIRS),
        help="a pair by name, in place of target.model and draft.model; smollm2 is fetched once [demo]",
    )
    groups = {prefix: parser.add_argument_group(title) for prefix, title in SECTIONS.items()}
    for option in settings.options().values():
        group = next(groups[prefix] for prefix in SECTIONS if option.name.startswith(prefix))
        group.add_argument(
            option.flag,
            dest=option.name,
            default=argparse.SUPPRESS,
            metavar=_metavar(option),
            nargs="?" if option.hint is bool else None,
            const="true" if option.hint is bool else None,
            help=_describe(option),
        )
    for old, name in settings.OLD_NAMES.items():
        flag = settings.flag_of(old)
        parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for name in settings.REPLACED:  # read_config refuses them
        parser.add_argument(
            settings.flag_of(name), dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse, or exit with status 2 and a message that names the nearest option."""
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        unknown = rest[0].split("=")[0]
        parser.error(
            f"there is no option {unknown!r}{settings.nearest(unknown, parser._option_string_actions)}"
        )
    return arguments


def read_config(arguments: argparse.Namespace) -> ServeConfig:
    """The settings from the command line, the environment and the file, converted from text here. ConfigError."""
    named = _named(arguments)
    if arguments.pair is not None:
        models = ("target.model", "draft.model")
        if given := settings.places_of(models, named, os.environ, arguments.config):
            raise ConfigError(
                f"--pair {arguments.pair} names both models, but so do other settings; leave out --pair, or "
                f"{' and '.join(given)}"
            )
        target, draft = fetched(arguments.pair)
        named |= {"target.model": str(target), "draft.model": str(draft)}
        named.setdefault("model_name", target.name if arguments.pair != "demo" else "adasd-demo")
        elsewhere = ("draft.weights", "draft.device", "draft.num_gpus")
        if arguments.pair == "smollm2" and not settings.places_of(
            elsewhere, named, os.environ, arguments.config
        ):
            named["draft.weights"] = "int8"  # on a CPU a drafted token takes less than half of the time
    return settings.load(named, os.environ, arguments.config, demo=DEMO)


def is_set(name: str, arguments: argparse.Namespace) -> bool:
    """Whether a setting is given on the command line, in the environment or in the file."""
    return bool(settings.places_of((name,), _named(arguments), os.environ, arguments.config))


def _named(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings of the command line."""
    known = {*settings.options(), *settings.REPLACED}
    return {name: value for name, value in vars(arguments).items() if name in known}


def fetched(pair: str) -> tuple[Path, Path]:
    """Folders of the pair's models, fetched behind a progress bar where they are not there yet. ConfigError."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(pair, total=1.0)
        return resolve_pair(
            pair,
            packaged("models"),
            os.environ,
            lambda what, share: bars.update(bar, description=what, completed=share),
        )


WRITTEN = {
    **dict.fromkeys(("certificate", "key", "ca", "api_keys_file"), "FILE"),
    **dict.fromkeys(("model", "draft"), "PATH_OR_ID"),
    **dict.fromkeys(("drafting", "acceptance"), "METHOD"),
    **{"host": "HOST", "endpoint": "URL", "cors_origins": "ORIGIN,...", "model_roots": "FOLDER,..."},
    **{"drafts": "NAME=MODEL,...", "port": "PORT", "grpc_port": "PORT", "accelerator_type": "TYPE"},
}
"""How the value of a setting is written, by the setting's last name, where its type does not say it."""


def _metavar(option: settings.Option) -> str:
    if option.choices:
        return "|".join(option.choices)
    if option.hint is Mode:
        return "|".join(Mode)
    last = option.name.rpartition(".")[2]
    if option.name == "speculation.draft":
        return "SOURCE"
    if last in WRITTEN:
        return WRITTEN[last]
    if last.endswith("_s"):
        return "SECONDS"
    types = {option.hint, *get_args(option.hint)}
    if bool in types:
        return "true|false"
    if int in types or float in types:
        return "BYTES" if "bytes" in last else "N" if int in types else "X"
    return "NAME=VALUE,..." if get_origin(option.hint) is tuple else "NAME" if "name" in last else "TEXT"


def _describe(option: settings.Option) -> str:
    """The option's description and its default."""
    default = {"target.model": "the demo pair", "draft.model": "the demo pair; none: plain decoding"}.get(
        option.name
    )
    if default is None:
        default = "none" if option.default in (None, ()) else str(option.default)
    return f"{option.sentence} [{default}]".replace("%", "%%")
