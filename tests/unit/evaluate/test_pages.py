"""Tables, plots and the page: they show what was measured, and the page needs no other files."""

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from adasd.evaluate.colours import KNOWN, colour
from adasd.evaluate.compared_methods import all_names
from adasd.evaluate.evaluation import build
from adasd.evaluate.html import front, page, provenance
from adasd.evaluate.tables import COLUMNS, cells, tables
from tests.pages import charts_of, fetched_by
from tests.unit.evaluate.test_method_figures import runs


def test_the_front_holds_what_nothing_beats():
    def row(method, accuracy, speed):
        base = build(runs(), {}).rows[0]
        return replace(base, method=method, accuracy=accuracy, speed_ups=(speed,) * 3)

    rows = [row("off", 1.0, 1), row("fast", 0.8, 5), row("good", 1.0, 3), row("bad", 0.8, 2)]
    assert front(rows, 1) == {"fast", "good"}


def test_the_page_shows_every_method_and_loads_nothing():
    text = page(build(runs(), {"commit": "<abc>"}))
    assert fetched_by(text) == []
    assert "&lt;abc&gt;" in text
    assert all(f"<td>{run.method.name}</td>" in text for run in runs())


def test_charts_hold_every_method_in_its_colour_and_no_share_leaves_its_axis():
    report = build([replace(run, answers=10 * run.answers) for run in runs()], {})
    accuracy, position, *_ = charts_of(page(report))
    rows = {row.method: row for row in report.of(report.temperatures[0])}
    drawn = {line["label"]: line for line in accuracy["lines"]}
    assert set(rows) == {*drawn} - {"front"}
    for name, row in rows.items():
        ((x, y),) = [
            (x, y) for x, y in zip(accuracy["x"], drawn[name]["values"], strict=True) if y is not None
        ]
        assert (x, y) == (row.speed_ups[1], row.accuracy)
        assert drawn[name]["colour"] == colour(name)
    assert accuracy["share"]
    assert position["share"]
    assert position["x"][0] == 1
    assert position["lines"]
    for line in position["lines"]:
        assert all(value is None or 0 <= value <= 1 for value in line["values"])


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
    assert provenance(about) == ("target t, draft d", "7 prompts", "2026-11-29", "commit abcdef0")
    text = page(build(runs(), about), "A title")
    assert text.index("commit abcdef0") < text.index("<section")
