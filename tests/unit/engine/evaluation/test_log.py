"""The decision log: what is written is what is read, by us and by others."""

from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.evaluation.files import BadLog, write_day
from engine.evaluation.log import read
from engine.evaluation.schema import SCHEMA
from tests.unit.engine.evaluation.logged import DAY_MS, START, candidate, logged, row

TWO = [candidate("boots", chance=0.75, value=6.0), candidate("socks", chance=0.25, value=2.0)]
DROPPED = candidate("guide", stage="below_threshold", reason="below_threshold", chance=None)
LATE = row(2, [*TWO, DROPPED], "socks", at=START + DAY_MS, reward=1.0, outcome="accepted", outcome_value=2.5)


def rows() -> list[dict[str, Any]]:
    return [row(0, TWO, "boots"), row(1, [], None, grp="control", reason="control_group"), LATE]


def test_what_was_written_is_read_in_time_order(tmp_path: Path) -> None:
    log = logged(tmp_path, rows())
    assert len(log) == 3
    assert log.at.tolist() == [START, START + 1000, START + DAY_MS]
    assert log.group.tolist() == ["none", "control", "none"]
    assert log.starts.tolist() == [0, 2, 2, 5]
    assert [log.offers[place] for place in log.offer] == ["boots", "socks", "boots", "socks", "guide"]
    assert log.first.tolist() == [0, -1, 3]
    assert log.probability.tolist() == [0.75, 1.0, 0.25]
    assert log.reached.tolist() == [True, True, True, True, False]
    assert log.below.tolist() == [False, False, False, False, True]
    assert log.factors["value"].tolist() == [6.0, 2.0, 6.0, 2.0, 1.0]
    assert log.reward.tolist()[::2] == [0.0, 1.0]
    assert np.isnan(log.reward[1])
    assert log.outcome_value[2] == 2.5
    assert log.ended_at == START + DAY_MS


def test_the_chance_of_silence_is_what_the_candidates_leave(tmp_path: Path) -> None:
    log = logged(tmp_path, [row(0, [candidate("boots", chance=0.3)], None)])
    assert log.probability.tolist() == pytest.approx([0.7])


def test_segments_are_read_by_name(tmp_path: Path) -> None:
    log = logged(tmp_path, rows())
    assert log.segment("profile.tier").tolist() == ["basic", "gold", "gold"]
    assert log.segment("profile.age").tolist() == ["", "", ""]


def test_the_days_between_the_bounds_are_read_and_no_others(tmp_path: Path) -> None:
    logged(tmp_path, rows())
    (tmp_path / "day=2026-11-22").mkdir()
    (tmp_path / "day=2026-11-22" / "part-0.parquet").write_bytes(b"nobody looks here")
    assert len(read(tmp_path, until=START + DAY_MS)) == 2
    assert len(read(tmp_path, since=START + 1000, until=START + DAY_MS + 1)) == 2


def test_the_last_row_of_a_decision_counts(tmp_path: Path) -> None:
    write_day(tmp_path, date(2026, 11, 20), [row(0, TWO, "boots"), row(1, TWO, "socks")])
    write_day(tmp_path, date(2026, 11, 20), [row(0, TWO, "boots", reward=1.0, outcome="accepted")], part=1)
    log = read(tmp_path)
    assert log.reward.tolist() == [1.0, 0.0]


def test_all_ranks_of_a_message_are_found(tmp_path: Path) -> None:
    message = row(0, TWO, "socks")
    message["chosen"].insert(0, {"offer": "boots", "rank": 2, "selection_probability": 1.0})
    log = logged(tmp_path, [message])
    assert log.first.tolist() == [1]
    assert log.chosen.place.tolist() == [1, 0]
    assert log.chosen.rank.tolist() == [1, 2]
    assert log.chosen.probability.tolist() == [0.25, 1.0]


def test_a_log_without_anybody_chosen_is_read(tmp_path: Path) -> None:
    log = logged(tmp_path, [row(0, [], None)])
    assert log.first.tolist() == [-1]
    assert log.offers == ()


def test_nulls_where_the_schema_allows_them_are_read(tmp_path: Path) -> None:
    bare = {"decision_id": "d", "customer": "c", "at": START}
    write_day(tmp_path, date(2026, 11, 20), [bare])
    log = read(tmp_path)
    assert (log.placement[0], log.first[0], log.segment("x")[0]) == ("", -1, "")


def test_duckdb_polars_and_pyarrow_read_it_as_it_is(tmp_path: Path) -> None:
    logged(tmp_path, rows())
    files = str(tmp_path / "*" / "*.parquet")
    with duckdb.connect() as connection:
        said = connection.execute(
            "select day, count(*), sum(reward), max(segment['profile.tier']), max(len(candidates)) "
            "from read_parquet(?) group by day order by day",
            [files],
        ).fetchall()
    assert [(str(day), *rest) for day, *rest in said] == [
        ("2026-11-20", 2, 0.0, "gold", 2),
        ("2026-11-21", 1, 1.0, "gold", 3),
    ]
    frame = pl.read_parquet(files, hive_partitioning=True)
    shares = (
        frame.select("candidates")
        .explode("candidates")
        .unnest("candidates")
        .filter(pl.col("offer") == "boots")["chance"]
    )
    assert shares.to_list() == [0.75, 0.75]
    assert str(frame["at"].dtype) == "Datetime(time_unit='ms', time_zone='UTC')"


def test_the_query_of_the_page_on_judging_works(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "evaluating.md").read_text()
    query = page.partition("```sql\n")[2].partition("```")[0]
    logged(tmp_path, rows())
    with duckdb.connect() as connection:
        said = connection.execute(query.replace("archive/", f"{tmp_path}/")).fetchall()
    assert sorted(said) == [("boots", 1, 0.0, 0.75), ("socks", 1, 1.0, 0.25)]


def test_pandas_reads_it_as_it_is(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    logged(tmp_path, rows())
    frame = pandas.read_parquet(tmp_path)
    assert frame["reward"].sum() == 1.0
    assert frame["candidates"].iloc[0][0]["chance"] == 0.75
    assert set(frame["day"].astype(str)) == {"2026-11-20", "2026-11-21"}


def test_files_are_compressed_with_zstd_and_have_the_schema(tmp_path: Path) -> None:
    path = write_day(tmp_path, date(2026, 11, 20), rows())
    assert path == tmp_path / "day=2026-11-20" / "part-00000.parquet"
    held = pq.ParquetFile(path)
    assert held.schema_arrow.equals(SCHEMA)
    assert held.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_day(tmp_path, date(2026, 11, 20), rows())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadLog, match=r"part-00000.parquet cannot be read"):
        read(tmp_path)


def test_a_folder_that_is_none_or_holds_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadLog, match="is no folder"):
        read(tmp_path / "absent")
    with pytest.raises(BadLog, match="no decision log"):
        read(tmp_path)
    (tmp_path / "day=tomorrow").mkdir()
    with pytest.raises(BadLog, match="is no day"):
        read(tmp_path)


def test_a_time_without_decisions_is_said(tmp_path: Path) -> None:
    logged(tmp_path, rows())
    with pytest.raises(BadLog, match="holds nothing for that time"):
        read(tmp_path, since=START + 5000, until=START + 6000)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "day=2026-11-20"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "x.parquet")
    with pytest.raises(BadLog, match="has no column decision_id"):
        read(tmp_path)


def test_a_choice_among_others_than_the_candidates_is_a_damaged_log(tmp_path: Path) -> None:
    strange = row(0, TWO, "boots")
    strange["chosen"][0]["offer"] = "hats"
    write_day(tmp_path, date(2026, 11, 20), [strange])
    with pytest.raises(BadLog, match="not among its decision's candidates"):
        read(tmp_path)
