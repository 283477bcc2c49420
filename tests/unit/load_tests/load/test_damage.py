"""Damaged requests: the seed fixes them, they reach every route and door, and few of them are still right."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

from google.protobuf.message import DecodeError

from load_tests.load import damage
from protos.adasd.v1 import generation_pb2 as pb


def some(seed, number=2000):
    return list(islice(damage.requests(seed), number))


def is_json(raw):
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def is_message(raw):
    try:
        pb.GenerateRequest.FromString(raw)
    except DecodeError:
        return False
    return True


def test_the_seed_fixes_them():
    assert some(3, 300) == some(3, 300) != some(4, 300)


def test_every_route_gets_both_json_and_noise():
    asks = some(0)
    paths = Counter(ask.path for ask in asks if ask.door == "http")
    assert set(paths) == {path for path, _ in damage.BODIES}
    for path in paths:
        assert {is_json(ask.raw) for ask in asks if ask.path == path and ask.door == "http"} == {True, False}
    over_grpc = [ask.raw for ask in asks if ask.door == "grpc"]
    assert len(over_grpc) == len(asks) // damage.GRPC_EVERY
    assert {is_message(raw) for raw in over_grpc} == {True, False}


def test_the_bodies_they_come_from_are_not_changed():
    before = json.dumps(damage.BODIES)
    some(1, 500)
    assert json.dumps(damage.BODIES) == before
