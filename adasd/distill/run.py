"""From a target to a draft that serves, in one run that may be interrupted: answers, learning, a folder.

Everything lies in ``OUT.work`` until the end: shards of answers, held-out answers, a checkpoint, and what the run
was begun with. The same call goes on from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from adasd.demo.agreement import GreedyAgreement
from adasd.demo.train import stop_signal as stop_signal  # for who runs this in the foreground
from adasd.distill import acceptance, folder, lessons, prompts, shards
from adasd.distill.answers import Answer
from adasd.distill.student import Shape, check_fresh, fresh, loaded, shape_of
from adasd.distill.train import Plan, Trainer
from adasd.engine.loading.checkpoint import load_config, load_tokenizer, reading, where
from adasd.engine.loading.limits import check_architecture, resolve_device
from adasd.errors import ConfigError

ANSWER_SHARE = 0.5
"""Of the time: the target writes. The rest is for learning."""

NUM_HELD_OUT = 96
HELD_OUT_EVERY = 20
"""Of prompts from a file, one in so many is for measuring only."""

REPORT_EVERY_S = 30.0
MEASURE_SHARE = 0.03
"""Of the time, at most, for measuring while it learns, and on so many answers:"""
NUM_WATCHED = 32
CUDA_BATCH_TOKENS = 16384
SAVE_EVERY_S = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for. ``size`` None: a third of the target's width and three layers.

    ``earlier`` is the folder of a draft to go on from, in its own shape.
    """

    target: str
    out: Path
    prompts: Path | None = None
    minutes: float = 60.0
    size: Shape | None = None
    earlier: Path | None = None
    max_tokens: int = 192
    device: str = "auto"
    num_threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Where the run is: a stage, the share of it that is done in [0, 1], and its figures as text."""

    stage: str
    share: float
    text: str


def distil(options: Options, stopped: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Do all of it, with an event now and then, the last with the stage ``done``; ConfigError for bad input.

    When ``stopped()``, the state is saved and the events end.
    """
    torch.set_num_threads(options.num_threads)
    shape, known = _checked(options)
    work = options.out.with_name(f"{options.out.name}.work")
    _pin(work, options, shape)
    yield Event("target", 0.0, f"loading {options.target}")
    tokenizer, target = load_tokenizer(options.target), _target(options)
    teacher = shards.Teacher(target, tokenizer, options.max_tokens, options.seed)
    yield from _answers(teacher, known, work, options, stopped)
    if stopped():
        return
    learnt, held_out = _read(work / "answers"), _read(work / "held-out")
    counts = lessons.counts(learnt, int(target.config.get_text_config().vocab_size))
    if options.earlier is not None:
        draft = loaded(options.earlier, tokenizer)
    else:
        draft = fresh(target, shape, counts, options.seed)
    draft.to(target.device)  # type: ignore[arg-type]
    facts = folder.Facts(
        options.target, target.num_parameters(), draft.num_parameters(), options.seed, options.earlier
    )
    del target, teacher
    plan = Plan(60 * options.minutes * (1 - ANSWER_SHARE))
    if draft.device.type == "cuda":
        plan = replace(plan, batch_tokens=CUDA_BATCH_TOKENS)
    trainer = Trainer(draft, learnt, plan, work / "state.pt")
    yield from _learn(trainer, held_out, stopped)
    if not trainer.done:
        return
    agreement = acceptance.measure(draft, held_out)
    folder.write(options.out, draft, tokenizer, facts.learnt(trainer, learnt, held_out, agreement))
    yield Event("done", 1.0, f"{options.out}: {figures(agreement)}; {work} is no longer needed")


def figures(agreement: GreedyAgreement) -> str:
    """Acceptance in words."""
    num_held = len(agreement.drafted)
    return (
        f"{agreement.share:.1%} of drafted tokens accepted in blocks of {num_held}, "
        f"{agreement.tokens_per_round:.2f} tokens per pass of the target"
    )


def _checked(options: Options) -> tuple[Shape, list[prompts.Prompt] | None]:
    """The shape and the prompts of the file, if there is one; whatever is wrong is said before anything is read."""
    if not options.minutes > 0:
        raise ConfigError(f"minutes is {options.minutes:g}; a run takes more than 0")
    if options.out.exists() and not (options.out.is_dir() and not any(options.out.iterdir())):
        raise ConfigError(f"{options.out} is there already; name another folder, or remove it")
    resolve_device(options.device)
    config = load_config(options.target)
    text: Any = config.get_text_config()
    check_architecture(config, 512)
    if options.earlier is not None and options.size is not None:
        raise ConfigError("the size is that of the draft to go on from; name a size or a draft, not both")
    if options.earlier is not None:
        shape = shape_of(options.earlier)
    else:
        shape = options.size or Shape.for_width(int(text.hidden_size))
    size, own = shape.num_parameters(text.vocab_size), _num_parameters(text)
    if size >= own:
        raise ConfigError(
            f"a draft of {shape.width}x{shape.num_layers} has {size / 1e6:.2f} M parameters, the target "
            f"{own / 1e6:.2f} M; choose a smaller size, or a target that is worth a draft"
        )
    if options.earlier is None:
        check_fresh(config, shape)
    return shape, prompts.read(options.prompts) if options.prompts else None


def _num_parameters(text: Any) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text)  # type: ignore[no-untyped-call]
    return int(model.num_parameters())


def _pin(work: Path, options: Options, shape: Shape) -> None:
    """Remember what a run was begun with; ConfigError if it is continued with something else."""
    asked = {
        "target": options.target,
        "prompts": options.prompts and str(options.prompts),
        "max_tokens": options.max_tokens,
        "seed": options.seed,
        **({"from": str(options.earlier)} if options.earlier else {}),
        **asdict(shape),
    }
    file = work / "run.json"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(asked, indent=2), encoding="utf-8")
        begun = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be written or read: {error}") from error
    if begun != asked:
        name = next(name for name in {**begun, **asked} if begun.get(name) != asked.get(name))
        raise ConfigError(
            f"{work} was begun with {name} {begun.get(name)}, now it is {asked.get(name)}; "
            f"use the same, or remove {work}"
        )


def _target(options: Options) -> PreTrainedModel:
    device = resolve_device(options.device)
    dtype: Any = "auto" if device.type == "cuda" else faster_dtype()
    with reading(options.target, "weights"):
        model: Any = AutoModelForCausalLM.from_pretrained(
            options.target, dtype=dtype, **where(options.target, False)
        )
    target: PreTrainedModel = model.to(device).eval()
    return target


def faster_dtype() -> torch.dtype:
    """bfloat16 on a CPU that multiplies it natively, else float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(64, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        tries = []
        for _ in range(5):
            began_s = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            tries.append(time.perf_counter() - began_s)
        seconds[dtype] = min(tries)
    return min(seconds, key=lambda dtype: seconds[dtype])


def _answers(
    teacher: shards.Teacher,
    known: list[prompts.Prompt] | None,
    work: Path,
    options: Options,
    stopped: Callable[[], bool],
) -> Iterator[Event]:
    """Held-out answers, then answers to learn from until their time is used up; at least one shard of them."""
    learnt, held_out = _streams(known, options.seed)
    yield Event("held-out", 0.0, f"the target answers {NUM_HELD_OUT} held-out prompts")
    for _ in shards.write(
        teacher, islice(held_out, NUM_HELD_OUT), work / "held-out", greedy_share=1.0, stopped=stopped
    ):
        pass
    clock = work / "answers.json"
    used_s = float(json.loads(clock.read_bytes())["seconds"]) if clock.exists() else 0.0
    limit_s = 60 * options.minutes * ANSWER_SHARE
    num_tokens, began_s = 0, time.perf_counter()
    if used_s >= limit_s:
        return
    for written in shards.write(teacher, learnt, work / "answers", stopped=stopped):
        spent_s = used_s + time.perf_counter() - began_s
        beside = clock.with_suffix(".part")
        beside.write_text(json.dumps({"seconds": spent_s}))
        beside.replace(clock)
        num_tokens += written
        rate = num_tokens / (spent_s - used_s)
        yield Event("answers", min(1.0, spent_s / limit_s), f"{num_tokens:,} tokens, {rate:.0f} per second")
        if spent_s >= limit_s:
            return


def _streams(
    known: list[prompts.Prompt] | None, seed: int
) -> tuple[Iterator[prompts.Prompt], Iterator[prompts.Prompt]]:
    """Prompts to learn from, without end, and held-out ones."""
    if known is None:
        return prompts.stream(seed), prompts.stream(seed, held_out=True)
    held_out = known[::HELD_OUT_EVERY]
    return cycle([one for at, one in enumerate(known) if at % HELD_OUT_EVERY]), iter(held_out)


def _read(where_: Path) -> list[Answer]:
    return list(chain.from_iterable(shards.load(file) for file in shards.files(where_)))


def _learn(trainer: Trainer, held_out: Sequence[Answer], stopped: Callable[[], bool]) -> Iterator[Event]:
    next_s = saved = time.monotonic()
    mean = None
    for report in trainer.steps():
        mean = report.loss if mean is None else 0.95 * mean + 0.05 * report.loss
        now = time.monotonic()
        if stopped():
            break
        if now - saved > SAVE_EVERY_S:
            saved = now
            trainer.save()
        if now > next_s:
            agreement = acceptance.measure(trainer.model, held_out[:NUM_WATCHED])
            trainer.model.train()
            next_s = time.monotonic() + max(REPORT_EVERY_S, (time.monotonic() - now) / MEASURE_SHARE)
            text = f"loss {mean:.3f} after {report.num_epochs:.1f} epochs; {figures(agreement)}"
            yield Event("learning", report.share, text)
    trainer.save()
