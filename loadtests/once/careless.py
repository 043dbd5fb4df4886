"""`python -m loadtests.once.careless worker features`: Tact with workers that pay no heed to positions.

The negative control: what the suite then finds is what positions are for. Nothing of it is in the product.
"""

from api.main import main
from engine.workers import folding
from features.codec import decode_seen
from features.state import Seen


def _without_positions(blob: bytes) -> Seen:
    return Seen(decode_seen(blob).groups)


if __name__ == "__main__":
    setattr(folding, decode_seen.__name__, _without_positions)
    main()
