"""The contract of every engine, as claims that ``check_engine(make_engine)`` runs against it.

Raises AssertionError at the first broken claim. The engine under test needs at least 3 slots, a context of at
least 64 tokens and 8 token ids, whose texts are ``adasd.testing.letters``. ``make_engine`` returns a fresh engine
with the same model each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from adasd.errors import (
    AdasdError,
    IllegalEvent,
    InvalidRequest,
    Overloaded,
    StaleCache,
    UnknownSession,
)
from adasd.ports import Engine
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import (
    ENTROPY_EDGES,
    AcceptanceRule,
    ChanceTable,
    DraftBlock,
    DraftCall,
    OpenCall,
    SamplingTransform,
    StopRule,
    VerifyCall,
)
from adasd.testing.loops import GREEDY, draft, plain, plain_batch, run_until_idle, speculative, verify

MakeEngine = Callable[[], Engine]
PROMPT = (1, 5, 2, 7, 3)
ROOM = 64


def check_engine(make_engine: MakeEngine) -> None:
    """Run every claim on a fresh engine; afterwards all slots must be free."""
    for claim in CLAIMS:
        engine = make_engine()
        claim(engine)
        engine.check_integrity()
        assert engine.num_free_slots == engine.num_slots, f"{claim.__name__} left a slot taken"
        assert engine.num_pending == 0, f"{claim.__name__} left a call waiting"


def slots_are_taken_and_given_back(engine: Engine) -> None:
    for i in range(engine.num_slots):
        _open(engine, f"s{i}")
        assert engine.cached_len(f"s{i}") == 0
    assert engine.num_free_slots == 0
    _refuses(Overloaded, lambda: _open(engine, "one too many"))
    engine.submit(VerifyCall("s0", 0, 0, PROMPT))
    engine.close("s0")  # with a call waiting
    assert engine.num_pending == 0
    assert engine.step() == []
    _open(engine, "again")
    assert engine.cached_len("again") == 0, "a new session must not see the last one's cache"
    for session in [f"s{i}" for i in range(engine.num_slots)] + ["again", "again", "never opened"]:
        engine.close(session)


def what_cannot_be_opened_is_refused(engine: Engine) -> None:
    _refuses(InvalidRequest, lambda: _open(engine, "long", engine.max_context + 1))
    _refuses(InvalidRequest, lambda: _open(engine, "none", 0))
    _open(engine, "longest", engine.max_context)
    _refuses(InvalidRequest, lambda: _open(engine, "longest"))
    engine.close("longest")


def what_cannot_be_run_is_refused_and_changes_nothing(engine: Engine) -> None:
    _refuses(UnknownSession, lambda: engine.submit(VerifyCall("nobody", 0, 0, PROMPT)))
    _refuses(UnknownSession, lambda: engine.cached_len("nobody"))
    _open(engine, "s", 8)
    verify(engine, VerifyCall("s", 0, 0, PROMPT))
    vocab_size = engine.vocab_size
    _refuses(StaleCache, lambda: engine.submit(VerifyCall("s", 0, 6, (1,))))
    for call in (
        VerifyCall("s", 0, 5, (1, 2), (3, 4)),  # 9 tokens
        VerifyCall("s", 0, 5, ()),  # no logits to judge from
        VerifyCall("s", 0, 5, (1,), (vocab_size,)),
        VerifyCall("s", 0, 5, (-1,)),
        VerifyCall(
            "s", 0, 5, (1,), (2,), None, AcceptanceRule("fsd", {"max_distance": 0.5}, 1)
        ),  # no distributions
        DraftCall("s", 0, 5, (1, 2), StopRule(3)),  # 9 tokens, the last one not fed
        DraftCall("s", 0, 5, (), StopRule(1)),
    ):
        _refuses(InvalidRequest, lambda call=call: engine.submit(call))  # type: ignore[misc]
    assert engine.cached_len("s") == 5
    engine.submit(VerifyCall("s", 0, 5, (1,)))
    _refuses(IllegalEvent, lambda: engine.submit(VerifyCall("s", 1, 5, (1,))))
    run_until_idle(engine)
    engine.close("s")


def a_verdict_leaves_what_stands_in_the_cache(engine: Engine) -> None:
    expected = plain(engine, PROMPT, 5)
    _open(engine, "s")
    first = verify(engine, VerifyCall("s", 7, 0, PROMPT))
    assert (first.session, first.epoch, first.base_len) == ("s", 7, 5)
    assert (first.num_accepted, first.next_token, first.exact_ok) == (0, expected[0], ())
    assert engine.cached_len("s") == 5
    wrong = (expected[3] + 1) % engine.vocab_size
    block = (expected[1], expected[2], wrong, expected[4])
    second = verify(engine, VerifyCall("s", 8, 5, (expected[0],), block))
    assert (second.num_accepted, second.next_token) == (2, expected[3])
    assert (second.relaxed, second.exact_ok) == ((False, False), (True, True, False))
    assert second.base_len == 6
    assert engine.cached_len("s") == 8
    third = verify(engine, VerifyCall("s", 9, 8, (expected[3],), (expected[4],)))
    assert third.num_accepted == 1, "the cache after a rejection must be as if it had never been"
    assert engine.cached_len("s") == 10
    again = verify(engine, VerifyCall("s", 10, 2, (*PROMPT[2:], expected[0]), (expected[1],)))
    assert (again.num_accepted, again.next_token) == (1, expected[2]), "a prefix sent again gives the same"
    engine.close("s")


def a_block_that_is_overdue_ends_with_the_tokens_that_it_has(engine: Engine) -> None:
    expected = plain(engine, PROMPT, 4)
    _open(engine, "s")
    drafted = draft(engine, DraftCall("s", 0, 0, PROMPT, StopRule(4), patience_s=0.0))
    num = len(drafted.tokens)
    assert num >= 1, "the first token is always drafted"
    assert list(drafted.tokens) == expected[:num]
    assert engine.cached_len("s") == len(PROMPT) + num - 1
    engine.close("s")


def a_block_leaves_all_but_its_last_token_in_the_cache(engine: Engine) -> None:
    expected = plain(engine, PROMPT, 4)
    _open(engine, "s")
    drafted = draft(engine, DraftCall("s", 3, 0, PROMPT, StopRule(4)))
    assert (drafted.epoch, drafted.base_len, list(drafted.tokens)) == (3, 5, expected)
    assert drafted.distributions is None
    assert all(0.0 <= h <= math.log(engine.vocab_size) + 1e-4 for h in drafted.entropies)
    assert engine.cached_len("s") == 8
    one = draft(engine, DraftCall("s", 4, 6, (expected[1],), StopRule(9, entropy_ceiling=-1.0)))
    assert list(one.tokens) == [expected[2]], "the token that trips the ceiling stays"
    assert engine.cached_len("s") == 7
    floor = draft(engine, DraftCall("s", 5, 6, (expected[1],), StopRule(9, confidence_floor=1.1, row_len=3)))
    assert list(floor.tokens) == [expected[2]]
    assert floor.distributions is not None
    assert floor.distributions.ids.shape == floor.distributions.logprobs.shape == (1, 3)
    assert int(floor.distributions.ids[0, 0]) == expected[2]
    dear = ChanceTable((0.5,) * (len(ENTROPY_EDGES) + 1), (0.5,) * (len(ENTROPY_EDGES) + 1), price=0.2)
    two = draft(engine, DraftCall("s", 6, 6, (expected[1],), StopRule(9, table=dear)))
    assert list(two.tokens) == expected[2:4], "0.5 ** 2 is above the price, 0.5 ** 3 is not"
    nothing = draft(engine, DraftCall("s", 7, 7, (expected[2],), StopRule(0)))
    assert (nothing.tokens, nothing.base_len, engine.cached_len("s")) == ((), 8, 8)
    back = draft(engine, DraftCall("s", 8, 2, (), StopRule(0)))
    assert (back.tokens, back.base_len, engine.cached_len("s")) == ((), 2, 2)
    engine.close("s")


def a_draft_call_that_is_replaced_has_no_result(engine: Engine) -> None:
    _open(engine, "s")
    engine.submit(DraftCall("s", 1, 0, PROMPT, StopRule(4)))
    engine.submit(DraftCall("s", 2, 0, PROMPT[:3], StopRule(2)))
    assert engine.num_pending == 1
    (answer,) = run_until_idle(engine)
    assert (answer.epoch, answer.base_len) == (2, 3)
    engine.close("s")


def sessions_in_one_batch_do_not_disturb_each_other(engine: Engine) -> None:
    prompts = [PROMPT, PROMPT[:1], tuple(reversed(PROMPT)) * 6]
    alone = [plain(engine, prompt, 12) for prompt in prompts]
    assert plain_batch(engine, prompts, 12) == alone


def a_text_that_was_there_before_gives_the_same(engine: Engine) -> None:
    longer = (*PROMPT, 6, 4) * 4
    expected = plain(engine, longer, 6)
    _open(engine, "first")
    verify(engine, VerifyCall("first", 0, 0, longer, (1, 2, 3)))
    for prompt in (longer, longer[:9], (*longer[:9], 0, 0)):
        _open(engine, "second")
        verdict = verify(engine, VerifyCall("second", 0, 0, prompt))
        assert 0 <= verdict.cached_tokens < len(prompt), "the last token has to be fed: its logits are wanted"
        assert engine.cached_len("second") == len(prompt)
        if prompt == longer:
            assert verdict.next_token == expected[0]
        engine.close("second")
    assert plain(engine, longer, 6) == expected
    again = verify(engine, VerifyCall("first", 1, 28, (expected[0],), tuple(expected[1:])))
    assert again.num_accepted == 5, "what others found in a session's cache is still its own"
    engine.close("first")


def drafts_and_verdicts_share_steps(engine: Engine) -> None:
    expected = plain(engine, PROMPT, 4)
    for session in ("d", "v"):
        _open(engine, session)
    engine.submit(DraftCall("d", 0, 0, PROMPT, StopRule(4)))
    engine.submit(VerifyCall("v", 0, 0, PROMPT, tuple(expected[:3])))
    assert engine.num_pending == 2
    answers = {answer.session: answer for answer in run_until_idle(engine)}
    assert list(answers["d"].tokens) == expected  # type: ignore[union-attr]
    assert answers["v"].num_accepted == 3  # type: ignore[union-attr]
    assert all(answer.compute_ms >= 0 and answer.queue_ms >= 0 for answer in answers.values())
    engine.close("d")
    engine.close("v")


def a_seed_makes_the_answer_independent_of_drafting(engine: Engine) -> None:
    transform = SamplingTransform(temperature=0.8, top_p=0.95, seed=12345)
    expected = plain(engine, PROMPT, 12, transform)
    assert expected != plain(engine, PROMPT, 12), (
        "the distribution is flat enough for the test to mean something"
    )
    for length in (1, 3, 7):
        assert speculative(engine, engine, PROMPT, 12, StopRule(length), transform)[0] == expected


def sampling_without_a_seed_needs_draft_distributions(engine: Engine) -> None:
    transform = SamplingTransform(temperature=0.9)
    _open(engine, "s", transform=transform)
    _refuses(InvalidRequest, lambda: engine.submit(DraftCall("s", 0, 0, PROMPT, StopRule(2))))
    drafted = draft(engine, DraftCall("s", 0, 0, PROMPT, StopRule(3, row_len=engine.vocab_size)))
    assert drafted.distributions is not None
    assert drafted.distributions.ids.shape == (3, engine.vocab_size)
    rule = AcceptanceRule(want_distances=True)
    verdict = verify(engine, VerifyCall("s", 1, 4, PROMPT[4:], drafted.tokens, drafted.distributions, rule))
    assert verdict.num_accepted == 3, "a draft with the target's probabilities is never rejected"
    assert len(verdict.distances) == 3
    assert max(verdict.distances) < 0.05
    engine.close("s")


def second_choices_are_what_comes_where_the_drafted_token_may_not(engine: Engine) -> None:
    for transform in (
        GREEDY,
        SamplingTransform(0.0, presence_penalty=1.5, frequency_penalty=0.5, answer_from=len(PROMPT)),
        SamplingTransform(temperature=0.8, seed=12345),
        SamplingTransform(temperature=0.9),
    ):
        sampled = not transform.greedy and transform.seed is None
        rule = StopRule(2, row_len=engine.vocab_size if sampled else 0, want_runner_ups=True)
        for session in ("asks", "does not"):
            _open(engine, session, transform=transform)
        engine.submit(DraftCall("asks", 0, 0, PROMPT, rule))
        engine.submit(DraftCall("does not", 0, 0, PROMPT, replace(rule, want_runner_ups=False)))
        answers = {answer.session: answer for answer in run_until_idle(engine)}
        drafted, other = answers["asks"], answers["does not"]
        assert isinstance(drafted, DraftBlock)
        assert isinstance(other, DraftBlock)
        assert other.runner_ups == ()
        assert sampled or other.tokens == drafted.tokens, "asking must not change what is drafted"
        engine.close("asks")
        engine.close("does not")
        for i, (token, second) in enumerate(zip(drafted.tokens, drafted.runner_ups, strict=True)):
            instead = replace(
                transform, logit_bias=((token, -1e9),), temperature=0.0 if sampled else transform.temperature
            )
            assert plain(engine, (*PROMPT, *drafted.tokens[:i]), 1, instead) == [second], (
                transform,
                i,
                drafted,
            )


def forbidden_tokens_never_come(engine: Engine) -> None:
    favourite = plain(engine, PROMPT, 1)[0]
    transform = SamplingTransform(temperature=0.0, eos_ids=(favourite,), eos_from=len(PROMPT) + 1)
    assert plain(engine, PROMPT, 1, transform)[0] != favourite
    assert (
        plain(engine, PROMPT, 1, SamplingTransform(temperature=0.0, logit_bias=((favourite, -1e9),)))[0]
        != favourite
    )


def penalties_see_the_text_and_nothing_that_was_rejected(engine: Engine) -> None:
    """A huge presence penalty makes every token of the answer new; the repetition penalty also sees the prompt."""
    num_tokens = min(7, engine.vocab_size - len(set(PROMPT)))
    new_each_time = SamplingTransform(0.0, presence_penalty=1e6, answer_from=len(PROMPT))
    answer = plain(engine, PROMPT, num_tokens, new_each_time)
    assert len(set(answer)) == num_tokens, answer
    seen = SamplingTransform(0.0, frequency_penalty=0.5, repetition_penalty=1e6, answer_from=len(PROMPT))
    positive = SamplingTransform(
        0.0, repetition_penalty=1e6, logit_bias=tuple((token, 1e3) for token in PROMPT)
    )
    for transform in (new_each_time, seen, positive):
        expected = plain(engine, PROMPT, num_tokens, transform)
        for length in (1, 3, 6):
            assert speculative(engine, engine, PROMPT, num_tokens, StopRule(length), transform)[0] == expected
    expected = plain(engine, PROMPT, 3, new_each_time)
    _open(engine, "s", transform=new_each_time)
    verify(engine, VerifyCall("s", 0, 0, PROMPT))
    others = [token for token in range(engine.vocab_size) if token not in expected][:2]
    rejected = verify(engine, VerifyCall("s", 1, 5, (expected[0],), (others[0], others[1], expected[1])))
    assert (rejected.num_accepted, rejected.next_token) == (0, expected[1])
    assert verify(engine, VerifyCall("s", 2, 6, (expected[1],))).next_token == expected[2]
    engine.close("s")


def log_probabilities_are_those_of_the_raw_logits(engine: Engine) -> None:
    _open(engine, "d")
    drafted = draft(engine, DraftCall("d", 0, 0, PROMPT, StopRule(4, row_len=engine.vocab_size)))
    assert drafted.distributions is not None
    engine.close("d")
    transform = SamplingTransform(
        0.0, logit_bias=((drafted.tokens[3], -1e9),), presence_penalty=0.1, answer_from=len(PROMPT)
    )
    engine.open(OpenCall("s", transform, ROOM, logprobs=2))
    first = verify(engine, VerifyCall("s", 0, 0, PROMPT))
    assert (len(first.logprobs), first.prompt_logprobs) == (1, ())
    verdict = verify(engine, VerifyCall("s", 1, 5, (first.next_token,), drafted.tokens[1:]))
    decided = [first.next_token, *drafted.tokens[1 : 1 + verdict.num_accepted], verdict.next_token]
    for i, said in enumerate([*first.logprobs, *verdict.logprobs]):
        known = dict(
            zip(
                drafted.distributions.ids[i].tolist(), drafted.distributions.logprobs[i].tolist(), strict=True
            )
        )
        assert abs(said.logprob - known[decided[i]]) < 1e-3, (i, said)
        best = sorted(known.values(), reverse=True)[:2]
        assert all(abs(ours - theirs) < 1e-3 for (_, ours), theirs in zip(said.top, best, strict=True)), said
    assert len(verdict.logprobs) == verdict.num_accepted + 1
    engine.close("s")


def a_prompt_is_scored_once_whatever_is_cached(engine: Engine) -> None:
    longer = (*PROMPT, 6, 4) * 4
    transform = SamplingTransform(0.0, answer_from=len(longer))
    before: list[float] = []
    for session in ("first", "second"):
        engine.open(OpenCall(session, transform, ROOM, prompt_logprobs=1))
        verdict = verify(engine, VerifyCall(session, 0, 0, longer))
        said = [one.logprob for one in verdict.prompt_logprobs]
        assert (len(said), verdict.cached_tokens, verdict.logprobs) == (len(longer) - 1, 0, ())
        assert all(
            len(one.top) == 1 and one.logprob <= one.top[0][1] + 1e-6 for one in verdict.prompt_logprobs
        )
        assert not before or max(abs(a - b) for a, b in zip(said, before, strict=True)) < 1e-4
        before = said
        again = verify(engine, VerifyCall(session, 1, len(longer), (verdict.next_token,)))
        assert again.prompt_logprobs == ()
    engine.close("first")
    engine.close("second")


def grammars_are_followed_and_end_the_answer(engine: Engine) -> None:
    """The letters ``!#%`` have the ids 0, 2 and 4; the last id ends the answer."""
    end, grammar = (
        engine.vocab_size - 1,
        Grammar(GrammarKind.REGEX, "(!#){2}%?"),
    )  # letters 0, 2, then 4 or not
    for transform in (
        SamplingTransform(0.0, grammar=grammar, answer_from=len(PROMPT)),
        SamplingTransform(1.0, seed=4, grammar=grammar, answer_from=len(PROMPT)),
        SamplingTransform(0.0, grammar=grammar, answer_from=len(PROMPT), eos_ids=(end,), eos_from=ROOM),
    ):
        expected = plain(engine, PROMPT, 7, transform)
        assert expected[:4] == [0, 2, 0, 2], expected
        assert expected[4:] in ([end] * 3, [4, end, end]), expected
        assert transform.eos_from < ROOM or expected[4] == 4, (
            "the end was too early where something else could come"
        )
        for length in (1, 3, 6):
            assert speculative(engine, engine, PROMPT, 7, StopRule(length), transform)[0] == expected
    _open(engine, "s", transform=SamplingTransform(0.0, grammar=grammar, answer_from=len(PROMPT)))
    drafted = draft(engine, DraftCall("s", 0, 0, PROMPT, StopRule(5, want_runner_ups=True)))
    assert drafted.runner_ups[:4] == drafted.tokens[:4] == (0, 2, 0, 2), "where nothing else is possible"
    assert {drafted.runner_ups[4], drafted.tokens[4]} == {4, end}
    verify(engine, VerifyCall("s", 0, 0, PROMPT))
    relaxed = AcceptanceRule("collision", {"ratio": 1e-9}, 3)
    astray = verify(engine, VerifyCall("s", 1, 5, (0,), (2, 1, 2), None, relaxed))
    assert (astray.num_accepted, astray.next_token) == (1, 0), "relaxation cannot lead out of a grammar"
    assert verify(engine, VerifyCall("s", 2, 7, (0,))).next_token == 2
    engine.close("s")
    broken = Grammar(GrammarKind.REGEX, "(")
    _refuses(InvalidRequest, lambda: _open(engine, "s", transform=SamplingTransform(grammar=broken)))
    _refuses(InvalidRequest, lambda: engine.prepare(OpenCall("s", SamplingTransform(grammar=broken), ROOM)))


CLAIMS = (
    slots_are_taken_and_given_back,
    what_cannot_be_opened_is_refused,
    what_cannot_be_run_is_refused_and_changes_nothing,
    a_verdict_leaves_what_stands_in_the_cache,
    a_block_that_is_overdue_ends_with_the_tokens_that_it_has,
    a_block_leaves_all_but_its_last_token_in_the_cache,
    a_draft_call_that_is_replaced_has_no_result,
    sessions_in_one_batch_do_not_disturb_each_other,
    a_text_that_was_there_before_gives_the_same,
    drafts_and_verdicts_share_steps,
    a_seed_makes_the_answer_independent_of_drafting,
    sampling_without_a_seed_needs_draft_distributions,
    second_choices_are_what_comes_where_the_drafted_token_may_not,
    forbidden_tokens_never_come,
    penalties_see_the_text_and_nothing_that_was_rejected,
    log_probabilities_are_those_of_the_raw_logits,
    a_prompt_is_scored_once_whatever_is_cached,
    grammars_are_followed_and_end_the_answer,
)


def _open(engine: Engine, session: str, max_len: int = ROOM, transform: SamplingTransform = GREEDY) -> None:
    engine.open(OpenCall(session, transform, max_len))


def _refuses(kind: type[AdasdError], action: Callable[[], object]) -> None:
    try:
        action()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")
