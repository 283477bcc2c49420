"""The public interface: messages arrive as sent, and fields that were not sent stay unset."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from adasd.errors import InvalidRequest
from adasd.requests import SET_BY_MODELS, SamplingParams
from protos.adasd.v1 import generation_pb2 as pb
from services.transport import generation_codec as codec
from services.transport.generation_messages import GenerateCall
from tests.unit.transport import strategies as some


def through(message):
    """The message, encoded to bytes and decoded again."""
    return type(message).FromString(message.SerializeToString())


@settings(max_examples=100)
@given(some.generate_calls)
def test_a_call_survives_the_wire(call):
    assert codec.call_from_wire(through(codec.call_to_wire(call))) == call


@settings(max_examples=100)
@given(some.chunks | some.completes, some.names)
def test_an_event_survives_the_wire(event, request_id):
    wire = through(codec.event_to_wire(request_id, event))
    assert wire.request_id == request_id
    assert codec.event_from_wire(wire) == event


@settings(max_examples=100)
@given(some.model_infos, some.server_infos, some.all_loads)
def test_infos_survive_the_wire(model, server, loads):
    assert codec.model_info_from_wire(through(codec.model_info_to_wire(model))) == model
    assert codec.server_info_from_wire(through(codec.server_info_to_wire(server))) == server
    assert codec.loads_from_wire(through(codec.loads_to_wire(loads))) == loads


def test_zero_is_not_unset():
    asked = SamplingParams(temperature=0.0, seed=0, max_tokens=0, ignore_eos=False)
    assert (
        codec.call_from_wire(through(codec.call_to_wire(GenerateCall("x", sampling=asked)))).sampling == asked
    )


def test_what_the_caller_left_to_the_model_is_told():
    assert codec.call_from_wire(pb.GenerateRequest(text="x")).left_unset == {*SET_BY_MODELS}
    asked = GenerateCall("x", left_unset=frozenset({"top_k", "min_p"}))
    assert codec.call_from_wire(through(codec.call_to_wire(asked))) == asked


@pytest.mark.parametrize(
    "request_",
    [
        pb.GenerateRequest(),
        pb.GenerateRequest(text=""),
        pb.GenerateRequest(chat=pb.ChatMessages()),
        pb.GenerateRequest(token_ids=pb.TokenIds()),
    ],
)
def test_an_empty_input_is_refused(request_):
    with pytest.raises(InvalidRequest, match="the input is empty"):
        codec.call_from_wire(request_)


def test_an_unknown_mode_is_refused_with_the_known_ones():
    request = pb.GenerateRequest(text="x", speculation=pb.SpeculationOptions(mode="turbo"))
    with pytest.raises(InvalidRequest, match="'turbo'; possible: off, exact, adaptive") as refusal:
        codec.call_from_wire(request)
    assert refusal.value.param == "speculation.mode"


def test_kinds_and_token_ids_must_be_equally_many():
    with pytest.raises(InvalidRequest, match="1 token ids but 0 kinds"):
        codec.event_from_wire(pb.GenerateResponse(chunk=pb.Chunk(token_ids=[1])))
