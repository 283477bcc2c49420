"""Passes padded to fixed sizes equal unpadded ones, and drafting on the device equals drafting step by step.

All but the recording of CUDA graphs runs here, on the CPU (tests/gpu has the rest).
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import dealt
from adasd.engine.cache.pages import NO_PAGE, Pages
from adasd.engine.engine import TorchEngine
from adasd.engine.forward import padded
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.fast_llama import FastLlama
from adasd.engine.forward.graphs import eagerly
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.forward.padded import Padded, PassSize, all_sizes, sizes_for
from adasd.engine.forward.selection import choose_forward
from adasd.engine.forward.static_forward import StaticForward
from adasd.engine.work import StepInput
from adasd.errors import ConfigError, DeviceFailure
from adasd.rounds import CallFailed, ChanceTable, DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from adasd.testing.contracts import CLAIMS
from adasd.testing.loops import GREEDY, plain, plain_batch, run_until_idle, speculative
from tests.unit.engine.models import GRAMMARS, VOCAB_SIZE, generate, original, prompts
from tests.unit.engine.models import engine as oracle

CPU = torch.device("cpu")
MAX_CONTEXT = 160
NUM_PASSES = 17
"""Sizes that are recorded: 1 to 256 tokens, each with all logits, and from 2 on with half of them."""


def refuses(run):
    raise RuntimeError("not permitted")


def static(name="llama", seed=0, recorder=eagerly, recorded=True, modules=False, **settings):
    """An engine over fixed sizes."""
    common = {"num_slots": 8, "prefill_chunk": 40, "compile": "off", "cache": "paged"}
    config = EngineConfig("tiny", **common | settings)
    model = copy.deepcopy(original(name, seed))
    inner = ModuleForward(model) if modules else FastLlama(model, MAX_CONTEXT)
    forward = StaticForward(inner, recorder if recorded else refuses)
    return TorchEngine(forward, config, MAX_CONTEXT, VOCAB_SIZE, grammars=GRAMMARS, seed=0)


def drafted(e, texts, rule, transforms):
    for i, (text, transform) in enumerate(zip(texts, transforms, strict=True)):
        e.open(OpenCall(str(i), transform, 150))
        e.submit(DraftCall(str(i), 0, 0, text, rule))
    answers = {answer.session: answer for answer in run_until_idle(e)}
    e.check_integrity()
    return [answers[str(i)] for i in range(len(texts))]


def cache_of(forward, num_slots=8, lens=None):
    """A paged cache; slot n holds ``lens[n]`` tokens and has room for eight more."""
    windows = dealt(forward.layers).windows
    layout = Pages(num_slots, MAX_CONTEXT, 16, 10 * num_slots * len(windows), windows=windows)
    for n, length in enumerate(lens or [0] * num_slots):
        assert layout.allocate((), ()).slot == n
        layout.extend(n, 0, length + 8)
    return KVCache(forward.layers, layout, forward.dtype, CPU)


# --------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("lens", "num_wanted", "expected"),
    [
        ([1], 1, [(1, 1)]),
        ([1, 1, 1], 1, [(4, 4)]),
        ([2, 2, 1], 1, [(8, 4), (8, 8)]),
        ([2, 2, 2], 2, [(8, 8)]),
        ([5, 5, 5], 0, [(16, 8), (16, 16)]),
        ([16] * 8, 16, [(128, 128)]),
        ([32] * 8, 1, [(256, 128), (256, 256)]),
        ([33], 1, []),
        ([9] * 29, 1, []),
    ],
)
def test_a_pass_takes_the_next_power_of_two_of_tokens_and_half_of_the_logits_if_they_suffice(
    lens, num_wanted, expected
):
    inputs = [StepInput(n, 3, (1,) * length, num_wanted) for n, length in enumerate(lens)]
    assert [(one.num_tokens, one.num_wanted) for one in sizes_for(inputs)] == expected
    assert set(sizes_for(inputs)) <= set(all_sizes())


def test_the_largest_size_comes_first_so_that_the_others_find_their_memory():
    sizes = [(one.num_tokens, one.num_wanted) for one in all_sizes()]
    assert sizes[:4] == [(256, 256), (256, 128), (128, 128), (128, 64)]
    assert sizes[-3:] == [(2, 2), (2, 1), (1, 1)]
    assert len(sizes) == NUM_PASSES


@pytest.mark.parametrize(
    ("name", "modules"),
    [("llama", False), ("qwen3", True), ("mistral-window", True), ("gemma3-window", True)],
)
@torch.inference_mode()
def test_a_padded_pass_gives_the_logits_and_the_cache_of_a_ragged_one(name, modules):
    model = copy.deepcopy(original(name))
    forward = ModuleForward(model) if modules else FastLlama(model, MAX_CONTEXT)
    lens = [0, 0, 20, 0, 0, 35, 0, 0]
    ragged_cache, padded_cache = cache_of(forward, lens=lens), cache_of(forward, lens=lens)
    for cache in (ragged_cache, padded_cache):
        filling = StepInput(2, 0, prompts(20)[0], 0), StepInput(5, 0, prompts(35)[0], 0)
        for row in filling:
            forward(ForwardBatch([row], cache.layout, CPU), cache)
        for tokens in cache.tokens:
            tokens[cache.scratch].fill_(7.0)  # never read
    rows = [StepInput(0, 0, (3, 1, 4), 2), StepInput(2, 20, (1, 5), 2), StepInput(5, 35, (9, 2, 6, 5), 1)]
    static_ = StaticForward(forward, eagerly)
    static_.prepare(padded_cache, VOCAB_SIZE)
    before = [tokens.clone() for tokens in padded_cache.tokens]
    expected = forward(ForwardBatch(rows, ragged_cache.layout, CPU), ragged_cache)
    found = static_(ForwardBatch(rows, padded_cache.layout, CPU), padded_cache)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    layout = padded_cache.layout
    written = {
        place
        for row in rows
        for table in range(len(layout.windows))
        for run in layout.runs(row.slot, row.start, row.end, table)
        for place in run
    }
    for now, was, wanted in zip(padded_cache.tokens, before, ragged_cache.tokens, strict=True):
        torch.testing.assert_close(now[:-1], wanted[:-1], rtol=1e-4, atol=1e-5)
        changed = (now[:-1] != was[:-1]).any(-1).nonzero()[:, 0].tolist()
        assert set(changed) == written


class HeadWatch(TorchDispatchMode):
    """Notes of how many positions logits are computed."""

    def __init__(self):
        super().__init__()
        self.num_positions = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.linear.default) and out.shape[-1] == VOCAB_SIZE:
            self.num_positions.append(out.numel() // VOCAB_SIZE)
        return out


@pytest.mark.parametrize(("name", "modules"), [("llama", False), ("gemma", True)])
@torch.inference_mode()
def test_the_head_computes_wanted_positions_and_their_padding_only(name, modules):
    """Three drafts that catch up with two tokens each: 8 tokens, of which 4 positions have logits."""
    model = copy.deepcopy(original(name))
    forward = ModuleForward(model) if modules else FastLlama(model, MAX_CONTEXT)
    cache, other = cache_of(forward), cache_of(forward)
    static_ = StaticForward(forward, eagerly)
    static_.prepare(cache, VOCAB_SIZE)
    rows = [StepInput(slot, 0, (slot + 1, 4), 1) for slot in (1, 4, 6)]
    expected = forward(ForwardBatch(rows, other.layout, CPU), other)
    with HeadWatch() as watch:
        found = static_(ForwardBatch(rows, cache.layout, CPU), cache)
    assert watch.num_positions == [4]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_recording_leaves_no_trace_in_the_cache():
    made = static()
    assert not any(tokens[:-1].any() for tokens in made.cache.tokens)
    assert any(tokens[-1].any() for tokens in made.cache.tokens), "padding went to the scratch place"


@torch.inference_mode()
def test_a_filled_pass_forgets_what_it_held():
    forward = FastLlama(copy.deepcopy(original("llama")), MAX_CONTEXT)
    cache = cache_of(forward, lens=[3] * 6 + [20, 0])
    step = Padded(PassSize(8, 8), cache)
    step.fill([StepInput(n, 3, (7, 8), 1) for n in range(4)])
    step.fill([StepInput(6, 20, (5,), 1)])
    pages = list(cache.layout.pages(6))
    assert step.ids_T.tolist() == [5] + [0] * 7
    assert step.positions_T.tolist() == [20] + [0] * 7
    assert step.where_T[0].tolist() == [pages[1] * 16 + 4] + [cache.scratch] * 7
    assert step.used_T.tolist() == [21] + [1] * 7
    assert step.wanted.tolist() == [0] * 8
    assert step.pages_KTM[0].tolist() == [pages + [NO_PAGE] * 8] + [[NO_PAGE] * 10] * 7


@torch.inference_mode()
def test_numbers_on_their_way_to_the_device_are_not_overwritten(monkeypatch):
    """A multi-step draft fills the same pass twice without waiting: here copies run late, when something waits."""
    forward = FastLlama(copy.deepcopy(original("llama")), MAX_CONTEXT)
    cache, late, arrived = cache_of(forward, lens=[3] * 8), [], []

    class Late(padded._Host):
        def wait(self):
            while self in [host for host, _ in late]:
                host, numbers = late.pop(0)
                numbers.copy_(host.numbers)
                arrived.append(step.ids_T.tolist())

        def send(self, numbers):
            late.append((self, numbers))

    monkeypatch.setattr(padded, "_Host", Late)
    step = Padded(PassSize(1, 1), cache)
    for token in range(5, 11):
        step.fill([StepInput(0, 3, (token,), 1)])
    for host in step._hosts:
        host.wait()
    assert arrived == [[0], [5], [6], [7], [8], [9], [10]]


# --------------------------------------------------------------------------- whole engines


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_keeps_the_contract(claim):
    e = static(num_slots=4)
    claim(e)
    e.check_integrity()
    assert e.num_free_slots == 4


@pytest.mark.parametrize("recorded", [True, False])
def test_greedy_answers_are_generate_s(recorded):
    batch = prompts(3, 50, 1, 90, 17)
    assert plain_batch(static(recorded=recorded), batch, 20) == [generate("llama", p, 20) for p in batch]


@pytest.mark.parametrize(
    "transform", [SamplingTransform(temperature=0.0), SamplingTransform(temperature=1.2, seed=5)]
)
@pytest.mark.parametrize("rule", [StopRule(5), StopRule(12, entropy_ceiling=2.0)])
def test_speculation_changes_nothing(transform, rule):
    (prompt,) = prompts(12)
    expected = plain(oracle("qwen3", fast=True), prompt, 30, transform)
    tokens, _ = speculative(static("qwen3", seed=1), static("qwen3"), prompt, 30, rule, transform)
    assert tokens == expected


def test_speculation_with_a_table_of_pages_for_each_kind_of_layer_changes_nothing():
    (prompt,) = prompts(40)
    pair = (static("gemma3-window", seed, modules=True, prefill_chunk=16) for seed in (1, 0))
    tokens, _ = speculative(*pair, prompt, 100, StopRule(5))
    assert tokens == generate("gemma3-window", prompt, 100)


def test_an_engine_records_at_its_start_and_warm_up_leaves_every_slot_free():
    e = static()
    assert e.forward.num_recorded == NUM_PASSES + 3 * 4, "turns of 3 kinds of 1 to 8 sessions"
    e.warm_up()
    e.check_integrity()
    assert e.num_free_slots == e.num_slots


# --------------------------------------------------------------------------- drafting


SAMPLED = SamplingTransform(temperature=0.9, top_p=0.95)
ENDED = SamplingTransform(temperature=0.0, eos_ids=(3, 4, 5, 6), eos_from=20)
TABLE = ChanceTable((0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.9, 0.8, 0.6), (0.95,) * 7 + (0.8, 0.6), 0.3)
RULES = [
    StopRule(1, row_len=6),
    StopRule(40, row_len=6, want_runner_ups=True),
    StopRule(30, entropy_ceiling=2.0, row_len=6),
    StopRule(30, confidence_floor=0.3, row_len=6),
    StopRule(30, table=TABLE, row_len=6),
]


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "transform", [GREEDY, SamplingTransform(temperature=1.1, seed=9, top_k=20), SAMPLED, ENDED]
)
def test_blocks_are_those_of_single_steps(rule, transform, recorded, monkeypatch):
    chance = torch.Generator().manual_seed(4)
    noise = torch.empty(VOCAB_SIZE).exponential_(generator=chance)
    monkeypatch.setattr(  # the same for each token, as a turn takes its noise beforehand
        torch.Tensor, "exponential_", lambda tensor, **_: tensor.copy_(noise[: tensor.shape[-1]])
    )
    texts = prompts(9)
    (found,) = drafted(static(recorded=recorded), texts, rule, [transform])
    (expected,) = drafted(oracle("llama", fast=True), texts, rule, [transform])
    assert found.tokens == expected.tokens
    assert found.runner_ups == expected.runner_ups
    assert found.entropies == pytest.approx(expected.entropies, abs=1e-4)
    assert found.confidences == pytest.approx(expected.confidences, abs=1e-4)
    np.testing.assert_array_equal(found.distributions.ids, expected.distributions.ids)
    np.testing.assert_allclose(found.distributions.logprobs, expected.distributions.logprobs, atol=1e-4)


def test_sessions_of_every_kind_draft_together_as_they_do_alone():
    texts, rule = prompts(3, 30, 9, 55, 2), StopRule(25, entropy_ceiling=2.5, row_len=4)
    transforms = [
        GREEDY,
        SamplingTransform(temperature=0.8, seed=1, top_p=0.8),
        ENDED,
        SamplingTransform(temperature=1.3, seed=2, min_p=0.02, logit_bias=((5, 3.0), (7, -50.0))),
        GREEDY,
    ]
    found = drafted(static(), texts, rule, transforms)
    for text, transform, one in zip(texts, transforms, found, strict=True):
        (alone,) = drafted(oracle("llama", fast=True), [text], rule, [transform])
        assert one.tokens == alone.tokens
    assert len({len(one.tokens) for one in found}) > 1, "they have to end at different times"


def test_sampled_sessions_draw_from_the_rows_that_they_send():
    """Of 1,500 second tokens, each must be as frequent as its row says: a correct loop fails 1 time in 1,000."""
    e, (text,), counts, rows = static(num_slots=8), prompts(9), {}, {}
    transform = SamplingTransform(temperature=0.7, top_k=5)
    for n in range(1500 // 8):
        for i in range(8):
            e.open(OpenCall(f"{n} {i}", transform, 40))
            e.submit(DraftCall(f"{n} {i}", 0, 0, text, StopRule(2, row_len=12)))
        for block in run_until_idle(e):
            first, second = block.tokens
            counts.setdefault(first, []).append(second)
            rows[first] = block.distributions.ids[1], block.distributions.logprobs[1]
            e.close(block.session)
    most = max(counts, key=lambda token: len(counts[token]))
    ids, logprobs = (row[:5] for row in rows[most])
    probs = np.exp(logprobs / 0.7) / np.exp(logprobs / 0.7).sum()
    observed = np.array([counts[most].count(token) for token in ids])
    assert observed.sum() == len(counts[most]) > 150, "nothing beyond the five likeliest"
    expected = probs * len(counts[most])
    common = expected > 5
    chi2 = ((observed - expected)[common] ** 2 / expected[common]).sum()
    assert chi2 < 18.5, (observed, expected)


def test_sessions_that_need_more_room_than_a_recording_has_draft_all_the_same():
    bias = tuple((token, 0.5 * (token % 3)) for token in range(90))
    transform = SamplingTransform(temperature=1.1, seed=3, logit_bias=bias)
    texts, rule = prompts(9, 20), StopRule(8, row_len=VOCAB_SIZE)
    found = drafted(static(), texts, rule, [transform] * 2)
    expected = drafted(oracle("llama", fast=True), texts, rule, [transform] * 2)
    assert [one.tokens for one in found] == [one.tokens for one in expected]


@pytest.mark.parametrize(
    ("transform", "rule"),
    [
        (SamplingTransform(temperature=0.9, seed=4, top_p=0.9), StopRule(12, entropy_ceiling=9.0, row_len=6)),
        (SAMPLED, StopRule(4, table=TABLE, row_len=6)),
        (ENDED, StopRule(4)),
    ],
)
def test_sessions_of_every_kind_repeat_one_recording_per_token(transform, rule, monkeypatch):
    """The pass, the choice of the token and the stop rule are in it."""
    runs = []

    def counting(run):
        return lambda: runs.append(run) or run()

    e = static(recorder=counting)
    runs.clear()
    (block,) = drafted(e, prompts(9), rule, [transform])
    assert len(runs) >= len(block.tokens)
    assert len(runs) <= 12


def test_greedy_sessions_without_rows_repeat_one_recording_per_token(monkeypatch):
    runs = []

    def counting(run):
        return lambda: runs.append(run) or run()

    e = static(recorder=counting)
    runs.clear()
    texts = prompts(9, 4, 20)
    rule = StopRule(12, want_runner_ups=True)
    found = drafted(e, texts, rule, [GREEDY] * 3)
    expected = drafted(oracle("llama", fast=True), texts, rule, [GREEDY] * 3)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert [one.runner_ups for one in found] == [one.runner_ups for one in expected]
    assert len(runs) == 12, "one for all prompts, and one for every token behind the first"


def test_a_burst_to_the_last_place_of_the_context_stays_in_its_slot():
    e, other = static(), oracle("llama", fast=True)
    texts = prompts(MAX_CONTEXT - 12, 30)
    answers = []
    for engine in (e, other):
        for i, (text, num) in enumerate(zip(texts, (12, 16), strict=True)):
            engine.open(OpenCall(str(i), GREEDY, MAX_CONTEXT))
            engine.submit(DraftCall(str(i), 0, 0, text, StopRule(num)))
        answers.append({one.session: one.tokens for one in run_until_idle(engine)})
    assert answers[0] == answers[1]
    layout = e.cache.layout
    used = {page for i in range(2) for page in layout.pages(e._slots.get(str(i)).index)}
    pages = e.cache.tokens[0][: e.cache.scratch].view(layout.num_pages + 1, 16, -1)
    assert not any(pages[page].any() for page in range(layout.num_pages + 1) if page not in used)


def test_logits_that_are_not_finite_fail_that_session_alone():
    e = static()
    (free,) = drafted(e, prompts(12), StopRule(4), [GREEDY])
    e.close("0")
    with torch.inference_mode():
        e.forward.inner._embedding[free.tokens[1]] = math.nan
    unused = next(t for t in range(VOCAB_SIZE) if t != free.tokens[1])
    for session, text in (("broken", prompts(12)[0]), ("whole", (unused,))):
        e.open(OpenCall(session, GREEDY, 60))
        e.submit(DraftCall(session, 0, 0, text, StopRule(4 if session == "broken" else 1)))
    answers = {answer.session: answer for answer in run_until_idle_with_failures(e)}
    assert isinstance(answers["broken"], CallFailed)
    assert e.cached_len("broken") == 0
    assert len(answers["whole"].tokens) == 1
    e.check_integrity()


def run_until_idle_with_failures(e):
    answers = []
    while e.num_pending:
        answers += e.step()
    return answers


# --------------------------------------------------------------------------- what goes wrong


def test_sizes_that_cannot_be_recorded_run_eagerly_and_the_others_are_kept(caplog):
    tries = []

    def fails_late(run):
        tries.append(run)
        if len(tries) in (1, 4):
            raise RuntimeError("out of memory")
        return run

    e = static(recorder=fails_late)
    assert e.forward.num_recorded == NUM_PASSES + 12 - 2
    assert [line for line in caplog.messages if "out of memory" in line] == caplog.messages
    assert len(caplog.messages) == 2
    batch = prompts(3, 50)
    assert plain_batch(e, batch, 12) == [generate("llama", p, 12) for p in batch]
    (block,) = drafted(e, prompts(9), StopRule(20), [GREEDY])
    assert list(block.tokens) == generate("llama", prompts(9)[0], 20)


def test_an_error_while_a_graph_is_recorded_is_the_engines_end():
    def breaks(run):
        raise DeviceFailure("a CUDA graph could not be recorded")

    with pytest.raises(DeviceFailure, match="could not be recorded"):
        static(recorder=breaks)


def test_whoever_insists_gets_the_reason():
    forward = StaticForward(FastLlama(copy.deepcopy(original("llama")), MAX_CONTEXT), refuses, insists=True)
    with pytest.raises(ConfigError, match=r"compile is on, but LlamaForCausalLM.*not permitted"):
        forward.prepare(cache_of(forward), VOCAB_SIZE)
    assert forward.num_recorded == 0


def test_a_burst_that_fails_is_drafted_step_by_step(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    e = static()
    monkeypatch.setattr(StaticForward, "draft", fails)
    e.open(OpenCall("decodes", GREEDY, 80))
    e.submit(VerifyCall("decodes", 0, 0, (3, 4)))
    texts = prompts(9, 20)
    found = drafted(e, texts, StopRule(6), [GREEDY] * 2)
    assert [list(one.tokens) for one in found] == [generate("llama", text, 6) for text in texts]


def test_on_a_cpu_nothing_is_recorded():
    config = EngineConfig("tiny", compile="off")
    assert not isinstance(
        choose_forward(copy.deepcopy(original("llama")), config, MAX_CONTEXT, None), StaticForward
    )
