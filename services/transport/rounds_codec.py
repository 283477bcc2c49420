"""Encodes and decodes frames of the Rounds stream; the only place that knows the worker's wire format.

Decoding validates everything: invalid messages, or arrays of the wrong length, raise InvalidRequest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import inf, isfinite

from google.protobuf.message import DecodeError

from adasd.errors import AdasdError, InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.results import TokenLogprob
from adasd.rounds import (
    ENTROPY_EDGES,
    TOKEN,
    AcceptanceRule,
    Assumption,
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
from services.transport.arrays import (
    pack_floats_array,
    pack_ids,
    pack_ids_array,
    pack_reals,
    unpack_flags,
    unpack_floats_array,
    unpack_ids,
    unpack_ids_array,
    unpack_reals,
)
from services.transport.envelope import Close, Frame, Opened, ReplyFrame
from services.transport.error_codec import error_from_failed, failed_from_error

ANY_TOKEN = -1
"""On the wire: any next token. A worker too old to know this refuses such a call as superseded."""


def encode_frame(frame: Frame) -> bytes:
    """Bytes of a RoundRequest; InvalidRequest if a number does not fit its field."""
    message = pb.RoundRequest(session=frame.session, incarnation=frame.incarnation, seq=frame.seq)
    try:
        match frame.call:
            case OpenCall() as call:
                message.open.CopyFrom(_open_to_wire(call))
            case DraftCall() as call:
                message.draft.CopyFrom(_draft_to_wire(call))
            case VerifyCall() as call:
                message.verify.CopyFrom(_verify_to_wire(call))
            case Close():
                message.close.SetInParent()
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"a number of the call does not fit its field: {error}") from error
    data: bytes = message.SerializeToString()
    return data


def decode_frame(data: bytes) -> Frame:
    """The inverse of encode_frame."""
    message = pb.RoundRequest()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"{len(data)} bytes are no RoundRequest: {error}") from error
    call: OpenCall | DraftCall | VerifyCall | Close
    match message.WhichOneof("call"):
        case "open":
            call = _open_from_wire(message.session, message.open)
        case "draft":
            call = _draft_from_wire(message.session, message.draft)
        case "verify":
            call = _verify_from_wire(message.session, message.verify)
        case "close":
            call = Close()
        case _:
            raise InvalidRequest("a RoundRequest must hold one of open, draft, verify, close", "call")
    return Frame(message.session, message.incarnation, message.seq, call)


def encode_reply(reply: ReplyFrame) -> bytes:
    """Bytes of a RoundReply."""
    message = pb.RoundReply(seq=reply.seq)
    match reply.answer:
        case Opened():
            message.opened.SetInParent()
        case DraftBlock() as drafted:
            message.drafted.CopyFrom(_drafted_to_wire(drafted))
        case Verdict() as verdict:
            message.verdict.CopyFrom(_verdict_to_wire(verdict))
        case AdasdError() as error:
            message.failed.CopyFrom(failed_from_error(error))
    data: bytes = message.SerializeToString()
    return data


def decode_reply(data: bytes, session: str) -> ReplyFrame:
    """The inverse of encode_reply, for the stream of ``session``."""
    message = pb.RoundReply()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"{len(data)} bytes are no RoundReply: {error}") from error
    answer: Opened | DraftBlock | Verdict | AdasdError
    match message.WhichOneof("answer"):
        case "opened":
            answer = Opened()
        case "drafted":
            answer = _drafted_from_wire(session, message.drafted)
        case "verdict":
            answer = _verdict_from_wire(session, message.verdict)
        case "failed":
            answer = error_from_failed(message.failed)
        case _:
            raise InvalidRequest("a RoundReply must hold one of opened, drafted, verdict, failed", "answer")
    return ReplyFrame(message.seq, answer)


# --------------------------------------------------------------------------- requests


def _open_to_wire(call: OpenCall) -> pb.OpenRequest:
    return pb.OpenRequest(
        warp=_transform_to_wire(call.transform),
        max_len=call.max_len,
        logprobs=call.logprobs,
        prompt_logprobs=call.prompt_logprobs,
    )


def _open_from_wire(session: str, wire: pb.OpenRequest) -> OpenCall:
    return OpenCall(
        session,
        _transform_from_wire(wire.warp),
        wire.max_len,
        wire.logprobs if wire.HasField("logprobs") else None,
        wire.prompt_logprobs if wire.HasField("prompt_logprobs") else None,
    )


def _transform_to_wire(transform: SamplingTransform) -> pb.Warp:
    return pb.Warp(
        temperature=transform.temperature,
        top_k=transform.top_k,
        top_p=transform.top_p,
        min_p=transform.min_p,
        bias_ids=pack_ids([token for token, _ in transform.logit_bias]),
        bias_values=pack_reals([value for _, value in transform.logit_bias]),
        eos_ids=pack_ids(transform.eos_ids),
        eos_from=transform.eos_from,
        seed=transform.seed,
        presence_penalty=transform.presence_penalty,
        frequency_penalty=transform.frequency_penalty,
        repetition_penalty=transform.repetition_penalty,
        answer_from=transform.answer_from,
        grammar=_grammar_to_wire(transform.grammar),
    )


def _transform_from_wire(wire: pb.Warp) -> SamplingTransform:
    ids, values = unpack_ids(wire.bias_ids), unpack_reals(wire.bias_values)
    _expect_len("values of the logit bias", len(values), len(ids))
    return SamplingTransform(
        temperature=wire.temperature,
        top_k=wire.top_k,
        top_p=wire.top_p,
        min_p=wire.min_p,
        logit_bias=tuple(zip(ids, values, strict=True)),
        eos_ids=unpack_ids(wire.eos_ids),
        eos_from=wire.eos_from,
        seed=wire.seed if wire.HasField("seed") else None,
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        repetition_penalty=wire.repetition_penalty,
        answer_from=wire.answer_from,
        grammar=_grammar_from_wire(wire.grammar) if wire.HasField("grammar") else None,
    )


def _grammar_to_wire(grammar: Grammar | None) -> pb.Grammar | None:
    if grammar is None:
        return None
    return pb.Grammar(kind=pb.Grammar.Kind.Value(grammar.kind.name), text=grammar.text)


def _grammar_from_wire(wire: pb.Grammar) -> Grammar:
    names = {value: name for name, value in pb.Grammar.Kind.items()}
    if wire.kind not in names:
        raise InvalidRequest(f"there is no kind of grammar {wire.kind}; known: {sorted(names)}", "grammar")
    return Grammar(GrammarKind[names[wire.kind]], wire.text)


def _draft_to_wire(call: DraftCall) -> pb.DraftRequest:
    table = call.rule.table
    return pb.DraftRequest(
        epoch=call.epoch,
        keep_len=call.keep_len,
        feed=pack_ids(call.feed),
        max_tokens=call.rule.max_tokens,
        entropy_ceiling=call.rule.entropy_ceiling,
        confidence_floor=call.rule.confidence_floor,
        row_len=call.rule.row_len,
        optimistic=call.optimistic,
        want_others=call.rule.want_runner_ups,
        table=None
        if table is None
        else pb.ChanceTable(chances=table.chances, next_chances=table.next_chances, price=table.price),
    )


def _draft_from_wire(session: str, wire: pb.DraftRequest) -> DraftCall:
    rule = StopRule(
        wire.max_tokens,
        wire.entropy_ceiling,
        wire.confidence_floor,
        wire.row_len,
        want_runner_ups=wire.want_others,
        table=_table_from_wire(wire.table) if wire.HasField("table") else None,
    )
    return DraftCall(session, wire.epoch, wire.keep_len, unpack_ids(wire.feed), rule, wire.optimistic)


def _table_from_wire(wire: pb.ChanceTable) -> ChanceTable:
    num_bins = len(ENTROPY_EDGES) + 1
    if not len(wire.chances) == len(wire.next_chances) == num_bins:
        raise InvalidRequest(
            f"a chance table has {len(wire.chances)} and {len(wire.next_chances)} entries; both must be {num_bins}",
            "table",
        )
    return ChanceTable(tuple(wire.chances), tuple(wire.next_chances), wire.price)


def _verify_to_wire(call: VerifyCall) -> pb.VerifyRequest:
    message = pb.VerifyRequest(
        epoch=call.epoch,
        keep_len=call.keep_len,
        feed=pack_ids(call.feed),
        block=pack_ids(call.block),
        rows=_rows_to_wire(call.distributions),
        rule=_rule_to_wire(call.rule),
        confidences=pack_reals(call.confidences),
    )
    if call.assuming is not None:
        message.assuming.CopyFrom(_assumption_to_wire(call.assuming))
    return message


def _verify_from_wire(session: str, wire: pb.VerifyRequest) -> VerifyCall:
    block = unpack_ids(wire.block)
    rows = _rows_from_wire(wire.rows, len(block)) if wire.HasField("rows") else None
    return VerifyCall(
        session,
        wire.epoch,
        wire.keep_len,
        unpack_ids(wire.feed),
        block,
        rows,
        _rule_from_wire(wire.rule),
        unpack_reals(wire.confidences),
        _assumption_from_wire(wire.assuming) if wire.HasField("assuming") else None,
    )


def _assumption_to_wire(assumed: Assumption) -> pb.Assumption:
    token = ANY_TOKEN if assumed.next_token is None else assumed.next_token
    return pb.Assumption(epoch=assumed.epoch, next_token=token, num_accepted=assumed.num_accepted)


def _assumption_from_wire(wire: pb.Assumption) -> Assumption:
    token = None if wire.next_token == ANY_TOKEN else wire.next_token
    return Assumption(wire.epoch, token, wire.num_accepted if wire.HasField("num_accepted") else None)


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
        max_distortion=rule.max_distortion if isfinite(rule.max_distortion) else None,
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


# --------------------------------------------------------------------------- replies


def _rows_to_wire(rows: DraftDistributions | None) -> pb.Rows | None:
    if rows is None:
        return None
    return pb.Rows(
        row_len=rows.ids.shape[1], ids=pack_ids_array(rows.ids), logprobs=pack_floats_array(rows.logprobs)
    )


def _rows_from_wire(wire: pb.Rows, num_tokens: int) -> DraftDistributions:
    rows = DraftDistributions(
        ids=unpack_ids_array(wire.ids, wire.row_len),
        logprobs=unpack_floats_array(wire.logprobs, wire.row_len),
    )
    _expect_len("rows of ids", len(rows.ids), num_tokens)
    _expect_len("rows of logprobs", len(rows.logprobs), num_tokens)
    return rows


def _drafted_to_wire(drafted: DraftBlock) -> pb.Drafted:
    return pb.Drafted(
        epoch=drafted.epoch,
        base_len=drafted.base_len,
        tokens=pack_ids(drafted.tokens),
        entropies=pack_reals(drafted.entropies),
        rows=_rows_to_wire(drafted.distributions),
        compute_ms=drafted.compute_ms,
        queue_ms=drafted.queue_ms,
        confidences=pack_reals(drafted.confidences),
        others=pack_ids(drafted.runner_ups),
    )


def _drafted_from_wire(session: str, wire: pb.Drafted) -> DraftBlock:
    tokens, entropies = unpack_ids(wire.tokens), unpack_reals(wire.entropies)
    _expect_len("entropies", len(entropies), len(tokens))
    others = unpack_ids(wire.others)
    _expect_len("second choices", len(others), len(tokens) if others else 0)
    return DraftBlock(
        session=session,
        epoch=wire.epoch,
        base_len=wire.base_len,
        tokens=tokens,
        entropies=entropies,
        distributions=_rows_from_wire(wire.rows, len(tokens)) if wire.HasField("rows") else None,
        compute_ms=wire.compute_ms,
        queue_ms=wire.queue_ms,
        confidences=unpack_reals(wire.confidences),
        runner_ups=others,
    )


def _verdict_to_wire(verdict: Verdict) -> pb.Verdict:
    return pb.Verdict(
        epoch=verdict.epoch,
        base_len=verdict.base_len,
        num_accepted=verdict.num_accepted,
        next_token=verdict.next_token,
        relaxed=bytes(verdict.relaxed),
        exact_ok=bytes(verdict.exact_ok),
        distances=pack_reals(verdict.distances),
        cached_tokens=verdict.cached_tokens,
        compute_ms=verdict.compute_ms,
        queue_ms=verdict.queue_ms,
        distortion=verdict.distortion,
        block_len=verdict.block_len,
        batch_size=verdict.batch_size,
        batch_tokens=verdict.batch_tokens,
        logprobs=_logprobs_to_wire(verdict.logprobs),
        prompt_logprobs=_logprobs_to_wire(verdict.prompt_logprobs),
    )


def _verdict_from_wire(session: str, wire: pb.Verdict) -> Verdict:
    return Verdict(
        session=session,
        epoch=wire.epoch,
        base_len=wire.base_len,
        num_accepted=wire.num_accepted,
        next_token=wire.next_token,
        relaxed=unpack_flags(wire.relaxed),
        exact_ok=unpack_flags(wire.exact_ok),
        distances=unpack_reals(wire.distances),
        logprobs=_logprobs_from_wire(wire.logprobs),
        prompt_logprobs=_logprobs_from_wire(wire.prompt_logprobs),
        cached_tokens=wire.cached_tokens,
        compute_ms=wire.compute_ms,
        queue_ms=wire.queue_ms,
        distortion=wire.distortion,
        block_len=wire.block_len if wire.HasField("block_len") else None,
        batch_size=wire.batch_size,
        batch_tokens=wire.batch_tokens,
    )


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


def _logprobs_from_wire(wire: pb.Logprobs) -> tuple[TokenLogprob, ...]:
    of_tokens, lens = unpack_reals(wire.of_tokens), unpack_ids(wire.top_lens)
    ids, values = unpack_ids(wire.top_ids), unpack_reals(wire.top_logprobs)
    _expect_len("numbers of likeliest tokens", len(lens), len(of_tokens))
    if min(lens, default=0) < 0:
        raise InvalidRequest(f"a token has {min(lens)} likeliest tokens beside it")
    _expect_len("likeliest tokens", len(ids), sum(lens))
    _expect_len("log-probabilities of likeliest tokens", len(values), sum(lens))
    top = iter(zip(ids, values, strict=True))
    return tuple(
        TokenLogprob(logprob, tuple(islice(top, num))) for logprob, num in zip(of_tokens, lens, strict=True)
    )


def _expect_len(what: str, actual: int, expected: int) -> None:
    if actual != expected:
        raise InvalidRequest(f"{what}: got {actual}, expected {expected}")
