"""What a page says to the charting library, and what it says about where it comes from."""

from adasd.charts.chart import Line, Lines, Point, Points, section
from adasd.charts.page import document, grid
from tests.pages import charts_of, fetched_by


def test_a_gap_stays_a_gap_and_a_line_without_values_is_left_out():
    chart = Lines("t", "s", [1, 2, 3], [Line("one", [1.0, None, 3.0]), Line("none", [None] * 3)])
    (drawn,) = charts_of(section(chart))
    assert [(line["label"], line["values"]) for line in drawn["lines"]] == [("one", [1.0, None, 3.0])]
    assert drawn["x"] == [1, 2, 3]


def test_nothing_to_draw_draws_nothing():
    empty = section(Lines("t", "s", [1], [Line("none", [None])])), section(Points("t", "x", "y", []))
    assert empty == ("", "")
    assert grid(empty) == ""


def test_each_point_is_named_and_the_strong_ones_form_the_front():
    points = [Point("c", 3, 1.0, strong=True), Point("a", 1, 0.9, "#111111", strong=True), Point("b", 1, 0.4)]
    (drawn,) = charts_of(section(Points("t", "x", "y", points, share=True)))
    assert drawn["x"] == [1, 3]
    values = {line["label"]: line["values"] for line in drawn["lines"]}
    assert values == {"c": [None, 1.0], "a": [0.9, None], "b": [0.4, None], "front": [0.9, 1.0]}


def test_a_page_is_one_file_and_its_words_stay_words():
    chart = Lines("<b>", "s", [1, 2], [Line("</script><script>alert(1)", [1.0, 2.0])])
    page = document("n", "<h>", ("pair a & b", "", "commit 1"), grid([section(chart)]))
    assert fetched_by(page) == []
    assert "<p class=made>pair a &amp; b · commit 1</p>" in page
    assert "<h1>&lt;h&gt;</h1>" in page
    assert page.count("<script>") == 2  # the library and the drawing; nothing from the label
    assert charts_of(page)[0]["lines"][0]["label"] == "</script><script>alert(1)"
