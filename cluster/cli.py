"""The command line, ``adasd COMMAND``: parses and dispatches, nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from adasd.errors import ConfigError
from adasd.requests import Mode
from cluster.demo_pair import DEMO
from cluster.source_tree import need_load_tests
from services import settings
from services.config import ServeConfig

SECTIONS = {"target.": "target tier", "draft.": "draft tier", "speculation.": "speculation", "": "service"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``adasd``; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["k8s"]:
        from cluster import k8s_command

        return k8s_command.main(words[1:])
    if words[:1] == ["eval"]:
        from cluster import eval_command

        return eval_command.main(words[1:])
    if words[:1] == ["bench"]:
        return bench(words[1:])
    if words[:1] == ["methods"]:
        from cluster import methods_command

        return methods_command.main(words[1:])
    arguments = parse(words)
    console = Console()
    if arguments.command == "chat":
        from cluster.chat_command import chat

        message = " ".join(arguments.message) or None
        if message is None and not sys.stdin.isatty():
            message = sys.stdin.read().strip() or None
        mode = Mode(arguments.mode) if arguments.mode else None
        return chat(
            arguments.url,
            message,
            mode,
            arguments.model,
            arguments.max_tokens,
            arguments.temperature,
            console,
            api_key=arguments.api_key or os.environ.get("ADASD_API_KEY"),
        )

    try:
        config = read_config(arguments)
    except ConfigError as error:
        for sentence in str(error).splitlines():
            print(f"adasd {arguments.command}: {sentence}", file=sys.stderr)
        return 2
    if arguments.command == "check":
        from cluster.check_command import check

        try:
            return check(config, console, arguments.address)
        except ConfigError as error:
            print(f"adasd check: {error}", file=sys.stderr)
            return 2

    from cluster.serve_command import ServeOptions, serve

    options = ServeOptions(arguments.address, arguments.dashboard, arguments.start_timeout_s)
    return serve(config, options, console)


def bench(words: Sequence[str]) -> int:
    """Load tests are beside the service, not in it."""
    try:
        need_load_tests()
    except ConfigError as error:
        print(f"adasd bench: {error}", file=sys.stderr)
        return 2
    from load_tests.bench import command

    return command.main(words)


def read_config(arguments: argparse.Namespace) -> ServeConfig:
    """The settings from the command line, the environment and the file."""
    named = {name: value for name, value in vars(arguments).items() if name in settings.options()}
    return settings.load(named, os.environ, arguments.config, demo=DEMO)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse, or leave with status 2 and one sentence that names the nearest option."""
    parser = argparse.ArgumentParser(
        prog="adasd", description="Adaptive speculative decoding as a service.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a target with a draft", allow_abbrev=False)
    add_settings(serve)
    serve.add_argument(
        "--address", metavar="HOST:PORT", help="join this Ray cluster (auto finds a local one)"
    )
    serve.add_argument("--dashboard", action="store_true", help="start Ray's dashboard too")
    serve.add_argument(
        "--start-timeout-s", type=float, default=600.0, metavar="S", help="seconds until ready [600]"
    )
    check = commands.add_parser("check", help="validate a configuration without serving", allow_abbrev=False)
    add_settings(check)
    check.add_argument(
        "--address", metavar="HOST:PORT", help="check the places on this Ray cluster instead of this machine"
    )
    chat = commands.add_parser("chat", help="talk to a server in the terminal", allow_abbrev=False)
    add_chat_options(chat)
    commands.add_parser("k8s", help="manifests for Kubernetes: render a topology, check a build")
    commands.add_parser("bench", help="load tests by name, against a demo server or --url")
    commands.add_parser("eval", help="compare methods on a pair and a workload, in this process")
    commands.add_parser("methods", help="list drafting and acceptance policies with their sources")

    arguments, rest = parser.parse_known_args(argv)
    if rest:
        chosen: argparse.ArgumentParser = commands.choices[arguments.command]
        unknown = rest[0].split("=")[0]
        chosen.error(
            f"there is no option {unknown!r}{settings.nearest(unknown, chosen._option_string_actions)}"
        )
    return arguments


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One option per setting; their values stay texts until ``settings.load`` reads them."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file with the same names (target.dtype)"
    )
    groups = {prefix: parser.add_argument_group(title) for prefix, title in SECTIONS.items()}
    for option in settings.options().values():
        group = next(groups[prefix] for prefix in SECTIONS if option.name.startswith(prefix))
        group.add_argument(
            option.flag,
            dest=option.name,
            default=argparse.SUPPRESS,
            metavar=metavar(option),
            nargs="?" if option.hint is bool else None,
            const="true" if option.hint is bool else None,
            help=describe(option),
        )


def metavar(option: settings.Option) -> str:
    if option.choices:
        return "|".join(option.choices)
    if option.hint is Mode:
        return "|".join(Mode)
    return (
        "PATH_OR_ID"
        if option.name.endswith(".model")
        else option.name.rsplit("_", 1)[-1].rsplit(".", 1)[-1].upper()
    )


def describe(option: settings.Option) -> str:
    """The sentence and the default."""
    default = {"target.model": "the demo pair", "draft.model": "the demo pair; none: plain decoding"}.get(
        option.name
    )
    if default is None:
        default = "none" if option.default in (None, ()) else str(option.default)
    return f"{option.sentence} [{default}]".replace("%", "%%")


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message", nargs="*", help="one question; without it, a conversation")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server [http://127.0.0.1:8000]")
    parser.add_argument(
        "--api-key", metavar="KEY", help="key of the server, if it asks for one [$ADASD_API_KEY]"
    )
    parser.add_argument("--mode", choices=list(Mode), help="off, exact or adaptive [the server's default]")
    parser.add_argument("--model", help="model name [the first one served]")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="tokens per answer [256]")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy [0]")


if __name__ == "__main__":
    sys.exit(main())
