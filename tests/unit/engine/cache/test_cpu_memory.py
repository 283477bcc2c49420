"""Memory mapped by ourselves: zeros on small pages, copies on huge pages."""

import mmap
import sys

import pytest
import torch

from adasd.engine.cache import cpu_memory
from adasd.engine.cache.cpu_memory import CHUNK, HUGE_PAGE, HugePages, zeros


def test_zeros_can_be_written_and_outlive_what_mapped_them():
    held = zeros(3 * HUGE_PAGE + 5)
    assert not held.any()
    held.fill_(7)
    assert int(held.sum()) == 7 * (3 * HUGE_PAGE + 5)


def test_more_zeros_than_there_is_address_space_are_refused():
    for num_bytes in (2**60, 2**70):
        with pytest.raises(MemoryError, match=str(num_bytes)):
            zeros(num_bytes)


def test_copies_keep_their_values_and_are_aligned_whatever_else_is_copied():
    pages = HugePages()
    torch.manual_seed(0)
    sizes = [(3, 5), (1000, 700), (CHUNK // 4 - 9,), (7,), (2 * CHUNK // 4 + 1,)]
    originals = [torch.randn(*size).t() if len(size) == 2 else torch.randn(*size) for size in sizes]
    copies = [pages.copy(one) for one in originals]
    pages.collapse()
    del pages
    for copy, original in zip(copies, originals, strict=True):
        assert torch.equal(copy, original)
        assert copy.is_contiguous()
        assert copy.data_ptr() % 64 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="advice about pages is Linux's")
def test_a_cache_asks_for_small_pages_and_weights_for_huge_ones(monkeypatch):
    asked = []
    monkeypatch.setattr(cpu_memory, "_advise", lambda memory, advice, *where: asked.append(advice))
    zeros(HUGE_PAGE)
    assert asked == [mmap.MADV_NOHUGEPAGE]
    pages = HugePages()
    pages.copy(torch.zeros(10))
    pages.collapse()
    assert asked[1:] == [mmap.MADV_HUGEPAGE, cpu_memory._COLLAPSE]


def test_advice_that_the_system_does_not_follow_changes_nothing(monkeypatch):
    monkeypatch.setattr(cpu_memory, "_COLLAPSE", 12345)
    pages = HugePages()
    copy = pages.copy(torch.arange(9.0))
    pages.collapse()
    assert copy.tolist() == list(range(9))
