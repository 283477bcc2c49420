"""The C kernels: chosen where they fit, built if there is a compiler, and batch-invariant."""

import copy
import gc
import math
import platform
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.engine import TorchEngine
from adasd.engine.forward import selection
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.native import forward as native
from adasd.engine.forward.native import library
from adasd.engine.forward.native.team_size import TeamSize
from adasd.engine.forward.selection import choose_forward
from adasd.engine.work import StepInput
from adasd.errors import ConfigError
from adasd.testing.loops import plain_batch
from tests.unit.engine import models
from tests.unit.engine.models import FAST, engine, generate, original, prompts
from tests.unit.engine.rounded import rounded_model, with_rounded_activations

CONTEXT = 100


class AloneBelow(TeamSize):
    """Passes of fewer tokens are computed by one thread alone; no clock is asked."""

    def __init__(self, num_tokens):
        self._num_tokens = num_tokens

    def is_alone(self, num_tokens):
        return num_tokens < self._num_tokens

    def learn(self, num_tokens, alone, seconds):
        assert alone == self.is_alone(num_tokens)
        assert seconds > 0


TOGETHER = AloneBelow(0)


@pytest.fixture
def fresh_library(tmp_path, monkeypatch):
    """An empty home and no library loaded; builds are unoptimised."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", ("-O0", *library.FLAGS[1:]))
    library.load.cache_clear()
    yield tmp_path
    library.load.cache_clear()


@pytest.fixture
def heads(monkeypatch):
    """Models with other head dimensions."""
    for dim in (8, 32, 64, 128, 256):
        config = dict(models._GROUPED, head_dim=dim)
        monkeypatch.setitem(models.CONFIGS, f"heads-{dim}", lambda config=config: LlamaConfig(**config))


def forward_of(name, num_threads=1):
    return engine(name, compile="on", num_threads=num_threads).forward


def logits_of(forward, passes):
    """Logits by (slot, position) of passes over one cache; each pass is a list of (slot, start, tokens)."""
    cache = KVCache(forward.layers, PrefixCache(8, CONTEXT), forward.dtype, forward.device)
    found = {}
    with torch.inference_mode():
        for kv in cache.tokens:
            kv.fill_(math.nan)  # unwritten positions must not be read
        for rows in passes:
            logits = forward(
                ForwardBatch([StepInput(*row, len(row[2])) for row in rows], cache.layout, forward.device),
                cache,
            )
            places = [(slot, start + i) for slot, start, tokens in rows for i in range(len(tokens))]
            found |= dict(zip(places, logits, strict=True))
    return found


def random_passes(texts, rng):
    """The texts in chunks of random lengths, in passes of random subsets."""
    done = dict.fromkeys(texts, 0)
    while left := [slot for slot, text in texts.items() if done[slot] < len(text)]:
        rows = []
        for slot in rng.sample(left, rng.randint(1, len(left))):
            piece = texts[slot][done[slot] :][: rng.choice((1, 1, 2, 5, 6, 7, 40))]
            rows.append((slot, done[slot], piece))
            done[slot] += len(piece)
        yield rows


@pytest.mark.parametrize("name", [*FAST, "heads-32", "heads-64", "heads-128"])
def test_a_tokens_logits_are_the_same_to_the_last_bit_in_any_company_and_any_piece(name, heads):
    forward = forward_of(name)
    texts = dict(zip((0, 3, 4, 7), prompts(30, 61, 9, 44), strict=True))
    alone = logits_of(
        forward, [[(slot, i, [token])] for slot, text in texts.items() for i, token in enumerate(text)]
    )
    for seed in range(5):
        found = logits_of(forward, random_passes(texts, random.Random(seed)))
        assert alone.keys() == found.keys()
        assert all(torch.equal(alone[place], found[place]) for place in alone)


@pytest.mark.parametrize("team_size", [TOGETHER, AloneBelow(8)], ids=["together", "mixed"])
@pytest.mark.parametrize("num_threads", [2, 3, 7])
@pytest.mark.parametrize("weights", ["full", "int8"])
def test_threads_change_nothing_not_even_the_last_bit(num_threads, weights, team_size):
    """Passes of one token up to 280, whose rows are shared in chunks; all by the team, or small ones by one thread."""
    texts = dict(zip((0, 3, 4, 7), prompts(90, 61, 9, 44), strict=True))
    model = rounded_model("llama-biased") if weights == "int8" else original("llama-biased")
    one, many = (
        native.NativeLlama(copy.deepcopy(model), CONTEXT, num, team_size) for num in (1, num_threads)
    )
    whole = [[(slot, 0, text) for slot, text in texts.items()]]
    for passes in (whole, *(list(random_passes(texts, random.Random(seed))) for seed in range(3))):
        expected, found = (logits_of(forward, passes) for forward in (one, many))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[place], found[place]) for place in expected)


def test_drafting_on_several_threads_is_that_on_one(monkeypatch):
    monkeypatch.setattr(native.NativeLlama.__init__, "__defaults__", (1, TOGETHER))
    alone, shared = (engine("qwen3", compile="on", num_threads=num) for num in (1, 3))
    texts = prompts(3, 30, 12)
    assert plain_batch(shared, texts, 30) == plain_batch(alone, texts, 30)


def test_threads_end_with_the_forward_pass():
    def num_threads():
        return len(list(Path("/proc/self/task").iterdir()))

    gc.collect()
    before = num_threads()
    forward = native.NativeLlama(copy.deepcopy(original("llama")), CONTEXT, 5, TOGETHER)
    assert num_threads() == before + 4
    logits_of(forward, [[(0, 0, [1, 2, 3])]])
    del forward
    gc.collect()
    assert num_threads() == before


def test_more_threads_than_the_system_starts_are_refused():
    with pytest.raises(ConfigError, match="num_threads"):
        native.NativeLlama(copy.deepcopy(original("llama")), CONTEXT, 2**60)


@pytest.mark.parametrize("width", [1, 2, 5, 6, 7, 12, 64])
def test_products_of_all_sizes_are_right(width):
    """Through a model whose sizes fill no panel: vocabulary 97, hidden size 32, intermediate size 48."""
    slow, fast = engine("llama-biased", fast=False).forward, forward_of("llama-biased")
    (text,) = prompts(width, seed=width)
    expected, found = (logits_of(one, [[(2, 0, text)]]) for one in (slow, fast))
    for place, logits in expected.items():
        torch.testing.assert_close(found[place], logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head_dim", [8, 32, 64, 128, 256])
def test_heads_of_all_sizes_are_right(head_dim, heads):
    slow = engine(f"heads-{head_dim}", fast=False).forward
    fast = forward_of(f"heads-{head_dim}")
    (text,) = prompts(40)
    expected, found = (logits_of(one, [[(2, 0, text[:23])], [(2, 23, text[23:])]]) for one in (slow, fast))
    for place, logits in expected.items():
        torch.testing.assert_close(found[place], logits, atol=1e-3, rtol=1e-4)


def assert_nearly_all_close(found, expected):
    """A number that lies between two whole ones may be rounded to either, which moves all logits of its token."""
    assert found.keys() == expected.keys()
    off = torch.stack([(found[place] - logits).abs().max() for place, logits in expected.items()])
    spread = torch.stack(list(expected.values())).std()
    assert off.median() < 1e-4 * spread
    assert off.max() < 0.1 * spread


@pytest.mark.parametrize("name", ["llama-biased", "qwen3", "heads-128"])
def test_rounded_weights_are_multiplied_with_rounded_activations_alike_in_any_company(name, heads):
    """Sizes that fill no panel or group, biases, a shared head; one token, whole tiles and rests of them."""
    model = rounded_model(name)
    slow = choose_forward(
        with_rounded_activations(copy.deepcopy(model)), EngineConfig("tiny"), CONTEXT, False
    )
    fast = choose_forward(model, EngineConfig("tiny"), CONTEXT, None)
    assert "native" in fast.name
    texts = dict(zip((0, 3, 7), prompts(30, 61, 9), strict=True))
    expected = logits_of(slow, [[(slot, 0, text)] for slot, text in texts.items()])
    alone = logits_of(fast, [[(slot, i, [t])] for slot, text in texts.items() for i, t in enumerate(text)])
    together = logits_of(fast, random_passes(texts, random.Random(0)))
    assert_nearly_all_close(alone, expected)
    assert all(torch.equal(together[place], logits) for place, logits in alone.items())


OLDER = [("-march=native", "-mno-avx512vnni"), ("-mavx2", "-mfma", "-mno-avx512f"), ("-mno-avx2", "-mno-avx")]


@pytest.mark.parametrize("name", ["llama-biased", "heads-128"])
@pytest.mark.parametrize("flags", OLDER)
def test_older_processors_compute_rounded_weights_alike(flags, name, heads, fresh_library, monkeypatch):
    if platform.machine() != "x86_64":
        flags = ()  # the code for all other processors
    model = rounded_model(name)
    monkeypatch.setattr(library, "OWN_PROCESSOR", (flags,))
    found = choose_forward(copy.deepcopy(model), EngineConfig("tiny"), CONTEXT, None)
    expected = choose_forward(with_rounded_activations(model), EngineConfig("tiny"), CONTEXT, False)
    (text,) = prompts(60)
    here, there = (logits_of(one, [[(2, 0, text)]]) for one in (found, expected))
    assert "native" in found.name
    assert_nearly_all_close(here, there)


@pytest.mark.parametrize("flags", OLDER[1:])
def test_older_processors_compute_alike_in_any_company(flags, heads, fresh_library, monkeypatch):
    """Optimised, as compilers may fuse steps differently for each number of rows."""
    monkeypatch.setattr(library, "FLAGS", ("-O3", *library.FLAGS[1:]))
    monkeypatch.setattr(library, "OWN_PROCESSOR", (flags if platform.machine() == "x86_64" else (),))
    texts = dict(zip((0, 3, 7), prompts(30, 61, 9), strict=True))
    for model in (copy.deepcopy(original("heads-32")), rounded_model("heads-64")):
        forward = native.NativeLlama(model, CONTEXT)
        alone = logits_of(
            forward, [[(slot, i, [t])] for slot, text in texts.items() for i, t in enumerate(text)]
        )
        together = logits_of(forward, random_passes(texts, random.Random(0)))
        assert all(torch.equal(together[place], logits) for place, logits in alone.items())


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_spoils_all_logits_through_products_of_bytes(broken):
    model = rounded_model("llama")
    mlp, inner = model.model.layers[0].mlp, model.config.intermediate_size
    mlp.gate_proj.bias, mlp.up_proj.bias = torch.ones(inner), torch.zeros(inner)
    mlp.up_proj.bias[5] = broken
    logits = logits_of(native.NativeLlama(model, CONTEXT), [[(0, 0, [1, 2, 3])]])
    assert not any(one.isfinite().any() for one in logits.values())


def kinds(forward):
    """Of the matrices of the first layer, as products.h numbers them."""
    layer = forward._kept[-1][0]
    return {getattr(layer, name).kind for name in ("qkv", "out", "gate_up", "down")}


def held_in(name, dtype):
    """A model whose weights sixteen bits of this type hold exactly."""
    return copy.deepcopy(original(name)).to(dtype).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama-biased", "qwen3"])
def test_weights_of_sixteen_bits_give_the_logits_of_full_ones_to_the_last_bit(name, dtype, monkeypatch):
    narrow = native.NativeLlama(held_in(name, dtype), CONTEXT)
    monkeypatch.setattr(native, "narrowest", lambda weight: weight)
    full = native.NativeLlama(held_in(name, dtype), CONTEXT)
    assert (kinds(narrow), kinds(full)) == ({native._KINDS[dtype]}, {0})
    texts = dict(zip((0, 3, 7), prompts(30, 61, 9), strict=True))
    passes = list(random_passes(texts, random.Random(1)))
    expected, found = (logits_of(one, passes) for one in (full, narrow))
    assert all(torch.equal(found[place], logits) for place, logits in expected.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("flags", [("-mavx2", "-mfma", "-mf16c", "-mno-avx512f"), ("-mno-avx2", "-mno-avx")])
def test_older_processors_widen_sixteen_bits_exactly(dtype, flags, fresh_library, monkeypatch):
    monkeypatch.setattr(library, "OWN_PROCESSOR", (flags if platform.machine() == "x86_64" else (),))
    narrow = native.NativeLlama(held_in("llama-biased", dtype), CONTEXT)
    monkeypatch.setattr(native, "narrowest", lambda weight: weight)
    full = native.NativeLlama(held_in("llama-biased", dtype), CONTEXT)
    (text,) = prompts(20)
    here, there = (logits_of(one, [[(2, 0, text)]]) for one in (narrow, full))
    assert all(torch.equal(here[place], logits) for place, logits in there.items())


def test_only_weights_that_sixteen_bits_hold_exactly_are_narrowed():
    cases = {
        (0.0, -0.0, 1.5, -(2.0**127), 2.0**-133): torch.bfloat16,
        (2049.0 / 2048, 6.0e-8, -65504.0): torch.float32,  # 6e-8 has no such number
        (1025.0 / 1024, 2.0**-24, -(2.0**-20), -65504.0): torch.float16,  # the smallest ones, too
        (1025.0 / 1024, 70_000.0): torch.float32,
        (float("nan"), 1.0): torch.float32,
    }
    for numbers, dtype in cases.items():
        weight = torch.tensor([numbers])
        narrow = native.narrowest(weight)
        assert narrow.dtype == dtype, numbers
        assert torch.equal(narrow.float(), weight) or weight.isnan().any()


def test_batches_of_sixty_four_sessions_answer_as_each_alone():
    texts = prompts(*(1 + 3 * i % 50 for i in range(64)))
    together = plain_batch(engine("qwen3", num_slots=64), texts, 12)
    alone = engine("qwen3", num_slots=1)
    assert together == [plain_batch(alone, [text], 12)[0] for text in texts]


# --------------------------------------------------------------------------- choosing


def choose(name, *, fast=None, **settings):
    model = copy.deepcopy(original(name))
    return choose_forward(model, EngineConfig("tiny", **settings), CONTEXT, fast).name


def test_off_takes_torchs_operations_and_on_the_kernels():
    assert "stacked" in choose("qwen2", compile="off")
    assert "native" in choose("qwen2", compile="on")
    assert "modules" in choose("qwen2", compile="on", fast=False)


@pytest.mark.parametrize(("kernels_s", "chosen"), [(1.0, "native"), (3.0, "stacked")])
def test_auto_takes_what_is_measured_to_be_faster(monkeypatch, kernels_s, chosen):
    timed = []

    def seconds(forward):
        timed.append(forward.name)
        assert len(forward.layers) == 1
        return kernels_s if "native" in forward.name else 2.0

    monkeypatch.setattr(selection, "seconds", seconds)
    assert chosen in choose("qwen3", compile="auto")
    assert len(timed) == 2


def test_the_measurement_leaves_random_numbers_alone_and_takes_time_into_account():
    model = original("llama")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    selection.pays(model, 1)
    assert torch.equal(torch.rand(1), expected)
    assert selection.seconds(forward_of("llama")) > 0


def test_wide_models_are_not_timed(monkeypatch):
    monkeypatch.setattr(selection, "MAX_WIDTH", 16)
    monkeypatch.setattr(selection, "seconds", lambda forward: pytest.fail("timed"))
    assert "stacked" in choose("llama", compile="auto")
    held = choose_forward(held_in("llama", torch.bfloat16), EngineConfig("tiny"), CONTEXT, None)
    assert "native" in held.name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_is_timed_as_the_kernels_would_hold_it(dtype):
    assert selection._held_in(selection._one_layer(held_in("llama", dtype))) == dtype
    assert selection._held_in(selection._one_layer(original("llama"))) == torch.float32


def test_insisting_where_the_kernels_do_not_fit_is_refused_and_auto_does_without():
    with pytest.raises(ConfigError, match="none of Llama"):
        choose("gpt-neox", compile="on")
    assert "native" not in choose("gpt-neox", compile="auto")


@pytest.mark.parametrize("faster", ["kernels", "torch"])
def test_with_several_threads_the_kernels_are_timed_against_torch(faster, monkeypatch):
    times = {"kernels": 1.0, "torch": 2.0} if faster == "kernels" else {"kernels": 2.0, "torch": 1.0}
    monkeypatch.setattr(
        selection, "seconds", lambda one: times["kernels" if "native" in one.name else "torch"]
    )
    assert ("native" in choose("llama", compile="auto", num_threads=2)) == (faster == "kernels")


def test_insisting_on_a_hand_written_forward_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="none of Llama"):
        choose("gpt-neox", fast=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_sixteen_bits_is_computed_as_its_numbers_in_float32(dtype):
    config = EngineConfig("tiny", num_slots=2, compile="on")
    narrow = TorchEngine.from_model(copy.deepcopy(original("llama")).to(dtype), config).forward
    wide = TorchEngine.from_model(held_in("llama", dtype), config).forward
    assert (narrow.dtype, kinds(narrow)) == (torch.float32, {native._KINDS[dtype]})
    (text,) = prompts(20)
    here, there = (logits_of(one, [[(2, 0, text)]]) for one in (narrow, wide))
    assert all(torch.equal(here[place], logits) for place, logits in there.items())


# --------------------------------------------------------------------------- building


def test_the_library_is_built_once_and_found_again(fresh_library, monkeypatch):
    library.load()
    built = list((fresh_library / ".cache" / "adasd").iterdir())
    assert [file.suffix for file in built] == [".so"], "and nothing is left of the building"
    library.load.cache_clear()
    monkeypatch.setattr(library, "_build", None)
    assert library.load().adasd_panel() >= 4


@pytest.mark.parametrize("name", ["llama.c", "products.h"])
def test_another_source_is_another_file(name, fresh_library, monkeypatch, tmp_path):
    library.load()
    for file in (library.SOURCE, *library.SOURCE.parent.glob("*.h")):
        shutil.copy(file, tmp_path)
    with open(tmp_path / name, "a") as changed:
        changed.write("\n/* changed */\n")
    monkeypatch.setattr(library, "SOURCE", tmp_path / "llama.c")
    library.load.cache_clear()
    library.load()
    assert len(list((fresh_library / ".cache" / "adasd").iterdir())) == 2


def test_without_a_compiler_torch_serves(fresh_library, monkeypatch):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert "stacked" in choose("llama", compile="auto")
    with pytest.raises(ConfigError, match="no C compiler"):
        choose("llama", compile="on")


def test_an_image_without_a_compiler_has_the_library_for_every_processor(fresh_library, monkeypatch):
    monkeypatch.setattr(library, "BUILT", fresh_library / "built")
    built = library.build_in_advance()
    levels = [level for level in library.LEVELS if level.machine == platform.machine()]
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    for level, file in zip(levels, built, strict=True):
        assert library.built_for(level.features | {"another"}) == file
    assert library.load().adasd_panel() >= 4
    monkeypatch.setattr(library, "_sources", lambda: ["another source"])
    assert library.built_for(library.V4) is None


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(fresh_library, monkeypatch, tmp_path):
    broken = tmp_path / "llama.c"
    broken.write_text("this is not C")
    monkeypatch.setattr(library, "SOURCE", broken)
    with pytest.raises(library.Unavailable, match="error"):
        library.load()
    assert not list((fresh_library / ".cache" / "adasd").iterdir())


def test_where_the_home_cannot_be_written_it_is_built_all_the_same(fresh_library, monkeypatch):
    (fresh_library / ".cache").write_text("a file where the folder should be")
    assert library.load().adasd_panel() >= 4


def test_an_older_compiler_without_native_still_builds(fresh_library, monkeypatch):
    monkeypatch.setattr(library, "OWN_PROCESSOR", (("-march=no-such-thing",), ()))
    assert library.load().adasd_panel() == 16, "what every processor of the kind has"


def test_deterministic_takes_the_kernels_where_they_fit_and_single_tokens_elsewhere(monkeypatch):
    monkeypatch.setattr(selection, "pays", lambda model, num_threads: False)
    assert "native" in choose("llama", compile="auto", deterministic=True)
    assert choose("llama", compile="off", deterministic=True).endswith("token by token")
    assert choose("gpt-neox", deterministic=True).endswith("token by token")
    assert "token by token" not in choose("gpt-neox")


@pytest.mark.parametrize("name", ["llama", "gemma3-window", "gpt-neox"])
def test_deterministic_answers_are_those_of_generate(name):
    texts = prompts(3, 30, 1)
    slow = engine(name, compile="off", deterministic=True)
    assert plain_batch(slow, texts, 8) == [generate(name, text, 8) for text in texts]
