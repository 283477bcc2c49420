"""Encodes and decodes frames of replies. With ask_codec the only place that knows the link's wire format.

protos/adasd/v1/worker.proto describes the records. Decoding validates everything: invalid bytes raise InvalidRequest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from google.protobuf.message import DecodeError

from adasd.errors import AdasdError, InvalidRequest
from adasd.results import TokenLogprob
from adasd.rounds import DraftBlock, Verdict
from protos.adasd.v1 import worker_pb2 as pb
from services.transport.arrays import (
    Pieces,
    expect_len,
    pack_ids,
    pack_numbers,
    pack_reals,
    records,
    unpack_flags,
    unpack_ids,
    unpack_numbers,
    unpack_reals,
)
from services.transport.ask_codec import rows_from_wire, rows_to_wire
from services.transport.error_codec import error_from_failed, failed_from_error
from services.transport.frame_buffer import FrameBuffer, checked_size
from services.transport.frames import Ended, Opened, Reply, ReplyFrame

BLOCK = struct.Struct("<qqIIIIddB")
"""number, epoch, base_len, num_tokens, num_confidences, row_len, compute_ms, queue_ms, flags"""
HAS_RUNNER_UPS, HAS_ROWS = 1, 2

VERDICT = struct.Struct("<qqIIiIIIIIIIdddB")
"""number, epoch, base_len, num_accepted, next_token, num_relaxed, num_judged, num_distances, cached_tokens,
block_len, batch_size, batch_tokens, compute_ms, queue_ms, distortion, flags"""
HAS_BLOCK_LEN = 1


class ReplyBuffer(FrameBuffer):
    """The replies that wait to leave."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: list[int] = []
        self._blocks, self._verdicts = _Blocks(), _Verdicts()
        self._failures: list[pb.FailedAsk] = []
        self._ended: list[pb.EndedSession] = []

    def add(self, number: int, answer: Opened | DraftBlock | Verdict | AdasdError) -> None:
        """InvalidRequest if a number does not fit its field; nothing changes then."""
        try:
            match answer:
                case Verdict():
                    num_bytes = self._verdicts.add(number, answer)
                case DraftBlock():
                    num_bytes = self._blocks.add(number, answer)
                case Opened():
                    self._opened.append(number)
                    num_bytes = 8
                case AdasdError():
                    failure = pb.FailedAsk(number=number, error=failed_from_error(answer))
                    self._failures.append(failure)
                    num_bytes = failure.ByteSize()
        except (struct.error, ValueError, OverflowError) as error:
            raise InvalidRequest(f"a number of the reply does not fit its field: {error}") from error
        self._added(num_bytes)

    def add_end(self, session: int, error: AdasdError | None) -> None:
        """A session is over; None: the orchestrator closed it."""
        ended = pb.EndedSession(session=session, error=None if error is None else failed_from_error(error))
        self._ended.append(ended)
        self._added(ended.ByteSize())

    def _frame(self) -> bytes:
        frame = pb.ReplyFrame(
            opened=pack_numbers(self._opened),
            blocks=self._blocks.take(),
            verdicts=self._verdicts.take(),
            failures=self._failures,
            ended=self._ended,
        )
        self._opened, self._failures, self._ended = [], [], []
        data: bytes = frame.SerializeToString()
        return data


@dataclass(slots=True)
class _Blocks:
    records: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    reals: list[bytes] = field(default_factory=list)
    row_ids: list[bytes] = field(default_factory=list)
    row_logprobs: list[bytes] = field(default_factory=list)

    def add(self, number: int, block: DraftBlock) -> int:
        rows, num_tokens = block.distributions, len(block.tokens)
        expect_len("entropies", len(block.entropies), num_tokens)
        expect_len("second choices", len(block.runner_ups), num_tokens if block.runner_ups else 0)
        record = BLOCK.pack(
            number,
            block.epoch,
            block.base_len,
            num_tokens,
            len(block.confidences),
            0 if rows is None else rows.ids.shape[1],
            block.compute_ms,
            block.queue_ms,
            HAS_RUNNER_UPS * bool(block.runner_ups) | HAS_ROWS * (rows is not None),
        )
        ids = pack_ids(block.tokens + block.runner_ups)
        reals = pack_reals(block.entropies + block.confidences)
        row_ids, row_logprobs = rows_to_wire(rows, num_tokens)
        num_bytes = checked_size(record, ids, reals, row_ids, row_logprobs)
        self.row_ids.append(row_ids)
        self.row_logprobs.append(row_logprobs)
        self.records.append(record)
        self.ids.append(ids)
        self.reals.append(reals)
        return num_bytes

    def take(self) -> pb.Blocks | None:
        if not self.records:
            return None
        found = pb.Blocks(
            records=b"".join(self.records),
            ids=b"".join(self.ids),
            reals=b"".join(self.reals),
            row_ids=b"".join(self.row_ids),
            row_logprobs=b"".join(self.row_logprobs),
        )
        self.records, self.ids, self.reals, self.row_ids, self.row_logprobs = [], [], [], [], []
        return found


@dataclass(slots=True)
class _Verdicts:
    records: list[bytes] = field(default_factory=list)
    outcomes: list[bytes] = field(default_factory=list)
    distances: list[bytes] = field(default_factory=list)
    logprobs: list[pb.VerdictLogprobs] = field(default_factory=list)

    def add(self, number: int, verdict: Verdict) -> int:
        record = VERDICT.pack(
            number,
            verdict.epoch,
            verdict.base_len,
            verdict.num_accepted,
            verdict.next_token,
            len(verdict.relaxed),
            len(verdict.exact_ok),
            len(verdict.distances),
            verdict.cached_tokens,
            verdict.block_len or 0,
            verdict.batch_size,
            verdict.batch_tokens,
            verdict.compute_ms,
            verdict.queue_ms,
            verdict.distortion,
            HAS_BLOCK_LEN * (verdict.block_len is not None),
        )
        outcomes = bytes(verdict.relaxed + verdict.exact_ok)
        distances = pack_reals(verdict.distances) if verdict.distances else b""
        num_bytes = checked_size(record, outcomes, distances)
        if verdict.logprobs or verdict.prompt_logprobs:
            logprobs = pb.VerdictLogprobs(
                number=number,
                tokens=_logprobs_to_wire(verdict.logprobs),
                prompt=_logprobs_to_wire(verdict.prompt_logprobs),
            )
            num_bytes += checked_size(logprobs.SerializeToString())
            self.logprobs.append(logprobs)
        self.records.append(record)
        self.outcomes.append(outcomes)
        self.distances.append(distances)
        return num_bytes

    def take(self) -> pb.Verdicts | None:
        if not self.records:
            return None
        found = pb.Verdicts(
            records=b"".join(self.records),
            outcomes=b"".join(self.outcomes),
            distances=b"".join(self.distances),
            logprobs=self.logprobs,
        )
        self.records, self.outcomes, self.distances, self.logprobs = [], [], [], []
        return found


def _logprobs_to_wire(logprobs: Sequence[TokenLogprob]) -> pb.Logprobs | None:
    if not logprobs:
        return None
    top = [entry for one in logprobs for entry in one.top]
    return pb.Logprobs(
        of_tokens=pack_reals([one.logprob for one in logprobs]),
        top_lens=pack_ids([len(one.top) for one in logprobs]),
        top_ids=pack_ids([token for token, _ in top]),
        top_logprobs=pack_reals([logprob for _, logprob in top]),
    )


# --------------------------------------------------------------------------- decoding


def decode_replies(data: bytes, name_of: Callable[[int], str | None]) -> ReplyFrame:
    """The inverse of ReplyBuffer.

    ``name_of`` tells the session's name by the number of an ask. Replies that nobody waits for (None) are left out.
    """
    wire = pb.ReplyFrame()
    try:
        wire.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"{len(data)} bytes are no ReplyFrame: {error}") from error
    replies = [Reply(number, Opened()) for number in unpack_numbers(wire.opened)]
    if wire.HasField("blocks"):
        replies += _blocks_from_wire(wire.blocks, name_of)
    if wire.HasField("verdicts"):
        replies += _verdicts_from_wire(wire.verdicts, name_of)
    replies += [Reply(one.number, error_from_failed(one.error)) for one in wire.failures]
    ended = tuple(
        Ended(one.session, error_from_failed(one.error) if one.HasField("error") else None)
        for one in wire.ended
    )
    return ReplyFrame(tuple(replies), ended)


def _blocks_from_wire(wire: pb.Blocks, name_of: Callable[[int], str | None]) -> list[Reply]:
    ids, reals = Pieces("token ids", unpack_ids(wire.ids)), Pieces("reals", unpack_reals(wire.reals))
    row_ids, row_logprobs = Pieces("row ids", wire.row_ids), Pieces("row logprobs", wire.row_logprobs)
    found = []
    for (
        number,
        epoch,
        base_len,
        num_tokens,
        num_confidences,
        row_len,
        compute_ms,
        queue_ms,
        flags,
    ) in records(BLOCK, wire.records):
        tokens = ids.take(num_tokens)
        runner_ups = ids.take(num_tokens) if flags & HAS_RUNNER_UPS else ()
        entropies, confidences = reals.take(num_tokens), reals.take(num_confidences)
        rows = rows_from_wire(row_ids, row_logprobs, num_tokens, row_len) if flags & HAS_ROWS else None
        session = name_of(number)
        if session is not None:
            block = DraftBlock(
                session,
                epoch,
                base_len,
                tokens,
                entropies,
                rows,
                compute_ms,
                queue_ms,
                confidences,
                runner_ups,
            )
            found.append(Reply(number, block))
    for pieces in (ids, reals, row_ids, row_logprobs):
        pieces.end()
    return found


def _verdicts_from_wire(wire: pb.Verdicts, name_of: Callable[[int], str | None]) -> list[Reply]:
    outcomes = Pieces("outcomes", wire.outcomes)
    distances = Pieces("distances", unpack_reals(wire.distances))
    logprobs = {
        one.number: (_logprobs_from_wire(one.tokens), _logprobs_from_wire(one.prompt))
        for one in wire.logprobs
    }
    found = []
    for (
        number,
        epoch,
        base_len,
        num_accepted,
        next_token,
        num_relaxed,
        num_judged,
        num_distances,
        cached_tokens,
        block_len,
        batch_size,
        batch_tokens,
        compute_ms,
        queue_ms,
        distortion,
        flags,
    ) in records(VERDICT, wire.records):
        relaxed, exact_ok = (
            unpack_flags(outcomes.take(num_relaxed)),
            unpack_flags(outcomes.take(num_judged)),
        )
        distances_here = distances.take(num_distances)
        session = name_of(number)
        if session is not None:
            of_tokens, of_prompt = logprobs.get(number, ((), ()))
            verdict = Verdict(
                session,
                epoch,
                base_len,
                num_accepted,
                next_token,
                relaxed,
                exact_ok,
                distances_here,
                of_tokens,
                of_prompt,
                cached_tokens,
                compute_ms,
                queue_ms,
                distortion,
                block_len if flags & HAS_BLOCK_LEN else None,
                batch_size,
                batch_tokens,
            )
            found.append(Reply(number, verdict))
    outcomes.end()
    distances.end()
    return found


def _logprobs_from_wire(wire: pb.Logprobs) -> tuple[TokenLogprob, ...]:
    of_tokens, lens = unpack_reals(wire.of_tokens), unpack_ids(wire.top_lens)
    ids, values = unpack_ids(wire.top_ids), unpack_reals(wire.top_logprobs)
    expect_len("numbers of likeliest tokens", len(lens), len(of_tokens))
    if min(lens, default=0) < 0:
        raise InvalidRequest(f"a token has {min(lens)} likeliest tokens beside it")
    expect_len("likeliest tokens", len(ids), sum(lens))
    expect_len("log-probabilities of likeliest tokens", len(values), sum(lens))
    top = iter(zip(ids, values, strict=True))
    return tuple(
        TokenLogprob(logprob, tuple(islice(top, num))) for logprob, num in zip(of_tokens, lens, strict=True)
    )
