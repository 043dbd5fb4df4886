"""The files of the decision log: one folder a day, and of each decision the last row.

What holds: `folder/day=2026-11-24/part-….parquet`, zstd, the day being the decision's own (UTC). A decision may
be written again when more is known of it: of the rows with one `decision_id`, the last in the order of file
names and rows counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import TactError
from engine.evaluation.schema import SCHEMA


class BadLog(TactError):
    """A folder that holds no decision log, or one that cannot be read."""

    status = 422
    kind = "bad-log"


def write_day(folder: Path, day: date, rows: Iterable[Mapping[str, Any]], part: int = 0) -> Path:
    """Write rows (one dictionary a decision, keys as in SCHEMA; what is missing is null) as one file of a day."""
    path = folder / f"day={day.isoformat()}" / f"part-{part:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path, compression="zstd")
    return path


def table_of(file: Path, needed: Sequence[str], also: Sequence[str] = ()) -> Any:
    """Return columns of one file: those that are needed, and of the others what is there. Raises BadLog."""
    try:
        # The file itself, not a data set: pyarrow would add the folder's day as a column.
        with pq.ParquetFile(file) as opened:
            held = opened.schema_arrow.names
            missing = [name for name in needed if name not in held]
            if missing:
                raise BadLog(f"{file} has no column {missing[0]}: it is not a decision log of this version")
            return opened.read([*needed, *[name for name in also if name in held]])
    except (pa.ArrowException, OSError, ValueError) as damaged:
        told = str(damaged).partition("\n")[0]
        raise BadLog(f"{file} cannot be read: {told}; remove it or export that day again") from None


def record_of(folder: Path, file: str, decision_id: str) -> bytes | None:
    """Return a decision's own record from the file that holds it; None where it is not to be had."""
    wanted = [("decision_id", "=", decision_id)]
    try:
        found = pq.read_table(folder / file, columns=["record"], filters=wanted, partitioning=None)["record"]
    except (pa.ArrowException, OSError, ValueError):
        return None
    record: bytes | None = found[-1].as_py() if len(found) else None
    return record


def days(folder: Path, since: int | None, until: int | None) -> list[Path]:
    """Return the folders of the days that lie between two moments (ms, UTC). Raises BadLog."""
    if not folder.is_dir():
        raise BadLog(f"{folder} is no folder: name the folder that holds day=YYYY-MM-DD")
    found = []
    for path in sorted(folder.glob("day=*")):
        try:
            first = datetime.fromisoformat(path.name.removeprefix("day=")).replace(tzinfo=UTC)
        except ValueError:
            raise BadLog(f"{path} is no day: such a folder is named day=YYYY-MM-DD") from None
        begin = int(first.timestamp()) * 1000
        if (until is None or begin < until) and (since is None or begin + 86_400_000 > since):
            found.append(path)
    return found


def last_rows(table: Any, since: int | None, until: int | None) -> Any:
    """Return the last row of each decision within the bounds, in time order."""
    at = table["at"].cast(pa.int64()).to_numpy()
    keep = np.ones(len(at), dtype=bool)
    if since is not None:
        keep &= at >= since
    if until is not None:
        keep &= at < until
    ids = table["decision_id"].to_numpy(zero_copy_only=False)
    _, backwards = np.unique(ids[::-1], return_index=True)
    last = np.zeros(len(at), dtype=bool)
    last[len(at) - 1 - backwards] = True
    rows = np.flatnonzero(keep & last)
    if not len(rows):
        raise BadLog("the decision log holds nothing for that time: widen --since and --until")
    # Equal times keep a fixed order, whatever the files: that of the ids.
    rows = rows[np.lexsort((ids[rows].astype(str), at[rows]))]
    return table.take(pa.array(rows)).combine_chunks()
