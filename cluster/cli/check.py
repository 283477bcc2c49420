"""``adasd check``: validate a configuration without serving it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from adasd.config import EngineConfig
from adasd.errors import ConfigError
from cluster.cli._settings import parse, parser_of, read_config
from cluster.runtime.preflight import GIB, card_problems, cards, engines, memory_estimate, notes, problems
from cluster.topology import Node, missing
from services.config import ServeConfig, TierConfig

ROWS = ("model", "dtype", "device", "weights", "cache", "reserve", "slots", "context", "replicas")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = parser_of("check", "Validate a configuration without serving it.")
    where = "check the places on this Ray cluster instead of this machine"
    made.add_argument("--address", metavar="HOST:PORT", help=where)
    return made


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0 if it can be served, 1 if not, 2 if the settings cannot be read."""
    arguments = parse(parser(), argv)
    try:
        return check(read_config(arguments), Console(), arguments.address)
    except ConfigError as error:
        for sentence in str(error).splitlines():
            print(f"adasd check: {sentence}", file=sys.stderr)
        return 2


def check(config: ServeConfig, console: Console, address: str | None = None) -> int:
    """Print what would be served and every problem, one sentence each; returns 0 if there is none, else 1.

    With the ``address`` of a Ray cluster, checks its nodes and not this machine, which may lack the models and GPUs.
    """
    found = (
        problems(config) if address is None else missing(config, nodes_of(address)) + card_problems(config)
    )
    card_bytes = {role: card.num_bytes for card in cards(config) for role in card.roles}
    columns = {
        role: described(engine, config.tiers[role], card_bytes.get(role)) for role, engine in engines(config)
    }
    table = Table("", *(Column(escape(role), overflow="fold") for role in columns))
    for name, *values in zip(ROWS, *columns.values(), strict=True):
        table.add_row(name, *map(escape, values))
    console.print(table)
    console.print(
        "The cache grows with use on a CPU and is taken at once on CUDA. context: tokens per session; without "
        "max_context it is the model's own, or what the memory holds.",
        style="dim",
    )
    for sentence in found:
        console.print(f"[red]✗[/red] {escape(sentence)}", soft_wrap=True, highlight=False)
    for sentence in notes(config) if address is None else ():
        console.print(f"[yellow]![/yellow] {escape(sentence)}", soft_wrap=True, highlight=False)
    if not found:
        where = f" on {address}, as far as places go" if address else ""
        console.print(f"[green]✓[/green] {escape(config.model_name)} can be served{where}.", highlight=False)
    return 1 if found else 0


def nodes_of(address: str) -> list[Node]:
    """The nodes of a running Ray cluster with their resources; ConfigError if there is no cluster."""
    from cluster.runtime.ray_cluster import nodes, ray_cluster

    with ray_cluster(address, 0.0, dashboard=False):
        return nodes()


def described(engine: EngineConfig, tier: TierConfig, card_bytes: int | None) -> tuple[str, ...]:
    """One model's column of the table; ``card_bytes`` as in ``memory_cells``."""
    return (
        engine.model,
        dtype_of(engine) if engine.weights == "full" else f"{dtype_of(engine)}, {engine.weights} weights",
        engine.device if engine.tensor_parallel == 1 else f"{engine.tensor_parallel} x {engine.device}",
        *memory_cells(engine, card_bytes),
        f"{tier.min_replicas}-{tier.max_replicas}",
    )


def memory_cells(engine: EngineConfig, card_bytes: int | None = None) -> tuple[str, str, str, str, str]:
    """One replica's weights, cache, reserve, slots and context, formatted; question marks if it cannot be read.

    ``card_bytes``: memory of each of its cards, where known. Where it is not, but decides, the cache is "up to".
    """
    try:
        estimate = memory_estimate(engine)
    except ConfigError:
        return "?", "?", "?", str(engine.num_slots), "?"
    num_bytes = None if card_bytes is None else card_bytes * engine.tensor_parallel
    cache_bytes = estimate.cache_bytes_on(num_bytes)
    sizes = (estimate.weights_bytes, cache_bytes, estimate.reserve_bytes)
    weights, cache, reserve = (readable(size) if size else "-" for size in sizes)
    if num_bytes is None and estimate.least_cache_bytes is not None:
        cache = f"up to {cache}"
    return weights, cache, reserve, str(estimate.num_slots), str(estimate.context_in(cache_bytes))


def dtype_of(engine: EngineConfig) -> str:
    """The number format that ``auto`` stands for; ``auto`` if the model cannot be read."""
    from adasd.engine.loading.checkpoint import load_config
    from adasd.engine.loading.limits import intended_device, resolve_dtype

    try:
        config = load_config(engine.model, engine.trust_remote_code)
        resolved = resolve_dtype(engine.dtype, intended_device(engine.device), config)
    except ConfigError:
        return engine.dtype
    return str(resolved).removeprefix("torch.")


def readable(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 1024**2:.1f} MiB"
