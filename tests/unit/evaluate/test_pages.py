"""Tables, plots and the page: they show what was measured, and the page needs no other files."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console

from adasd.evaluate.colours import KNOWN, colour
from adasd.evaluate.compared_methods import all_names
from adasd.evaluate.evaluation import build
from adasd.evaluate.html import front, page, provenance
from adasd.evaluate.plots import Curve, Point, chart, scatter, ticks
from adasd.evaluate.tables import COLUMNS, cells, tables
from tests.unit.evaluate.test_method_figures import runs


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.9, 5.1, [1, 2, 3, 4, 5]),
        (-12, 31, [-10, 0, 10, 20, 30]),
    ],
)
def test_ticks_are_round_and_inside(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def points_of(svg: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall("circle")


def test_a_scatter_keeps_the_order_of_its_values():
    svg = scatter([Point("a & b", 1, 90, "#111111"), Point("c", 3, 95, "#222222", strong=True)], "x", "y")
    a, c = sorted(points_of(svg), key=lambda point: float(point.get("cx")))
    assert float(a.get("cy")) > float(c.get("cy"))  # lower value, further down
    assert "a &amp; b" in svg
    assert scatter([], "x", "y") == ""


def test_a_line_breaks_where_a_value_is_missing():
    svg = chart([Curve("one", (1.0, 2.0, None, 3.0), "#111111")], "x", "y")
    assert len(ElementTree.fromstring(svg).findall("polyline")) == 2
    assert chart([Curve("none", (None, None), "#111111")], "x", "y") == ""
    assert chart([Curve("flat", (2.0,), "#111111")], "x", "y")


def test_the_front_holds_what_nothing_beats():
    def row(method, accuracy, speed):
        base = build(runs(), {}).rows[0]
        return replace(base, method=method, accuracy=accuracy, speed_ups=(speed,) * 3)

    rows = [row("off", 1.0, 1), row("fast", 0.8, 5), row("good", 1.0, 3), row("bad", 0.8, 2)]
    assert front(rows, 1) == {"fast", "good"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name) for name, _ in attrs if name in ("src", "href")]


def test_the_page_shows_every_method_and_loads_nothing():
    text = page(build(runs(), {"commit": "<abc>"}))
    tags = Tags()
    tags.feed(text)
    assert tags.attributes == []
    assert "<script" not in text
    assert "url(" not in text
    assert "&lt;abc&gt;" in text
    assert all(f"<td>{run.method.name}</td>" in text for run in runs())
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(svg)  # well formed


def test_tables_show_every_method_and_the_baselines():
    console = Console(width=140, record=True, file=io.StringIO())
    for table in tables(build(runs(), {})):
        console.print(table)
    text = console.export_text()
    assert all(text.count(run.method.name) >= 2 for run in runs())
    assert "static-4 at c=0.1" in text
    assert "-0.0 [" not in text


def test_the_table_shows_the_distortion_and_leaves_blank_what_nobody_knows():
    row = replace(build(runs(), {}).rows[0], num_tokens=40, distortion=5.0, cpu_speed_up=1.25)
    shown = dict(zip(COLUMNS, cells(row), strict=True))
    assert (shown["relaxed"], shown["distort."]) == (f"{row.relaxed_share:.1%}", "12.5%")
    silent = replace(row, distortion=None, cpu_speed_up=None)
    assert dict(zip(COLUMNS, cells(silent), strict=True))["distort."] == ""
    report = build(runs(), {})
    pages = [page(replace(report, rows=(one,))) for one in (row, silent)]
    assert [("<td>12.5%</td>" in text, "<td>1.25</td>" in text) for text in pages] == [
        (True, True),
        (False, False),
    ]


def test_the_json_is_plain_and_complete():
    made = build(runs(), {"seed": 3})
    again = json.loads(json.dumps(made.as_json()))
    assert again["about"] == {"seed": 3}
    assert len(again["rows"]) == 5 * 3
    assert again["rows"][0]["over_best_static"] == pytest.approx(list(made.over_best_static(made.rows[0])))
    assert {"tokens_per_round", "relaxed_share", "acceptance", "reached"} <= set(again["rows"][0])


def test_a_method_has_one_colour_and_the_well_known_ones_differ():
    assert len(set(KNOWN.values())) == len(KNOWN)
    for name in [*all_names(), "adasd+collision@auto", "static-5@suffix"]:
        assert re.fullmatch(r"#[0-9a-f]{6}", colour(name)), name
    assert colour("adaedl:gamma=0.3") == colour("adaedl") != colour("adasd")


def test_the_page_says_first_where_it_comes_from():
    about = {
        "commit": "abcdef0123",
        "num_prompts": 7,
        "date": "2026-11-29",
        "options": {"target": "t", "draft": "d"},
    }
    assert provenance(about) == "target t, draft d; 7 prompts; 2026-11-29; commit abcdef0"
    text = page(build(runs(), about), "A title")
    assert text.index("commit abcdef0") < text.index("<svg")
