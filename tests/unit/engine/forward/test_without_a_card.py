"""What a card will run, checked without one: FlashAttention's arguments, graphs, and faults found by reading."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, PhimoeConfig

import adasd.engine.engine as engine_module
import adasd.engine.loading.model as model_module
from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.cache.pages import Pages
from adasd.engine.engine import TorchEngine
from adasd.engine.forward import attention, paged_attention
from adasd.engine.forward.attention import attend, prepare_device
from adasd.engine.forward.batch import ForwardBatch, PageTables
from adasd.engine.forward.fast_llama import FastLlama
from adasd.engine.forward.graphs import CudaGraphs
from adasd.engine.forward.padded import Padded, PassSize
from adasd.engine.forward.selection import can_record
from adasd.engine.scheduler import Scheduled
from adasd.engine.work import StepInput
from adasd.errors import ConfigError, DeviceFailure
from tests.unit.engine.models import VOCAB_SIZE, original, prompts

CUDA, MAX_CONTEXT = torch.device("cuda", 0), 300


@pytest.mark.parametrize("window", [None, 7])
def test_flash_attention_gets_pages_lengths_and_window_as_it_wants_them(monkeypatch, window):
    """Checked against attention over the gathered pages, by an implementation of its documented arguments."""
    given = []

    def flash(out, q, k, v, first_q, first_k, max_q, max_k, **kw):
        given.append((q, k, first_q, first_k, max_q, max_k, kw))
        assert (kw["num_splits"], kw["enable_gqa"]) == (1, True)
        assert all(
            each.dtype == torch.int32 for each in (first_q, first_k, kw["seqused_k"], kw["block_table"])
        )
        assert k.stride(-1) == v.stride(-1) == 1
        left, right = kw["window_size"]
        assert right == 0
        for r, used in enumerate(kw["seqused_k"].tolist()):
            some = slice(int(first_q[r]), int(first_q[r + 1]))
            keys, values = (x[kw["block_table"][r].long()].flatten(0, 1)[:used] for x in (k, v))
            num = some.stop - some.start
            position = torch.arange(used - num, used)[:, None]
            hidden = torch.arange(used) > position
            if left >= 0:
                hidden |= torch.arange(used) < position - left
            fold = q.shape[1] // k.shape[2]
            scores = torch.einsum("qhd,khd->hqk", q[some], keys.repeat_interleave(fold, 1)) * kw["scale"]
            probs = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            out[some] = torch.einsum("hqk,khd->qhd", probs, values.repeat_interleave(fold, 1))

    monkeypatch.setattr(paged_attention, "varlen_attn_out", flash)
    torch.manual_seed(0)
    layout = Pages(3, 64, 16, 12)
    for n, length in enumerate((40, 7, 33)):
        layout.extend(layout.allocate((), ()).slot, 0, length)
        assert layout.pages(n)
    cache = KVCache([LayerShape(2, 8)], layout, torch.float32, torch.device("cpu"))
    cache.tokens[0][16:].normal_()
    inputs = [StepInput(0, 39, (1,), 1), StepInput(1, 2, (1,) * 5, 1), StepInput(2, 0, (1,) * 33, 1)]
    batch = ForwardBatch(inputs, layout, torch.device("cpu"))
    queries = torch.randn(39, 6, 8)
    expected = attend(queries, cache, 0, batch, 0.3, window)
    monkeypatch.setattr(attention, "serves", lambda queries: True)
    torch.testing.assert_close(attend(queries, cache, 0, batch, 0.3, window), expected, rtol=1e-4, atol=1e-5)
    assert len(given) == 1


def test_tables_of_a_padded_pass_are_those_of_one_sequence_per_token():
    forward = FastLlama(copy.deepcopy(original("llama")), 160)
    layout = Pages(2, 160, 16, 20)
    layout.extend(layout.allocate((), ()).slot, 0, 40)
    cache = KVCache(forward.layers, layout, torch.float32, torch.device("cpu"))
    step = Padded(PassSize(4, 4), cache)
    step.fill([StepInput(0, 30, (5, 6, 7), 3)])
    (tables,) = step.tables
    assert isinstance(tables, PageTables)
    assert tables.used_R.tolist() == [31, 32, 33, 1]
    assert tables.first_query_R1.tolist() == [0, 1, 2, 3, 4]
    assert tables.pages_RM[:3, :3].tolist() == [list(layout.pages(0))] * 3


# --------------------------------------------------------------------------- faults found by reading


def test_cudnns_attention_is_off_on_a_card_and_untouched_on_a_cpu():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        prepare_device(torch.device("cpu"))
        assert torch.backends.cuda.cudnn_sdp_enabled()
        prepare_device(CUDA)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_an_engine_for_a_card_gives_back_what_restacking_left_and_runs_full_batches_before_it_is_ready(
    monkeypatch,
):
    events = []

    class Engine(TorchEngine):
        def __init__(self, forward, *args, **kwargs):
            events.append("cache")
            self.runner = SimpleNamespace(forward=forward)

        def warm_up(self):
            events.append("warm-up")

    forward = SimpleNamespace(device=CUDA)
    monkeypatch.setattr(engine_module, "load_model", lambda *_: original("llama"))
    monkeypatch.setattr(engine_module, "choose_forward", lambda *_: events.append("weights") or forward)
    monkeypatch.setattr(engine_module, "check_agreement", lambda *_, **__: events.append("checked"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("emptied"))
    Engine.from_config(EngineConfig("tiny", device="cuda"), lambda what, share: events.append(what))
    assert events == ["preparing", "weights", "checked", "emptied", "cache", "warming up", "warm-up", "ready"]


def test_weights_go_straight_to_the_card_or_the_log_says_why_not(monkeypatch, caplog):
    config = EngineConfig("tiny", device="cuda:0")
    monkeypatch.setattr(model_module, "find_spec", lambda name: name)
    assert model_module._placement(config, CUDA) == {"device_map": {"": 0}}
    assert model_module._placement(config, torch.device("cpu")) == {}
    assert not caplog.messages
    monkeypatch.setattr(model_module, "find_spec", lambda name: None)
    assert model_module._placement(config, CUDA) == {}
    assert (
        "pass through host memory, as accelerate is not installed: pip install 'adasd-serve[cuda]'"
        in caplog.text
    )


def test_on_a_card_a_prompt_yields_to_those_who_decode(monkeypatch):
    """A step of 2,048 tokens takes as long as many of decoding."""
    budgets = []

    def scheduler(config, num_slots, prefill, *rest):
        budgets.append(prefill)
        raise StopIteration

    monkeypatch.setattr(engine_module, "Scheduler", scheduler)
    for name in ("prepare_device", "SlotTable", "ModelRunner", "PageRooms"):
        monkeypatch.setattr(engine_module, name, lambda *_: None)
    monkeypatch.setattr(engine_module, "make_layout", lambda *_: Pages(2, 64, 16, 8))
    monkeypatch.setattr(torch, "Generator", lambda device: torch.default_generator)
    forward = SimpleNamespace(
        device=CUDA,
        layers=[LayerShape(1, 1)],
        dtype=torch.float32,
        has_threads=False,
        make_cache=lambda layout: None,
    )
    with pytest.raises(StopIteration):
        TorchEngine(forward, EngineConfig("tiny"), 64, VOCAB_SIZE, seed=0)
    (budget,) = budgets
    one = Scheduled(SimpleNamespace(), StepInput(0, 40, (1,), 1))
    assert (budget.beside([]), budget.beside([one] * 30), budget.beside([one] * 300)) == (2048, 256, 300)


class FakeCard:
    """What ``CudaGraphs`` uses of torch.cuda, and an account of it."""

    def __init__(self):
        self.streams, self.captured_on, self.synchronised = [], [], 0

    def patch(self, monkeypatch):
        card = self

        class Stream:
            def __init__(self, device=None):
                card.streams.append(device)

            def wait_stream(self, other):
                pass

            def synchronize(self):
                card.synchronised += 1

        class Within:
            def __init__(self, *args, stream=None, **kwargs):
                self.stream = stream

            def __enter__(self):
                return self

            def __exit__(self, *error):
                return None

        class Capture(Within):
            def __enter__(self):
                card.captured_on.append(self.stream)

        for name, value in {
            "graph_pool_handle": lambda: (0, 0),
            "Stream": Stream,
            "current_stream": lambda: Stream.__new__(Stream),
            "device": Within,
            "stream": Within,
            "graph": Capture,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_all_graphs_are_captured_on_one_stream_of_their_own_device(monkeypatch):
    card = FakeCard()
    card.patch(monkeypatch)
    record = CudaGraphs(torch.device("cuda", 1))
    for _ in range(3):
        record(lambda: None)
    assert card.streams == [torch.device("cuda", 1)]
    assert len(card.captured_on) == 3
    assert len(set(map(id, card.captured_on))) == 1
    assert card.synchronised == 3


def test_what_fails_in_rehearsal_is_never_captured_and_what_fails_in_capture_is_fatal(monkeypatch):
    card = FakeCard()
    card.patch(monkeypatch)
    record = CudaGraphs(torch.device("cuda", 0))

    def fails_at(number):
        runs = []

        def run():
            runs.append(1)
            if len(runs) == number:
                raise ValueError("needs a value on the host")

        return run

    with pytest.raises(ValueError, match="on the host"):
        record(fails_at(2))
    assert card.captured_on == []
    with pytest.raises(DeviceFailure, match="could not be recorded"):
        record(fails_at(3))


def test_which_passes_are_recorded(monkeypatch):
    monkeypatch.setattr(paged_attention, "_is_recent", lambda device: True)
    sixteen = SimpleNamespace(device=CUDA, dtype=torch.bfloat16, layers=[LayerShape(2, 128)])
    wide = SimpleNamespace(device=CUDA, dtype=torch.float32, layers=[LayerShape(2, 128)])

    def config(**settings):
        return EngineConfig("tiny", **settings)

    assert can_record(sixteen, config())
    assert not can_record(wide, config()), "each token would gather a whole context"
    assert can_record(wide, config(compile="on"))
    assert not can_record(sixteen, config(compile="off"))
    assert not can_record(sixteen, config(cache="contiguous"))
    with pytest.raises(ConfigError, match="set cache to paged"):
        can_record(sixteen, config(cache="contiguous", compile="on"))


def test_a_window_that_only_the_mask_says_is_kept():
    """phimoe gives its layers no window of their own; its mask alone has one."""
    config = PhimoeConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        max_position_embeddings=64,
        sliding_window=7,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    (prompt,) = prompts(30)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        wanted = model(input_ids=ids, use_cache=False).logits[0, -1]
    engine = TorchEngine.from_model(model, EngineConfig("phimoe", num_slots=2))
    cache, layout = engine.cache, engine.cache.layout
    with torch.inference_mode():
        found = engine.forward(ForwardBatch([StepInput(0, 0, prompt, 1)], layout, torch.device("cpu")), cache)
    torch.testing.assert_close(found[0], wanted, rtol=1e-3, atol=1e-3)
