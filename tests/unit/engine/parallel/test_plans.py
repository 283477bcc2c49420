"""A plan arrives as it was sent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasd.engine.parallel.plans import CopyPlaces, NewCache, Pass, ZeroPlaces, packed, unpacked
from adasd.engine.work import StepInput

NUMBERS = st.integers(0, 2**40)
RANGES = st.builds(range, NUMBERS, NUMBERS)
SEQUENCES = st.tuples(
    st.builds(
        StepInput, NUMBERS, NUMBERS, st.lists(st.integers(0, 2**20), min_size=1, max_size=5), NUMBERS, NUMBERS
    ),
    st.tuples(st.integers(1, 3), st.integers(0, 4)).flatmap(
        lambda size: st.tuples(*[st.tuples(*[st.integers(0, 2**20)] * size[1])] * size[0])
    ),
)
PLANS = st.one_of(
    st.builds(
        NewCache, NUMBERS, NUMBERS, NUMBERS, st.none() | st.integers(1, 256),
        st.lists(st.none() | st.integers(1, 2**20), min_size=1, max_size=3).map(tuple),
    ),
    st.builds(CopyPlaces, RANGES, RANGES),
    st.builds(ZeroPlaces, RANGES),
    st.lists(SEQUENCES, max_size=4).map(lambda pairs: Pass(*(tuple(part) for part in zip(*pairs, strict=True)))
                                        if pairs else Pass((), ())),
)  # fmt: skip


@given(PLANS)
def test_a_plan_arrives_as_it_was_sent(plan):
    assert unpacked(packed(plan)) == plan


def test_what_is_no_plan_is_refused():
    with pytest.raises(ValueError, match="no plan of kind 9"):
        unpacked(np.array([9], np.int64).tobytes())
