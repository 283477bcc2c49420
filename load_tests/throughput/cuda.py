"""Everything about a CUDA device in one command: is it right, and how fast is it?

    python -m load_tests.throughput.cuda [--folder load_tests/baselines] [--pair FOLDER] [--quick]

1. The tests marked ``gpu``: with wrong answers nothing is measured.
2. The demo pair enlarged to about 0.6 and 8 billion parameters in bfloat16 (the same functions, see
   ``adasd.demo.enlarge``; about 18 GB in ``--pair``, which is a temporary folder unless it is named).
3. Milliseconds of a decode step, of a verified block and of a drafted token, with recorded passes and without, and
   the share of the card's own copying speed that a decode step reaches.
4. ``single_stream`` and ``batch_throughput`` on the enlarged pair, the latter at up to 8 sessions: it holds the pair
   three times and transformers' models beside it, about 125 GB. In bfloat16 another shape of a batch rounds
   differently: answers that differ from ``generate`` are counted there, and are no error here.

Without a CUDA device the exit status is 2; 1 if tests failed or a benchmark could not run. Files are named for the
card. The vocabulary stays that of the demo pair (1,000 tokens), so heads cost less than in other models of that size.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from adasd.config import EngineConfig
from adasd.demo.enlarge import enlarge
from adasd.engine.engine import TorchEngine
from adasd.rounds import CallFailed, DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from load_tests import record
from load_tests.demo_pair import DEMO

SHAPES = {"target": (32, 33), "draft": (16, 42)}
"""Factor and further layers: 39 layers 4,096 wide (8.0 billion parameters), 44 layers 1,024 wide (0.6 billion)."""

PROMPT_LEN, BLOCK_LEN = 256, 8
NO_DEVICE = 2
_GREEDY = SamplingTransform(temperature=0.0)
Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class StepTimes:
    """Medians of one model, one session; a step is timed from its call to its result on the host."""

    model: str
    compile: str
    forward: str
    decode_ms: float
    verify_ms: float  # BLOCK_LEN tokens
    drafted_token_ms: float  # of a burst of BLOCK_LEN
    weight_bytes: int  # read by one step
    bandwidth_share: float | None  # of the device's copy bandwidth, for a decode step's weights alone


def run(command: Sequence[str]) -> int:
    """Run in the repository's root; returns the exit status."""
    return subprocess.run(command, cwd=record.ROOT, check=False).returncode


def slug(name: str) -> str:
    """Part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def build_pair(folder: Path) -> dict[str, Path]:
    """The enlarged pair, made on the GPU; files already in the folder are reused."""
    found = {role: folder / role for role in SHAPES}
    for role, (factor, extra_layers) in SHAPES.items():
        if (found[role] / "config.json").exists():
            continue
        small: Any = LlamaForCausalLM.from_pretrained(record.ROOT / DEMO / role, dtype=torch.bfloat16)
        with torch.device("cuda"):
            larger = enlarge(small.to("cuda"), factor, extra_layers)
        larger.save_pretrained(found[role])
        AutoTokenizer.from_pretrained(record.ROOT / DEMO / role).save_pretrained(found[role])
        del larger, small
        torch.cuda.empty_cache()
    return found


def copying_bytes_per_s(num_bytes: int = 2**31, num_tries: int = 20) -> float:
    """Bytes read and written per second by the GPU's own copy of a large tensor: the best of several tries."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best_ms = float("inf")
    for _ in range(num_tries):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()  # type: ignore[no-untyped-call]
        target.copy_(source)
        ended.record()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        best_ms = min(best_ms, began.elapsed_time(ended))  # type: ignore[no-untyped-call]
    return 2e3 * num_bytes / best_ms


def read_bytes(folder: Path) -> int:
    """Bytes of weights read per token: all but the embedding, of which only one row is read."""
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig.from_pretrained(folder))
    embedding = 0 if model.config.tie_word_embeddings else model.model.embed_tokens.weight.numel()
    return int((model.num_parameters() - embedding) * torch.bfloat16.itemsize)


def step_times(
    engine: TorchEngine, model: str, weight_bytes: int, bytes_per_s: float | None, num_runs: int
) -> StepTimes:
    """One session's steps; the engine's state is restored."""
    engine.warm_up()
    engine.open(OpenCall("timed", _GREEDY, PROMPT_LEN + 4 * BLOCK_LEN))
    try:
        prompt = tuple(i % engine.vocab_size for i in range(PROMPT_LEN))
        seconds(engine, VerifyCall("timed", 0, 0, prompt))
        decode, verify, burst = (
            [seconds(engine, call) for _ in range(num_runs)]
            for call in (
                VerifyCall("timed", 1, PROMPT_LEN - 1, prompt[-1:]),
                VerifyCall("timed", 1, PROMPT_LEN - 1, prompt[-1:], prompt[:BLOCK_LEN]),
                DraftCall("timed", 1, PROMPT_LEN - 1, prompt[-1:], StopRule(BLOCK_LEN)),
            )
        )
    finally:
        engine.close("timed")
    decode_s = statistics.median(decode)
    share = weight_bytes / decode_s / bytes_per_s if bytes_per_s else None
    return StepTimes(
        model,
        engine.config.compile,
        engine.forward.name,
        1e3 * decode_s,
        1e3 * statistics.median(verify),
        1e3 * statistics.median(burst) / BLOCK_LEN,
        weight_bytes,
        share,
    )


def seconds(engine: TorchEngine, call: VerifyCall | DraftCall) -> float:
    """Seconds from submission to the result; raises RuntimeError if it failed."""
    began_s = time.perf_counter()
    engine.submit(call)
    answers = []
    while engine.num_pending:
        answers += engine.step()
    if any(isinstance(answer, CallFailed) for answer in answers):
        raise RuntimeError(f"a timed call failed: {answers}")
    return time.perf_counter() - began_s


def table(found: Sequence[StepTimes]) -> Table:
    shown = Table(title=f"one session behind {PROMPT_LEN} tokens, medians")
    for column in ("model", "compile", "forward", "decode ms", f"verify {BLOCK_LEN} ms", "drafted token ms"):
        shown.add_column(column)
    shown.add_column("of copying speed", justify="right")
    for one in found:
        share = "" if one.bandwidth_share is None else f"{one.bandwidth_share:.0%}"
        times = (f"{ms:.3f}" for ms in (one.decode_ms, one.verify_ms, one.drafted_token_ms))
        shown.add_row(one.model, one.compile, one.forward, *times, share)
    return shown


def measure_steps(pair: dict[str, Path], num_runs: int) -> tuple[list[StepTimes], float]:
    """Both models with and without CUDA graphs, each loaded alone; and the GPU's copy bandwidth."""
    bytes_per_s = copying_bytes_per_s()
    found = []
    for role, folder in pair.items():
        weight_bytes = read_bytes(folder)
        for compiled in ("on", "off"):
            config = EngineConfig(str(folder), device="cuda", compile=compiled, num_slots=4, max_context=1024)
            engine = TorchEngine.from_config(config)
            found.append(step_times(engine, role, weight_bytes, bytes_per_s, num_runs))
            del engine
            torch.cuda.empty_cache()
    return found, bytes_per_s


def benchmarks(pair: dict[str, Path], folder: Path, card: str, quick: bool) -> list[list[str]]:
    """Commands of the benchmarks that take the enlarged pair as an argument."""
    models = ["--target", str(pair["target"]), "--draft", str(pair["draft"]), "--device", "cuda"]
    chosen = {
        "single_stream": ["--prompts", "6" if quick else "24", "--repeats", "1" if quick else "3"],
        "batch_throughput": [
            "--widths",
            *("1 8" if quick else "1 2 4 8").split(),
            "--repeats",
            "1",
        ],
    }
    return [
        [sys.executable, "-m", f"load_tests.{name}", *models, *options, "--json", str(folder / f"{name}-{card}.json")]
        for name, options in chosen.items()
    ]  # fmt: skip


def main(arguments: list[str] | None = None, run: Run = run) -> int:
    """Test, measure, print, write."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if not torch.cuda.is_available():
        print(f"no CUDA device: torch {torch.__version__} sees none, so nothing was tested or measured")
        return NO_DEVICE
    card = slug(torch.cuda.get_device_name())
    console = record.console()
    if run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]):
        console.print("[red]tests on the card failed; nothing was measured[/red]")
        return 1
    header = record.circumstances("throughput.cuda", arguments)
    console.print(f"{torch.cuda.get_device_name()}, {record.headline(header)}", highlight=False)
    with tempfile.TemporaryDirectory() as temporary:
        pair = build_pair(options.pair or Path(temporary))
        found, bytes_per_s = measure_steps(pair, 20 if options.quick else 100)
        console.print(table(found))
        figures = {
            "card": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "copying_bytes_per_s": bytes_per_s,
            "results": [asdict(one) for one in found],
        }
        record.write(record.ROOT / options.folder / f"cuda-{card}.json", header, figures)
        commands = benchmarks(pair, options.folder, card, options.quick)
        short = [command[2] for command in commands if run(command)]
    if short:
        console.print(f"a missed goal, or answers that differ: {', '.join(short)}")
    missing = [command[-1] for command in commands if not (record.ROOT / command[-1]).exists()]
    if missing:
        console.print(f"[red]without figures: {', '.join(missing)}[/red]")
    return 1 if missing else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.throughput.cuda", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--folder", type=Path, default=Path("load_tests/baselines"), help="where the JSON files go"
    )
    parser.add_argument("--pair", type=Path, help="where the enlarged pair is kept, or lies already")
    parser.add_argument("--quick", action="store_true", help="fewer prompts, widths and repeats")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
