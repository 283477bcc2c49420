"""The split between training and held-out examples.

Every example has a key: the numbers, constants or words of its content, without the wording. A hash of the key
decides the side. So a held-out combination never appears in training in any wording, and the split is the same on
every machine and for every seed.
"""

import hashlib
from enum import Enum

HELD_OUT_IN = 10  # 1 in HELD_OUT_IN keys is held out


class Split(Enum):
    """The side of an example."""

    TRAIN = "train"
    HELD_OUT = "heldout"


def side(key: tuple[object, ...]) -> Split:
    """The side of `key`, which depends only on its text."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Split.HELD_OUT if int.from_bytes(digest, "big") % HELD_OUT_IN == 0 else Split.TRAIN
