"""A copy of the decision log in which each decision stands once, as it is known now."""

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.evaluation.files import BadLog, days, last_rows, table_of
from engine.evaluation.schema import FIRST, SCHEMA


def export(folder: Path, out: Path, since: date) -> int:
    """Copy a log from a day on, one file a day; returns how many decisions. Raises BadLog."""
    begin = int(datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()) * 1000
    written = 0
    for day in days(folder, begin, None):
        files = sorted(day.glob("*.parquet"))
        tables = [table_of(file, SCHEMA.names[:FIRST], SCHEMA.names[FIRST:]) for file in files]
        if tables:
            table = last_rows(pa.concat_tables(tables, promote_options="default"), None, None)
            path = out / day.name / "part-00000.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, compression="zstd")
            written += len(table)
    if not written:
        raise BadLog(f"{folder} holds no decisions since {since}: the archive writes twice a minute")
    return written
