"""``adasd eval --suite`` on few prompts of the demo pair: all pages are written; a second run computes nothing."""

from dataclasses import replace

import pytest

from adasd.evaluate.families.ask import Split
from cluster.data import DEMO
from cluster.evaluation import lossy_series, suite, traced_pairs
from cluster.evaluation.traced_pairs import Counts, Drafts, FirstLayers, OuterLayers


@pytest.fixture
def small(monkeypatch):
    """The suite with three texts per task, and the demo pair in place of SmolLM2."""
    workloads = {Split.DEV: ("demo", 1, 1), Split.TEST: ("demo", 1, 0)}
    pair = replace(traced_pairs.demo_pair(), workloads=workloads, max_tokens=24, temperatures=(0.0, 1.0))
    draft = {"our draft": Drafts(str(DEMO / "draft"))}
    monkeypatch.setattr(suite, "demo_pair", lambda: replace(pair, drafts=draft))
    made = {
        "own first layers": FirstLayers(1, cost=0.5),
        "middle cut": OuterLayers(1, 1, cost=0.6),
        "count model": Counts(3),
    }
    real_pair = replace(pair, name="real", drafts=draft, made=made, lessons=("demo", 2, 1))
    monkeypatch.setattr(suite, "real_pair", lambda target: real_pair)
    (_, demo, _), (real, *_) = lossy_series.demo_series(), lossy_series.real_series(str(DEMO / "target"))
    demo = replace(demo, workload=("demo", 1, 0), max_tokens=24)
    monkeypatch.setattr(suite, "demo_series", lambda: [demo])
    monkeypatch.setattr(
        suite,
        "real_series",
        lambda target: [
            replace(demo, name="smollm2", methods=real.methods, scores=False),
            replace(demo, name="smollm2-sampled", methods=demo.methods[1:]),
        ],
    )
    monkeypatch.setattr(suite, "many_series", list)


def test_all_pages_are_written_and_what_is_kept_is_not_run_again(small, tmp_path, monkeypatch):
    assert suite.write_all(tmp_path, "unused", "abcdef0123") == 0
    pages = {file.name: file.read_text() for file in tmp_path.iterdir() if file.is_file()}
    assert set(pages) == {"tables.md", "exact.html", "demo.html", "smollm2.html", "smollm2-sampled.html"}
    assert all("abcdef0" in text for text in pages.values())
    assert "AdaSD is faster than Vanilla, Qwen2.5 72B <- 7B" in pages["tables.md"]
    assert "not testable here" in pages["tables.md"]
    assert str(DEMO.parent) not in "".join(pages.values())

    def refuse(*arguments, **options):
        raise AssertionError("a model was loaded although everything is kept")

    monkeypatch.setattr("adasd.engine.loading.model.load_model", refuse)
    monkeypatch.setattr(lossy_series, "load_pair", refuse)
    assert suite.write_all(tmp_path, "unused", "abcdef0123") == 0
    assert (tmp_path / "tables.md").read_text() == pages["tables.md"]
