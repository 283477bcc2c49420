"""Figures on /metrics add up after requests through real runners and sessions and fake workers with a fixed text."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from adasd.config import EngineConfig, SpeculationConfig
from adasd.errors import AdasdError, Overloaded
from adasd.requests import GenerationRequest, Mode, SamplingParams, SpeculationOptions
from adasd.results import Complete
from services.config import ServeConfig, TierConfig
from services.observability.instrumentation import InstrumentedBackend
from services.observability.metrics import ServiceMetrics
from services.observability.reporter import Reporter
from services.observability.service_events import RequestEnded, RequestRefused, RequestStarted, to_all
from services.orchestrator.backend import OrchestratorBackend
from services.orchestrator.readiness import Readings
from tests.unit.orchestrator.fakes import EOS, FakePlacement, Faults, decode, ids

TEXT = ids("It was a bright cold day in April, and the clocks were striking thirteen. ") * 4
PROMPT = TEXT[:10]


class Letters:
    """A tokenizer whose ids are code points."""

    eos_ids = frozenset({EOS})
    vocab_size = 128

    def decode(self, token_ids, skip_special_tokens=True):
        return decode(token_ids)


class Service:
    """An in-process orchestrator with its metrics."""

    def __init__(self, **faults) -> None:
        tier = TierConfig(EngineConfig("model"))
        config = ServeConfig(
            tier,
            tier,
            model_name="pair",
            speculation=SpeculationConfig(max_draft_tokens=6),
            draft_timeout_s=0.05,
            reattach_s=0.01,
        )
        registry = CollectorRegistry()
        self.placement = FakePlacement(TEXT, Faults(**faults))
        self.metrics = ServiceMetrics(registry, "pair", 512, max_draft_tokens=6)
        self.reporter = Reporter(registry, "o1", "orchestrator")
        tell = to_all(self.metrics)
        readings = Readings(has_draft=True)
        inner = OrchestratorBackend(config, Letters(), 512, self.placement, readings, tell)
        self.backend = InstrumentedBackend(inner, tell)

    async def answer(self, name, max_tokens=40, mode=Mode.EXACT, drafting=None):
        request = GenerationRequest(
            name, PROMPT, SamplingParams(max_tokens, temperature=0.0), SpeculationOptions(mode, drafting)
        )
        async with aclosing(self.backend.generate(request)) as events:
            return [event async for event in events]

    async def figures(self):
        """Every sample of a scrape: sum over all label sets, and over each single label."""
        text = (await self.reporter.scrape()).decode()
        assert "_created" not in text
        sums: Counter = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                assert (sample.labels["replica"], sample.labels["role"]) == ("o1", "orchestrator")
                sums[sample.name] += sample.value
                for label, value in sample.labels.items():
                    sums[sample.name, label, value] += sample.value
        return sums


async def test_figures_add_up_to_the_answers_reports():
    service = Service(draft_wrong=0.3)
    answers = await asyncio.gather(*(service.answer(f"r{i}", 20 + 7 * i) for i in range(6)))
    ends = [answer[-1] for answer in answers]
    assert all(isinstance(end, Complete) for end in ends)
    reports = [end.speculation for end in ends]
    sums = await service.figures()

    assert sums["vllm:prompt_tokens_total"] == 6 * len(PROMPT)
    num_tokens = sum(end.usage.completion_tokens for end in ends)
    assert sums["vllm:generation_tokens_total"] == sums["adasd_tokens_total"] == num_tokens
    assert sums["vllm:request_generation_tokens_sum"] == num_tokens
    for kind in {kind for report in reports for kind, count in report.kinds if count}:
        counted = sum(dict(report.kinds).get(kind, 0) for report in reports)
        assert sums["adasd_tokens_total", "kind", kind.value] == counted

    drafts = sum(report.num_draft_rounds for report in reports)
    accepted = [a for report in reports for a in report.accepted_per_round]
    assert drafts > 10
    assert sums["vllm:spec_decode_num_drafts_total"] == drafts
    assert sums["vllm:spec_decode_num_draft_tokens_total"] == sum(r.num_draft_tokens for r in reports)
    assert sums["vllm:spec_decode_num_accepted_tokens_total"] == sum(accepted)
    for position in range(6):
        counted = sum(a > position for a in accepted)
        assert (
            sums["vllm:spec_decode_num_accepted_tokens_per_pos_total", "position", str(position)] == counted
        )

    assert sums["vllm:request_success_total", "finished_reason", "length"] == 6
    assert sums["vllm:request_success_total"] == sums["adasd_requests_total"] == 6
    num_chunks = sum(len(answer) - 1 for answer in answers)
    assert sums["vllm:time_to_first_token_seconds_count"] == 6
    assert sums["vllm:inter_token_latency_seconds_count"] == num_chunks - 6
    assert (
        sums["vllm:e2e_request_latency_seconds_count"] == sums["vllm:request_queue_time_seconds_count"] == 6
    )
    assert sums["adasd_round_milliseconds_count", "tier", "target"] == num_chunks
    assert sums["adasd_rounds_total"] == sum(report.num_rounds for report in reports)
    assert sums["adasd_rounds_total", "kind", "drafted"] == drafts
    assert sums["adasd_blocks_ahead_total"] == sum(report.num_ahead for report in reports)
    assert sums["vllm:num_requests_running"] == sums["vllm:num_requests_waiting"] == 0


async def test_every_vllm_series_names_the_model_and_an_engine():
    service = Service()
    await service.answer("r")
    text = (await service.reporter.scrape()).decode()
    lines = [line for line in text.splitlines() if line.startswith("vllm:")]
    assert len(lines) > 200
    assert all('model_name="pair"' in line and 'engine="0"' in line for line in lines)


async def test_modes_are_told_apart():
    service = Service()
    await service.answer("a", 10, Mode.OFF)
    await service.answer("b", 15, Mode.EXACT)
    sums = await service.figures()
    assert sums["adasd_tokens_total", "mode", "off"] == 10
    assert sums["adasd_tokens_total", "mode", "exact"] == 15
    assert sums["adasd_tokens_total", "kind", "target"] >= 11


async def test_a_client_that_leaves_is_an_abort_and_its_tokens_count():
    service = Service(delay_s=0.001)
    request = GenerationRequest("r", PROMPT, SamplingParams(100, temperature=0.0))
    num_tokens = 0
    async with aclosing(service.backend.generate(request)) as events:
        async for event in events:
            num_tokens += len(event.tokens)
            if num_tokens > 10:
                sums = await service.figures()
                assert (sums["vllm:num_requests_running"], sums["vllm:num_requests_waiting"]) == (1, 0)
                break
    sums = await service.figures()
    assert sums["vllm:request_success_total", "finished_reason", "abort"] == 1
    assert sums["adasd_requests_total", "outcome", "cancelled"] == 1
    assert sums["vllm:generation_tokens_total"] == num_tokens
    assert sums["vllm:num_requests_running"] == 0


async def test_a_request_that_waits_for_a_slot_is_waiting_and_refused_if_none_comes():
    service = Service(no_target_slots=True)
    service.metrics(RequestStarted("other", Mode.EXACT, 3, 0.0))
    assert (await service.figures())["vllm:num_requests_waiting"] == 1
    with pytest.raises(Overloaded):
        await service.answer("r")
    service.metrics(RequestRefused("http", "overloaded"))
    sums = await service.figures()
    assert sums["adasd_requests_total", "outcome", "overloaded"] == 1
    assert sums["adasd_requests_refused_total", "code", "overloaded"] == 1
    assert sums["vllm:request_success_total"] == 0
    assert sums["vllm:prompt_tokens_total"] == 0


async def test_lost_and_late_workers_are_counted_as_the_report_counts_them():
    service = Service(draft_dies_every=7, target_dies_every=23)
    reports = []
    for number in range(8):
        end = (await service.answer(f"r{number}", 60))[-1]
        reports.append(end.speculation)
    sums = await service.figures()
    assert sums["adasd_slots_lost_total", "tier", "target"] == sum(r.target_lost for r in reports) > 0
    assert sums["vllm:num_preemptions_total"] == sum(r.target_lost for r in reports)
    # A draft lost at the very end of an answer is not in its report.
    assert 0 < sum(r.draft_lost for r in reports) <= sums["adasd_slots_lost_total", "tier", "draft"]


async def test_late_blocks_are_counted():
    service = Service(draft_hangs=0.2)
    reports = [(await service.answer(f"r{number}", 30))[-1].speculation for number in range(8)]
    sums = await service.figures()
    # A block drafted ahead may be late although no round waits for it.
    assert 0 < sum(report.draft_lost for report in reports) <= sums["adasd_blocks_late_total"]


async def test_thresholds_are_what_the_newest_answer_reports():
    service = Service(draft_wrong=0.3)
    end = (await service.answer("r", 120, drafting="adasd"))[-1]
    sums = await service.figures()
    assert end.speculation.generation_threshold is not None
    learned = pytest.approx(end.speculation.generation_threshold)
    assert sums["adasd_generation_threshold_nats", "mode", "exact"] == learned
    assert sums["adasd_acceptance_threshold_js"] == 0  # nothing is relaxed in mode exact


def test_an_observer_that_fails_disturbs_nobody(caplog):
    seen = []

    def broken(event):
        raise ZeroDivisionError

    to_all(broken, seen.append)(RequestEnded("r", 1.0, error=AdasdError("x")))
    assert seen
    assert "an observer failed on RequestEnded" in caplog.text
