"""``adasd simulate``: what a deployment would do under a load, in virtual time.

Every setting of ``adasd serve`` is an option here, too: replicas, cool-downs, queues, methods. Cards with their passes
and prices come from a file (examples/cards.yaml). A few hundred requests are followed round by round through the real
runner, controller and admission; more are followed answer by answer, with speeds that the former measures.
docs/simulate.md says what is real and what is modelled.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from adasd.errors import ConfigError
from cluster.cli._settings import is_set, parse, parser_of, read_config
from cluster.cli._stamp import stamp
from cluster.data import packaged
from cluster.simulation import report
from cluster.simulation.arrivals import Arrivals, arrivals
from cluster.simulation.behaviour import measure, num_cells
from cluster.simulation.cards import read_cards
from cluster.simulation.costs import Pair
from cluster.simulation.fleet import Fleet, Incident
from cluster.simulation.objective import Objective
from cluster.simulation.outcome import Outcome
from cluster.simulation.rounds import open_loop, simulate
from cluster.simulation.texts import Texts
from services.config import ServeConfig

ROUNDS_UP_TO = 500
"""Requests that are followed round by round unless --detail says otherwise."""
INCIDENT = "target|draft:at=S,until=S,share=0..1"


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Entry point; returns 0, or 2 for an input that contradicts itself."""
    options = parse(parser(), argv)
    console = console or Console()
    logging.getLogger("adasd").setLevel(logging.ERROR)  # sessions without a draft are told by the figures
    try:
        found = run(options, console, ["adasd", "simulate", *argv])
        for text in report.sentences(found):
            console.print(text, highlight=False)
        console.print(report.table(found))
        if options.json is not None:
            report.write(options.json, json.dumps(found, indent=1) + "\n")
        if options.html is not None:
            report.write(options.html, report.page(found))
    except ConfigError as error:
        for sentence in str(error).splitlines():
            print(f"adasd simulate: {sentence}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace, console: Console, command: Sequence[str]) -> dict[str, Any]:
    """The result as plain values. ConfigError."""
    report.check_writable(options.json, options.html)
    config, cards = read_config(options), read_cards(options.cards)
    objective, incidents = Objective.parse(options.objective), [incident(text) for text in options.incident]
    load, texts = arrivals(options.arrivals, options.seed), cards.answers(options.answer_tokens)
    config, pair = with_slots(config, cards.pair(options.target_card, options.draft_card), options)
    prompt_len = options.prompt_tokens or cards.prompt_tokens
    detail = options.detail or ("rounds" if len(load) <= ROUNDS_UP_TO and not incidents else "answers")
    if detail == "rounds" and incidents:
        raise ConfigError("incidents are simulated answer by answer; leave out --detail rounds")
    if detail == "answers" and cards.service.cores:
        raise ConfigError(
            f"{options.cards}: service.cores is {cards.service.cores}, so models and service share a machine; this "
            "is only known round by round: use --detail rounds, or set it to 0"
        )
    began_s = time.monotonic()
    outcome: Outcome
    if detail == "rounds":
        with console.status(f"{len(load)} requests, round by round"):
            clients = open_loop(
                load.times_s.tolist(),
                texts,
                prompt_len,
                None if load.num_tokens is None else load.num_tokens.tolist(),
                rest_s=options.rest_s,
            )
            outcome = simulate(config, pair, clients, seed=options.seed)
    else:
        with Progress(console=console, transient=True) as bars:
            bar = bars.add_task("speeds, round by round", total=num_cells(config, pair))
            behaviour = measure(
                config, pair, texts, prompt_len, seed=options.seed, on_cell=lambda: bars.advance(bar)
            )
        sample_s = max(1.0, float(load.times_s[-1]) / 5000) if len(load) else 1.0
        with console.status(f"{len(load)} requests, answer by answer"):
            outcome = Fleet(config, pair, behaviour, options.seed).run(
                load.times_s.tolist(),
                lengths(load, texts, options.seed).tolist(),
                incidents=incidents,
                sample_s=sample_s,
                rest_s=options.rest_s,
            )
    return report.result(
        outcome,
        objective,
        {
            "command": list(command),
            **stamp(),
            "detail": detail,
            "took_s": round(time.monotonic() - began_s, 1),
            "requests": len(load),
            "target": {"card": pair.target.name, "source": pair.target.source},
            "draft": {"card": pair.draft.name, "source": pair.draft.source} if pair.draft else None,
        },
    )


def with_slots(config: ServeConfig, pair: Pair, options: argparse.Namespace) -> tuple[ServeConfig, Pair]:
    """Both with the slots that the settings name; where they name none, with those of the cards."""
    target, draft, tier = pair.target, pair.draft, config.target
    if is_set("target.num_slots", options):
        target = replace(target, num_slots=tier.engine.num_slots)
    if draft is not None and config.draft is not None and is_set("draft.num_slots", options):
        draft = replace(draft, num_slots=config.draft.engine.num_slots)
    # the queue's length follows from the slots of the targets
    tier = replace(tier, engine=replace(tier.engine, num_slots=target.num_slots))
    return replace(config, target=tier), replace(pair, target=target, draft=draft)


def lengths(load: Arrivals, texts: Texts, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Tokens of every answer: of the trace, or of the texts."""
    if load.num_tokens is not None:
        return load.num_tokens
    known = np.array(texts.lengths, dtype=float)
    return known[np.random.default_rng(seed).integers(len(known), size=len(load))]


def incident(text: str) -> Incident:
    """``target:at=600,until=1200,share=0.33``. ConfigError."""
    role, _, given = text.partition(":")
    parts = dict(part.partition("=")[::2] for part in given.split(","))
    try:
        found = Incident(float(parts["at"]), role, float(parts["share"]), float(parts["until"]))
    except (KeyError, ValueError):
        raise ConfigError(f"an incident is {INCIDENT}, not {text!r}") from None
    if role not in ("target", "draft") or not 0 < found.share <= 1 or not 0 <= found.at_s < found.until_s:
        raise ConfigError(f"an incident is {INCIDENT} with until behind at, not {text!r}")
    return found


def add_cards(add: Any) -> None:
    """The options that ``adasd plan`` has, too."""
    add(
        "--cards",
        type=Path,
        default=packaged("examples") / "cards.yaml",
        metavar="FILE",
        help="cards: passes, prices, the pair's agreement [examples/cards.yaml]",
    )
    add("--target-card", metavar="NAME", help="a target of that file [its first]")
    add("--draft-card", metavar="NAME", help="a draft of that file, or none [its first]")
    add("--prompt-tokens", type=positive, metavar="N", help="tokens of each prompt [the file's]")
    add("--answer-tokens", type=positive, metavar="N", help="tokens of each answer [the file's]")
    add("--seed", type=int, default=0, metavar="N", help="of arrivals and answers [0]")
    add("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    add("--html", type=Path, metavar="FILE", help="also write a page with charts")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = parser_of("simulate", "What a deployment would do under a load, in virtual time.")
    add = made.add_argument_group("simulation").add_argument
    add(
        "--arrivals",
        required=True,
        metavar="WHEN",
        help="poisson:rate=R,seconds=S, diurnal:low=R,high=R,period=S,seconds=S, bursts:rate=R,size=N,every=S,"
        "seconds=S, or a file of recorded times: seconds or {at_s, tokens}, one per line",
    )
    add_cards(add)
    add("--objective", default="", metavar="O", help="ttft=MS,tpot=MS,share=X [ttft=500,tpot=50,share=0.95]")
    add("--incident", action="append", default=[], metavar="WHAT", help=f"replicas that die: {INCIDENT}")
    add("--rest-s", type=seconds, default=0.0, metavar="S", help="seconds without requests at the end [0]")
    add(
        "--detail",
        choices=("rounds", "answers"),
        help=f"[rounds up to {ROUNDS_UP_TO} requests, answers beyond]",
    )
    return made
