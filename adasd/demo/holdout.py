"""Which combinations belong to training and which are held out.

Every example has a key: the numbers, constants or words that make up its content, without the wording. A hash
of the key alone decides its side, so a held-out combination never appears in training in any phrasing, and
the two sides stay the same on every machine and for every seed.
"""

import hashlib
from enum import Enum

HELD_OUT_IN = 10  # one key in so many is held out


class Split(Enum):
    """The side of an example."""

    TRAIN = "train"
    HELD_OUT = "heldout"


def side(key: tuple[object, ...]) -> Split:
    """The side to which `key` belongs: a function of its text alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Split.HELD_OUT if int.from_bytes(digest, "big") % HELD_OUT_IN == 0 else Split.TRAIN
