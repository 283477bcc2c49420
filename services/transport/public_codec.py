"""Public messages to protobuf and back; the only place that knows the public wire format."""

from __future__ import annotations

import math
from typing import TypeVar

from adasd.errors import InvalidRequest
from adasd.requests import Grammar, GrammarKind, Mode, SpeculationOptions
from adasd.results import (
    Chunk,
    Complete,
    EmittedToken,
    FinishReason,
    SpeculationReport,
    TokenKind,
    TokenLogprob,
    Usage,
)
from protos.adasd.v1 import generation_pb2 as pb
from services.transport.public import (
    ChatMessage,
    GenerateCall,
    Loads,
    ModelInfo,
    ReplicaLoad,
    SamplingOptions,
    ServerInfo,
)

V = TypeVar("V", bool, int, float, str)

_KIND_TO_WIRE = {
    TokenKind.EXACT: pb.TOKEN_KIND_EXACT,
    TokenKind.RELAXED: pb.TOKEN_KIND_RELAXED,
    TokenKind.CORRECTION: pb.TOKEN_KIND_CORRECTION,
    TokenKind.BONUS: pb.TOKEN_KIND_BONUS,
    TokenKind.TARGET: pb.TOKEN_KIND_TARGET,
}
_KIND_FROM_WIRE = {wire: kind for kind, wire in _KIND_TO_WIRE.items()}

_REASON_TO_WIRE = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
    FinishReason.TIMEOUT: pb.FINISH_REASON_TIMEOUT,
    FinishReason.ERROR: pb.FINISH_REASON_ERROR,
}
_REASON_FROM_WIRE = {wire: reason for reason, wire in _REASON_TO_WIRE.items()}


# --------------------------------------------------------------------------- requests


def call_to_wire(call: GenerateCall) -> pb.GenerateRequest:
    """A GenerateRequest; InvalidRequest if a number does not fit its field."""
    try:
        message = pb.GenerateRequest(
            request_id=call.request_id,
            model=call.model,
            sampling=_sampling_to_wire(call.sampling),
            speculation=options_to_wire(call.speculation),
            timeout_s=call.timeout_s,
        )
        if isinstance(call.input, str):
            message.text = call.input
        elif call.input and isinstance(call.input[0], ChatMessage):
            turns = [pb.ChatMessage(role=turn.role, content=turn.content) for turn in _turns(call.input)]
            message.chat.CopyFrom(pb.ChatMessages(messages=turns))
        else:
            message.token_ids.CopyFrom(pb.TokenIds(ids=_ids(call.input)))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"a number of the request does not fit its field: {error}") from error
    return message


def call_from_wire(wire: pb.GenerateRequest) -> GenerateCall:
    """The call as sent; InvalidRequest without an input or with a mode that there is not."""
    content: str | tuple[ChatMessage, ...] | tuple[int, ...]
    match wire.WhichOneof("input"):
        case "text":
            content = wire.text
        case "chat":
            content = tuple(ChatMessage(turn.role, turn.content) for turn in wire.chat.messages)
        case "token_ids":
            content = tuple(wire.token_ids.ids)
        case _:
            content = ()
    if not content:
        raise InvalidRequest("the input is empty; send one of text, chat, token_ids", "input")
    return GenerateCall(
        input=content,
        request_id=wire.request_id,
        model=wire.model,
        sampling=_sampling_from_wire(wire.sampling),
        speculation=options_from_wire(wire.speculation),
        timeout_s=_optional(wire, "timeout_s", wire.timeout_s),
    )


def _turns(content: tuple[ChatMessage, ...] | tuple[int, ...]) -> list[ChatMessage]:
    return [turn for turn in content if isinstance(turn, ChatMessage)]


def _ids(content: tuple[ChatMessage, ...] | tuple[int, ...]) -> list[int]:
    return [token for token in content if isinstance(token, int)]


def _sampling_to_wire(sampling: SamplingOptions) -> pb.SamplingParams:
    return pb.SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        min_tokens=sampling.min_tokens,
        ignore_eos=sampling.ignore_eos,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        logit_bias=dict(sampling.logit_bias),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        grammar=_grammar_to_wire(sampling.grammar) if sampling.grammar else None,
    )


def _sampling_from_wire(wire: pb.SamplingParams) -> SamplingOptions:
    return SamplingOptions(
        max_tokens=_optional(wire, "max_tokens", wire.max_tokens),
        temperature=_optional(wire, "temperature", wire.temperature),
        top_p=_optional(wire, "top_p", wire.top_p),
        top_k=_optional(wire, "top_k", wire.top_k),
        min_p=_optional(wire, "min_p", wire.min_p),
        seed=_optional(wire, "seed", wire.seed),
        min_tokens=_optional(wire, "min_tokens", wire.min_tokens),
        ignore_eos=_optional(wire, "ignore_eos", wire.ignore_eos),
        stop=tuple(wire.stop),
        stop_token_ids=tuple(wire.stop_token_ids),
        logit_bias=tuple(sorted(wire.logit_bias.items())),
        presence_penalty=_optional(wire, "presence_penalty", wire.presence_penalty),
        frequency_penalty=_optional(wire, "frequency_penalty", wire.frequency_penalty),
        repetition_penalty=_optional(wire, "repetition_penalty", wire.repetition_penalty),
        logprobs=_optional(wire, "logprobs", wire.logprobs),
        prompt_logprobs=_optional(wire, "prompt_logprobs", wire.prompt_logprobs),
        grammar=_grammar_from_wire(wire.grammar) if wire.HasField("grammar") else None,
    )


def _grammar_to_wire(grammar: Grammar) -> pb.AnswerGrammar:
    return pb.AnswerGrammar(**{grammar.kind.value: grammar.text})


def _grammar_from_wire(wire: pb.AnswerGrammar) -> Grammar:
    match wire.WhichOneof("kind"):
        case "json_schema":
            return Grammar(GrammarKind.JSON_SCHEMA, wire.json_schema)
        case "regex":
            return Grammar(GrammarKind.REGEX, wire.regex)
        case "lark":
            return Grammar(GrammarKind.LARK, wire.lark)
        case _:
            raise InvalidRequest(
                "the grammar is empty; send one of json_schema, regex, lark", "sampling.grammar"
            )


def options_to_wire(options: SpeculationOptions) -> pb.SpeculationOptions:
    """Speculation options; None stays unset."""
    return pb.SpeculationOptions(
        mode=None if options.mode is None else options.mode.value,
        drafting=options.drafting,
        acceptance=options.acceptance,
        max_draft_tokens=options.max_draft_tokens,
        max_relaxed_fraction=options.max_relaxed_fraction,
        draft=options.draft,
        max_distortion=options.max_distortion,
    )


def options_from_wire(wire: pb.SpeculationOptions) -> SpeculationOptions:
    """The inverse of options_to_wire; InvalidRequest for a mode that there is not."""
    return SpeculationOptions(
        mode=_mode(wire.mode) if wire.HasField("mode") else None,
        drafting=_optional(wire, "drafting", wire.drafting),
        acceptance=_optional(wire, "acceptance", wire.acceptance),
        max_draft_tokens=_optional(wire, "max_draft_tokens", wire.max_draft_tokens),
        max_relaxed_fraction=_optional(wire, "max_relaxed_fraction", wire.max_relaxed_fraction),
        draft=_optional(wire, "draft", wire.draft),
        max_distortion=_optional(wire, "max_distortion", wire.max_distortion),
    )


def _mode(name: str) -> Mode:
    try:
        return Mode(name)
    except ValueError:
        raise InvalidRequest(
            f"speculation.mode is {name!r}; possible: {', '.join(Mode)}", "speculation.mode"
        ) from None


# --------------------------------------------------------------------------- answers


def event_to_wire(request_id: str, event: Chunk | Complete) -> pb.GenerateResponse:
    """One message of the answer's stream."""
    match event:
        case Chunk():
            return pb.GenerateResponse(request_id=request_id, chunk=_chunk_to_wire(event))
        case Complete():
            return pb.GenerateResponse(request_id=request_id, complete=_complete_to_wire(event))


def event_from_wire(wire: pb.GenerateResponse) -> Chunk | Complete:
    """The inverse of event_to_wire."""
    match wire.WhichOneof("event"):
        case "chunk":
            return _chunk_from_wire(wire.chunk)
        case "complete":
            return _complete_from_wire(wire.complete)
        case _:
            raise InvalidRequest("a GenerateResponse must hold one of chunk, complete", "event")


def _chunk_to_wire(chunk: Chunk) -> pb.Chunk:
    return pb.Chunk(
        text=chunk.text,
        token_ids=[token.id for token in chunk.tokens],
        kinds=[_KIND_TO_WIRE[token.kind] for token in chunk.tokens],
        finish_reason=None if chunk.finish_reason is None else _REASON_TO_WIRE[chunk.finish_reason],
        logprobs=[_logprob_to_wire(token.logprob) for token in chunk.tokens if token.logprob],
        prompt_logprobs=[_logprob_to_wire(logprob) for logprob in chunk.prompt_logprobs],
    )


def _chunk_from_wire(wire: pb.Chunk) -> Chunk:
    if len(wire.token_ids) != len(wire.kinds):
        raise InvalidRequest(
            f"a chunk has {len(wire.token_ids)} token ids but {len(wire.kinds)} kinds", "kinds"
        )
    if wire.logprobs and len(wire.logprobs) != len(wire.token_ids):
        raise InvalidRequest(
            f"a chunk has {len(wire.token_ids)} token ids but {len(wire.logprobs)} logprobs", "logprobs"
        )
    known: list[TokenLogprob | None] = [_logprob_from_wire(one) for one in wire.logprobs]
    known = known or [None] * len(wire.token_ids)
    tokens = zip(wire.token_ids, wire.kinds, known, strict=True)
    return Chunk(
        text=wire.text,
        tokens=tuple(EmittedToken(token, _KIND_FROM_WIRE[kind], logprob) for token, kind, logprob in tokens),
        finish_reason=_REASON_FROM_WIRE.get(wire.finish_reason),
        prompt_logprobs=tuple(_logprob_from_wire(one) for one in wire.prompt_logprobs),
    )


def _logprob_to_wire(logprob: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        logprob=logprob.logprob,
        top_ids=[token for token, _ in logprob.top],
        top_logprobs=[value for _, value in logprob.top],
    )


def _logprob_from_wire(wire: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(wire.logprob, tuple(zip(wire.top_ids, wire.top_logprobs, strict=True)))


def _complete_to_wire(complete: Complete) -> pb.Complete:
    stop = complete.stop_match
    return pb.Complete(
        finish_reason=_REASON_TO_WIRE[complete.finish_reason],
        usage=pb.Usage(
            prompt_tokens=complete.usage.prompt_tokens,
            completion_tokens=complete.usage.completion_tokens,
            cached_tokens=complete.usage.cached_tokens,
        ),
        speculation=_report_to_wire(complete.speculation),
        stop_text=stop if isinstance(stop, str) else None,
        stop_token_id=stop if isinstance(stop, int) else None,
    )


def _complete_from_wire(wire: pb.Complete) -> Complete:
    stop: str | int | None = None
    if which := wire.WhichOneof("stop_match"):
        stop = wire.stop_text if which == "stop_text" else wire.stop_token_id
    usage = Usage(wire.usage.prompt_tokens, wire.usage.completion_tokens, wire.usage.cached_tokens)
    reason = _REASON_FROM_WIRE[wire.finish_reason]
    return Complete(reason, usage, _report_from_wire(wire.speculation), stop)


def _report_to_wire(report: SpeculationReport) -> pb.SpeculationReport:
    return pb.SpeculationReport(
        mode=report.mode.value,
        drafting=report.drafting,
        acceptance=report.acceptance,
        max_draft_tokens=report.max_draft_tokens,
        max_relaxed_fraction=report.max_relaxed_fraction,
        num_rounds=report.num_rounds,
        num_draft_rounds=report.num_draft_rounds,
        num_draft_tokens=report.num_draft_tokens,
        num_accepted_tokens=report.num_accepted_tokens,
        accepted_per_round=report.accepted_per_round,
        drafted_per_round=report.drafted_per_round,
        kinds=[pb.KindCount(kind=_KIND_TO_WIRE[kind], count=count) for kind, count in report.kinds],
        generation_threshold=report.generation_threshold,
        acceptance_threshold=report.acceptance_threshold,
        draft_ms=report.draft_ms,
        verify_ms=report.verify_ms,
        network_ms=report.network_ms,
        draft_lost=report.draft_lost,
        target_lost=report.target_lost,
        num_ahead=report.num_ahead,
        num_ahead_used=report.num_ahead_used,
        draft=report.draft,
        drafts_used=report.drafts_used,
        distortion=report.distortion,
        max_distortion=report.max_distortion if math.isfinite(report.max_distortion) else None,
    )


def _report_from_wire(wire: pb.SpeculationReport) -> SpeculationReport:
    return SpeculationReport(
        mode=_mode(wire.mode),
        drafting=wire.drafting,
        acceptance=_optional(wire, "acceptance", wire.acceptance),
        max_draft_tokens=wire.max_draft_tokens,
        max_relaxed_fraction=wire.max_relaxed_fraction,
        num_rounds=wire.num_rounds,
        num_draft_rounds=wire.num_draft_rounds,
        num_draft_tokens=wire.num_draft_tokens,
        num_accepted_tokens=wire.num_accepted_tokens,
        accepted_per_round=tuple(wire.accepted_per_round),
        drafted_per_round=tuple(wire.drafted_per_round),
        kinds=tuple((_KIND_FROM_WIRE[entry.kind], entry.count) for entry in wire.kinds),
        generation_threshold=_optional(wire, "generation_threshold", wire.generation_threshold),
        acceptance_threshold=_optional(wire, "acceptance_threshold", wire.acceptance_threshold),
        draft_ms=wire.draft_ms,
        verify_ms=wire.verify_ms,
        network_ms=wire.network_ms,
        draft_lost=wire.draft_lost,
        target_lost=wire.target_lost,
        num_ahead=wire.num_ahead,
        num_ahead_used=wire.num_ahead_used,
        draft=_optional(wire, "draft", wire.draft),
        drafts_used=tuple(wire.drafts_used),
        distortion=wire.distortion,
        max_distortion=wire.max_distortion if wire.HasField("max_distortion") else math.inf,
    )


# --------------------------------------------------------------------------- the other methods


def model_info_to_wire(info: ModelInfo) -> pb.GetModelInfoResponse:
    """The answer to GetModelInfo."""
    return pb.GetModelInfoResponse(
        model=info.model,
        target=info.target,
        draft=info.draft or "",
        max_context=info.max_context,
        vocab_size=info.vocab_size,
        defaults=options_to_wire(info.defaults),
        drafting=info.drafting,
        acceptance=info.acceptance,
        drafts=info.drafts,
    )


def model_info_from_wire(wire: pb.GetModelInfoResponse) -> ModelInfo:
    """The inverse of model_info_to_wire."""
    return ModelInfo(
        model=wire.model,
        target=wire.target,
        draft=wire.draft or None,
        max_context=wire.max_context,
        vocab_size=wire.vocab_size,
        defaults=options_from_wire(wire.defaults),
        drafting=tuple(wire.drafting),
        acceptance=tuple(wire.acceptance),
        drafts=tuple(wire.drafts),
    )


def server_info_to_wire(info: ServerInfo) -> pb.GetServerInfoResponse:
    """The answer to GetServerInfo."""
    return pb.GetServerInfoResponse(
        version=info.version,
        ready=info.ready,
        degraded=info.degraded,
        reasons=info.reasons,
        uptime_s=info.uptime_s,
    )


def server_info_from_wire(wire: pb.GetServerInfoResponse) -> ServerInfo:
    """The inverse of server_info_to_wire."""
    return ServerInfo(wire.version, wire.ready, wire.degraded, tuple(wire.reasons), wire.uptime_s)


def loads_to_wire(loads: Loads) -> pb.GetLoadsResponse:
    """The answer to GetLoads."""
    replicas = [
        pb.ReplicaLoad(
            role=load.role,
            replica=load.replica,
            num_slots=load.num_slots,
            num_sessions=load.num_sessions,
            num_pending=load.num_pending,
            num_tokens=load.num_tokens,
        )
        for load in loads.replicas
    ]
    return pb.GetLoadsResponse(
        replicas=replicas, num_running=loads.num_running, num_waiting=loads.num_waiting
    )


def loads_from_wire(wire: pb.GetLoadsResponse) -> Loads:
    """The inverse of loads_to_wire."""
    replicas = tuple(
        ReplicaLoad(r.role, r.replica, r.num_slots, r.num_sessions, r.num_pending, r.num_tokens)
        for r in wire.replicas
    )
    return Loads(replicas, wire.num_running, wire.num_waiting)


def _optional(
    wire: pb.GenerateRequest | pb.SamplingParams | pb.SpeculationOptions | pb.SpeculationReport,
    name: str,
    value: V,
) -> V | None:
    """The value of an optional field, None if it was not sent."""
    return value if wire.HasField(name) else None
