"""How often the shape of a pass flips a greedy token, per million positions, for every format and forward pass.

    python -m load_tests.throughput.flip_rate [--target PATH] [--texts 32] [--length 256] [--json FILE]

Every position's greedy token in a pass of its own is compared with the one in blocks of 4, in one pass over the
whole text, and beside the same position of all other texts. The texts are prompts and what the model answers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.table import Table
from transformers.utils import logging

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.protocol import Forward
from adasd.engine.work import StepInput
from adasd.local import LocalPair
from load_tests import record
from load_tests.demo_pair import DEMO, positive
from load_tests.demo_prompts import examples

ALONE, BLOCKS, AT_ONCE, TOGETHER = "alone", "blocks of 4", "at once", "together"
SHAPES = (ALONE, BLOCKS, AT_ONCE, TOGETHER)
Text = Sequence[int]


@dataclass(frozen=True)
class Flips:
    """One forward backend in one format; flips per million positions by shape, against single tokens."""

    forward: str
    dtype: str
    num_positions: int
    per_million: dict[str, float]
    largest_difference: float  # of any logit, over all shapes


def passes(texts: Sequence[Text], shape: str) -> Iterator[list[StepInput]]:
    """All texts, each in its own slot, in passes of this shape; logits requested at every position."""
    if shape == TOGETHER:
        for i in range(max(map(len, texts))):
            yield [StepInput(slot, i, (text[i],), 1) for slot, text in enumerate(texts) if i < len(text)]
        return
    for slot, text in enumerate(texts):
        step = {ALONE: 1, BLOCKS: 4, AT_ONCE: len(text)}[shape]
        for first in range(0, len(text), step):
            piece = text[first : first + step]
            yield [StepInput(slot, first, piece, len(piece))]


def logits_by_position(forward: Forward, texts: Sequence[Text], shape: str) -> torch.Tensor:
    """[all positions, V] float32, text after text."""
    longest = max(map(len, texts))
    cache = KVCache(forward.layers, PrefixCache(len(texts), longest), forward.dtype, forward.device)
    found: dict[tuple[int, int], torch.Tensor] = {}
    with torch.inference_mode():
        for inputs in passes(texts, shape):
            logits = forward(ForwardBatch(inputs, cache.layout, forward.device), cache).float()
            places = [(one.slot, one.start + i) for one in inputs for i in range(len(one.tokens))]
            found |= dict(zip(places, logits, strict=True))
    return torch.stack([found[place] for place in sorted(found)])


def count_flips(forward: Forward, texts: Sequence[Text]) -> Flips:
    """Compare all shapes with single tokens."""
    alone = logits_by_position(forward, texts, ALONE)
    choices, per_million, largest = alone.argmax(-1), {}, 0.0
    for shape in SHAPES[1:]:
        other = logits_by_position(forward, texts, shape)
        per_million[shape] = 1e6 * float((other.argmax(-1) != choices).float().mean())
        largest = max(largest, float((other - alone).abs().max()))
    return Flips(forward.name, str(forward.dtype).removeprefix("torch."), len(alone), per_million, largest)


def texts_of(target: str, num_texts: int, length: int) -> list[Text]:
    """Prompts and the model's answers to them, at most ``length`` tokens each."""
    pair = LocalPair.load(target, None, device="cpu", dtype="float32")
    assert pair.tokenizer is not None
    texts: list[Text] = []
    for example in examples(num_texts):
        prompt = pair.tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])
        answer = pair.generate(prompt, max_tokens=length)
        texts.append([*prompt, *answer.token_ids][:length])
    return texts


def table(found: Sequence[Flips]) -> Table:
    """Forward backends as rows, shapes as columns."""
    shown = Table("forward", "format", title="greedy tokens flipped per million positions")
    for column in (*SHAPES[1:], "largest difference"):
        shown.add_column(column, justify="right")
    for one in found:
        flips = (f"{one.per_million[shape]:.0f}" for shape in SHAPES[1:])
        shown.add_row(one.forward, one.dtype, *flips, f"{one.largest_difference:.2g}")
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if a forward backend that claims to be batch-invariant is not."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("throughput.flip_rate", arguments, threads=1)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    texts = texts_of(options.target, options.texts, options.length)
    found, broken = [], False
    for dtype in ("float32", "bfloat16"):
        plain = EngineConfig(options.target, dtype=dtype, device="cpu", num_slots=1, compile="off")
        settings = [plain, replace(plain, deterministic=True)]
        if dtype == "float32":
            settings.append(replace(plain, compile="auto"))
        for config in settings:
            forward = TorchEngine.from_config(config).forward
            found.append(count_flips(forward, texts))
            broken |= forward.batch_invariant and found[-1].largest_difference > 0
    console.print(table(found))
    if options.json:
        record.write(
            options.json, header, {"target": options.target, "flips": [asdict(one) for one in found]}
        )
    return int(broken)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.throughput.flip_rate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--target", default=str(DEMO / "target"), help="folder or Hugging Face id")
    parser.add_argument("--texts", type=positive, default=32, help="texts, side by side [32]")
    parser.add_argument("--length", type=positive, default=256, help="tokens per text at most [256]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
