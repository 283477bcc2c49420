"""The demo pair through the service, demo prompts, at one stream and at sixteen: what everybody tries first."""

from __future__ import annotations

import time

import httpx

from adasd.requests import Mode
from cluster.http_client import first_model
from load_tests.demo_prompts import examples
from load_tests.goals.row import Circumstances, Row, figures
from load_tests.load.server_under_test import demo_server
from load_tests.throughput.service_stream import measure as stream_all
from load_tests.throughput.service_stream import over_off, result
from load_tests.throughput.single_stream import MAX_TOKENS

NUM_PROMPTS = 24


def measure(given: Circumstances) -> list[Row]:
    return [row for num_streams in (1, 16) for row in at(num_streams, given)]


def at(num_streams: int, given: Circumstances) -> list[Row]:
    """Rows of a server of its own with so many answers at a time."""
    chosen = examples(NUM_PROMPTS)
    limits = httpx.Limits(max_connections=num_streams, max_keepalive_connections=num_streams)
    given.say(f"starting the demo server for {num_streams} streams")
    with demo_server({}) as server, httpx.Client(base_url=server.url, timeout=60.0, limits=limits) as client:
        model, clock = first_model(client), time.perf_counter
        answers, seconds = stream_all(
            client, model, chosen, given.repeats, MAX_TOKENS, clock, num_streams=num_streams
        )
    found = [result(mode, answers, seconds, chosen) for mode in Mode]
    about = figures("tokens/s", **{one.mode: one.median_tokens_per_s for one in found})
    return [
        Row(
            f"demo pair, {num_streams} streams, {one.mode} over off",
            1.0,
            round(over_off(one, found), 3),
            about,
        )
        for one in found
        if one.mode != Mode.OFF
    ]
