"""Fast greedy verification against the general code."""

import random

import torch

from adasd.engine.cache.slots import Slot
from adasd.engine.sampling.sampler import (
    choose_greedily,
    is_plainly_greedy,
    judge_generally,
    propose_generally,
    propose_next,
)
from adasd.engine.work import DraftWork, VerifyWork
from adasd.rounds import AcceptanceRule, DraftCall, SamplingTransform, StopRule, VerifyCall


def work(block, transform, rule=AcceptanceRule()):  # noqa: B008 (frozen)
    call = VerifyCall("s", 0, 0, (1, 2, 3), tuple(block), None, rule)
    return VerifyWork(Slot("s", 50), transform, 0.0, call=call)


def test_greedy_verdicts_are_those_of_the_general_judge():
    chance, generator = random.Random(0), torch.Generator().manual_seed(0)
    num_accepted = set()
    for _ in range(200):
        lens = [chance.randint(0, 4) for _ in range(chance.randint(1, 5))]
        logits = torch.randint(0, 4, (sum(lens) + len(lens), 5), generator=generator).float()  # with ties
        transform = SamplingTransform(
            temperature=0.0,
            logit_bias=((chance.randrange(5), chance.choice([-1e9, 1.0])),),
            eos_ids=(chance.randrange(5),),
            eos_from=chance.randint(0, 6),
        )
        works = [work([chance.randrange(5) for _ in range(n)], transform) for n in lens]
        quick = choose_greedily(works, logits).get()
        assert quick == judge_generally(works, logits, generator).get()
        num_accepted |= {judged.num_accepted for judged in quick}
    assert num_accepted >= {0, 1, 2}


def test_greedy_proposals_are_those_of_the_general_way():
    chance, generator = random.Random(0), torch.Generator().manual_seed(0)
    for _ in range(100):
        transforms = [
            SamplingTransform(
                0.0, logit_bias=((chance.randrange(5), -1e9),), eos_ids=(2,), eos_from=chance.randint(0, 6)
            )
            for _ in range(chance.randint(1, 5))
        ]
        works = [
            DraftWork(
                Slot("s", 50),
                transform,
                0.0,
                call=DraftCall("s", 0, 0, (1, 2, 3), StopRule(4, want_runner_ups=asks)),
            )
            for transform in transforms
            for asks in [chance.random() < 0.5]
        ]
        logits = torch.randint(0, 4, (len(works), 5), generator=generator).float()  # with ties
        quick = propose_next(works, logits, generator).get()
        assert quick == propose_generally(works, logits, generator).get()
        for work_, one in zip(works, quick, strict=True):
            work_.take(one)
            assert len(work_.answer().runner_ups) == work_.call.rule.want_runner_ups


def test_only_greedy_calls_without_relaxation_take_the_quick_way():
    greedy = SamplingTransform(temperature=0.0)
    assert is_plainly_greedy(work([], greedy))
    assert not is_plainly_greedy(work([], SamplingTransform(temperature=1.0)))
    assert not is_plainly_greedy(work([], greedy, AcceptanceRule("fsd", {"max_distance": 0.1}, 1)))
    assert not is_plainly_greedy(work([], greedy, AcceptanceRule(want_distances=True)))
