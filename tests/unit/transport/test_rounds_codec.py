"""Messages survive encoding and decoding, and bad bytes raise only InvalidRequest."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adasd.errors import InvalidRequest, StaleCache
from adasd.rounds import (
    DraftBlock,
    DraftCall,
    DraftDistributions,
    OpenCall,
    SamplingTransform,
    StopRule,
    VerifyCall,
)
from protos.adasd.v1 import worker_pb2 as pb
from services.transport.envelope import Close, Frame, Opened, ReplyFrame
from services.transport.rounds_codec import decode_frame, decode_reply, encode_frame, encode_reply
from tests.unit.transport import strategies as some


def same(one: Any, other: Any) -> bool:
    """Equality that also looks into the arrays of DraftDistributions (which compare by identity)."""
    rows, other_rows = getattr(one, "distributions", None), getattr(other, "distributions", None)
    if rows is None or other_rows is None:
        return bool(one == other)
    equal_rows = np.array_equal(rows.ids, other_rows.ids) and np.array_equal(
        rows.logprobs, other_rows.logprobs, equal_nan=True
    )
    return equal_rows and replace(one, distributions=None) == replace(other, distributions=None)


@settings(max_examples=100)
@given(st.data(), some.names, some.names, st.integers(0, 2**64 - 1))
def test_a_frame_survives_the_wire(data, session, incarnation, seq):
    call = data.draw(some.calls(session) | st.just(Close()))
    frame = decode_frame(encode_frame(Frame(session, incarnation, seq, call)))
    assert (frame.session, frame.incarnation, frame.seq) == (session, incarnation, seq)
    assert same(frame.call, call)


@settings(max_examples=100)
@given(st.data(), some.names, st.integers(0, 2**64 - 1))
def test_a_reply_survives_the_wire(data, session, seq):
    answer = data.draw(some.drafted(session) | some.verdicts(session) | st.just(Opened()))
    reply = decode_reply(encode_reply(ReplyFrame(seq, answer)), session)
    assert reply.seq == seq
    assert same(reply.answer, answer)


def test_rows_arrive_writable_and_in_native_types():
    rows = DraftDistributions(np.array([[5, 3]], np.int32), np.array([[-0.1, -2.5]], np.float32))
    call = VerifyCall("s", 1, 0, (1,), (5,), rows)
    arrived = decode_frame(encode_frame(Frame("s", "i", 1, call))).call.distributions
    assert arrived.ids.dtype == np.int32
    assert arrived.logprobs.dtype == np.float32
    arrived.ids[0, 0] = 7  # torch.from_numpy warns about read-only memory


def test_an_error_is_a_reply_like_any_other():
    error = decode_reply(encode_reply(ReplyFrame(4, StaleCache("s", 9, 7))), "s").answer
    assert isinstance(error, StaleCache)
    assert (error.session, error.keep_len, error.cached_len) == ("s", 9, 7)


@settings(max_examples=300)
@given(st.binary(max_size=80))
@example(b"")
@example(b"\xff\xff\xff")
def test_random_bytes_are_a_message_or_an_invalid_request(data):
    for decode in (decode_frame, lambda raw: decode_reply(raw, "s")):
        with suppress(InvalidRequest):  # and nothing else
            decode(data)


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_frame_is_a_frame_or_an_invalid_request(data):
    raw = bytearray(encode_frame(Frame("s", "i", 1, data.draw(some.calls("s")))))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(InvalidRequest):  # and nothing else
        decode_frame(bytes(raw))


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (pb.RoundRequest(draft=pb.DraftRequest(feed=b"123")), "whole number of entries"),
        (
            pb.RoundRequest(draft=pb.DraftRequest(table=pb.ChanceTable(chances=[0.5]))),
            "a chance table has 1 and 0 entries",
        ),
        (
            pb.RoundRequest(verify=pb.VerifyRequest(block=b"1234", rows=pb.Rows(row_len=0))),
            "rows of 0 entries",
        ),
        (
            pb.RoundRequest(
                verify=pb.VerifyRequest(
                    block=b"1234", rows=pb.Rows(row_len=2, ids=b"8" * 16, logprobs=b"8" * 8)
                )
            ),
            "rows of ids: got 2, expected 1",
        ),
        (
            pb.RoundRequest(
                verify=pb.VerifyRequest(
                    block=b"1234", rows=pb.Rows(row_len=2, ids=b"8" * 8, logprobs=b"8" * 12)
                )
            ),
            "row logprobs",
        ),
        (
            pb.RoundRequest(verify=pb.VerifyRequest(rule=pb.AcceptanceRule(tables={"chances": b"8" * 7}))),
            "7 bytes are no whole number",
        ),
        (
            pb.RoundRequest(open=pb.OpenRequest(warp=pb.Warp(bias_ids=b"1234"))),
            "logit bias: got 0, expected 1",
        ),
        (pb.RoundRequest(session="s"), "must hold one of"),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_both_numbers(request_, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        decode_frame(request_.SerializeToString())


def test_tokens_and_entropies_must_be_equally_many():
    raw = pb.RoundReply(drafted=pb.Drafted(tokens=b"1234", entropies=b"")).SerializeToString()
    with pytest.raises(InvalidRequest, match="entropies: got 0, expected 1"):
        decode_reply(raw, "s")


def test_second_choices_come_for_every_token_or_for_none():
    raw = pb.RoundReply(drafted=pb.Drafted(tokens=b"1234", entropies=b"8" * 8, others=b"4" * 8))
    with pytest.raises(InvalidRequest, match="second choices: got 2, expected 1"):
        decode_reply(raw.SerializeToString(), "s")


@pytest.mark.parametrize(
    ("logprobs", "complaint"),
    [
        (pb.Logprobs(of_tokens=b"8" * 8), "numbers of likeliest tokens: got 0, expected 1"),
        (pb.Logprobs(of_tokens=b"8" * 8, top_lens=b"\xff" * 4), "a token has -1 likeliest tokens"),
        (pb.Logprobs(of_tokens=b"8" * 8, top_lens=b"\1\0\0\0"), "likeliest tokens: got 0, expected 1"),
        (
            pb.Logprobs(of_tokens=b"8" * 8, top_lens=b"\1\0\0\0", top_ids=b"1234"),
            "log-probabilities of likeliest tokens: got 0, expected 1",
        ),
    ],
)
def test_logprobs_that_do_not_fit_are_refused_with_both_numbers(logprobs, complaint):
    raw = pb.RoundReply(verdict=pb.Verdict(prompt_logprobs=logprobs)).SerializeToString()
    with pytest.raises(InvalidRequest, match=complaint):
        decode_reply(raw, "s")


def test_an_unknown_kind_of_grammar_is_refused():
    wire = pb.RoundRequest(open=pb.OpenRequest(warp=pb.Warp()))
    wire.open.warp.grammar.MergeFromString(b"\x08\x63")  # kind 99
    with pytest.raises(InvalidRequest, match="there is no kind of grammar 99"):
        decode_frame(wire.SerializeToString())


@pytest.mark.parametrize(
    "call",
    [
        DraftCall("s", 1, -1, (), StopRule(1)),
        DraftCall("s", 1, 0, (2**31,), StopRule(1)),
        OpenCall("s", SamplingTransform(seed=2**63), 8),
        OpenCall("s", SamplingTransform(), 2**32),
    ],
)
def test_a_number_that_does_not_fit_is_refused_by_the_sender(call):
    with pytest.raises(InvalidRequest):
        encode_frame(Frame("s", "i", 1, call))


def test_a_round_is_small():
    block = tuple(range(8))
    draft = encode_frame(Frame("0" * 32, "1" * 32, 7, DraftCall("0" * 32, 3, 100, (1,), StopRule(8, 1.0))))
    answer = encode_reply(ReplyFrame(7, DraftBlock("0" * 32, 3, 101, block, (0.5,) * 8)))
    assert len(draft) < 120
    assert len(answer) < 130
