"""Sets of candidates as integers: one bit a candidate of the placement, the first offer lowest.

Masks of a thousand offers are combined in some 50 ns, so what a decision costs hardly grows with the catalogue.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Mask = int
_FEW: Final = 12
"""Bits up to which a loop is faster than an array."""


def places_of(mask: Mask) -> list[int]:
    """Return the places whose bits are set, ascending."""
    if mask.bit_count() > _FEW:
        found: list[int] = place_array(mask).tolist()
        return found
    places = []
    while mask:
        lowest = mask & -mask
        places.append(lowest.bit_length() - 1)
        mask ^= lowest
    return places


@lru_cache(maxsize=1024)
def place_array(mask: Mask) -> NDArray[np.intp]:
    """Return the places whose bits are set, ascending; the array is shared and cannot be written to."""
    bits = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), dtype=np.uint8)
    places = np.unpackbits(bits, bitorder="little").nonzero()[0]
    places.flags.writeable = False
    return places


@lru_cache(maxsize=1024)
def flags_of(mask: Mask, count: int) -> NDArray[np.bool_]:
    """Return the mask as truths, one for each of `count` places; shared as `place_array` is."""
    flags = np.zeros(count, dtype=bool)
    flags[place_array(mask)] = True
    flags.flags.writeable = False
    return flags


def mask_of(places: Iterable[int]) -> Mask:
    """Return the mask with these places set."""
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask
