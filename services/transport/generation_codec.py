"""Converts public messages to protobuf and back.

Options and figures are converted field by field (message_fields); this file handles only what the wire represents
differently.
"""

from __future__ import annotations

from dataclasses import fields

from adasd.errors import InvalidRequest
from adasd.requests import (
    SET_BY_MODELS,
    Grammar,
    GrammarKind,
    SamplingParams,
    SpeculationOptions,
    TextOptions,
)
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
from services.transport.generation_messages import ChatMessage, GenerateCall, Loads, ModelInfo, ServerInfo
from services.transport.message_fields import fill, read

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
    message = pb.GenerateRequest(request_id=call.request_id, model=call.model)
    try:
        fill(message.sampling, call.sampling, without=("grammar",))
        for name in SET_BY_MODELS:
            if name not in call.left_unset:
                setattr(message.sampling, name, getattr(call.sampling, name))
        fill(message.speculation, call.speculation)
        fill(message, call.texts)
        if call.timeout_s is not None:
            message.timeout_s = call.timeout_s
        if isinstance(call.input, str):
            message.text = call.input
        elif call.input and isinstance(call.input[0], ChatMessage):
            message.chat.SetInParent()
            for turn in call.input:
                fill(message.chat.messages.add(), turn)
        else:
            message.token_ids.SetInParent()
            message.token_ids.ids.extend(call.input)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"a number of the request does not fit its field: {error}") from error
    if (grammar := call.sampling.grammar) is not None:
        message.sampling.grammar.CopyFrom(pb.AnswerGrammar(**{grammar.kind.value: grammar.text}))
    return message


def call_from_wire(wire: pb.GenerateRequest) -> GenerateCall:
    """The call as sent; InvalidRequest without an input or with an unknown mode."""
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
    grammar = _grammar_from_wire(wire.sampling.grammar) if wire.sampling.HasField("grammar") else None
    left_unset = frozenset(name for name in SET_BY_MODELS if not wire.sampling.HasField(name))
    return GenerateCall(
        left_unset=left_unset,
        input=content,
        request_id=wire.request_id,
        model=wire.model,
        sampling=read(wire.sampling, SamplingParams, grammar=grammar),
        speculation=read(wire.speculation, SpeculationOptions, "speculation."),
        timeout_s=wire.timeout_s if wire.HasField("timeout_s") else None,
        texts=read(wire, TextOptions),
    )


def _grammar_from_wire(wire: pb.AnswerGrammar) -> Grammar:
    kind = wire.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(f"the grammar is empty; send one of {', '.join(GrammarKind)}", "grammar")
    return Grammar(GrammarKind(kind), getattr(wire, kind))


# --------------------------------------------------------------------------- answers


def event_to_wire(request_id: str, event: Chunk | Complete) -> pb.GenerateResponse:
    """One message of the response stream."""
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
    message = pb.SpeculationReport()
    fill(message, report, without=("kinds",))
    fill(message, report.effective, without=_YOUNGER)
    message.kinds.extend(pb.KindCount(kind=_KIND_TO_WIRE[kind], count=count) for kind, count in report.kinds)
    return message


def _report_from_wire(wire: pb.SpeculationReport) -> SpeculationReport:
    kinds = tuple((_KIND_FROM_WIRE[entry.kind], entry.count) for entry in wire.kinds)
    return read(wire, SpeculationReport, "speculation.", kinds=kinds)


_YOUNGER = tuple(
    one.name
    for one in fields(SpeculationOptions)
    if one.name not in pb.SpeculationReport.DESCRIPTOR.fields_by_name
)
"""Options that are only in ``SpeculationReport.effective``; older ones also have their own field, for older callers."""


# --------------------------------------------------------------------------- the other methods


def model_info_to_wire(info: ModelInfo) -> pb.GetModelInfoResponse:
    """The reply to GetModelInfo."""
    message = pb.GetModelInfoResponse()
    fill(message, info)
    return message


def model_info_from_wire(wire: pb.GetModelInfoResponse) -> ModelInfo:
    """The inverse of model_info_to_wire."""
    return read(wire, ModelInfo)


def server_info_to_wire(info: ServerInfo) -> pb.GetServerInfoResponse:
    """The reply to GetServerInfo."""
    message = pb.GetServerInfoResponse()
    fill(message, info)
    return message


def server_info_from_wire(wire: pb.GetServerInfoResponse) -> ServerInfo:
    """The inverse of server_info_to_wire."""
    return read(wire, ServerInfo)


def loads_to_wire(loads: Loads) -> pb.GetLoadsResponse:
    """The reply to GetLoads."""
    message = pb.GetLoadsResponse()
    fill(message, loads)
    return message


def loads_from_wire(wire: pb.GetLoadsResponse) -> Loads:
    """The inverse of loads_to_wire."""
    return read(wire, Loads)
