"""A verify pass over eight tokens beside one over a single token: SmolLM2 in float32, one sequence."""

from __future__ import annotations

import time
from statistics import median

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.rounds import OpenCall, SamplingTransform, VerifyCall
from load_tests.goals.row import Circumstances, Row, figures, smollm2

PROMPT_LEN, BLOCK_LEN, NUM_PASSES = 64, 7, 20


def measure(given: Circumstances) -> list[Row]:
    folder, _ = smollm2()
    config = EngineConfig(str(folder), dtype="float32", device="cpu", num_threads=given.threads, num_slots=2)
    engine = TorchEngine.from_config(config)
    engine.warm_up()
    engine.open(OpenCall("one", SamplingTransform(temperature=0.0), PROMPT_LEN + BLOCK_LEN + 2))
    timed_ms(engine, VerifyCall("one", 1, 0, (7,) * PROMPT_LEN))
    times: dict[int, list[float]] = {0: [], BLOCK_LEN: []}
    for number in range(NUM_PASSES * given.repeats):
        for at, block_len in enumerate(times):
            call = VerifyCall("one", 2 + 2 * number + at, PROMPT_LEN, (5,), block=(7,) * block_len)
            times[block_len].append(timed_ms(engine, call))
    one, eight = median(times[0]), median(times[BLOCK_LEN])
    about = figures("ms", one_token=one, eight=eight)
    return [Row("verify pass of 8 tokens over one token", 1.35, round(eight / one, 3), about, at_most=True)]


def timed_ms(engine: TorchEngine, call: VerifyCall) -> float:
    """Milliseconds of the steps that a call takes."""
    engine.submit(call)
    began_s = time.perf_counter()
    while engine.num_pending:
        engine.step()
    return 1e3 * (time.perf_counter() - began_s)
