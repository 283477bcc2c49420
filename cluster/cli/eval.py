"""``adasd eval``: compare methods on one pair and one workload, side by side in one run.

The pair is loaded into this process, or served by a running server (``--url``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adasd.config import SpeculationConfig
from adasd.control.draft_sources import RESERVED
from adasd.errors import AdasdError, ConfigError, InvalidRequest
from adasd.evaluate.compared_methods import Method, all_names, parse
from adasd.evaluate.evaluation import Evaluation, build
from adasd.evaluate.measure import MethodRun
from adasd.evaluate.questions import WORKLOADS, Question, jsonl
from adasd.evaluate.tables import tables
from cluster.cli._stamp import git, stamp
from cluster.data import DEMO

WIDTH = 132  # columns that the tables need


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(argv)
    if options.suite:
        return _suite(options)
    console = Console(width=max(Console().width, WIDTH))
    try:
        methods = parse(options.methods, options.max_relaxed_fraction)
        temperatures = parse_temperatures(options.temperatures)
        items = _items(options)
        if options.journal and not options.url:
            raise ConfigError("--journal keeps the answers of a server; name one with --url, or leave it out")
        if options.url and options.cost_ratio is not None:
            raise ConfigError("--cost-ratio is for a pair in this process; a server measures its own times")
        for path in (options.json, options.html, options.journal):
            _check_place(path)
        report = evaluate(options, items, methods, temperatures, console)
    except AdasdError as error:
        print(f"adasd eval: {error}", file=sys.stderr)
        return 2
    for table in tables(report):
        console.print(table)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    if options.html:
        from adasd.evaluate.html import page

        options.html.write_text(page(report), encoding="utf-8")
    return 0


def _suite(options: argparse.Namespace) -> int:
    """Everything in docs/evaluation; SmolLM2 is fetched unless its folder is named."""
    from cluster.cli._settings import fetched
    from cluster.evaluation.suite import write_all

    try:
        target = options.real_target or str(fetched("smollm2")[0])
    except ConfigError as error:
        print(f"adasd eval: {error}", file=sys.stderr)
        return 2
    return write_all(options.suite, target, git("rev-parse", "HEAD"))


def evaluate(
    options: argparse.Namespace,
    items: Sequence[Question],
    methods: Sequence[Method],
    temperatures: Sequence[float],
    console: Console,
) -> Evaluation:
    """Run everything. From the start a bar says what is going on; without a terminal, lines do."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    begun: set[tuple[str, float]] = set()
    with progress:
        bar = progress.add_task("", total=None)

        def say(text: str) -> None:
            progress.update(bar, description=text)
            if not progress.console.is_terminal:
                print(text, file=sys.stderr, flush=True)

        def on_answer(method: Method, temperature: float) -> None:
            progress.update(bar, advance=1)
            if (method.name, temperature) not in begun:
                begun.add((method.name, temperature))
                say(f"{method.name}, T={temperature:g}")

        say(f"asking {options.url}" if options.url else f"loading {options.target} and {options.draft}")
        run_all = remotely(options, items, methods) if options.url else in_process(options, items, methods)
        num_runs = sum(method.serves(temperature) for method in methods for temperature in temperatures)
        progress.update(bar, total=len(items) * num_runs)
        say("first answer")
        runs, server = run_all(temperatures, on_answer)
    return build(runs, {**about(options, len(items), methods), **server})


OnAnswer = Callable[[Method, float], None]
RunAll = Callable[[Sequence[float], OnAnswer], tuple[list[MethodRun], dict[str, Any]]]
"""(temperatures, listener) -> the runs, and the description of the server."""


def in_process(options: argparse.Namespace, items: Sequence[Question], methods: Sequence[Method]) -> RunAll:
    """Runs the pair in this process; ConfigError if it cannot be loaded."""
    import torch

    from adasd.evaluate.measure import load_pair, run

    torch.manual_seed(options.seed)
    pair = load_pair(
        options.target,
        options.draft,
        seed=options.seed,
        dtype=options.dtype,
        device=options.device,
        num_threads=options.threads,
        drafts=parse_drafts(options.drafts),
        draft_noise=options.draft_noise,
    )

    def run_all(temperatures: Sequence[float], on_answer: OnAnswer) -> tuple[list[MethodRun], dict[str, Any]]:
        runs = run(
            pair,
            items,
            methods,
            temperatures,
            max_tokens=options.max_tokens,
            cost_ratio=options.cost_ratio,
            on_answer=on_answer,
        )
        return list(runs), {}

    return run_all


def remotely(options: argparse.Namespace, items: Sequence[Question], methods: Sequence[Method]) -> RunAll:
    """Runs the models of a running server; ServerGone if no server answers."""
    import httpx

    from cluster.evaluation.remote import CONNECT_S, SILENCE_S, Journal, run, server_about

    def run_all(temperatures: Sequence[float], on_answer: OnAnswer) -> tuple[list[MethodRun], dict[str, Any]]:
        headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        timeout = httpx.Timeout(CONNECT_S, read=SILENCE_S)
        with httpx.Client(base_url=options.url, timeout=timeout, headers=headers) as client:
            server = server_about(client)
            asked = {
                "model": server["id"],
                "methods": [method.name for method in methods],
                "temperatures": list(temperatures),
                "max_tokens": options.max_tokens,
                "max_relaxed_fraction": options.max_relaxed_fraction,
                "prompts": [item.prompt for item in items],
            }
            journal = Journal(options.journal, asked)
            runs = run(
                client,
                server["id"],
                items,
                methods,
                temperatures,
                journal,
                max_tokens=options.max_tokens,
                on_answer=on_answer,
            )
            return list(runs), {"server": {"url": options.url, **server}}

    return run_all


def parse_drafts(text: str | None) -> dict[str, str]:
    """Models by name from ``tiny=FOLDER,...``; raises InvalidRequest."""
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    for name, sign, model in pairs:
        if not (name.strip() and sign and model.strip()) or name.strip() in RESERVED:
            raise InvalidRequest(
                f"drafts are NAME=MODEL with commas between, with none of the names {', '.join(RESERVED)}; "
                f"got {text!r}"
            )
    return {name.strip(): model.strip() for name, _, model in pairs}


def parse_temperatures(text: str) -> list[float]:
    """Numbers separated by commas; raises InvalidRequest."""
    try:
        temperatures = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise InvalidRequest(f"temperatures are numbers with commas between, not {text!r}") from error
    if not all(0 <= temperature <= 10 for temperature in temperatures):
        raise InvalidRequest(f"temperatures must lie between 0 and 10, not {text!r}")
    return list(dict.fromkeys(temperatures))


def about(options: argparse.Namespace, num_items: int, methods: Sequence[Method]) -> dict[str, Any]:
    """Commit, hardware, settings and seeds: what is needed to repeat the run."""
    import torch
    import transformers

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        **stamp(),
        "changed_files": len(git("status", "--porcelain").splitlines()),
        "hardware": {"machine": platform.machine(), "processor": _processor(), "cuda_device": device},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "options": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items()
            if name != "api_key"
        },
        "speculation": asdict(SpeculationConfig()),
        "methods": [method.name for method in methods],
        "num_prompts": num_items,
    }


def _items(options: argparse.Namespace) -> list[Question]:
    """The named workload, or the lines of a file."""
    known = WORKLOADS.get(options.workload)
    return known(options.n, options.seed) if known else jsonl(Path(options.workload), options.n)


def _check_place(path: Path | None) -> None:
    if path is not None and not path.resolve().parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.resolve().parent}")


def _processor() -> str:
    """The processor's name, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {value}")
    return value


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="adasd eval", description="Compare methods on one pair and one workload.", allow_abbrev=False
    )
    made.add_argument("--target", default=str(DEMO / "target"), metavar="PATH_OR_ID", help="[the demo pair]")
    made.add_argument("--draft", default=str(DEMO / "draft"), metavar="PATH_OR_ID", help="[the demo pair]")
    made.add_argument(
        "--drafts", metavar="NAME=MODEL,...", help="further draft models; a method@NAME uses one"
    )
    made.add_argument("--url", help="ask a running server instead, for example http://127.0.0.1:8000")
    made.add_argument(
        "--journal", type=Path, metavar="FILE", help="with --url: keep answers here and go on from them"
    )
    made.add_argument(
        "--api-key", default=os.environ.get("ADASD_API_KEY"), help="with --url; or ADASD_API_KEY"
    )
    made.add_argument(
        "--workload",
        default="demo",
        metavar="|".join((*WORKLOADS, "FILE.jsonl")),
        help="the demo tasks, those as people type them, development or test prompts of twelve families, or "
        "lines of JSON with a prompt and, if it can be judged, a reference [demo]",
    )
    made.add_argument(
        "--n", type=_positive, default=15, help="prompts per task or family, or lines of the file [15]"
    )
    made.add_argument(
        "--methods",
        default="all",
        metavar="A,B",
        help=f"all, or some of: {', '.join(all_names())}; any drafting+acceptance works, and @draft-source "
        "behind it [all]",
    )
    made.add_argument(
        "--draft-noise",
        type=float,
        default=0.0,
        metavar="X",
        help="standard deviations of noise on the draft's weights, to see a poor draft [0]",
    )
    made.add_argument(
        "--cost-ratio",
        type=_share,
        metavar="C",
        help="tell goodput, on-the-fly and adasd-goodput that a draft pass takes C of a target pass, so that they "
        "are judged at the cost they know and the run can be repeated [they measure]",
    )
    made.add_argument("--temperatures", default="0,0.7,1", metavar="A,B", help="[0,0.7,1]")
    made.add_argument(
        "--max-tokens", type=_positive, default=200, metavar="N", help="tokens per answer [200]"
    )
    made.add_argument("--max-relaxed-fraction", type=_share, metavar="X", help="share of an answer [0.3]")
    made.add_argument("--seed", type=int, default=0, help="of the prompts and of sampling [0]")
    made.add_argument("--threads", type=_positive, default=1, help="CPU threads [1]")
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto [auto]")
    made.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    made.add_argument(
        "--suite",
        type=Path,
        metavar="FOLDER",
        help="everything in docs/evaluation: run what FOLDER/kept lacks, then write tables and pages",
    )
    made.add_argument(
        "--real-target", metavar="PATH", help="with --suite: SmolLM2-135M-Instruct [fetched once]"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file")
    made.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots to this file")
    return made
