"""A scrape becomes one sample over all replicas."""

from __future__ import annotations

from load_tests.load.scrape import Page, sample
from tests.unit.k8s.busy_minute import BusyMinute


def test_the_service_s_own_page_is_understood():
    seen = sample(BusyMinute().text().decode(), 1.0)
    assert (seen.targets, seen.drafts) == (1, 1)
    assert seen.leases == 4
    assert seen.waiting == 1
    assert seen.generated > 0
    assert 0 < seen.accepted <= seen.judged
    assert seen.resident_mb > 1
    assert seen.open_files > 0
    assert seen.threads > 0


def test_labels_choose_and_values_add_up():
    page = Page('a{role="x",n="1"} 2\na{role="y"} 3.5\nb 1e3\n# HELP a\n')
    assert page.total("a") == 5.5
    assert page.total("a", role="x") == 2.0
    assert page.count("a", role="x", n="1") == 1
    assert page.total("b") == 1000.0
    assert page.total("none") == 0.0


def test_a_page_without_our_series_is_all_zero():
    assert not any(sample("up 1\n", 1.0).held.values())
