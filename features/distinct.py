"""Counting different values in a rolling window: exact up to 4,096 of them, estimated beyond.

The sketch maps a bucket of time to the hashes (48 bits, ascending, end to end) of the values seen *last* in
it. A hash stays unless 4,096 smaller ones were seen in the same bucket or later. So for every window, whose
buckets are always the newest ones, the 4,096 smallest hashes of its values are all there:
- fewer than that: nothing in the window was ever dropped, and counting is exact;
- else the 4,096th smallest tells how dense the hashes lie, hence how many there are. The relative standard
  error of that is 1/sqrt(4094) = 1.6 %, so 5 % is more than three of them.

A plain "smallest hashes" sketch would be neither: once old values leave the window, it no longer knows what
it dropped. Here whatever drops a hash outlives it, so the sketch is a function of the set of (value, bucket)
pairs, independent of their order, and two sketches merge exactly.
"""

from typing import Final

from features.state import HASH_BYTES, contains, insert, rank, split

Sketch = dict[int, bytes]

SMALLEST: Final = 4096


def with_value(sketch: Sketch | None, key: bytes, bucket: int, limit: int) -> Sketch:
    """Return the sketch with a value seen in a bucket; it reaches back `limit` buckets from its newest."""
    if not sketch:
        return {bucket: key}
    newest = max(sketch)
    if bucket <= newest - limit:
        return sketch
    out = sketch
    for index, hashes in reversed(sketch.items()):  # the newest first: most values come again soon
        if contains(hashes, key):
            if index >= bucket:
                return sketch
            out = {**sketch, index: _without(hashes, key)}
            break
    out = {**out, bucket: insert(out.get(bucket, b""), key)}
    return _trimmed(out, limit)


def united(one: Sketch | None, two: Sketch | None, limit: int) -> Sketch | None:
    """Return the sketch that the values of both together would have made."""
    if not one or not two:
        return one or two
    latest: dict[bytes, int] = {}
    for sketch in (one, two):
        for bucket, hashes in sketch.items():
            for key in split(hashes):
                latest[key] = max(latest.get(key, bucket), bucket)
    out: dict[int, list[bytes]] = {}
    for key in sorted(latest):
        out.setdefault(latest[key], []).append(key)
    return _trimmed({bucket: b"".join(keys) for bucket, keys in out.items()}, limit)


def estimate(sketch: Sketch | None, oldest: int, newest: int) -> int:
    """Say how many different values were seen last in the buckets from `oldest` to `newest`."""
    if not sketch:
        return 0
    runs = [hashes for bucket, hashes in sketch.items() if oldest <= bucket <= newest]
    count = sum(map(len, runs)) // HASH_BYTES
    if count < SMALLEST:
        return count
    keys = sorted(key for hashes in runs for key in split(hashes))
    density = int.from_bytes(keys[SMALLEST - 1]) / (1 << 8 * HASH_BYTES)
    return round((SMALLEST - 1) / density)


def _without(hashes: bytes, key: bytes) -> bytes:
    at = rank(hashes, key) * HASH_BYTES
    return hashes[:at] + hashes[at + HASH_BYTES :]


def _trimmed(sketch: Sketch, limit: int) -> Sketch:
    """Drop what no window can reach and what 4,096 newer and smaller hashes make needless; order by time."""
    oldest = max(sketch) - limit
    out = {bucket: sketch[bucket] for bucket in sorted(sketch) if bucket > oldest and sketch[bucket]}
    if sum(map(len, out.values())) <= SMALLEST * HASH_BYTES:
        return out
    newer: list[bytes] = []
    for bucket in reversed(list(out)):
        hashes = out[bucket]
        newer.append(hashes)
        while hashes and sum(rank(run, hashes[-HASH_BYTES:]) for run in newer) >= SMALLEST:
            hashes = hashes[:-HASH_BYTES]
            newer[-1] = hashes
        out[bucket] = hashes
    return {bucket: hashes for bucket, hashes in out.items() if hashes}
