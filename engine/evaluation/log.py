"""The decision log: one row a decision, one folder a day, and its reading as arrays.

What holds: `folder/day=2026-11-24/part-….parquet`, zstd, the day being the decision's own (UTC). A decision may
be written again when more is known of it: of the rows with one `decision_id`, the last in the order of file
names and rows counts. Nothing in it names a person: `customer` is a keyed tag.

`chance` is the probability of rank 1 under the policy that decided; what the chances of a decision's candidates
leave to 1 is the chance that nothing was chosen. A candidate whose `chance` is null did not reach the choice;
one whose chance is 0 reached it and was left off the shortlist.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import TactError
from engine.scoring import Array

Whole = NDArray[np.int64]
Names = NDArray[np.object_]
Flags = NDArray[np.bool_]

_CANDIDATE: Final = pa.struct(
    [
        pa.field("offer", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        ("reason", pa.string()),
        *[
            (name, pa.float64())
            for name in (
                "propensity",
                "low",
                "high",
                "opt_out",
                "value",
                "weight",
                "cost",
                "priority",
                "deviation",
                "chance",
            )
        ],
    ]
)
_CHOSEN: Final = pa.struct(
    [
        pa.field("offer", pa.string(), nullable=False),
        pa.field("rank", pa.int16(), nullable=False),
        ("selection_probability", pa.float64()),
    ]
)
SCHEMA: Final = pa.schema(
    [
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("customer", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        ("placement", pa.string()),
        ("channel", pa.string()),
        ("action", pa.string()),
        ("reason", pa.string()),
        ("grp", pa.string()),
        ("policy_version", pa.string()),
        ("model_version", pa.string()),
        ("alpha", pa.float64()),
        ("inputs", pa.map_(pa.string(), pa.float64())),
        ("segment", pa.map_(pa.string(), pa.string())),
        ("candidates", pa.list_(_CANDIDATE)),
        ("chosen", pa.list_(_CHOSEN)),
        ("outcome", pa.string()),
        ("outcome_at", pa.timestamp("ms", tz="UTC")),
        ("reward", pa.float64()),
        ("outcome_value", pa.float64()),
        ("opted_out", pa.bool_()),
        ("delivered", pa.bool_()),
        ("seen", pa.bool_()),
    ],
)
"""One row a decision. `low` and `high` are the propensity at `alpha` deviations below and above it; `alpha` is
the exploration setting of the policy that decided (null: taken to be the judged policy's own)."""

FACTORS: Final = ("propensity", "low", "high", "opt_out", "value", "weight", "cost", "priority", "chance")
_NEEDED: Final = [
    "decision_id",
    "customer",
    "at",
    "placement",
    "channel",
    "action",
    "grp",
    "alpha",
    "segment",
    "candidates",
    "chosen",
    "outcome",
    "outcome_at",
    "reward",
    "outcome_value",
    "opted_out",
]


class BadLog(TactError):
    """A folder that holds no decision log, or one that cannot be read."""

    status = 422
    kind = "bad-log"


class Chosen(NamedTuple):
    """Every chosen offer of every message, by decision and rank."""

    row: Whole
    """The decision."""
    place: Whole
    """Place among all candidates."""
    rank: Whole
    probability: Array
    """The chance that it was chosen for its rank, given the ones above it."""


class Log(msgspec.Struct, frozen=True):
    """Decisions in time order, as arrays; what is null is nan, -1 or empty.

    The candidates of all decisions lie one after the other: those of decision i are `starts[i]:starts[i + 1]`,
    and `row` says the decision of each.
    """

    customer: Whole
    """A number for each customer, from 0."""
    at: Whole
    """Milliseconds since the epoch, UTC."""
    ended_at: int
    """The latest moment of which the log knows anything (ms)."""
    placement: Names
    channel: Names
    group: Names
    action: Names
    outcome: Names
    alpha: Array
    reward: Array
    outcome_value: Array
    opted_out: Array
    first: Whole
    """Place, among all candidates, of the one chosen for rank 1; -1 for silence."""
    probability: Array
    """The chance with which rank 1 was chosen; for silence that of silence."""
    chosen: Chosen
    starts: Whole
    row: Whole
    offers: tuple[str, ...]
    offer: Whole
    """Place in `offers` of each candidate."""
    reached: Flags
    """Candidates among which was chosen."""
    below: Flags
    """Candidates that only the threshold dropped."""
    factors: dict[str, Array]
    """`FACTORS`, one array each over all candidates."""
    segments: Any
    """The column `segment` as it was read (pyarrow map array)."""

    def __len__(self) -> int:
        return len(self.customer)

    def segment(self, name: str) -> Names:
        """Return the decisions' values of one segment ("" where it is not known)."""
        found = pc.map_lookup(self.segments, name, "first")
        return _names(found)


def read(folder: Path, since: int | None = None, until: int | None = None) -> Log:
    """Read a decision log; `since` and `until` (ms, UTC) bound the decisions' times: [since, until).

    Raises BadLog where there is none, where a file is damaged, or where nothing lies between the bounds.
    """
    files = [file for day in days(folder, since, until) for file in sorted(day.glob("*.parquet"))]
    needed = [name for name in _NEEDED if name != "alpha"]
    tables = []
    for file in files:
        table = table_of(file, needed, also=["alpha"])
        if "alpha" not in table.column_names:
            table = table.append_column("alpha", pa.nulls(len(table), pa.float64()))
        tables.append(table.select(_NEEDED).cast(pa.schema([SCHEMA.field(name) for name in _NEEDED])))
    if not tables:
        raise BadLog(
            f"{folder} holds no decision log for that time: it needs folders day=YYYY-MM-DD with Parquet files "
            "(tact decisions export writes them)"
        )
    return _arrays(last_rows(pa.concat_tables(tables), since, until))


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


def write_day(folder: Path, day: date, rows: Iterable[Mapping[str, Any]], part: int = 0) -> Path:
    """Write rows (one dictionary a decision, keys as in SCHEMA; what is missing is null) as one file of a day."""
    path = folder / f"day={day.isoformat()}" / f"part-{part:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path, compression="zstd")
    return path


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


def _arrays(table: Any) -> Log:
    column = {name: _whole(table[name]) for name in table.column_names}
    size = len(table)
    starts, candidates = _flattened(column["candidates"])
    field = dict(zip(candidates.type.names, candidates.flatten(), strict=True))
    row = np.repeat(np.arange(size), np.diff(starts))
    encoded = field["offer"].dictionary_encode()
    offers = tuple(encoded.dictionary.to_pylist())
    offer = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    chosen = _choices(column["chosen"], offers, row, offer)
    leads = chosen.rank == 1
    first, probability = np.full(size, -1, dtype=np.int64), np.full(size, np.nan)
    first[chosen.row[leads]] = chosen.place[leads]
    probability[chosen.row[leads]] = chosen.probability[leads]
    factors = {name: _numbers(field[name]) for name in FACTORS}
    chance = factors["chance"]
    silence = np.clip(1 - np.bincount(row, np.nan_to_num(chance), minlength=size), 0, 1)
    at = column["at"].cast(pa.int64()).to_numpy()
    return Log(
        customer=np.unique(_names(column["customer"]).astype(str), return_inverse=True)[1].astype(np.int64),
        at=at,
        ended_at=max(int(at.max()), int(pc.max(column["outcome_at"].cast(pa.int64())).as_py() or 0), 0),
        placement=_names(column["placement"]),
        channel=_names(column["channel"]),
        group=_names(column["grp"]),
        action=_names(column["action"]),
        outcome=_names(column["outcome"]),
        alpha=_numbers(column["alpha"]),
        reward=_numbers(column["reward"]),
        outcome_value=_numbers(column["outcome_value"]),
        opted_out=_numbers(column["opted_out"].cast(pa.float64())),
        first=first,
        probability=np.where(first >= 0, probability, silence),
        chosen=chosen,
        starts=starts,
        row=row,
        offers=offers,
        offer=offer,
        reached=~np.isnan(chance),
        below=np.isnan(chance) & pc.equal(field["stage"], "below_threshold").to_numpy(zero_copy_only=False),
        factors=factors,
        segments=column["segment"],
    )


def _choices(column: Any, offers: tuple[str, ...], row: Whole, offer: Whole) -> Chosen:
    starts, chosen = _flattened(column)
    name, rank, probability = chosen.flatten()
    whose = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    code = {known: place for place, known in enumerate(offers)}
    wanted = np.array([code.get(one, -1) for one in name.to_pylist()], dtype=np.int64)
    keys, sought = row * (len(offers) + 1) + offer, whose * (len(offers) + 1) + wanted
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], sought)
    found = np.minimum(at, max(len(keys) - 1, 0))
    if len(sought) and (not len(keys) or (wanted < 0).any() or (keys[order][found] != sought).any()):
        raise BadLog(
            "a chosen offer is not among its decision's candidates: the log is damaged, export it again"
        )
    places = order[found] if len(keys) else found
    ranks = rank.to_numpy(zero_copy_only=False).astype(np.int64)
    by_rank = np.lexsort((ranks, whose))
    return Chosen(whose[by_rank], places[by_rank], ranks[by_rank], _numbers(probability)[by_rank])


def _whole(column: Any) -> Any:
    """Return a column as one array."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _flattened(lists: Any) -> tuple[Whole, Any]:
    """Return where each list starts (and the end), and the values of all; null is an empty list."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), lists.flatten()


def _numbers(column: Any) -> Array:
    numbers: Array = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers


def _names(column: Any) -> Names:
    names: Names = pc.fill_null(column, "").to_numpy(zero_copy_only=False)
    return names
