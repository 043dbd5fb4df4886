"""Both scripts that write a customer: each condition that fails, alone and by a hair, keeps all as it was.

The store's time stands still in them, so that every condition is tried at its edge: one unit further, and all is
written. Each case names the words of the script that it guards, and a script without them must be caught by the same
assertion. The conditions of quotas are tried for each operation that may refuse, behind others that would be done.
"""

import asyncio
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple, cast

import pytest
from msgspec.structs import replace

from engine.judging.ids import make_uid
from engine.judging.quotas import Quota, QuotaOp
from engine.judging.trail import TRAIL
from engine.store.connection import StoreConnection, StoreUnavailable
from engine.store.store import POLICY, Commit, Committed, Save, Store, as_bytes, as_list, decisions_key

NOW = 4_102_444_800_123
"""The scripts' time (ms): ahead of the server's own, by which keys end."""
DAY_MS = 86_400_000
TAG = "t" * 16
CUSTOMER = f"{{{TAG}}}"
UID = make_uid(NOW, bytes)
DECISIONS = decisions_key(TAG, NOW)
FORGOTTEN = decisions_key(TAG, NOW - 100 * DAY_MS)
THREE, FOUR, FIVE, SIX = (number.to_bytes(8, "big") for number in (3, 4, 5, 6))

BOOTS = Quota("budget:boots", 3, 9, "total")
SOCKS = Quota("budget:socks", 3, 3, "total")
HATS = Quota("budget:hats", 3, 3, "total")
SMS = Quota("capacity:sms", 1, 1, "2026-11-21")
CALL = Quota("capacity:call", 1, 2, "2026-11-21")
QUOTAS = (
    QuotaOp(BOOTS, "hold", "m", NOW + 60_000),
    QuotaOp(SOCKS, "extend", "m", NOW + 60_000),
    QuotaOp(SMS, "settle", "m"),
    QuotaOp(HATS, "drop", "m"),
    QuotaOp(CALL, "take", "m"),
)
HOLDS, TAKES = 0, 4
"""Places of the two operations that may refuse: before and after all the others."""

COMMIT = Commit(
    tag=TAG,
    facts_version=THREE,
    policy_version="sha256:active",
    deadline=NOW + 1,
    facts=FOUR + b"new facts",
    uid=UID,
    record=b"record",
    record_until=NOW + DAY_MS,
    idempotency_key="i:key",
    answer=b"answer",
    answer_ttl_ms=60_000,
    step=b"step",
    quotas=QUOTAS,
)
SAVE = Save(
    tag=TAG,
    facts_version=THREE,
    state_version=FIVE,
    policy_version="sha256:active",
    facts=FOUR + b"new facts",
    state=SIX + b"new state",
    seen=b"new seen",
    outcomes=(
        (DECISIONS, "o" + UID, b"outcome", b"step of an outcome"),
        (FORGOTTEN, "o" + UID, b"of a decision forgotten", b"step of nothing"),
    ),
    settled=(QuotaOp(BOOTS, "settle", "other"), QuotaOp(SOCKS, "settle", "m")),
)

# What lies in the store: every quota that is asked has room for one more, the others have none.
BEFORE: tuple[tuple[Any, ...], ...] = (
    ("SET", POLICY, "sha256:active"),
    ("HSET", CUSTOMER, "f", THREE + b"facts", "p", FIVE + b"state", "e", b"seen"),
    ("HSET", DECISIONS, "earlier", b"decision"),
    ("ZADD", BOOTS.keys[0], NOW, "ended", NOW + 1, "other"),
    ("HSET", BOOTS.keys[1], "total", 3),
    ("ZADD", SOCKS.keys[0], NOW + 1, "m"),
    ("HSET", SOCKS.keys[1], "total", 3),
    ("ZADD", SMS.keys[0], NOW + 1, "m"),
    ("HSET", SMS.keys[1], SMS.period, 1),
    ("ZADD", HATS.keys[0], NOW + 1, "m"),
    ("ZADD", CALL.keys[0], NOW, "m"),
    ("HSET", CALL.keys[1], CALL.period, 1),
)


class Bench:
    """A store in which everything is ready to be committed, and the two scripts, whole or without some words."""

    def __init__(self, connection: StoreConnection, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.connection = connection
        self.store = Store(connection)
        for command in BEFORE:
            self.call(*command)
        for which in ("commit", "fold"):
            self.use(which, timeless(which))

    def call(self, *command: Any) -> Any:
        async def called() -> Any:
            return await self.connection.call(*command)

        return self.run(called())

    def use(self, which: str, text: str) -> None:
        """Put another text in the place of a script."""
        setattr(self.store, f"_{which}", self.connection.script(text, text))

    def write(self, what: Commit | Save) -> Committed:
        return self.run(self.store.commit(what) if isinstance(what, Commit) else self.store.save(what))

    def everything(self) -> dict[bytes, tuple[object, object]]:
        """All keys with all that they hold, and when they end."""
        keys = sorted(as_bytes(key) or b"" for key in as_list(self.call("KEYS", "*")))
        return {key: (self.call("DUMP", key), self.call("PEXPIRETIME", key)) for key in keys}

    def hash(self, key: str) -> dict[bytes, bytes]:
        flat = as_list(self.call("HGETALL", key))
        return {
            cast("bytes", name): cast("bytes", value)
            for name, value in zip(flat[::2], flat[1::2], strict=True)
        }

    def holds(self, quota: Quota) -> dict[bytes, int]:
        flat = as_list(self.call("ZRANGE", quota.keys[0], 0, -1, "WITHSCORES"))
        return {
            cast("bytes", member): int(cast("bytes", at))
            for member, at in zip(flat[::2], flat[1::2], strict=True)
        }

    def spent(self, quota: Quota) -> int:
        return int(self.call("HGET", quota.keys[1], quota.period) or 0)

    def trail(self) -> list[bytes]:
        entries = [as_list(as_list(entry)[1]) for entry in as_list(self.call("XRANGE", TRAIL, "-", "+"))]
        return [cast("bytes", fields[1]) for fields in entries]

    def refuses(self, what: Commit | Save, code: str) -> Committed:
        """Try to write; assert that it is refused for that reason, and that nothing at all is written."""
        before = self.everything()
        done = self.write(what)
        assert self.everything() == before
        assert (done.code, done.now) == (code, NOW)
        return done


def timeless(which: str) -> str:
    """Return the text of a script whose time stands still."""
    text = files("engine.store").joinpath("scripts", f"{which}.lua").read_text()
    return in_place(text, "redis.call('TIME')", f"{{'{NOW // 1000}', '{NOW % 1000}000'}}")


def in_place(text: str, words: str, others: str) -> str:
    assert text.count(words) == 1, f"the script no longer says {words!r} once"
    return text.replace(words, others)


@pytest.fixture
def bench(store: StoreConnection, runner: asyncio.Runner) -> Iterator[Bench]:
    bench = Bench(store, runner)
    yield bench
    bench.call("CONFIG", "SET", "maxmemory", 0)


# ---------------------------------------------------------------------- all hold


def test_a_commit_at_the_edge_of_all_its_conditions_writes_all_of_it(bench: Bench) -> None:
    assert bench.write(COMMIT) == Committed("done", NOW)
    assert bench.hash(CUSTOMER) == {b"f": COMMIT.facts, b"p": FIVE + b"state", b"e": b"seen"}
    assert bench.hash(DECISIONS) == {b"earlier": b"decision", UID.encode(): b"record"}
    assert bench.call("PEXPIRETIME", DECISIONS) == COMMIT.record_until
    assert bench.call("GET", "i:key") == b"answer"
    assert 0 < bench.call("PTTL", "i:key") <= 60_000
    assert bench.trail() == [b"step"]
    until = NOW + 60_000
    assert [(bench.holds(op.quota), bench.spent(op.quota)) for op in QUOTAS] == [
        ({b"other": NOW + 1, b"m": until}, 3),
        ({b"m": until}, 3),
        ({}, 2),
        ({}, 0),
        ({}, 2),
    ]
    assert bench.call("GET", POLICY) == b"sha256:active"


def test_a_commit_that_asks_for_nothing_but_its_facts_writes_those_alone(bench: Bench) -> None:
    bench.call("SET", "i:key", "of somebody")
    before = bench.everything()
    done = bench.write(Commit(tag=TAG, facts_version=THREE, facts=FOUR + b"new facts"))
    assert done.code == "done"
    after = bench.everything()
    assert {key for key in before | after if before.get(key) != after.get(key)} == {CUSTOMER.encode()}


def test_a_save_whose_conditions_all_hold_writes_all_of_it(bench: Bench) -> None:
    assert bench.write(SAVE) == Committed("done", NOW)
    assert bench.hash(CUSTOMER) == {b"f": SAVE.facts, b"p": SAVE.state, b"e": SAVE.seen}
    assert bench.hash(DECISIONS) == {b"earlier": b"decision", b"o" + UID.encode(): b"outcome"}
    assert bench.trail() == [b"step of an outcome"]
    assert (bench.holds(BOOTS), bench.spent(BOOTS)) == ({b"ended": NOW}, 6)
    assert (bench.holds(SOCKS), bench.spent(SOCKS)) == ({}, 6)


def test_a_save_deletes_what_it_is_told_to_and_leaves_what_is_empty(bench: Bench) -> None:
    assert (
        bench.write(replace(SAVE, facts=b"", state=b"-", seen=b"-", outcomes=(), settled=())).code == "done"
    )
    assert bench.hash(CUSTOMER) == {b"f": THREE + b"facts"}
    assert bench.write(replace(SAVE, state_version=bytes(8), state=b"", seen=b"")).code == "done"
    assert bench.hash(CUSTOMER) == {b"f": SAVE.facts}


@pytest.mark.parametrize("what", [replace(COMMIT, policy_version=""), replace(SAVE, policy_version="")])
def test_whoever_asks_for_no_policy_is_not_stopped_by_one(bench: Bench, what: Commit | Save) -> None:
    bench.call("SET", POLICY, "sha256:other")
    assert bench.write(what).code == "done"


# ---------------------------------------------------------------------- one fails


class Case(NamedTuple):
    """One condition that fails: what was done before the write, or how the write differs; the words that notice."""

    condition: str
    code: str
    words: str
    others: str = ""
    """What stands in the place of the words in the script that must be caught."""
    done_before: tuple[Any, ...] = ("PING",)
    what: Commit | Save = COMMIT
    quota: int = -1


def changed(place: int, quota: Quota) -> Commit:
    """Return the commit with another limit in one of its quotas."""
    op = replace(QUOTAS[place], quota=quota)
    return replace(COMMIT, quotas=(*QUOTAS[:place], op, *QUOTAS[place + 1 :]))


STALE = "if version ~= ARGV[1] then return {1, now, facts, redis.call('HGET', KEYS[1], 'p')} end"
POLICY_COMMIT = "if active ~= ARGV[2] then return {2, now, active} end"
USED_UP = (
    "if not (live * amount + spent + taken[holds] <= tonumber(ARGV[arg + 3])) then return {5, now, i} end"
)
LIVE, SPENT = "live * amount + ", "+ spent +"
MORE = tuple(QuotaOp(BOOTS, "hold", f"m-{n}", NOW + 60_000) for n in range(2))
NOT_A_NUMBER = cast("int", "nan")
POLICY_FOLD = "if active ~= ARGV[3] then return {2, now, active} end"
FACTS = "(held[1] and string.sub(held[1], 1, 8) or none) ~= ARGV[1]\n  or "
STATE = "\n  or (held[2] and string.sub(held[2], 1, 8) or none) ~= ARGV[2]"
SPENT_4 = ("HSET", BOOTS.keys[1], "total", 4)
CALL_2 = ("HSET", CALL.keys[1], CALL.period, 2)

COMMIT_CASES = [
    Case(
        "no answer yet",
        "answered",
        "if answered then return {4, now, answered} end",
        "",
        ("SET", "i:key", "one"),
    ),
    Case("the policy is active", "policy", POLICY_COMMIT, "", ("SET", POLICY, "sha256:other")),
    Case("some policy is active", "policy", POLICY_COMMIT, "", ("DEL", POLICY)),
    Case("the facts are those judged", "stale", STALE, "", ("HSET", CUSTOMER, "f", FOUR + b"facts")),
    Case("the facts are still there", "stale", STALE, "", ("HDEL", CUSTOMER, "f")),
    Case("no facts came up", "stale", STALE, "", what=replace(COMMIT, facts_version=bytes(8))),
    Case(
        "before the deadline", "late", "now >= tonumber", "now > tonumber", what=replace(COMMIT, deadline=NOW)
    ),
    Case("a hold finds room", "quota", USED_UP, "", SPENT_4, quota=HOLDS),
    Case("a hold is asked", "quota", "ARGV[arg] == 'hold' or", "", SPENT_4, quota=HOLDS),
    Case("a hold sees spending", "quota", SPENT, "+", SPENT_4, quota=HOLDS),
    Case("a hold sees holds", "quota", LIVE, "", ("ZADD", BOOTS.keys[0], NOW + 1, "third"), quota=HOLDS),
    Case(
        "a hold keeps to its limit",
        "quota",
        USED_UP,
        "",
        what=changed(HOLDS, replace(BOOTS, limit=8)),
        quota=HOLDS,
    ),
    Case("a taking finds room, the last of five", "quota", USED_UP, "", CALL_2, quota=TAKES),
    Case("a taking is asked", "quota", " or ARGV[arg] == 'take'", "", CALL_2, quota=TAKES),
    Case("a taking sees spending", "quota", SPENT, "+", CALL_2, quota=TAKES),
    Case("a taking sees holds", "quota", LIVE, "", ("ZADD", CALL.keys[0], NOW + 1, "other"), quota=TAKES),
    Case(
        "a taking keeps to its limit",
        "quota",
        USED_UP,
        "",
        what=changed(TAKES, replace(CALL, limit=1)),
        quota=TAKES,
    ),
    Case(
        "what this commit takes itself is added up",
        "quota",
        "(taken[holds] or 0) + amount",
        "amount",
        what=replace(COMMIT, quotas=(*QUOTAS, *MORE)),
        quota=5,
    ),
    Case(
        "a limit that is no number is none that is kept",
        "quota",
        "not (live * amount + spent + taken[holds] <= tonumber(ARGV[arg + 3]))",
        "live * amount + spent + taken[holds] > tonumber(ARGV[arg + 3])",
        what=changed(HOLDS, replace(BOOTS, limit=NOT_A_NUMBER)),
        quota=HOLDS,
    ),
]
SAVE_CASES = [
    Case("the policy is active", "policy", POLICY_FOLD, "", ("SET", POLICY, "sha256:other"), SAVE),
    Case("some policy is active", "policy", POLICY_FOLD, "", ("DEL", POLICY), SAVE),
    Case("the facts are those folded", "stale", FACTS, "", ("HSET", CUSTOMER, "f", FOUR + b"facts"), SAVE),
    Case("the facts are still there", "stale", FACTS, "", ("HDEL", CUSTOMER, "f"), SAVE),
    Case("no facts came up", "stale", FACTS, "", what=replace(SAVE, facts_version=bytes(8))),
    Case("the state is the one folded", "stale", STATE, "", ("HSET", CUSTOMER, "p", SIX + b"state"), SAVE),
    Case("the state is still there", "stale", STATE, "", ("HDEL", CUSTOMER, "p"), SAVE),
    Case("no state came up", "stale", STATE, "", what=replace(SAVE, state_version=bytes(8))),
]
CASES = [
    pytest.param(case, id=f"{which}: {case.condition}")
    for which, cases in (("commit", COMMIT_CASES), ("fold", SAVE_CASES))
    for case in cases
]


@pytest.mark.parametrize("case", CASES)
def test_where_one_condition_alone_fails_nothing_is_written(bench: Bench, case: Case) -> None:
    bench.call(*case.done_before)
    done = bench.refuses(case.what, case.code)
    assert done.quota == case.quota
    if case.code == "answered":
        assert done.answer == b"one"
    if case.code == "stale" and isinstance(case.what, Commit):
        assert (done.facts, done.state) == (bench.call("HGET", CUSTOMER, "f"), FIVE + b"state")


@pytest.mark.parametrize("case", CASES)
def test_a_script_without_that_condition_is_caught(bench: Bench, case: Case) -> None:
    bench.call(*case.done_before)
    which = "commit" if isinstance(case.what, Commit) else "fold"
    bench.use(which, in_place(timeless(which), case.words, case.others))
    with pytest.raises(AssertionError):
        bench.refuses(case.what, case.code)


# ---------------------------------------------------------------------- what is done unasked, and what is passed over


@pytest.mark.parametrize("op", ["extend", "settle", "drop"])
def test_what_was_promised_is_done_even_where_a_quota_has_no_room(bench: Bench, op: Any) -> None:
    full = (QuotaOp(replace(BOOTS, limit=0), op, "other", NOW + 60_000),)
    assert bench.write(replace(COMMIT, quotas=full)).code == "done"
    held = {"extend": {b"other": NOW + 60_000}, "settle": {b"ended": NOW}, "drop": {b"ended": NOW}}
    assert (bench.holds(BOOTS), bench.spent(BOOTS)) == (held[op], 6 if op == "settle" else 3)


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("'(' .. string.format('%d', now), '+inf'", "string.format('%d', now), '+inf'"),
        ("ARGV[arg] == 'hold' or ARGV[arg] == 'take'", "true"),
    ],
)
def test_a_script_that_counts_ended_holds_or_asks_for_what_was_promised_is_caught(
    bench: Bench, words: str, others: str
) -> None:
    bench.use("commit", in_place(timeless("commit"), words, others))
    bench.refuses(COMMIT, "quota")


def test_an_outcome_does_not_bring_back_a_day_of_decisions_that_is_forgotten(bench: Bench) -> None:
    assert bench.write(SAVE).code == "done"
    assert bench.call("EXISTS", FORGOTTEN) == 0
    bench.use("fold", in_place(timeless("fold"), "redis.call('EXISTS', KEYS[4 + i]) == 1", "true"))
    assert bench.write(replace(SAVE, facts_version=FOUR, state_version=SIX)).code == "done"
    assert bench.call("EXISTS", FORGOTTEN) == 1


# ---------------------------------------------------------------------- out of memory

SETTLED = replace(COMMIT, facts=b"", record=b"", quotas=QUOTAS[2:])
EMPTIED = replace(SAVE, facts=b"", state=b"-", seen=b"-")


def refuses_out_of_memory(bench: Bench, what: Commit | Save) -> None:
    before = bench.everything()
    bench.call("CONFIG", "SET", "maxmemory", 1)
    told: StoreUnavailable | None = None
    try:
        bench.write(what)
    except StoreUnavailable as fault:
        told = fault
    finally:
        bench.call("CONFIG", "SET", "maxmemory", 0)
    assert bench.everything() == before
    assert told is not None
    assert not told.maybe_applied
    assert "OOM" in str(told)


@pytest.mark.parametrize(
    "what", [COMMIT, SETTLED, SAVE, EMPTIED], ids=["commit", "settled", "save", "emptied"]
)
def test_out_of_memory_nothing_is_written_and_all_of_it_afterwards(bench: Bench, what: Commit | Save) -> None:
    refuses_out_of_memory(bench, what)
    assert bench.write(what).code == "done"


@pytest.mark.parametrize("what", [SETTLED, EMPTIED], ids=["settled", "emptied"])
def test_a_script_without_its_first_line_is_caught_out_of_memory(bench: Bench, what: Commit | Save) -> None:
    which = "commit" if isinstance(what, Commit) else "fold"
    bench.use(which, in_place(timeless(which), "#!lua\n", "\n"))
    with pytest.raises(AssertionError):
        refuses_out_of_memory(bench, what)
