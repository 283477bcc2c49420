"""The series that run end to end, since lossy methods change the text: one pair, one workload, several methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adasd.config import SpeculationConfig
from adasd.evaluate.compared_methods import PLAIN, Method, method
from adasd.evaluate.measure import MethodRun, load_pair, run
from adasd.evaluate.questions import WORKLOADS
from cluster.data import DEMO, packaged
from cluster.evaluation.remote import Journal

GUARDED = f"adasd+{SpeculationConfig().acceptance}"
"""What mode ``adaptive`` does unless told otherwise."""
VANILLA, ASSISTED = "static-5", "assisted:schedule=constant"
"""The paper's baselines: *Vanilla* and *AssistedGen*."""
GENERATION_ONLY, VERIFICATION_ONLY = "adasd", "static-5+adasd"
PUBLISHED, HYBRID = "adasd+adasd", f"{ASSISTED}+adasd"
PAPER = (VANILLA, ASSISTED, GENERATION_ONLY, VERIFICATION_ONLY, PUBLISHED, HYBRID)
"""The rows of AdaSD's tables."""
REAL, SAMPLED = "smollm2", "smollm2-sampled"
"""The series of the real pair, greedy and at temperature 1."""
NUM_SHORT = 100
"""Short prompts per family."""
PRICED = f"calibrated+{SpeculationConfig().acceptance}"
FREE = (PLAIN, VANILLA, "static-2", "static-3", "calibrated", GUARDED, PRICED, "calibrated+collision")
"""On free wording: the baselines of the goals, and drafting that is priced under the same acceptance."""
OTHERS = (GUARDED, "adasd+collision", "adaedl+collision")
RATIOS = (0.0, 0.1, 0.25, 0.5)
"""Guards to choose from: the least share of the target's largest probability that a relaxed token must have."""


@dataclass(frozen=True, slots=True)
class LossySeries:
    """One run: every method at every temperature on the same prompts."""

    name: str
    title: str
    target: str
    draft: str
    noise: float
    workload: tuple[str, int, int]  # name, prompts per task, seed
    max_tokens: int
    methods: tuple[tuple[float, tuple[str, ...]], ...]  # by temperature
    weights: str = "full"  # of both models; int8 is another pair, three times as fast
    scores: bool = True  # whether the target's log-likelihood of each answer is recorded
    cost_ratio: float | None = (
        None  # modelled time of a drafted token that methods are told; None: they measure
    )
    plain_of: str | None = None  # a series on the same target and prompts, whose plain answers these are too


def demo_series() -> list[LossySeries]:
    """The demo pair: the guard's constant on development prompts, then the figures of both drafts."""
    target, draft = str(DEMO / "target"), str(DEMO / "draft")
    guards = (PLAIN, *(f"adasd+adasd:min_ratio={ratio:g}" for ratio in RATIOS))
    test = (PLAIN, *PAPER, *OTHERS)
    return [
        LossySeries(
            "guard",
            "Choice of the guard: demo pair, hopeless draft, development prompts",
            target,
            draft,
            0.35,
            ("demo", 25, 1),
            160,
            tuple((temperature, guards) for temperature in (0.0, 0.7, 1.0)),
        ),
        LossySeries(
            "demo",
            "Demo pair",
            target,
            draft,
            0.0,
            ("demo", 25, 0),
            160,
            ((0.0, test), (1.0, test)),
        ),
        LossySeries(
            "hopeless",
            "Demo pair with a hopeless draft",
            target,
            draft,
            0.35,
            ("demo", 25, 0),
            160,
            ((0.0, (PLAIN, VANILLA, PUBLISHED, GUARDED, "adasd+collision")),
             (1.0, (PLAIN, VANILLA, PUBLISHED, GUARDED, "adasd+collision"))),
            plain_of="demo",
        ),
    ]  # fmt: skip


def many_series() -> list[LossySeries]:
    """The demo pair on 1,500 prompts, with a useful and a hopeless draft: is anything lost?"""
    _, useful, hopeless = demo_series()
    methods = ((0.0, (PLAIN, PUBLISHED, GUARDED)), (1.0, (PLAIN, PUBLISHED, GUARDED)))
    workload = ("demo", 375, 2)
    return [
        replace(useful, name="many", title="Demo pair, 1,500 prompts", workload=workload, methods=methods),
        replace(
            hopeless,
            name="many-hopeless",
            title="Demo pair with a hopeless draft, 1,500 prompts",
            workload=workload,
            methods=methods,
            plain_of="many",
        ),
    ]


def real_series(target: str) -> list[LossySeries]:
    """SmolLM2-135M with our draft: twelve families, greedy by the clock and sampled; free wording; short prompts."""
    greedy = LossySeries(
        REAL,
        "SmolLM2-135M with our draft",
        target,
        str(packaged("models/smollm2-draft")),
        0.0,
        ("test", 3, 0),
        48,
        ((0.0, (PLAIN, VANILLA, "static-2", "calibrated", PUBLISHED, GUARDED)),),
        scores=False,  # it would cost time, and this series is compared with the clock
    )
    return [
        greedy,
        replace(
            greedy,
            name=SAMPLED,
            title="SmolLM2-135M in int8 with our draft, sampled",
            workload=("test", 5, 0),
            methods=((1.0, (PLAIN, *PAPER, GUARDED)),),
            weights="int8",
            scores=True,
        ),
        replace(
            greedy,
            name="free",
            title="SmolLM2-135M in int8 with our draft, free wording",
            workload=("free", 20, 0),
            max_tokens=64,
            methods=tuple((temperature, FREE) for temperature in (0.0, 1.0)),
            weights="int8",
            scores=True,
            cost_ratio=0.1,
        ),
        replace(
            greedy,
            name="short",
            title="SmolLM2-135M in int8 with our draft, short prompts",
            workload=("short", NUM_SHORT, 0),
            max_tokens=32,
            methods=((0.0, (PLAIN, PUBLISHED, GUARDED)),),
            weights="int8",
            scores=True,
        ),
    ]


def answered(
    series: LossySeries,
    folder: Path,
    on_run: Callable[[Method, float], None] = lambda method, temperature: None,
    plain: Sequence[MethodRun] = (),
) -> list[MethodRun]:
    """All runs of a series; those that the folder's journal has whole are read from there.

    ``plain``: runs of the series ``plain_of``, of which plain decoding is taken.
    """
    workload, num, seed = series.workload
    items = WORKLOADS[workload](num, seed)
    about = {
        **asdict(series),
        "target": Path(series.target).name,
        "draft": Path(series.draft).name,
        "methods": [],
        "prompts": [item.prompt for item in items],
    }
    journal = Journal(folder / f"lossy-{series.name}.jsonl", about)
    pair = None
    runs = []
    for temperature, names in series.methods:
        for name in names:
            chosen = method(name)
            if not chosen.serves(temperature):
                continue
            if name == PLAIN and plain:
                runs.append(
                    next(one for one in plain if (one.method, one.temperature) == (chosen, temperature))
                )
                continue
            places = [f"{name} T={temperature:g} #{number}" for number in range(len(items))]
            if not all(place in journal.answers for place in places):
                pair = pair or load_pair(
                    series.target,
                    series.draft,
                    dtype="float32",
                    weights=series.weights,
                    draft_noise=series.noise,
                )
                (done,) = run(
                    pair,
                    items,
                    [chosen],
                    [temperature],
                    max_tokens=series.max_tokens,
                    cost_ratio=series.cost_ratio,
                    scores=series.scores,
                )
                for place, answer in zip(places, done.answers, strict=True):
                    journal.add(place, answer)
            runs.append(MethodRun(chosen, temperature, tuple(journal.answers[place] for place in places)))
            on_run(chosen, temperature)
    return runs


def paces(
    runs: Sequence[MethodRun], name: str, temperature: float, cost_ratio: float
) -> list[tuple[float, float]]:
    """Tokens and modelled time of each answer of one method; a target pass takes 1."""
    (chosen,) = (one for one in runs if (one.method.name, one.temperature) == (name, temperature))
    return [
        (float(answer.num_decoded), answer.num_rounds + cost_ratio * sum(answer.drafted_per_round) + 1e-9)
        for answer in chosen.answers
    ]
