"""What papers claim of adaptive drafting and acceptance, and how each claim is tested here.

A claim is a ratio of speeds, ``ours`` over ``base``. The verdict on its direction is declared here, before any run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from adasd.evaluate.intervals import Interval


class Verdict(StrEnum):
    """Whether a claim's direction is seen here."""

    CONFIRMED = "confirmed"  # every interval lies above 1
    MOSTLY = "partly"  # the intervals disagree, or hold 1
    REFUTED = "refuted here"  # none lies above 1, and at least one below
    UNTESTED = "not testable here"


@dataclass(frozen=True, slots=True)
class Claim:
    """One published claim."""

    paper: str
    text: str
    published: str  # figures of the paper
    ours: str = ""  # method; empty: not testable here
    base: str = ""
    command: str = ""  # what would test it, where this machine cannot


def verdict(ratios: Sequence[Interval]) -> Verdict:
    """The verdict on "faster", from the ratio of every pair and temperature that was run."""
    if not ratios:
        return Verdict.UNTESTED
    above, below = (
        sum(found) for found in zip(*((one.low > 1, one.high < 1) for one in ratios), strict=True)
    )
    if above == len(ratios):
        return Verdict.CONFIRMED
    return Verdict.REFUTED if below and not above else Verdict.MOSTLY


ADASD = "AdaSD, arXiv:2512.11280"
PAIRS = ("Llama 3.1 70B <- 8B", "Llama 3.1 70B <- 3.2 1B", "Qwen2.5 72B <- 7B")
TASKS = "GSM8K, HumanEval, MMLU"
VANILLA, ASSISTED = "static-5", "assisted:schedule=constant"
GENERATION, VERIFICATION, BOTH = "adasd", "static-5+adasd", "adasd+adasd"
HYBRID = f"{ASSISTED}+adasd"

TABLE = (
    ("AssistedGen", ASSISTED, ("1.156, 1.267, 1.007", "1.210, 1.332, 1.020", "1.287, 1.282, 1.088")),
    ("Gen-Only", GENERATION, ("1.169, 1.258, 1.014", "1.286, 1.422, 1.039", "1.241, 1.227, 1.021")),
    ("Verify-Only", VERIFICATION, ("1.024, 1.007, 1.042", "1.038, 1.014, 1.069", "1.011, 1.015, 1.051")),
    ("AdaSD", BOTH, ("1.227, 1.281, 1.071", "1.352, 1.457, 1.120", "1.257, 1.250, 1.091")),
)
"""AdaSD's tables: speed over *Vanilla* (length 5) on GSM8K, HumanEval and MMLU, by pair."""


def adasd_claims() -> list[Claim]:
    """Every row of AdaSD's tables."""
    rows = [
        Claim(ADASD, f"{name} is faster than Vanilla, {pair}", figures, method, VANILLA)
        for name, method, by_pair in TABLE
        for pair, figures in zip(PAIRS, by_pair, strict=True)
    ]
    return [
        *rows,
        Claim(
            ADASD,
            "AdaSD's verification with AssistedGen's length is faster than Vanilla, Qwen2.5 72B <- 7B",
            "1.307, 1.286, 1.134",
            HYBRID,
            VANILLA,
        ),
        Claim(
            ADASD,
            "that combination is faster than AdaSD itself, same pair",
            "1.040, 1.029, 1.040",
            HYBRID,
            BOTH,
        ),
        Claim(ADASD, "AdaSD is faster than AssistedGen, the three pairs", "0.98 to 1.12", BOTH, ASSISTED),
    ]


GPU = (
    "adasd eval --target meta-llama/Llama-3.1-70B-Instruct --draft meta-llama/Llama-3.2-1B-Instruct "
    "--workload gsm8k.jsonl --n 1319 --temperatures 1 --methods "
)
"""``gsm8k.jsonl``: a prompt and a reference per line, made from the task's test split."""


def exact_claims() -> list[Claim]:
    """Claims of exact methods, tested on traces."""
    adaedl = "AdaEDL, arXiv:2410.18351"
    on_the_fly = "On-the-fly, ACL 2025 long 482"
    return [
        *(
            Claim(
                adaedl,
                f"faster than the static length at an equal longest block of {length}",
                published,
                f"adaedl/{length}",
                f"static-{length}",
            )
            for length, published in ((3, "1.02 to 1.10"), (7, "1.10 to 1.38"), (16, "1.49 to 1.97"))
        ),
        Claim(adaedl, "faster than a confidence floor with the same update", "1.00 to 1.09", "adaedl",
              "confidence:schedule=dynamic"),
        Claim(on_the_fly, "faster than standard speculative decoding", "1.036 to 1.165", "on-the-fly", VANILLA),
        Claim(on_the_fly, "faster than plain decoding", "1.2 to 3.4", "on-the-fly", "off"),
    ]  # fmt: skip


def untested_claims() -> list[Claim]:
    """Claims that this machine cannot test, with the command that would."""
    return [
        Claim(ADASD, "the sizes of its ratios (50 to 100 times larger targets)", "see above", command=f"{GPU}"
              f"{','.join((VANILLA, ASSISTED, GENERATION, VERIFICATION, BOTH, HYBRID))}"),
        Claim(ADASD, "at most 1.8 points of accuracy below AssistedGen", "-1.8 to +4.3", command=f"{GPU}"
              f"{ASSISTED},{BOTH}"),
        Claim("TETRIS, arXiv:2502.15197", "a batch's verification budget by confidence raises throughput",
              "tables not read", command="adasd serve --target-verify-budget 64; adasd bench steady"),
        Claim("DEL, arXiv:2504.05598", "exit layer and length chosen together, LayerSkip models",
              "2.16 to 2.62 x plain",
              command="adasd serve --target facebook/layerskip-llama3.2-1B --target-early-exit true; "
              "adasd eval --url http://127.0.0.1:8000 --methods static-5@self,adasd@self,on-the-fly@self"),
    ]  # fmt: skip
