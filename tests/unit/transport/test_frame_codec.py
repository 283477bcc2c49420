"""Frames survive encoding and decoding, and bad bytes raise only InvalidRequest."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adasd.errors import InvalidRequest, StaleCache
from adasd.rounds import (
    AcceptanceRule,
    ChanceTable,
    DraftBlock,
    DraftCall,
    DraftDistributions,
    OpenCall,
    SamplingTransform,
    StopRule,
    Verdict,
    VerifyCall,
)
from protos.adasd.v1 import worker_pb2 as pb
from services.transport import ask_codec, generate, reply_codec
from services.transport.ask_codec import AskBuffer, decode_asks
from services.transport.frames import Ended, Opened
from services.transport.options import MAX_FRAME_BYTES
from services.transport.reply_codec import ReplyBuffer, decode_replies
from tests.unit.transport import strategies as some

LEASES = {0: "a", 1: "b", 2: "c"}
numbers = st.integers(0, 2**63 - 1)


def same(one: Any, other: Any) -> bool:
    """Equality that also looks into the arrays of DraftDistributions (which compare by identity)."""
    rows, other_rows = getattr(one, "distributions", None), getattr(other, "distributions", None)
    if rows is None or other_rows is None:
        return bool(one == other)
    equal_rows = np.array_equal(rows.ids, other_rows.ids) and np.array_equal(
        rows.logprobs, other_rows.logprobs, equal_nan=True
    )
    return equal_rows and replace(one, distributions=None) == replace(other, distributions=None)


def frame_of(*calls, session: int = 0) -> bytes:
    """Calls of one session, numbered from 1, as one frame."""
    buffer = AskBuffer("i")
    for number, call in enumerate(calls, 1):
        buffer.add_call(number, session, call)
    return buffer.take()


def replies_of(*answers) -> bytes:
    buffer = ReplyBuffer()
    for number, answer in enumerate(answers, 1):
        buffer.add(number, answer)
    return buffer.take()


# --------------------------------------------------------------------------- there and back


@settings(max_examples=100)
@given(st.data(), some.names, st.lists(st.sampled_from(sorted(LEASES)), max_size=8))
def test_asks_survive_the_wire_in_their_order(data, incarnation, sessions):
    buffer, opens, calls = AskBuffer(incarnation), [], []
    for number, session in enumerate(sessions):
        call = data.draw(some.calls(LEASES[session]))
        if isinstance(call, OpenCall):
            headers = data.draw(st.dictionaries(some.names, some.names, max_size=2))
            buffer.add_open(number, session, LEASES[session], call, headers)
            opens.append((number, session, call, headers))
        else:
            buffer.add_call(number, session, call)
            calls.append((number, session, call))
    closes = data.draw(st.lists(numbers, max_size=3))
    for session in closes:
        buffer.add_close(session)
    frame = decode_asks(buffer.take(), LEASES)
    assert not buffer
    assert (frame.incarnation, frame.closes) == (incarnation, tuple(closes))
    assert [(one.number, one.session, one.call, one.headers) for one in frame.opens] == opens
    assert [(one.number, one.session) for one in frame.calls] == [one[:2] for one in calls]
    assert all(same(one.call, call) for one, (_, _, call) in zip(frame.calls, calls, strict=True))


@settings(max_examples=100)
@given(st.data(), st.lists(numbers, unique=True, max_size=8))
def test_replies_survive_the_wire(data, asked):
    buffer, expected = ReplyBuffer(), {}
    for number in asked:
        kinds = some.drafted(str(number)) | some.verdicts(str(number)) | st.just(Opened())
        expected[number] = data.draw(kinds)
        buffer.add(number, expected[number])
    buffer.add_end(7, None)
    buffer.add_end(8, StaleCache("s", 9, 7))
    frame = decode_replies(buffer.take(), str)
    assert len(frame.replies) == len(expected)
    assert all(same(reply.answer, expected[reply.number]) for reply in frame.replies)
    assert frame.ended[0] == Ended(7)
    assert (frame.ended[1].session, str(frame.ended[1].error)) == (8, str(StaleCache("s", 9, 7)))


def test_a_session_that_is_opened_in_a_frame_has_its_calls_in_it_too():
    buffer = AskBuffer("i")
    buffer.add_call(2, 9, DraftCall("", 1, 0, (5,), StopRule(2)))
    buffer.add_open(1, 9, "its lease", OpenCall("s", SamplingTransform(), 8), {})
    frame = decode_asks(buffer.take(), {})
    assert frame.opens[0].call.session == frame.calls[0].call.session == "its lease"


def test_replies_that_nobody_waits_for_are_left_out():
    raw = replies_of(DraftBlock("s", 1, 2, (3,), (0.5,)), Verdict("s", 2, 3, 0, 4))
    assert [one.number for one in decode_replies(raw, {2: "s"}.get).replies] == [2]
    assert decode_replies(raw, lambda _: None).replies == ()


def test_equal_rules_are_sent_once():
    rules = [AcceptanceRule("fsd", {"max_distance": 0.4}, budget) for budget in (2, 2, 3)]
    raw = frame_of(*(VerifyCall("a", i, 0, (1,), (2,), rule=rule) for i, rule in enumerate(rules)))
    assert len(pb.AskFrame.FromString(raw).verifies.rules) == 2
    assert [ask.call.rule for ask in decode_asks(raw, LEASES).calls] == rules


def test_rows_arrive_writable_and_in_native_types():
    rows = DraftDistributions(np.array([[5, 3]], np.int32), np.array([[-0.1, -2.5]], np.float32))
    arrived = decode_asks(frame_of(VerifyCall("a", 1, 0, (1,), (5,), rows)), LEASES).calls[0].call
    assert arrived.distributions.ids.dtype == np.int32
    assert arrived.distributions.logprobs.dtype == np.float32
    arrived.distributions.ids[0, 0] = 7  # torch.from_numpy warns about read-only memory


def test_an_error_is_a_reply_like_any_other():
    (reply,) = decode_replies(replies_of(StaleCache("s", 9, 7)), str).replies
    assert isinstance(reply.answer, StaleCache)
    assert (reply.answer.session, reply.answer.keep_len, reply.answer.cached_len) == ("s", 9, 7)


# --------------------------------------------------------------------------- full frames


def test_what_fills_a_frame_leaves_in_several_and_in_order():
    buffer, prompt = AskBuffer("i"), tuple(range(MAX_FRAME_BYTES // 10))
    for number in range(1, 6):
        buffer.add_call(number, 0, VerifyCall("a", number, 0, prompt))
    frames = []
    while buffer:
        frames.append(buffer.take())
    assert 1 < len(frames) < 5
    assert max(map(len, frames)) < 2 * MAX_FRAME_BYTES
    arrived = [ask for raw in frames for ask in decode_asks(raw, LEASES).calls]
    assert [ask.number for ask in arrived] == [1, 2, 3, 4, 5]
    assert all(ask.call.feed == prompt for ask in arrived)


def test_what_no_message_can_hold_is_refused_and_the_rest_goes_on():
    buffer, rows = AskBuffer("i"), np.zeros((1, 5_000_000))
    huge = DraftDistributions(rows.astype(np.int32), rows.astype(np.float32))
    buffer.add_call(1, 0, VerifyCall("a", 1, 0, (5,)))
    with pytest.raises(InvalidRequest, match=r"40\d+ bytes is too long; at most 31457280 are sent"):
        buffer.add_call(2, 0, VerifyCall("a", 2, 0, (5,), (6,), huge))
    assert [ask.number for ask in decode_asks(buffer.take(), LEASES).calls] == [1]
    replies = ReplyBuffer()
    with pytest.raises(InvalidRequest, match="is too long"):
        replies.add(1, DraftBlock("a", 1, 0, (5,), (0.5,), huge))
    assert not replies


# --------------------------------------------------------------------------- bad bytes, bad numbers


@settings(max_examples=300)
@given(st.binary(max_size=80))
@example(b"")
@example(b"\xff\xff\xff")
def test_random_bytes_are_a_frame_or_an_invalid_request(data):
    for decode in (lambda raw: decode_asks(raw, LEASES), lambda raw: decode_replies(raw, str)):
        with suppress(InvalidRequest):  # and nothing else
            decode(data)


@settings(max_examples=80)
@given(st.data())
def test_a_damaged_frame_is_a_frame_or_an_invalid_request(data):
    calls = some.verify_calls("a") | some.calls("a").filter(lambda call: not isinstance(call, OpenCall))
    answers = some.drafted("a") | some.verdicts("a")
    for raw, decode in (
        (frame_of(data.draw(calls), data.draw(calls)), lambda raw: decode_asks(raw, LEASES)),
        (replies_of(data.draw(answers), data.draw(answers)), lambda raw: decode_replies(raw, str)),
    ):
        damaged = bytearray(raw)
        damaged[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        with suppress(InvalidRequest):  # and nothing else
            decode(bytes(damaged))


DRAFT = ask_codec.DRAFT.pack(1, 0, 1, 0, 1, 8, 0, 9.0, 0.0, 1.0, 0)
DRAFT_BY_TABLE = ask_codec.DRAFT.pack(1, 0, 1, 0, 0, 8, 0, 9.0, 0.0, 1.0, ask_codec.HAS_TABLE)


def verify(num_fed: int = 0, block_len: int = 0, row_len: int = 0, rule: int = 0, flags: int = 0) -> bytes:
    return ask_codec.VERIFY.pack(1, 0, 1, 0, num_fed, block_len, 0, row_len, rule, 0, -1, -1, flags)


RULES = [pb.AcceptanceRule()]


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (pb.AskFrame(closes=b"1234567"), "7 bytes are no whole number of entries of 8"),
        (
            pb.AskFrame(drafts=pb.DraftAsks(records=b"123")),
            "3 bytes are no whole number of records of 65 bytes",
        ),
        (
            pb.AskFrame(drafts=pb.DraftAsks(records=DRAFT, ids=b"123")),
            "3 bytes are no whole number of entries",
        ),
        (pb.AskFrame(drafts=pb.DraftAsks(records=DRAFT)), "token ids: 0 entries, and the records want 1"),
        (pb.AskFrame(drafts=pb.DraftAsks(records=DRAFT, ids=b"8" * 8)), "2 entries, but the records want 1"),
        (
            pb.AskFrame(drafts=pb.DraftAsks(records=DRAFT_BY_TABLE, reals=b"8" * 8)),
            "reals: 1 entries, and the",
        ),
        (pb.AskFrame(verifies=pb.VerifyAsks(records=verify())), "an ask names rule 0 of 0"),
        (
            pb.AskFrame(
                verifies=pb.VerifyAsks(
                    records=verify(block_len=1, flags=ask_codec.HAS_ROWS), ids=b"1234", rules=RULES
                )
            ),
            "rows of 0 entries",
        ),
        (
            pb.AskFrame(
                verifies=pb.VerifyAsks(
                    records=verify(block_len=1, row_len=2, flags=ask_codec.HAS_ROWS),
                    ids=b"1234",
                    row_ids=b"8" * 8,
                    rules=RULES,
                )
            ),
            "row logprobs: 0 entries, and the records want 8",
        ),
        (
            pb.AskFrame(verifies=pb.VerifyAsks(rules=[pb.AcceptanceRule(tables={"chances": b"8" * 7})])),
            "7 bytes are no whole number",
        ),
        (
            pb.AskFrame(opens=[pb.OpenAsk(call=pb.OpenRequest(warp=pb.Warp(bias_ids=b"1234")))]),
            "logit bias: got 0, expected 1",
        ),
    ],
)
def test_asks_that_do_not_fit_are_refused_with_both_numbers(frame, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        decode_asks(frame.SerializeToString(), LEASES)


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (DraftBlock("s", 1, 0, (5,), ()), "entropies: got 0, expected 1"),
        (DraftBlock("s", 1, 0, (5,), (0.5,), runner_ups=(1, 2)), "second choices: got 2, expected 1"),
        (DraftBlock("s", 1, -1, (5,), (0.5,)), "does not fit"),
        (DraftBlock("s", 1, 0, (2**31,), (0.5,)), "32 bits"),
    ],
)
def test_a_reply_that_does_not_fit_is_refused_by_the_sender_and_changes_nothing(block, complaint):
    buffer = ReplyBuffer()
    buffer.add(1, Verdict("s", 1, 2, 0, 3))
    with pytest.raises(InvalidRequest, match=complaint):
        buffer.add(2, block)
    assert [one.number for one in decode_replies(buffer.take(), str).replies] == [1]


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
    verdicts = pb.Verdicts(logprobs=[pb.VerdictLogprobs(number=1, prompt=logprobs)])
    with pytest.raises(InvalidRequest, match=complaint):
        decode_replies(pb.ReplyFrame(verdicts=verdicts).SerializeToString(), str)


def test_an_unknown_kind_of_grammar_is_refused():
    wire = pb.AskFrame(opens=[pb.OpenAsk(call=pb.OpenRequest(warp=pb.Warp()))])
    wire.opens[0].call.warp.grammar.MergeFromString(b"\x08\x63")  # kind 99
    with pytest.raises(InvalidRequest, match="there is no kind of grammar 99"):
        decode_asks(wire.SerializeToString(), LEASES)


CHANCES = (0.5,) * ask_codec.NUM_BINS


@pytest.mark.parametrize(
    "call",
    [
        DraftCall("s", 1, -1, (), StopRule(1)),
        DraftCall("s", 1, 0, (2**31,), StopRule(1)),
        DraftCall("s", 1, 0, (), StopRule(1, table=ChanceTable(CHANCES, CHANCES[1:], 0.5))),
        VerifyCall("s", 1, 0, (), rule=AcceptanceRule(relax_budget=2**32)),
        VerifyCall("s", 1, 0, (), (1, 2), DraftDistributions(np.zeros((1, 2)), np.zeros((1, 2)))),
        OpenCall("s", SamplingTransform(seed=2**63), 8),
        OpenCall("s", SamplingTransform(), 2**32),
    ],
)
def test_a_number_that_does_not_fit_is_refused_by_the_sender_and_spares_the_others(call):
    buffer, other = AskBuffer("i"), DraftCall("s", 3, 0, (7,), StopRule(2))
    opening = isinstance(call, OpenCall)
    with pytest.raises(InvalidRequest):
        buffer.add_open(1, 0, "s", call, {}) if opening else buffer.add_call(1, 0, call)
    assert not buffer
    buffer.add_call(2, 1, other)
    (ask,) = decode_asks(buffer.take(), {1: "s"}).calls
    assert (ask.number, ask.call) == (2, other)


# --------------------------------------------------------------------------- documented and small

FORMATS = {"int64": "q", "uint32": "I", "int32": "i", "float64": "d", "uint8": "B"}


@pytest.mark.parametrize(
    ("message", "layout"),
    [
        ("DraftAsks", ask_codec.DRAFT),
        ("VerifyAsks", ask_codec.VERIFY),
        ("Blocks", reply_codec.BLOCK),
        ("Verdicts", reply_codec.VERDICT),
    ],
)
def test_the_records_are_as_the_protocol_describes_them(message: str, layout: struct.Struct):
    source = (generate.ROOT / generate.PACKAGE / "worker.proto").read_text()
    comment = source[: source.index(f"message {message} {{")].rpartition("\n\n")[2]
    found = re.findall(rf"^//   ({'|'.join(FORMATS)}) (\w+) ", comment, re.MULTILINE)
    assert "<" + "".join(FORMATS[kind] for kind, _ in found) == layout.format


def test_a_round_is_small():
    block = tuple(range(8))
    calls = [DraftCall("0" * 32, 3, 100, (1,), StopRule(8, 1.0))] * 64
    answers = [DraftBlock("0" * 32, 3, 101, block, (0.5,) * 8)] * 64
    assert len(frame_of(*calls)) < 64 * 72
    assert len(replies_of(*answers)) < 64 * 160
