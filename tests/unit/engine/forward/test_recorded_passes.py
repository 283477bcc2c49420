"""What is recorded on a card waits for no value and touches no tensor of the host; verdicts wait until they are read.

The meta device stands for the card (``tests.device_watch``), so the real code runs: forward passes over pages, drafting
turns of every kind with their stop rules, verdicts of every kind.
"""

import copy
import math
import random

import pytest
import torch

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import dealt
from adasd.engine.cache.pages import Pages
from adasd.engine.cache.slots import Slot
from adasd.engine.forward import attention, paged_attention
from adasd.engine.forward.drafting_loop import DraftingLoop
from adasd.engine.forward.fast_llama import FastLlama
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.forward.padded import Padded, PassSize, all_sizes
from adasd.engine.forward.static_forward import StaticForward
from adasd.engine.work import DraftWork, StepInput
from adasd.errors import ConfigError
from adasd.methods.registry import acceptance_methods
from adasd.rounds import (
    AcceptanceRule,
    ChanceTable,
    DraftCall,
    DraftDistributions,
    SamplingTransform,
    StopRule,
)
from adasd.specdec import verify
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import TransformBatch
from adasd.specdec.fused import judge as fused
from adasd.specdec.turns import TurnKind
from adasd.stop_rule import NO_TABLE
from tests.device_watch import CARD, device_watch, watched
from tests.unit.engine.models import VOCAB_SIZE, original
from tests.unit.specdec.sessions import random_param

CONTEXT, SLOTS = 64, 4


def on_the_card(name="qwen3", modules=False):
    model = copy.deepcopy(original(name)).to(CARD)
    return ModuleForward(model) if modules else FastLlama(model, CONTEXT)


def cache_of(forward):
    windows = dealt(forward.layers).windows
    layout = Pages(SLOTS, CONTEXT, 16, 4 * SLOTS * len(windows), windows=windows)
    return KVCache(forward.layers, layout, forward.dtype, CARD)


def flash(out, q, k, v, *tables, seqused_k, block_table, **_):
    """As torch's kernel, for which the meta device has no code: reads only what is on the card."""
    for tensor in (out, q, k, v, *tables[:2], seqused_k, block_table):
        assert tensor.device == CARD
    out.zero_()


# --------------------------------------------------------------------------- the watch itself

PLANTED = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "float": lambda x: float(x[0, 0]),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "nonzero": lambda x: (x > 0).nonzero(),
    "a mask as index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeats": lambda x: x[0].repeat_interleave(x[0].long()),
    "a tensor made on the host": lambda x: x + torch.zeros(x.shape[1]),
    "an index made on the host": lambda x: x.index_select(0, torch.arange(1)),
    "a list as index": lambda x: x[[0]],
    "a number sent over": lambda x: x * torch.tensor([2.0], device=x.device),
}


class Planted(FastLlama):
    """A forward pass that does something to its logits."""

    plant = staticmethod(lambda x: None)

    def __call__(self, batch, cache):
        logits = super().__call__(batch, cache)
        self.plant(logits)
        return logits


@pytest.mark.parametrize("name", PLANTED)
def test_a_wait_or_a_tensor_of_the_host_in_a_pass_is_found(name):
    forward = Planted(copy.deepcopy(original("llama")).to(CARD), CONTEXT)
    cache = cache_of(forward)
    StaticForward(forward, watched, insists=True).prepare(cache, VOCAB_SIZE)
    forward.plant = PLANTED[name]
    with pytest.raises(ConfigError, match=r"compile is on, but Llama.* cannot be recorded"):
        StaticForward(forward, watched, insists=True).prepare(cache, VOCAB_SIZE)


@pytest.mark.parametrize("name", sorted(set(PLANTED) - {"a number sent over", "a list as index"}))
def test_eager_work_may_send_numbers_and_nothing_else(name):
    x = torch.zeros(3, 4, device=CARD)
    with device_watch(may_send=True), pytest.raises((RuntimeError, TypeError)):
        PLANTED[name](x)
    with device_watch(may_send=True):
        PLANTED["a number sent over"](x)
        PLANTED["a list as index"](x)


# --------------------------------------------------------------------------- passes


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(
    ("name", "modules"),
    [("llama-biased", False), ("qwen3", False), ("gemma3-window", True)],
)
def test_passes_of_every_size_and_turns_of_every_kind_can_be_recorded(name, modules, in_place, monkeypatch):
    """Attention by the kernel that reads pages, and by gathered pages."""
    if in_place:
        monkeypatch.setattr(attention, "serves", lambda queries: True)
        monkeypatch.setattr(paged_attention, "varlen_attn_out", flash)
    forward = on_the_card(name, modules)
    static = StaticForward(forward, watched, insists=True)
    static.prepare(cache_of(forward), VOCAB_SIZE)
    assert static.num_recorded == len(list(all_sizes())) + 3 * len(TurnKind)


@pytest.mark.parametrize("kind", TurnKind)
@pytest.mark.parametrize(
    "rule",
    [
        StopRule(5, row_len=6),
        StopRule(5, entropy_ceiling=1.0, confidence_floor=0.2, row_len=6, table=NO_TABLE),
        StopRule(9, row_len=6, want_runner_ups=True, table=ChanceTable((0.9,) * 9, (0.8,) * 9, 0.3)),
    ],
)
def test_a_turn_with_its_stop_rule_waits_for_nothing(kind, rule):
    """Sessions of every kind, with biases and ends of sequence, up to the one copy at the end."""
    forward = on_the_card()
    cache = cache_of(forward)
    loop = DraftingLoop(Padded(PassSize(4, 4), cache), VOCAB_SIZE)
    transforms = [
        SamplingTransform(temperature=0.0, eos_ids=(3,), eos_from=20),
        SamplingTransform(temperature=0.8, seed=1, top_p=0.9, min_p=0.1),
        SamplingTransform(temperature=0.8, top_k=5, logit_bias=((3, 1.0),)),
    ]
    inputs, works = [], []
    for i, transform in enumerate(transforms):
        cache.layout.extend(cache.layout.allocate((), ()).slot, 0, 30)
        inputs.append(StepInput(i, 9, (1,), 1))
        works.append(DraftWork(Slot(str(i), 40), transform, 0.0, call=DraftCall(str(i), 0, 9, (1,), rule)))
    assert loop.serves(works)
    with device_watch(may_send=True) as watch:
        loop.begin(works, inputs, kind, None)
    logits = torch.zeros(4, VOCAB_SIZE, device=CARD)
    with torch.inference_mode(), device_watch() as watch:
        for _ in range(3):
            loop.decide(logits, kind)
    assert watch.num_operations > 50
    with pytest.raises(NotImplementedError, match="meta"):
        loop.drafted(3, 3)


# --------------------------------------------------------------------------- verdicts


def judged(judge, rules, seed=0, num_drafted=3):
    """Verdicts of a greedy, a seeded and a sampled session per rule, under the watch."""
    transforms = [
        SamplingTransform(temperature=0.0),
        SamplingTransform(temperature=0.8, seed=1, top_p=0.9),
        SamplingTransform(temperature=0.8, top_k=5, min_p=0.1),
    ] * len(rules)
    each = [rule for rule in rules for _ in range(3)]
    ids = torch.arange(6, dtype=torch.int32).expand(num_drafted, 6).numpy()
    row = DraftDistributions(ids, torch.full((num_drafted, 6), 1 / 6).log().numpy())
    blocks = BlockBatch.pack([(1, 2, 3)] * len(each), [row] * len(each), CARD)
    with device_watch(may_send=True) as watch:
        batch = TransformBatch.build(transforms, [5] * len(each), CARD)
        chance = verify.draw_random_numbers(batch, each, num_drafted, VOCAB_SIZE)
        logits = torch.zeros(len(each), num_drafted + 1, VOCAB_SIZE, device=CARD)
        judgement = judge(logits, blocks, batch, each, chance)
    assert judgement.next_token_B.device == CARD
    assert watch.num_operations > 20


RULES = [AcceptanceRule(), AcceptanceRule(want_distances=True)]


def test_verdicts_by_torch_wait_for_nothing():
    judged(verify.judge, RULES)


@pytest.mark.parametrize("method", acceptance_methods(), ids=lambda method: method.name)
@pytest.mark.parametrize("max_distortion", [math.inf, 0.5])
def test_relaxed_verdicts_wait_for_nothing(method, max_distortion):
    rng = random.Random(0)
    params = {name: random_param(rng, name, bounds) for name, bounds in method.rule_params.items()}
    judged(verify.judge, [AcceptanceRule(method.name, params, 2, max_distortion=max_distortion)])


class Launches:
    """In place of the Triton kernels: what is launched, with tensors of the card only."""

    def __init__(self):
        self.names = []

    def __getattr__(self, name):
        def launch(*given, **_):
            assert all(one.device == CARD for one in given if isinstance(one, torch.Tensor)), name
            self.names.append(name)

        class Kernel:
            def __getitem__(self, grid):
                return launch

        return Kernel()


def test_verdicts_by_triton_wait_for_nothing(monkeypatch):
    launches = Launches()
    monkeypatch.setattr(fused, "kernels", launches)
    judged(fused.judge, RULES)
    assert set(launches.names) == {"distributions_kernel", "coupled_kernel", "draw_kernel", "distance_kernel"}
