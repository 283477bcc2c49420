"""Layers are dealt out to tables of pages by what they see, and how many pages a session takes follows from that."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adasd.engine.cache.layers import MOST_TABLES, CacheNeeds, LayerShape, dealt
from adasd.engine.cache.pages import LONGEST_BLOCK, ROLL_BACK, PageNeeds

GEMMA_27B = [LayerShape(16, 128, None if i % 6 == 5 else 1024) for i in range(62)]
GPT_OSS_20B = [LayerShape(8, 64, 128 if i % 2 == 0 else None) for i in range(24)]
WINDOWS = st.lists(st.none() | st.sampled_from([4, 4, 9]), min_size=1, max_size=40)


@given(WINDOWS)
def test_each_layer_has_a_tensor_of_its_own_table_and_every_table_one_kind_of_layer(windows):
    tables = dealt([LayerShape(2, 8, window) for window in windows])
    where = list(zip(tables.table_of, tables.tensor_of, strict=True))
    assert len(set(where)) == len(windows)
    assert 1 <= len(tables.windows) <= MOST_TABLES
    for window, table in zip(windows, tables.table_of, strict=True):
        widest = tables.windows[table]
        assert (widest is None) == (window is None)
        assert widest is None or widest >= window, "no layer loses what it sees"
    if None in windows and any(windows):
        assert len({window is None for window in tables.windows}) == 2


@pytest.mark.parametrize(
    ("layers", "windows", "per_table"),
    [(GEMMA_27B, (None, *[1024] * 6), 10), (GPT_OSS_20B, (None, 128), 12)],
)
def test_layers_that_see_everything_fill_their_tables(layers, windows, per_table):
    needs = CacheNeeds.of(layers, torch.bfloat16)
    assert needs.windows == windows
    assert needs.bytes_per_place == per_table * layers[0].values_per_token * 2
    assert needs.bytes_per_token == len(layers) * layers[0].values_per_token * 2


def test_layers_of_different_shapes_share_one_table_which_keeps_everything():
    layers = [LayerShape(2, 16, 8), LayerShape(2, 32), LayerShape(2, 16, 8)]
    assert dealt(layers).windows == (None,)
    assert CacheNeeds.of(layers, torch.float32).bytes_per_place == 4 * (32 * 2 * 2 + 64 * 2)


def test_a_session_of_128k_tokens_of_gemma_3_takes_a_sixth_of_what_one_table_took():
    needs = CacheNeeds.of(GEMMA_27B, torch.bfloat16)
    pages = PageNeeds(256, needs.windows, 256)
    taken = pages.pages_of(131072) * 256 * needs.bytes_per_place
    assert taken / 2**30 == pytest.approx(10.94, abs=0.01)
    assert 131072 * needs.bytes_per_token / 2**30 == pytest.approx(62, abs=0.01)


@given(
    st.lists(st.none() | st.integers(1, 3000), min_size=1, max_size=4),
    st.integers(1, 9000),
    st.integers(0, 200),
)
def test_the_longest_context_of_some_pages_takes_no_more_of_them_and_the_next_one_would(
    windows, limit, num_pages
):
    needs = PageNeeds(16, windows, 64)
    context = needs.context_of(num_pages, limit)
    assert 0 <= context <= limit
    assert not context or needs.pages_of(context) <= num_pages
    assert context == limit or needs.pages_of(context + 1) > num_pages


@given(st.integers(1, 3000), st.integers(1, 10**6))
def test_a_table_with_a_window_takes_no_more_than_window_roll_back_and_input(window, context):
    most = (window + ROLL_BACK + 64 + LONGEST_BLOCK) // 16 + 2
    assert PageNeeds(16, (window,), 64).pages_of(context) <= most
