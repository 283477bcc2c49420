"""Random messages of the library, as hypothesis strategies."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import get_args, get_type_hints

import numpy as np
from hypothesis import strategies as st

from adasd.requests import Grammar, GrammarKind, Mode, SamplingParams, SpeculationOptions, TextOptions
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
from adasd.rounds import (
    ENTROPY_EDGES,
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
from services.transport.generation_messages import (
    ChatMessage,
    GenerateCall,
    Loads,
    ModelInfo,
    ReplicaLoad,
    ServerInfo,
)

counts = st.integers(0, 2**32 - 1)
epochs = st.integers(-(2**63), 2**63 - 1)
ids = st.integers(-(2**31), 2**31 - 1)
token_ids = st.lists(ids, max_size=12).map(tuple)
seeds = st.none() | st.integers(-(2**63), 2**63 - 1)
reals = st.floats(allow_nan=False)
shares = st.floats(0, 1)
names = st.text(max_size=12)


@st.composite
def rows(draw, num_tokens: int) -> DraftDistributions:
    row_len = draw(st.integers(1, 6))
    flat_ids = draw(st.lists(ids, min_size=num_tokens * row_len, max_size=num_tokens * row_len))
    flat = draw(st.lists(st.floats(width=32), min_size=num_tokens * row_len, max_size=num_tokens * row_len))
    return DraftDistributions(
        np.array(flat_ids, np.int32).reshape(num_tokens, row_len),
        np.array(flat, np.float32).reshape(num_tokens, row_len),
    )


transforms = st.builds(
    SamplingTransform,
    temperature=reals,
    top_k=counts,
    top_p=shares,
    min_p=shares,
    logit_bias=st.lists(st.tuples(ids, reals), max_size=4).map(tuple),
    eos_ids=token_ids,
    eos_from=counts,
    seed=seeds,
    presence_penalty=reals,
    frequency_penalty=reals,
    repetition_penalty=reals,
    answer_from=counts,
    grammar=st.none() | st.builds(Grammar, st.sampled_from(GrammarKind), names),
)
chances = st.lists(shares, min_size=len(ENTROPY_EDGES) + 1, max_size=len(ENTROPY_EDGES) + 1).map(tuple)
draft_rules = st.builds(
    StopRule,
    counts,
    reals,
    shares,
    counts,
    want_runner_ups=st.booleans(),
    table=st.none() | st.builds(ChanceTable, chances, chances, shares),
)
parameters = st.dictionaries(names, reals | st.lists(reals, max_size=9).map(tuple), max_size=3)
accept_rules = st.builds(
    AcceptanceRule,
    st.text(min_size=1, max_size=12),
    parameters,
    counts,
    st.booleans(),
    st.just(math.inf) | reals,
)


@st.composite
def verify_calls(draw, session: str) -> VerifyCall:
    block = draw(token_ids)
    return VerifyCall(
        session,
        draw(epochs),
        draw(counts),
        draw(token_ids),
        block,
        draw(st.none() | rows(len(block))),
        draw(accept_rules),
        tuple(draw(st.lists(shares, min_size=len(block), max_size=len(block)))),
        draw(st.none() | st.builds(Assumption, epochs, *[st.none() | st.integers(0, 2**31 - 1)] * 2)),
    )


patiences = st.floats(0) | st.just(math.inf)


@st.composite
def calls(draw, session: str) -> OpenCall | DraftCall | VerifyCall:
    wanted = st.none() | counts
    opening = st.builds(OpenCall, st.just(session), transforms, counts, wanted, wanted)
    drafting = st.builds(
        DraftCall, st.just(session), epochs, counts, token_ids, draft_rules, st.booleans(), patiences
    )
    return draw(opening | drafting | verify_calls(session))


@st.composite
def drafted(draw, session: str) -> DraftBlock:
    tokens = draw(token_ids)
    entropies = draw(st.lists(reals, min_size=len(tokens), max_size=len(tokens)))
    distributions = draw(st.none() | rows(len(tokens)))
    return DraftBlock(
        session,
        draw(epochs),
        draw(counts),
        tokens,
        tuple(entropies),
        distributions,
        draw(reals),
        draw(reals),
        tuple(draw(st.lists(shares, min_size=len(tokens), max_size=len(tokens)))),
        draw(st.just(()) | st.tuples(*[ids] * len(tokens))),
    )


logprobs = st.lists(
    st.builds(TokenLogprob, reals, st.lists(st.tuples(ids, reals), max_size=3).map(tuple)), max_size=4
).map(tuple)
flags = st.lists(st.booleans(), max_size=8).map(tuple)


@st.composite
def verdicts(draw, session: str) -> Verdict:
    return Verdict(
        session,
        draw(epochs),
        draw(counts),
        draw(counts),
        draw(ids),
        draw(flags),
        draw(flags),
        tuple(draw(st.lists(shares, max_size=8))),
        draw(logprobs),
        draw(logprobs),
        draw(counts),
        draw(reals),
        draw(reals),
        draw(reals),
        draw(st.none() | counts),
        draw(counts),
        draw(counts),
    )


# --------------------------------------------------------------------------- the public interface

BY_TYPE = {int: counts, float: reals, bool: st.booleans(), str: names, Mode: st.sampled_from(Mode)}


def options(kind, **known):
    """Any values of a dataclass of options, sent or not."""
    hints = get_type_hints(kind)
    for one in fields(kind):
        sent = BY_TYPE.get(next(part for part in get_args(hints[one.name]) or (hints[one.name],)))
        if one.name not in known:
            known[one.name] = st.just(one.default) | sent
    return st.builds(kind, **known)


sampling = options(
    SamplingParams,
    seed=seeds,
    stop=st.lists(names, max_size=3).map(tuple),
    stop_token_ids=token_ids,
    logit_bias=st.dictionaries(ids, reals, max_size=4).map(lambda bias: tuple(sorted(bias.items()))),
    grammar=st.none() | st.builds(Grammar, st.sampled_from(GrammarKind), names),
)
speculation = options(SpeculationOptions)
generate_calls = st.builds(
    GenerateCall,
    input=st.text(min_size=1)
    | st.lists(st.builds(ChatMessage, names, names), min_size=1, max_size=3).map(tuple)
    | st.lists(ids, min_size=1, max_size=12).map(tuple),
    request_id=names,
    model=names,
    sampling=sampling,
    speculation=speculation,
    timeout_s=st.none() | reals,
    texts=st.builds(TextOptions, st.lists(names, max_size=3).map(tuple), st.none() | names, st.booleans()),
)
kinds = st.sampled_from(TokenKind)
reasons = st.sampled_from(FinishReason)
token_logprobs = st.builds(TokenLogprob, reals, st.lists(st.tuples(ids, reals), max_size=3).map(tuple))
chunks = st.builds(
    Chunk,
    text=st.text(max_size=12),
    tokens=st.lists(st.builds(EmittedToken, ids, kinds, st.none()), max_size=6).map(tuple)
    | st.lists(st.builds(EmittedToken, ids, kinds, token_logprobs), max_size=3).map(tuple),
    finish_reason=st.none() | reasons,
    prompt_logprobs=st.lists(token_logprobs, max_size=3).map(tuple),
)
count_lists = st.lists(counts, max_size=6).map(tuple)
reports = st.builds(
    SpeculationReport,
    effective=speculation,
    distortion=reals,
    num_rounds=counts,
    num_draft_rounds=counts,
    num_draft_tokens=counts,
    num_accepted_tokens=counts,
    accepted_per_round=count_lists,
    drafted_per_round=count_lists,
    kinds=st.lists(st.tuples(kinds, counts), max_size=5).map(tuple),
    generation_threshold=st.none() | reals,
    acceptance_threshold=st.none() | reals,
    draft_ms=reals,
    verify_ms=reals,
    network_ms=reals,
    draft_lost=counts,
    target_lost=counts,
    num_ahead=counts,
    num_ahead_used=counts,
)
completes = st.builds(
    Complete,
    finish_reason=reasons,
    usage=st.builds(Usage, counts, counts, counts),
    speculation=reports,
    stop_match=st.none() | names | ids,
)
name_lists = st.lists(names, max_size=3).map(tuple)
model_infos = st.builds(
    ModelInfo,
    model=names,
    target=names,
    draft=st.none() | st.text(min_size=1, max_size=5),
    max_context=counts,
    vocab_size=counts,
    defaults=speculation,
    drafting=name_lists,
    acceptance=name_lists,
)
server_infos = st.builds(ServerInfo, names, st.booleans(), st.booleans(), name_lists, reals)
all_loads = st.builds(
    Loads,
    replicas=st.lists(
        st.builds(ReplicaLoad, names, names, counts, counts, counts, st.integers(0, 2**64 - 1)), max_size=3
    ).map(tuple),
    num_running=counts,
    num_waiting=counts,
)
