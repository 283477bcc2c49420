"""What a step computes, tested without a model; and a full cache."""

import subprocess
import sys

from adasd.config import EngineConfig
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.cache.slots import SlotTable
from adasd.engine.scheduler import LONGEST_DRAFT, SHARED_DRAFT, STEP_MS, PrefillBudget, Scheduler
from adasd.engine.work import DraftWork, VerifyWork
from adasd.rounds import DraftCall, StopRule, VerifyCall
from adasd.testing.loops import GREEDY


def scheduler_of(num_slots=8, prefill=None, **settings):
    """A scheduler, and a function that submits calls to it."""
    slots = SlotTable(PrefixCache(num_slots, 200))
    config = EngineConfig("none", num_slots=num_slots, **settings)
    made = Scheduler(
        config, num_slots, prefill or PrefillBudget(64), lambda work: slots.place(work.slot, work.call.feed)
    )

    def submit(session, num_tokens, draft=None, optimistic=False):
        slot, feed = slots.open(session, 200), (1,) * num_tokens
        if draft is None:
            work = VerifyWork(slot, GREEDY, 0.0, call=VerifyCall(session, 0, 0, feed))
        else:
            call = DraftCall(session, 0, 0, feed, StopRule(draft), optimistic)
            work = DraftWork(slot, GREEDY, 0.0, call=call)
        made.waiting[session] = work

    return made, submit


def step(made):
    """Tokens by session of one step, then marked as done."""
    scheduled, _ = made.next_step()
    for one in scheduled:
        one.work.fed(one.input)
        one.work.last_pass = max((work.last_pass for work in made.waiting.values()), default=0) + 1
    return {one.work.call.session: len(one.input.tokens) for one in scheduled}


def test_it_needs_no_torch():
    code = "import sys, adasd.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prompts_share_the_budget_and_those_who_waited_longest_come_first():
    made, submit = scheduler_of(prefill=PrefillBudget(64), prefill_chunk=48)
    for session in "abc":
        submit(session, 100)
    assert step(made) == {"a": 48}, "what is left of the budget holds no whole piece of another"
    assert [step(made), step(made)] == [{"b": 48}, {"c": 48}]
    assert step(made) == {"a": 48}


def test_where_the_budget_yields_a_prompt_takes_as_long_as_what_runs_beside_it():
    budget = PrefillBudget(500, smallest=32, per_sequence=3)
    made, submit = scheduler_of(prefill=budget, prefill_chunk=150)
    submit("long", 190)
    submit("runs", 20)
    submit("runs too", 30)
    assert step(made) == {"runs": 20, "runs too": 30, "long": 20 + 30 + 2 * 3}


def test_a_call_without_tokens_is_complete_at_once():
    made, submit = scheduler_of()
    submit("a", 0, draft=0)
    scheduled, (complete,) = made.next_step()
    assert (scheduled, complete.answer().tokens, made.waiting) == ([], (), {})


def test_optimistic_drafts_are_short_while_committed_work_waits():
    made, submit = scheduler_of(num_slots=8)
    submit("guess", 2, draft=9, optimistic=True)
    (guess,), _ = made.next_step()
    assert made.draft_limit([guess], alone=True, num_open=1) == LONGEST_DRAFT
    for i in range(3):
        assert not made.crowded
        submit(str(i), 3)
    assert made.crowded
    assert made.draft_limit([guess], alone=False, num_open=4) == 1
    sure = next(one for one in made.next_step()[0] if one.work is not guess.work)
    assert made.draft_limit([sure], alone=False, num_open=4) == SHARED_DRAFT


def test_a_slow_draft_takes_few_tokens_per_step_while_other_sessions_may_call():
    made, submit = scheduler_of(num_slots=8)
    for name in "ab":
        submit(name, 2, draft=9)
    drafting, _ = made.next_step()
    assert made.draft_limit(drafting, alone=True, num_open=8) == LONGEST_DRAFT  # not measured yet
    made.drafted(num_calls=2, num_turns=4, ms=4 * 1.4)
    assert made.draft_limit(drafting, alone=True, num_open=8) == int(STEP_MS / 1.4)
    assert made.draft_limit(drafting, alone=True, num_open=2) == LONGEST_DRAFT
    made.drafted(num_calls=1, num_turns=1, ms=5.0)
    assert made.draft_limit(drafting[:1], alone=True, num_open=8) == 1
