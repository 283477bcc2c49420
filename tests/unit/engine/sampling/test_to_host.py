"""How often the host waits for the device: counts every conversion of a tensor to Python numbers."""

import math

import pytest
import torch

from adasd.engine.sampling import to_host
from adasd.rounds import AcceptanceRule, DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from adasd.testing.loops import GREEDY, run_until_idle
from tests.unit.engine.forward.test_static_forward import static
from tests.unit.engine.models import prompts

WATCHED = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")


@pytest.fixture
def waits(monkeypatch):
    """Names of the calls that would wait; one ``to_host`` counts once, and its results are on the host."""
    monkeypatch.setattr(to_host, "_is_host", lambda tensor: False)
    found, on_host = [], []
    honest = torch.Tensor.cpu

    def brought(tensor):
        found.append("cpu")
        on_host.append(honest(tensor).clone())
        return on_host[-1]

    def watching(name):
        before = getattr(torch.Tensor, name)

        def watched(tensor, *args):
            pointers = {one.untyped_storage().data_ptr() for one in on_host}
            if tensor.untyped_storage().data_ptr() not in pointers:
                found.append(name)
            return before(tensor, *args)

        return watched

    for name in WATCHED:
        monkeypatch.setattr(torch.Tensor, name, brought if name == "cpu" else watching(name))
    kept = torch.Tensor.to

    def to(tensor, *args, **kwargs):
        made = kept(tensor, *args, **kwargs)
        if any(tensor.untyped_storage().data_ptr() == one.untyped_storage().data_ptr() for one in on_host):
            on_host.append(made)
        return made

    monkeypatch.setattr(torch.Tensor, "to", to)
    return found


def test_the_watch_sees_what_it_is_for(waits):
    tensor = torch.ones(2)
    assert tensor.tolist() == [1, 1]
    assert tensor.sum().item() == 2
    assert bool(tensor.any())
    assert float(tensor[0]) == 1
    assert len(waits) == 4
    waits.clear()
    (brought,) = to_host.to_host(tensor)
    assert brought.tolist() == [1, 1]
    assert waits == ["cpu"]


def test_what_is_brought_together_is_what_was_sent():
    sent = [
        torch.tensor([2**31, 7]),
        torch.tensor([[True], [False]]),
        torch.tensor([0.1, math.nan, -math.inf]),
        torch.tensor([5], dtype=torch.int32),
        torch.empty(2, 0),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(to_host, "_is_host", lambda tensor: False)
        found = to_host.to_host(*sent)
    for one, other in zip(found, sent, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


SEEDED = SamplingTransform(temperature=0.8, seed=3, top_k=20, top_p=0.9, min_p=0.01)


@pytest.mark.parametrize("transform", [GREEDY, SEEDED, SamplingTransform(temperature=0.9, top_p=0.9)])
def test_a_burst_brings_its_tokens_with_one_copy(waits, transform):
    e = static()
    for i, text in enumerate(prompts(9, 20)):
        e.open(OpenCall(str(i), transform, 80))
        e.submit(DraftCall(str(i), 0, 0, text, StopRule(12, row_len=5)))
    waits.clear()
    blocks = run_until_idle(e)
    assert [len(block.tokens) for block in blocks] == [12, 12]
    assert waits == ["cpu"]


@pytest.mark.parametrize("transform", [GREEDY, SEEDED, SamplingTransform(temperature=0.9, top_p=0.9)])
@pytest.mark.parametrize("rule", [AcceptanceRule(), AcceptanceRule(want_distances=True)])
def test_verdicts_and_whether_logits_are_finite_take_one_copy(waits, transform, rule):
    e, drafts = static(), static(seed=1)
    for i, text in enumerate(prompts(9, 20)):
        drafts.open(OpenCall(str(i), transform, 80))
        drafts.submit(DraftCall(str(i), 0, 0, text, StopRule(4, row_len=5)))
    blocks = {one.session: one for one in run_until_idle(drafts)}
    for i, text in enumerate(prompts(9, 20)):
        block = blocks[str(i)]
        e.open(OpenCall(str(i), transform, 80))
        e.submit(VerifyCall(str(i), 0, 0, text, block.tokens, block.distributions, rule=rule))
    waits.clear()
    assert len(e.step()) == 2
    assert waits == ["cpu"]
