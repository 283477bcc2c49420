"""The page of a load test in a real browser: one file, charts with values under the pointer, phones, dark rooms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from load_tests.load.page import page
from tests.browser.conftest import ROOT, Tab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]
RESULT = ROOT / "load_tests" / "baselines" / "bench_ramp-amd-epyc-2-cores.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    written = tmp_path_factory.mktemp("bench") / "page.html"
    result = {"faults": [], "errors": [], **json.loads(RESULT.read_text())}  # newer than this baseline
    written.write_text(page(result), encoding="utf-8")
    return written


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_charts_fit_the_screen_and_tell_their_values(browser, file: Path, width: int, scheme: str):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    tab = Tab(context.new_page())
    tab.page.goto(file.as_uri())
    tab.page.locator(".chart canvas").first.wait_for()
    assert tab.page.locator(".chart canvas").count() == tab.page.locator(".chart").count() >= 5
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert "commit" in tab.page.inner_text(".made")
    chart = tab.page.locator(".chart").first
    assert {"sent", "done", "failed"} <= set(chart.locator(".u-label").all_inner_texts())
    chart.locator(".u-over").hover()
    second, *shown = chart.locator(".u-value").all_inner_texts()
    line = json.loads(RESULT.read_text())["timeline"]
    at = line["seconds"].index(float(second))
    measured = [line[name][at] for name in ("sent", "done", "failed")]
    assert [float(value) for value in shown] == pytest.approx(measured, rel=0.01)
    tops = tab.page.locator(".chart").evaluate_all(
        "all => all.map((e) => [e.querySelector('h3').textContent, e.querySelectorAll('.u-legend .u-marker').length])"
    )
    assert all(num_marks > 1 for _, num_marks in tops)  # every line has its colour in the legend
    tab.picture(f"8-bench-{width}-{scheme}")
    assert tab.problems == []
    context.close()
