"""What is checked and measured, section by section; each yields its records as soon as it has them.

Milliseconds are medians, from a call to its result on the host.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers import PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.cache.pages import Pages
from adasd.engine.engine import TorchEngine
from adasd.engine.forward import attention
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.loading.sizing import page_size
from adasd.engine.sampling.verdicts import choose_judge
from adasd.engine.work import StepInput
from adasd.rounds import CallFailed, DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from adasd.specdec import verify
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import TransformBatch
from adasd.testing.loops import plain_batch
from load_tests.cuda.colocated import Pair, always_agreeing, two_streams
from load_tests.cuda.ranks import NUM_RANKS, two_ranks
from load_tests.cuda.sizes import TINY, Sizes, model

Record = dict[str, Any]
Section = Callable[[Sizes], Iterator[Record]]
GREEDY, BLOCK_LEN = SamplingTransform(temperature=0.0), 5
DRAFTED = {
    "greedy": (GREEDY, 0),
    "sampled": (SamplingTransform(temperature=0.8, top_p=0.95), 64),
    "seeded": (SamplingTransform(temperature=0.8, top_p=0.95, seed=1), 0),
}
"""Kinds of drafting sessions, and the entries of the distributions that they send."""

TARGET_SHARE = 0.75
"""Of the card's memory, beside a draft."""


def milliseconds(sizes: Sizes, run: Callable[[], object]) -> float:
    """Median time of a run, after one that is not counted."""
    run()
    times = []
    for _ in range(sizes.num_repeats):
        sizes.synchronize()
        began_s = time.perf_counter()
        run()
        sizes.synchronize()
        times.append(1e3 * (time.perf_counter() - began_s))
    return statistics.median(times)


def engine_of(made: PreTrainedModel, sizes: Sizes, num_slots: int, **settings: Any) -> TorchEngine:
    """A paged engine; recorded passes on a card."""
    config = EngineConfig("random weights", num_slots=num_slots, cache="paged", **settings)
    return TorchEngine.from_model(made, config, seed=0)


def run_all(engine: TorchEngine) -> list[Any]:
    """Answers of all waiting calls; raises the first error."""
    answers = []
    while engine.num_pending:
        answers += engine.step()
    for answer in answers:
        if isinstance(answer, CallFailed):
            raise answer.error
    return answers


def filled(
    engine: TorchEngine, num_sessions: int, context: int, transform: SamplingTransform = GREEDY
) -> list[str]:
    """Open sessions that hold ``context`` tokens each, all different."""
    sessions = [f"{num_sessions} x {context}: {i}" for i in range(num_sessions)]
    for i, session in enumerate(sessions):
        engine.open(OpenCall(session, transform, context + 4 * BLOCK_LEN))
        prompt = tuple((7 * i + 3 * at) % engine.vocab_size for at in range(context))
        engine.submit(VerifyCall(session, 0, 0, prompt))
    run_all(engine)
    return sessions


def card(sizes: Sizes) -> Iterator[Record]:
    """Versions, and the speed of a copy."""
    on_card = sizes.device.type == "cuda"
    yield {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "card": torch.cuda.get_device_name(sizes.device) if on_card else "none",
    }
    source = torch.zeros(sizes.copy_bytes, dtype=torch.uint8, device=sizes.device)
    target = torch.empty_like(source)
    ms = milliseconds(sizes, lambda: target.copy_(source))
    yield {"copied_gb_per_s": 2 * sizes.copy_bytes / ms / 1e6}


def plans(sizes: Sizes) -> Iterator[Record]:
    """The first call of ``scaled_dot_product_attention`` at new lengths, with cuDNN's kernel and without."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for number, enabled in enumerate((True, False)):
            torch.backends.cuda.enable_cudnn_sdp(enabled)
            times = []
            for at in range(4):
                length = sizes.contexts[0] + 8 * at + 4 * number
                q, k = (torch.randn(2, 4, n, 64, device=sizes.device, dtype=sizes.dtype) for n in (6, length))
                mask = torch.zeros(2, 1, 6, length, device=sizes.device, dtype=sizes.dtype)
                sizes.synchronize()
                began_s = time.perf_counter()
                F.scaled_dot_product_attention(q, k, k, attn_mask=mask)
                sizes.synchronize()
                times.append(1e3 * (time.perf_counter() - began_s))
            yield {"cudnn": enabled, "first_call_ms": times}
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def correctness(sizes: Sizes) -> Iterator[Record]:
    """A tiny float32 model: recorded and eager passes against transformers, for a few prompts."""
    wide = Sizes(sizes.device, torch.float32, TINY, TINY, 0, (), (), (), 0, 1)
    prompts = [tuple((5 * i + 3 * at) % 97 for at in range(length)) for i, length in enumerate((3, 40, 90))]
    original = model(TINY, wide)
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=sizes.device)
        mask = torch.ones_like(ids)
        with torch.no_grad():
            out = original.generate(  # type: ignore[operator]
                ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0
            )
        expected.append(out[0, len(prompt) :].tolist())
    for compiled in ("on", "off") if sizes.device.type == "cuda" else ("off",):
        engine = engine_of(model(TINY, wide), wide, 4, compile=compiled)
        found = plain_batch(engine, prompts, 12)
        yield {"compile": compiled, "forward": engine.forward.name, "as_generate": found == expected}


def attend(sizes: Sizes) -> Iterator[Record]:
    """One layer of the target's attention: gathered pages against pages read in place."""
    heads, kv_heads = sizes.target["num_attention_heads"], sizes.target["num_key_value_heads"]
    head_dim = sizes.target["hidden_size"] // heads
    size = page_size(sizes.device)
    for num in sizes.batches:
        for context in sizes.attention_contexts:
            pages_each = -(-(context + 8) // size)
            layout = Pages(num, pages_each * size, size, num * pages_each)
            for _ in range(num):
                layout.extend(layout.allocate((), ()).slot, 0, context + 8)
            cache = KVCache([LayerShape(kv_heads, head_dim)], layout, sizes.dtype, sizes.device)
            for num_queries in (1, 1 + BLOCK_LEN):
                inputs = [StepInput(n, context, (0,) * num_queries, 1) for n in range(num)]
                batch = ForwardBatch(inputs, layout, sizes.device)
                queries = torch.randn(
                    num * num_queries, heads, head_dim, dtype=sizes.dtype, device=sizes.device
                )
                record: Record = {"batch": num, "context": context, "queries": num_queries}
                serves = attention.serves
                try:
                    if serves(queries):
                        record["in_place_ms"] = milliseconds(
                            sizes,
                            lambda: attention.attend(queries, cache, 0, batch),  # noqa: B023
                        )
                    attention.serves = lambda _: False
                    record["gathered_ms"] = milliseconds(
                        sizes,
                        lambda: attention.attend(queries, cache, 0, batch),  # noqa: B023
                    )
                finally:
                    attention.serves = serves
                yield record


def drafting(sizes: Sizes) -> Iterator[Record]:
    """The draft: start, bytes, and milliseconds per drafted token, for sessions of each kind."""
    batches = [num for num in sizes.batches if num <= 32]
    began_s = time.perf_counter()
    engine = engine_of(model(sizes.draft, sizes), sizes, max(batches))
    yield {"start_s": time.perf_counter() - began_s, "forward": engine.forward.name, **bytes_used(sizes)}
    for num in batches:
        for kind, (transform, row_len) in DRAFTED.items():
            sessions = filled(engine, num, sizes.contexts[0], transform)
            rule = StopRule(BLOCK_LEN, row_len=row_len)

            def draft(sessions: list[str] = sessions, rule: StopRule = rule) -> None:
                for session in sessions:
                    keep = min(engine.cached_len(session), sizes.contexts[0])
                    engine.submit(DraftCall(session, 1, keep, (1,), rule))
                run_all(engine)

            yield {"batch": num, "kind": kind, "drafted_token_ms": milliseconds(sizes, draft) / BLOCK_LEN}
            for session in sessions:
                engine.close(session)


def target(sizes: Sizes) -> Iterator[Record]:
    """The target: decoding, verification of a block, and a long prompt."""
    batches = [num for num in sizes.batches if num <= 32]
    began_s = time.perf_counter()
    engine = engine_of(model(sizes.target, sizes), sizes, max(batches))
    yield {"start_s": time.perf_counter() - began_s, "forward": engine.forward.name, **bytes_used(sizes)}
    for context in sizes.contexts:
        for num in batches:
            sessions = filled(engine, num, context)
            record: Record = {"batch": num, "context": context}
            for name, block in (("decode_ms", ()), ("verify_ms", (1,) * BLOCK_LEN)):

                def judge(
                    sessions: list[str] = sessions, block: tuple[int, ...] = block, keep: int = context
                ) -> None:
                    for session in sessions:
                        engine.submit(VerifyCall(session, 1, keep, (1,), block))
                    run_all(engine)

                record[name] = milliseconds(sizes, judge)
            yield record
            for session in sessions:
                engine.close(session)
    began_s = time.perf_counter()
    for session in filled(engine, 1, sizes.prompt_len):
        engine.close(session)
    yield {"prompt_len": sizes.prompt_len, "prefill_s": time.perf_counter() - began_s}


def verdicts(sizes: Sizes) -> Iterator[Record]:
    """Verdicts of sampled sessions with top-p, by torch and by what the engine would choose."""
    vocab_size, num = sizes.target["vocab_size"], min(32, max(sizes.batches))
    transforms = [SamplingTransform(temperature=0.8, top_p=0.95, seed=i) for i in range(num)]
    batch, rules = TransformBatch.build(transforms, [9] * num, sizes.device), [verify.AcceptanceRule()] * num
    logits = 3 * torch.randn(num, 1 + BLOCK_LEN, vocab_size, device=sizes.device)
    blocks = BlockBatch.pack([(1,) * BLOCK_LEN] * num, [None] * num, sizes.device)
    chance = verify.draw_random_numbers(batch, rules, BLOCK_LEN, vocab_size, torch.Generator(sizes.device))
    chosen = choose_judge(sizes.device, vocab_size)
    found = [each(logits, blocks, batch, rules, chance) for each in (verify.judge, chosen)]
    yield {
        "positions": num * (1 + BLOCK_LEN),
        "equal": torch.equal(found[0].next_token_B, found[1].next_token_B),
        "torch_ms": milliseconds(sizes, lambda: verify.judge(logits, blocks, batch, rules, chance)),
        "chosen_ms": milliseconds(sizes, lambda: chosen(logits, blocks, batch, rules, chance)),
        "chosen": chosen.__module__,
    }


def colocated(sizes: Sizes) -> Iterator[Record]:
    """Draft and target on one card: a round whose block is accepted in full, against a step of plain decoding.

    A round pays if it accepts more than ``pays_from`` drafted tokens on average.
    """
    batches, context = [num for num in sizes.batches if 1 < num <= 32], sizes.contexts[0]
    made = [always_agreeing(model(shape, sizes)) for shape in (sizes.target, sizes.draft)]
    target_engine = engine_of(made[0], sizes, max(batches), gpu_memory_utilization=TARGET_SHARE)
    draft_engine = engine_of(made[1], sizes, max(batches))
    pair = Pair(draft_engine, target_engine, BLOCK_LEN)
    yield bytes_used(sizes)
    with two_streams(sizes.device) as streams, ThreadPoolExecutor(2) as threads:
        for num in (1, *batches):
            pair.open(num, context, 3 * (sizes.num_repeats + 2))
            record: Record = {"batch": num, "context": context}
            record["round_ms"] = milliseconds(sizes, pair.in_turn)
            if num > 1:
                record["two_streams_round_ms"] = milliseconds(sizes, lambda: pair.at_once(threads, streams))
            record["accepted_per_round"] = pair.accepted_per_round
            pair.forget_blocks()
            record["decode_ms"] = milliseconds(sizes, lambda: pair.verify(pair.sessions))
            record["pays_from"] = record["round_ms"] / record["decode_ms"] - 1
            yield record
            pair.close()


def bytes_used(sizes: Sizes) -> Record:
    """Bytes of the device that this process uses."""
    if sizes.device.type != "cuda":
        return {}
    return {"allocated_bytes": torch.cuda.memory_allocated(), "reserved_bytes": torch.cuda.memory_reserved()}


def tensor_parallel(sizes: Sizes) -> Iterator[Record]:
    """The target on two ranks, one session: decoding, and verification of a block. Needs two cards."""
    num_cards = torch.cuda.device_count() if sizes.device.type == "cuda" else NUM_RANKS
    if num_cards < NUM_RANKS:
        yield {"skipped": f"{NUM_RANKS} ranks need {NUM_RANKS} cards, and there is {num_cards}"}
        return
    with TemporaryDirectory() as folder:
        model(sizes.target, sizes).save_pretrained(folder)
        began_s = time.perf_counter()
        with two_ranks(folder, sizes) as engine:
            record: Record = {"start_s": time.perf_counter() - began_s, "forward": engine.forward.name}
            context = sizes.contexts[0]
            (session,) = filled(engine, 1, context)
            for name, block in (("decode_ms", ()), ("verify_ms", (1,) * BLOCK_LEN)):

                def judge(block: tuple[int, ...] = block) -> None:
                    engine.submit(VerifyCall(session, 1, context, (1,), block))
                    run_all(engine)

                record[name] = milliseconds(sizes, judge)
            engine.close(session)
            yield record


SECTIONS: tuple[Section, ...] = (
    card,
    plans,
    correctness,
    verdicts,
    attend,
    drafting,
    target,
    colocated,
    tensor_parallel,
)
"""In this order: what is short and decides the rest comes first."""
