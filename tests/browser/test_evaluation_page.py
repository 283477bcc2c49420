"""The pages of evaluations and plans in a real browser: the method under the pointer, phones, dark rooms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adasd.charts.chart import Line, Lines, section
from adasd.charts.page import document, grid
from adasd.evaluate.evaluation import build
from adasd.evaluate.html import page
from tests.browser.conftest import Tab
from tests.unit.evaluate.test_method_figures import runs

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]


def opened(browser, file: Path, width: int, scheme: str) -> Tab:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    tab = Tab(context.new_page())
    tab.page.goto(file.as_uri())
    tab.page.locator(".chart canvas").first.wait_for()
    return tab


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_an_evaluation_names_each_method_under_the_pointer(browser, tmp_path: Path, width: int, scheme: str):
    many = [replace(run, answers=10 * run.answers) for run in runs()]
    report = build(many, {"num_prompts": 3, "date": "2026-11-29", "commit": "abcdef0", "options": {}})
    file = tmp_path / "page.html"
    file.write_text(page(report), encoding="utf-8")
    tab = opened(browser, file, width, scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert "3 prompts · 2026-11-29 · commit abcdef0" in tab.page.inner_text(".made")
    chart = tab.page.locator(".chart").first
    methods = {row.method: row for row in report.of(report.temperatures[0])}
    assert set(methods) <= set(chart.locator(".u-label").all_inner_texts())
    colours = chart.locator(".u-legend .u-marker").evaluate_all("all => all.map((e) => e.style.border)")
    assert len(set(colours[1:])) == len(colours) - 1  # after the x axis, every entry has a colour of its own
    over = chart.locator(".u-over")
    over.scroll_into_view_if_needed()
    found = set()
    for place in tab.page.evaluate(POINTS):
        over.hover(position=place)
        found.add(chart.locator(".tip").inner_text().partition(":")[0])
    assert found & set(methods)
    assert found <= set(methods)
    assert tab.page.evaluate(HIGHEST) == 1  # the axis of shares ends at 100 %
    tab.picture(f"9-evaluation-{width}-{scheme}")
    assert tab.problems == []
    tab.page.context.close()


def test_lines_of_a_plan_tell_their_values_and_mark_each_other(browser, tmp_path: Path):
    lines = [Line("no draft", [10.0, 11.0, 14.0]), Line("beside", [6.0, 7.0, None])]
    charts = [section(Lines(title, "sessions", [1, 2, 4], lines)) for title in ("ms per token", "again")]
    file = tmp_path / "page.html"
    file.write_text(document("adasd plan", "Plan", ("target a",), grid(charts)), encoding="utf-8")
    tab = opened(browser, file, 1280, "light")
    over = tab.page.locator(".u-over").first
    box = over.bounding_box()
    over.hover(position={"x": box["width"] / 3, "y": box["height"] / 2})
    for chart in tab.page.locator(".chart").all():
        assert chart.locator(".u-value").all_inner_texts() == ["2", "11", "7"]
    assert tab.problems == []
    tab.page.context.close()


POINTS = """(() => {
  const { plot: chart } = document.querySelector(".plot");
  return chart.data.slice(1).flatMap((ys, line) => ys.flatMap((y, at) => y === null || chart.series[line + 1].dash
    ? [] : [{ x: chart.valToPos(chart.data[0][at], "x"), y: chart.valToPos(y, "y") }]));
})()"""
HIGHEST = (
    "Math.max(...[...document.querySelectorAll('.plot')].slice(0, 2).map(({ plot }) => plot.scales.y.max))"
)
