"""Encodes and decodes frames of asks. With reply_codec the only place that knows the link's wire format.

protos/adasd/v1/worker.proto describes the records. Decoding validates everything: invalid bytes raise InvalidRequest.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from heapq import merge
from math import inf
from operator import attrgetter

from google.protobuf.message import DecodeError

from adasd.errors import InvalidRequest
from adasd.rounds import (
    ENTROPY_EDGES,
    TOKEN,
    AcceptanceRule,
    Assumption,
    ChanceTable,
    DraftCall,
    DraftDistributions,
    OpenCall,
    StopRule,
    VerifyCall,
)
from protos.adasd.v1 import worker_pb2 as pb
from services.transport.arrays import (
    Pieces,
    expect_len,
    pack_floats_array,
    pack_ids,
    pack_ids_array,
    pack_numbers,
    pack_reals,
    records,
    unpack_floats_array,
    unpack_ids,
    unpack_ids_array,
    unpack_numbers,
    unpack_reals,
)
from services.transport.frame_buffer import FrameBuffer, checked_size
from services.transport.frames import AskFrame, CallAsk, OpenAsk
from services.transport.open_codec import open_from_wire, open_to_wire

DRAFT = struct.Struct("<qqqIIIIdddB")
"""number, session, epoch, keep_len, num_fed, max_tokens, row_len, entropy_ceiling, confidence_floor, patience_s,
flags"""
OPTIMISTIC, WANTS_RUNNER_UPS, HAS_TABLE = 1, 2, 4
NUM_BINS = len(ENTROPY_EDGES) + 1
TABLE_LEN = 2 * NUM_BINS + 1
"""Reals of a chance table."""

VERIFY = struct.Struct("<qqqIIIIIIqiiB")
"""number, session, epoch, keep_len, num_fed, block_len, num_confidences, row_len, rule, assumed_epoch,
assumed_token, assumed_accepted, flags"""
HAS_ROWS, ASSUMES = 1, 2
ANY = -1
"""Any next token; all tokens of the block."""


class AskBuffer(FrameBuffer):
    """The asks that wait to leave. What does not fit its field is refused when it is added, and nothing changes."""

    def __init__(self, incarnation: str) -> None:
        super().__init__()
        self._incarnation = incarnation
        self._drafts, self._verifies = _Drafts(), _Verifies()
        self._opens: list[pb.OpenAsk] = []
        self._closes: list[int] = []

    def add_open(
        self, number: int, session: int, lease: str, call: OpenCall, headers: Mapping[str, str]
    ) -> None:
        """``lease`` is the id that the lease was granted to. InvalidRequest if a number does not fit its field."""
        try:
            opening = pb.OpenAsk(
                number=number, session=session, lease=lease, headers=headers, call=open_to_wire(call)
            )
        except (ValueError, OverflowError) as error:
            raise _misfit(error) from error
        num_bytes = checked_size(opening.SerializeToString())
        self._opens.append(opening)
        self._added(num_bytes)

    def add_call(self, number: int, session: int, call: DraftCall | VerifyCall) -> None:
        """InvalidRequest if a number does not fit its field."""
        try:
            if isinstance(call, DraftCall):
                num_bytes = self._drafts.add(number, session, call)
            else:
                num_bytes = self._verifies.add(number, session, call)
        except (struct.error, ValueError, OverflowError) as error:
            raise _misfit(error) from error
        self._added(num_bytes)

    def add_close(self, session: int) -> None:
        self._closes.append(session)
        self._added(8)

    def _frame(self) -> bytes:
        frame = pb.AskFrame(
            incarnation=self._incarnation,
            opens=self._opens,
            drafts=self._drafts.take(),
            verifies=self._verifies.take(),
            closes=pack_numbers(self._closes),
        )
        self._opens, self._closes = [], []
        data: bytes = frame.SerializeToString()
        return data


def _misfit(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"a number of the call does not fit its field: {error}")


@dataclass(slots=True)
class _Drafts:
    records: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    reals: list[bytes] = field(default_factory=list)

    def add(self, number: int, session: int, call: DraftCall) -> int:
        rule, table = call.rule, call.rule.table
        flags = OPTIMISTIC * call.optimistic | WANTS_RUNNER_UPS * rule.want_runner_ups
        record = DRAFT.pack(
            number,
            session,
            call.epoch,
            call.keep_len,
            len(call.feed),
            rule.max_tokens,
            rule.row_len,
            rule.entropy_ceiling,
            rule.confidence_floor,
            call.patience_s,
            flags if table is None else flags | HAS_TABLE,
        )
        ids = pack_ids(call.feed)
        reals = b""
        if table is not None:
            entries = (*table.chances, *table.next_chances, table.price)
            expect_len("entries of a chance table", len(entries), TABLE_LEN)
            reals = pack_reals(entries)
        num_bytes = checked_size(record, ids, reals)
        if reals:
            self.reals.append(reals)
        self.records.append(record)
        self.ids.append(ids)
        return num_bytes

    def take(self) -> pb.DraftAsks | None:
        if not self.records:
            return None
        found = pb.DraftAsks(
            records=b"".join(self.records), ids=b"".join(self.ids), reals=b"".join(self.reals)
        )
        self.records, self.ids, self.reals = [], [], []
        return found


@dataclass(slots=True)
class _Verifies:
    records: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    confidences: list[bytes] = field(default_factory=list)
    row_ids: list[bytes] = field(default_factory=list)
    row_logprobs: list[bytes] = field(default_factory=list)
    rules: dict[Hashable, tuple[int, pb.AcceptanceRule]] = field(
        default_factory=dict
    )  # index and rule by value

    def add(self, number: int, session: int, call: VerifyCall) -> int:
        rows, assumed, rule = call.distributions, call.assuming, call.rule
        params = tuple(rule.params.items())
        value = (rule.name, params, rule.relax_budget, rule.want_distances, rule.max_distortion)
        if value not in self.rules:
            self.rules[value] = len(self.rules), _rule_to_wire(rule)
        record = VERIFY.pack(
            number,
            session,
            call.epoch,
            call.keep_len,
            len(call.feed),
            len(call.block),
            len(call.confidences),
            0 if rows is None else rows.ids.shape[1],
            self.rules[value][0],
            0 if assumed is None else assumed.epoch,
            ANY if assumed is None or assumed.next_token is None else assumed.next_token,
            ANY if assumed is None or assumed.num_accepted is None else assumed.num_accepted,
            HAS_ROWS * (rows is not None) | ASSUMES * (assumed is not None),
        )
        ids = pack_ids(call.feed + call.block)
        confidences = pack_reals(call.confidences)
        row_ids, row_logprobs = rows_to_wire(rows, len(call.block))
        num_bytes = checked_size(record, ids, confidences, row_ids, row_logprobs)
        self.row_ids.append(row_ids)
        self.row_logprobs.append(row_logprobs)
        self.records.append(record)
        self.ids.append(ids)
        self.confidences.append(confidences)
        return num_bytes

    def take(self) -> pb.VerifyAsks | None:
        if not self.records:
            return None
        found = pb.VerifyAsks(
            records=b"".join(self.records),
            ids=b"".join(self.ids),
            confidences=b"".join(self.confidences),
            row_ids=b"".join(self.row_ids),
            row_logprobs=b"".join(self.row_logprobs),
            rules=[encoded for _, encoded in self.rules.values()],
        )
        self.records, self.ids, self.confidences, self.row_ids, self.row_logprobs = [], [], [], [], []
        self.rules = {}
        return found


def rows_to_wire(rows: DraftDistributions | None, num_tokens: int) -> tuple[bytes, bytes]:
    """Token ids and log-probabilities; empty for None. InvalidRequest unless there is a row per token."""
    if rows is None:
        return b"", b""
    expect_len("rows of ids", len(rows.ids), num_tokens)
    expect_len("entries of rows of logprobs", rows.logprobs.size, rows.ids.size)
    return pack_ids_array(rows.ids), pack_floats_array(rows.logprobs)


def _rule_to_wire(rule: AcceptanceRule) -> pb.AcceptanceRule:
    """The method's name is sent unchanged; the target looks it up."""
    numbers = {name: value for name, value in rule.params.items() if not isinstance(value, tuple)}
    tables = {name: pack_reals(value) for name, value in rule.params.items() if isinstance(value, tuple)}
    return pb.AcceptanceRule(
        name=rule.name,
        numbers=numbers,
        tables=tables,
        relax_budget=rule.relax_budget,
        want_distances=rule.want_distances,
        max_distortion=None if rule.max_distortion == inf else rule.max_distortion,
    )


# --------------------------------------------------------------------------- decoding


def decode_asks(data: bytes, leases: Mapping[int, str]) -> AskFrame:
    """The inverse of AskBuffer.

    ``leases`` are the ids of the sessions that the link knows, by number; a call of a session that nobody opened gets
    an empty id.
    """
    wire = pb.AskFrame()
    try:
        wire.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"{len(data)} bytes are no AskFrame: {error}") from error
    opens = tuple(
        OpenAsk(one.number, one.session, open_from_wire(one.lease, one.call), dict(one.headers))
        for one in wire.opens
    )
    if opens:
        leases = {**{one.session: one.call.session for one in opens}, **leases}  # what is known stays
    drafts = _drafts_from_wire(wire.drafts, leases) if wire.HasField("drafts") else []
    verifies = _verifies_from_wire(wire.verifies, leases) if wire.HasField("verifies") else []
    calls = merge(drafts, verifies, key=attrgetter("number")) if drafts and verifies else drafts or verifies
    return AskFrame(wire.incarnation, opens, tuple(calls), unpack_numbers(wire.closes))


def _drafts_from_wire(wire: pb.DraftAsks, leases: Mapping[int, str]) -> list[CallAsk]:
    ids, reals = Pieces("token ids", unpack_ids(wire.ids)), Pieces("reals", unpack_reals(wire.reals))
    found = []
    for record in records(DRAFT, wire.records):
        number, session, epoch, keep_len, num_fed, max_tokens, row_len, ceiling, floor, patience_s, flags = (
            record
        )
        table = None
        if flags & HAS_TABLE:
            entries = reals.take(TABLE_LEN)
            table = ChanceTable(entries[:NUM_BINS], entries[NUM_BINS:-1], entries[-1])
        wants = bool(flags & WANTS_RUNNER_UPS)
        rule = StopRule(max_tokens, ceiling, floor, row_len, want_runner_ups=wants, table=table)
        feed, optimistic = ids.take(num_fed), bool(flags & OPTIMISTIC)
        call = DraftCall(leases.get(session, ""), epoch, keep_len, feed, rule, optimistic, patience_s)
        found.append(CallAsk(number, session, call))
    ids.end()
    reals.end()
    return found


def _verifies_from_wire(wire: pb.VerifyAsks, leases: Mapping[int, str]) -> list[CallAsk]:
    ids = Pieces("token ids", unpack_ids(wire.ids))
    reals = Pieces("confidences", unpack_reals(wire.confidences))
    row_ids, row_logprobs = Pieces("row ids", wire.row_ids), Pieces("row logprobs", wire.row_logprobs)
    rules = [_rule_from_wire(rule) for rule in wire.rules]
    found = []
    for (
        number,
        session,
        epoch,
        keep_len,
        num_fed,
        block_len,
        num_confidences,
        row_len,
        rule,
        assumed_epoch,
        token,
        num_accepted,
        flags,
    ) in records(VERIFY, wire.records):
        if rule >= len(rules):
            raise InvalidRequest(f"an ask names rule {rule} of {len(rules)}; the first one is 0", "rule")
        feed, block = ids.take(num_fed), ids.take(block_len)
        distributions = assumed = None
        if flags & HAS_ROWS:
            distributions = rows_from_wire(row_ids, row_logprobs, block_len, row_len)
        if flags & ASSUMES:
            assumed = Assumption(
                assumed_epoch, None if token == ANY else token, None if num_accepted == ANY else num_accepted
            )
        call = VerifyCall(
            leases.get(session, ""),
            epoch,
            keep_len,
            feed,
            block,
            distributions,
            rules[rule],
            reals.take(num_confidences),
            assumed,
        )
        found.append(CallAsk(number, session, call))
    for pieces in (ids, reals, row_ids, row_logprobs):
        pieces.end()
    return found


def rows_from_wire(
    row_ids: Pieces[bytes], row_logprobs: Pieces[bytes], num_tokens: int, row_len: int
) -> DraftDistributions:
    """The next distributions, of ``num_tokens`` tokens; they own their memory."""
    num_bytes = 4 * num_tokens * row_len
    return DraftDistributions(
        ids=unpack_ids_array(row_ids.take(num_bytes), row_len),
        logprobs=unpack_floats_array(row_logprobs.take(num_bytes), row_len),
    )


def _rule_from_wire(wire: pb.AcceptanceRule) -> AcceptanceRule:
    tables = {name: unpack_reals(packed) for name, packed in wire.tables.items()}
    return AcceptanceRule(
        wire.name or TOKEN,
        {**wire.numbers, **tables},
        wire.relax_budget,
        wire.want_distances,
        wire.max_distortion if wire.HasField("max_distortion") else inf,
    )
