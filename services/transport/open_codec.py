"""Encodes and decodes what a slot is opened with. Invalid messages raise InvalidRequest."""

from __future__ import annotations

from adasd.errors import InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import OpenCall, SamplingTransform
from protos.adasd.v1 import worker_pb2 as pb
from services.transport.arrays import expect_len, pack_ids, pack_reals, unpack_ids, unpack_reals


def open_to_wire(call: OpenCall) -> pb.OpenRequest:
    """The call without its session. ValueError if a number does not fit its field."""
    return pb.OpenRequest(
        warp=_transform_to_wire(call.transform),
        max_len=call.max_len,
        logprobs=call.logprobs,
        prompt_logprobs=call.prompt_logprobs,
    )


def open_from_wire(session: str, wire: pb.OpenRequest) -> OpenCall:
    """The inverse of open_to_wire."""
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
    expect_len("values of the logit bias", len(values), len(ids))
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
