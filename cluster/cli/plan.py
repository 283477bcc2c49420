"""``adasd plan``: the cheapest numbers of targets and drafts for a rate and an objective.

It compares no draft, a draft tier on cards of its own, and a draft on the target's card; it says what a million tokens
cost, and what is left of the objective when a node is lost (docs/planning.md).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from html import escape
from typing import Any

from rich.console import Console
from rich.table import Table

from adasd.charts.chart import Line, Lines, section
from adasd.charts.page import document, grid
from adasd.errors import ConfigError
from cluster.cli._settings import parse, parser_of, read_config
from cluster.cli._stamp import stamp
from cluster.cli.simulate import add_cards, with_slots
from cluster.simulation import report
from cluster.simulation.cards import read_cards
from cluster.simulation.costs import Card, Pair
from cluster.simulation.objective import Objective
from cluster.simulation.plan import BESIDE, REMOTE, Wanted, over_distance, plan

COLUMNS = (
    "",
    "targets",
    "drafts",
    "sessions/target",
    "tokens/s/target",
    "cost/h",
    "cost/M tokens",
    "ttft",
    "tpot",
    "met",
)


WIDTH = 124  # columns that the table needs


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Entry point; returns 0, or 2 for an input that contradicts itself or an objective that nothing holds."""
    options = parse(parser(), argv)
    console = console or Console(width=max(Console().width, WIDTH))
    logging.getLogger("adasd").setLevel(logging.ERROR)
    try:
        found = run(options, console, ["adasd", "plan", *argv])
        console.print(table(found))
        for text in sentences(found):
            console.print(text, highlight=False)
        if options.json is not None:
            report.write(options.json, json.dumps(found, indent=1) + "\n")
        if options.html is not None:
            report.write(options.html, page(found))
    except ConfigError as error:
        for sentence in str(error).splitlines():
            print(f"adasd plan: {sentence}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace, console: Console, command: Sequence[str]) -> dict[str, Any]:
    """The plan as plain values. ConfigError."""
    report.check_writable(options.json, options.html)
    config, cards = read_config(options), read_cards(options.cards)
    config, pair = with_slots(config, cards.pair(options.target_card, options.draft_card), options)
    pair = priced(pair, options, config.target.engine.tensor_parallel)
    wanted = Wanted(
        options.rate,
        Objective.parse(options.objective),
        cards.answers(options.answer_tokens),
        options.prompt_tokens or cards.prompt_tokens,
        options.seed,
    )
    with console.status("speeds, round by round") as status:
        offers, speeds = plan(config, pair, wanted, status.update)
        far = over_distance(config, pair, wanted, options.distances, status.update) if pair.draft else []
    return {
        "command": list(command),
        **stamp(),
        "rate": wanted.rate,
        "objective": asdict(wanted.objective),
        "answer_tokens": wanted.answer_tokens,
        "prompt_tokens": wanted.prompt_tokens,
        "target": shown(pair.target),
        "draft": shown(pair.draft) if pair.draft else None,
        "offers": [asdict(one) for one in offers],
        "speeds": [asdict(one) for one in speeds],
        "distances": [asdict(one) for one in far],
    }


def priced(pair: Pair, options: argparse.Namespace, num_ranks: int) -> Pair:
    """The pair with the prices of the command line; a target takes a card per rank."""
    if options.target_cost is not None:
        pair = replace(pair, target=replace(pair.target, cost_per_hour=options.target_cost))
    if options.draft_cost is not None and pair.draft is not None:
        pair = replace(pair, draft=replace(pair.draft, cost_per_hour=options.draft_cost))
    if pair.target.cost_per_hour <= 0:
        raise ConfigError(f"the target {pair.target.name} costs nothing; give --target-cost or cost_per_hour")
    return replace(pair, target=replace(pair.target, cost_per_hour=num_ranks * pair.target.cost_per_hour))


def shown(card: Card) -> dict[str, Any]:
    return {"card": card.name, "cost_per_hour": card.cost_per_hour, "source": card.source}


def offers_of(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The kinds that hold the objective, the cheapest first."""
    return sorted((one for one in found["offers"] if "targets" in one), key=lambda one: one["cost_per_hour"])


def table(found: Mapping[str, Any]) -> Table:
    """One row per kind that holds the objective."""
    made = Table(
        title=f"{found['rate']:g} requests per second, {Objective(**found['objective'])}",
        title_justify="left",
    )
    for name in COLUMNS:
        made.add_column(name, justify="left" if not name else "right")
    for row in map(cells, offers_of(found)):
        made.add_row(*row)
    return made


def cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    figures = one["figures"]
    return (
        one["kind"],
        str(one["targets"]),
        str(one["drafts"]) if one["drafts"] else "-",
        f"{one['sessions_per_target']:.1f}",
        f"{one['capacity']:.0f}",
        f"{one['cost_per_hour']:.2f}",
        f"{one['cost_per_million']:.3f}",
        f"{figures['first_token_ms'][0]:.0f}",
        f"{figures['per_token_ms'][0]:.1f}",
        f"{figures['attainment']:.1%}",
    )


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What follows from the table."""
    offers = offers_of(found)
    said = [f"{one['kind']}: {one['reason']}" for one in found["offers"] if "reason" in one]
    best = offers[0]
    said.append(f"cheapest: {best['kind']}, {best['cost_per_million']:.3f} per million tokens")
    for one in offers:
        lost = f"{one['kind']}: with one target less, {one['lost_target']:.1%} of the requests meet the objective"
        if one["lost_draft"] is not None:
            lost += f", with one draft less {one['lost_draft']:.1%}"
        said.append(f"{lost}; one spare node of each kind makes it {one['with_spare']:.2f} per hour")
    by_kind = {one["kind"]: one for one in offers}
    if REMOTE in by_kind and BESIDE in by_kind:
        said.append(remote_or_beside(by_kind[REMOTE], by_kind[BESIDE], found))
    if found["draft"] and not found["draft"]["cost_per_hour"]:
        said.append("the draft cards cost nothing here; --draft-cost gives them a price")
    for one in found["distances"]:
        cost = one["cost_per_million"]
        what = "the objective is missed" if cost is None else f"{cost:.3f} per million tokens"
        said.append(f"drafts {one['round_trip_ms']:g} ms away (round trip): {what}")
    return said


def remote_or_beside(remote: Mapping[str, Any], beside: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Up to which price of a draft card a tier of drafts is the cheaper one."""
    targets = remote["targets"] * found["target"]["cost_per_hour"]
    even = (beside["cost_per_hour"] - targets) / remote["drafts"]
    capacity = remote["capacity"] / beside["capacity"] - 1
    if even <= 0:
        return "drafts on cards of their own need no fewer targets here, so they never pay"
    return (
        f"drafts on cards of their own beat a draft on the target's card while a draft card costs less than {even:.2f} "
        f"per hour (capacity of a target {capacity:+.0%})"
    )


def page(found: Mapping[str, Any]) -> str:
    """The page; it needs no other file."""
    speeds = found["speeds"]
    charts = [
        Lines(
            title,
            "sessions per target",
            speeds[0]["sessions"],
            [Line(one["kind"], one[key]) for one in speeds],
        )
        for title, key in (
            ("milliseconds per token of a session", "token_ms"),
            ("tokens per second of a target", "tokens_per_s"),
        )
    ]
    far = [one for one in found["distances"] if one["cost_per_million"] is not None]
    if len(far) > 1:
        line = Line(REMOTE, [one["cost_per_million"] for one in far])
        away = [one["round_trip_ms"] for one in far]
        charts.append(Lines("cost per million tokens", "round trip to the drafts (ms)", away, [line]))
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(one))}</tr>" for one in offers_of(found)
    )
    about = {key: value for key, value in found.items() if key not in ("offers", "speeds", "distances")}
    return document(
        "adasd plan",
        f"{found['rate']:g} requests per second, {Objective(**found['objective'])}",
        report.made(found),
        f"<div class=wide><table><tr>{head}</tr>{rows}</table></div>"
        + "".join(f"<p>{escape(text)}</p>" for text in sentences(found))
        + f"{grid([section(chart) for chart in charts])}<h2>Circumstances</h2>"
        + f"<pre>{escape(json.dumps(about, indent=1))}</pre>",
    )


def number(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def price(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def numbers(text: str) -> list[float]:
    return [number(part) for part in text.split(",") if part]


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = parser_of("plan", "The cheapest numbers of targets and drafts for a rate and an objective.")
    add = made.add_argument_group("plan").add_argument
    add("--rate", type=number, required=True, metavar="R", help="requests per second")
    add("--objective", default="", metavar="O", help="ttft=MS,tpot=MS,share=X [ttft=500,tpot=50,share=0.95]")
    add("--target-cost", type=price, metavar="C", help="cost per hour of a target card [the file's]")
    add("--draft-cost", type=price, metavar="C", help="cost per hour of a draft card [the file's]")
    add(
        "--distances",
        type=numbers,
        default=[],
        metavar="MS,MS",
        help="round trips to the drafts, in milliseconds, at which the cost is computed, too [none]",
    )
    add_cards(add)
    return made
