"""The decision log read as arrays: what the estimators look at.

Nothing in it names a person: `customer` is a keyed tag. `chance` is the probability of rank 1 under the policy that
decided; what the chances of a decision's candidates leave to 1 is the chance that nothing was chosen. A candidate whose
`chance` is null did not reach the choice; one whose chance is 0 reached it and was left off the shortlist.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.evaluation.files import BadLog, days, last_rows, table_of
from engine.evaluation.schema import SCHEMA
from engine.judging.scoring import Array

Whole = NDArray[np.int64]
Names = NDArray[np.object_]
Flags = NDArray[np.bool_]

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
    "responses",
    "untried",
]
_LATER: Final = ("alpha", "responses", "untried")
"""Columns that older logs lack."""


class Chosen(NamedTuple):
    """Every chosen offer of every message, by decision and rank."""

    row: Whole
    """The decision."""
    place: Whole
    """Place among all candidates."""
    rank: Whole
    probability: Array
    """The chance that it was chosen for its rank, given the ones above it."""


class Responses(NamedTuple):
    """What customers did in the attribution window of their decisions, whether it named one or not."""

    row: Whole
    """The decision; one event stands at each decision in whose window it lies."""
    type: Names
    at: Whole
    known: Flags
    """Of each decision, whether it was recorded."""


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
    settles_ms: int
    """How long after a decision silence is final, by what the log shows; 0 where no silence is final yet."""
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
    untried: Flags
    """Candidates that the model knew so little of that they shared in the floor like the best."""
    factors: dict[str, Array]
    """`FACTORS`, one array each over all candidates."""
    responses: Responses
    segments: Any
    """The column `segment` as it was read (pyarrow map array)."""

    def __len__(self) -> int:
        return len(self.customer)

    @property
    def young(self) -> Flags:
        """Decisions so young that others of their age, of which nothing was heard, are not in the log yet.

        A decision is written when something is heard of it, and else when silence is final: of the young ones
        those with an early yes are there, and the others are missing.
        """
        young: Flags = self.at + self.settles_ms > self.ended_at
        return young

    def segment(self, name: str) -> Names:
        """Return the decisions' values of one segment ("" where it is not known)."""
        found = pc.map_lookup(self.segments, name, "first")
        return _names(found)


def read(folder: Path, since: int | None = None, until: int | None = None) -> Log:
    """Read a decision log; `since` and `until` (ms, UTC) bound the decisions' times: [since, until).

    Raises BadLog where there is none, where a file is damaged, or where nothing lies between the bounds.
    """
    files = [file for day in days(folder, since, until) for file in sorted(day.glob("*.parquet"))]
    needed = [name for name in _NEEDED if name not in _LATER]
    tables = []
    for file in files:
        table = table_of(file, needed, also=_LATER)
        for name in _LATER:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
        tables.append(table.select(_NEEDED).cast(pa.schema([SCHEMA.field(name) for name in _NEEDED])))
    if not tables:
        raise BadLog(
            f"{folder} holds no decision log for that time: it needs folders day=YYYY-MM-DD with Parquet files "
            "(tact decisions export writes them)"
        )
    return _arrays(last_rows(pa.concat_tables(tables), since, until))


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
    settled = _numbers(column["outcome_at"].cast(pa.int64())) - at
    settled = settled[(_names(column["outcome"]) == "silent") & ~np.isnan(settled)]
    return Log(
        customer=np.unique(_names(column["customer"]).astype(str), return_inverse=True)[1].astype(np.int64),
        at=at,
        ended_at=max(int(at.max()), int(pc.max(column["outcome_at"].cast(pa.int64())).as_py() or 0), 0),
        # The shortest: policies may have changed how long they wait.
        settles_ms=max(int(settled.min()), 0) if len(settled) else 0,
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
        untried=_untried(column["untried"], offers, row, offer),
        factors=factors,
        responses=_responses(column["responses"]),
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


def _untried(column: Any, offers: tuple[str, ...], row: Whole, offer: Whole) -> Flags:
    starts, name = _flattened(column)
    whose = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    code = {known: place for place, known in enumerate(offers)}
    named = np.array([code.get(one, -1) for one in name.to_pylist()], dtype=np.int64)
    size = len(offers) + 1
    return np.isin(row * size + offer, (whose * size + named)[named >= 0])


def _responses(column: Any) -> Responses:
    starts, found = _flattened(column)
    name, at = found.flatten()
    return Responses(
        np.repeat(np.arange(len(column)), np.diff(starts)),
        _names(name),
        at.cast(pa.int64()).to_numpy(zero_copy_only=False),
        column.is_valid().to_numpy(zero_copy_only=False),
    )


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
