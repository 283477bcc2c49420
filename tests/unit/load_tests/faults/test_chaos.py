"""The verdict of the chaos run: what it must report as a problem, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest

from load_tests.faults.chaos import complaints, figures
from load_tests.faults.faults import ENDS_STREAMS, KINDS, LARGE_PROMPTS, LOSES_A_TARGET, unnoticed
from load_tests.faults.injector import Injection
from load_tests.faults.known_answers import RequestOutcome
from load_tests.faults.local_cluster import HELD, values
from services.gateway.http.proxy_front import OrchestratorLost

BEFORE = [RequestOutcome(0, "a", None, 0.1, 1.0, 0.0), RequestOutcome(1, "b", None, 0.1, 1.0, 0.0)]
IDLE = {role: {"files": 80.0, "tasks": 5.0} for role in ("orchestrator", "target", "draft")}


def found(outcomes: list[RequestOutcome], **changes: Any) -> dict[str, Any]:
    fine = {"ready": True, "held": dict.fromkeys(HELD, 0.0), "footprint": {"before": IDLE, "after": IDLE}}
    return {**figures(BEFORE, outcomes, [Injection("target replica killed", "1", 10.0)]), **fine, **changes}


def test_a_day_on_which_nobody_noticed_gives_no_complaint():
    assert complaints(found([RequestOutcome(1, "b", None, 0.2, 1.0, 10.5)])) == []


@pytest.mark.parametrize(
    ("outcome", "complaint"),
    [
        (RequestOutcome(0, None, "503: no", None, 1.0, 0.0), "1 requests failed, the first: 503: no"),
        (RequestOutcome(0, "b", None, 0.1, 1.0, 0.0), "1 answers differ"),
    ],
)
def test_failures_and_other_answers_are_noticed(outcome, complaint):
    (problem,) = complaints(found([outcome]))
    assert problem.startswith(complaint)


def test_requests_are_sent_again_only_where_an_orchestrator_was_killed():
    again = [RequestOutcome(1, "b", None, 0.2, 1.0, 10.5, num_retries=2)]
    (problem,) = complaints(found(again))
    assert problem.startswith("2 requests had to be sent again")
    killed = [{"kind": ENDS_STREAMS, "what": "1", "at_s": 9.0}]
    assert complaints(found(again, faults=killed)) == []
    assert ENDS_STREAMS not in unnoticed()
    assert set(unnoticed()) < set(KINDS)


def test_only_an_error_that_says_so_asks_for_another_try():
    told = (
        '{"message": "the orchestrator replica of this request died or was cut off; send the request again"}'
    )
    assert RequestOutcome(0, None, told, None, 1.0, 0.0).is_to_be_sent_again
    assert not RequestOutcome(0, None, "the stream ended without [DONE]", None, 1.0, 0.0).is_to_be_sent_again
    assert told.split('"')[3] == str(OrchestratorLost())


def test_prompts_beyond_the_context_are_refused_and_nothing_else():
    large = {"kind": LARGE_PROMPTS, "at_s": 9.0}
    assert complaints(found(list(BEFORE), faults=[{**large, "what": "400 400"}])) == []
    (problem,) = complaints(found(list(BEFORE), faults=[{**large, "what": "400 500"}]))
    assert problem == "prompts beyond the context were answered with 400 500, not with 400"


def test_whatever_is_left_is_noticed():
    leaking = {**IDLE, "draft": {"files": 99.0, "tasks": 5.0}}
    held = dict.fromkeys(HELD, 0.0) | {"adasd_worker_leases": 1.0}
    problems = complaints(
        found(list(BEFORE), held=held, ready=False, footprint={"before": IDLE, "after": leaking})
    )
    assert [problem.split()[0] for problem in problems] == ["still", "the", "draft:"]


def test_first_tokens_after_a_loss_are_those_of_requests_that_began_then():
    outcomes = [
        RequestOutcome(0, "a", None, first_s, 9.0, began_s) for first_s, began_s in ((1, 9), (2, 11), (3, 14))
    ]
    assert found(outcomes)["first_token_after_target_loss_s"] == {"median": 2, "max": 2, "of": 1}


def test_every_loss_of_a_target_is_a_fault():
    assert set(LOSES_A_TARGET) <= set(KINDS)


def test_series_are_found_by_name_and_role():
    scrape = 'a{role="target",x="1"} 2.0\na{role="draft"} 3.0\nab{role="target"} 5.0\na 7.0\n'
    assert values(scrape, "a") == [2.0, 3.0, 7.0]
    assert values(scrape, "a", "target") == [2.0]
