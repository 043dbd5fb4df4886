"""The two scripts that write customers: each of their conditions alone keeps everything from being written.

Each case starts from a commit (or a save) that writes all that one can write, makes one condition fail and no
other, and compares a dump of the whole store from before and after. The negative control takes one condition
after the other out of the script's text: the very same case must then find that something was written.
"""

import asyncio
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.adapters.connection import StoreAddress, StoreConnection, StoreUnavailable
from engine.adapters.server import ValkeyServer
from engine.adapters.store import POLICY, PROLOGUE, Code, Commit, Save, Store, as_bytes, as_list
from engine.ids import make_uid
from engine.quotas import Quota, QuotaOp
from features.codec import encode_facts, encode_state
from features.facts import Facts
from features.state import FeatureState

DAY_MS = 86_400_000
TAG = "t" * 16
HASH = f"{{{TAG}}}"
VERSION = "sha256:active"
FACTS, NEW_FACTS = (encode_facts(Facts(customer_id="c1", version=version)) for version in (3, 4))
STATE, NEW_STATE = (encode_state(FeatureState(), version) for version in (7, 8))
FAR_MS = 1 << 50
OFFER = Quota("budget:boots", 3, 9, "total")
CALLS = Quota("capacity:call", 1, 2, "2026-11-21")
TILL = Quota("capacity:till", 1, 1, "2026-11-21")
HELD = Quota("capacity:push", 1, 1, "2026-11-21")


class Desk:
    """A store with one customer in it, and what a test does to it."""

    def __init__(self, path: Path, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.connection = StoreConnection(StoreAddress(path=str(path)), prologue=PROLOGUE, within_s=5.0)
        self.run(self.connection.open())
        self.store = Store(self.connection)

    def call(self, *command: Any) -> Any:
        async def called() -> Any:
            return await self.connection.call(*command)

        return self.run(called())

    def dump(self) -> dict[bytes, tuple[Any, Any]]:
        """Every key of the store with all that it holds and when it goes."""
        keys = sorted(as_bytes(key) or b"" for key in as_list(self.call("KEYS", "*")))
        return {key: (self.call("DUMP", key), self.call("PEXPIRETIME", key)) for key in keys}

    def now(self) -> int:
        return self.run(self.store.clock())[0]

    def begin(self) -> None:
        """One customer, an active policy, a decision, and quotas of which each has room for exactly one more."""
        self.call("FLUSHALL")
        self.call("SET", POLICY, VERSION)
        self.call("HSET", HASH, "f", FACTS, "p", STATE, "e", b"seen")
        for quota, spent in ((OFFER, 3), (CALLS, 0)):
            self.call("HSET", f"q:{quota.name}:s", quota.period, spent)
            self.call("ZADD", f"q:{quota.name}:h", FAR_MS, "another", 1, "long gone")
        self.call("ZADD", f"q:{HELD.name}:h", FAR_MS, "mine")

    def without(self, script: str, line: str, instead: str) -> None:
        """Take a condition out of a script."""
        text = files("engine.adapters").joinpath(f"{script}.lua").read_text()
        assert text.count(line) == 1, line
        changed = self.connection.script(f"{script} without {line}", text.replace(line, instead))
        setattr(self.store, f"_{script}", changed)


@pytest.fixture
def desk(valkey_server: ValkeyServer, runner: asyncio.Runner) -> Iterator[Desk]:
    desk = Desk(valkey_server.socket_path, runner)
    desk.begin()
    yield desk
    runner.run(desk.connection.close())


# ---------------------------------------------------------------------- commit


def commit(now: int, **changed: Any) -> Commit:
    """Everything that a commit can write, under conditions that all hold."""
    fields: dict[str, Any] = {
        "tag": TAG,
        "facts_version": FACTS[:8],
        "policy_version": VERSION,
        "deadline": now + 60_000,
        "facts": NEW_FACTS,
        "uid": make_uid(now, bytes),
        "record": b"record",
        "record_until": FAR_MS,
        "idempotency_key": "i:key",
        "answer": b"answer",
        "answer_ttl_ms": 60_000,
        "quotas": (
            QuotaOp(OFFER, "hold", "m-1", FAR_MS),
            QuotaOp(CALLS, "hold", "m-1", FAR_MS),
            QuotaOp(TILL, "take", "m-1"),
            QuotaOp(HELD, "settle", "mine"),
        ),
    }
    return Commit(**fields | changed)


class Fault(NamedTuple):
    """One condition that fails alone: how it comes to fail, what the script says, and the line that sees it."""

    happens: Callable[[Desk], object]
    changed: dict[str, Any]
    code: Code
    quota: int
    line: str
    instead: str = ""


def nothing(_: Desk) -> None:
    """The judgement itself is out of date."""


FACTS_LINE = "if version ~= ARGV[1] then return {1, now, facts, redis.call('HGET', KEYS[1], 'p')} end"
QUOTA_LINE = (
    "if not (live * amount + spent + taken[holds] <= tonumber(ARGV[arg + 3])) then return {5, now, i} end"
)
TWICE = (QuotaOp(TILL, "take", "m-1"), QuotaOp(TILL, "hold", "m-2", FAR_MS))
FAULTS = {
    "another wrote the facts": Fault(lambda d: d.call("HSET", HASH, "f", NEW_FACTS), {}, "stale", -1, FACTS_LINE),
    "the facts are gone": Fault(lambda d: d.call("HDEL", HASH, "f"), {}, "stale", -1, FACTS_LINE),
    "they were judged as nobody's": Fault(nothing, {"facts_version": bytes(8)}, "stale", -1, FACTS_LINE),
    "another policy is active": Fault(
        lambda d: d.call("SET", POLICY, "sha256:other"), {}, "policy", -1,
        "if active ~= ARGV[2] then return {2, now, active} end",
    ),
    "no policy is active": Fault(
        lambda d: d.call("DEL", POLICY), {}, "policy", -1,
        "if active ~= ARGV[2] then return {2, now, active} end",
    ),
    "the deadline has come": Fault(
        nothing, {"deadline": 1}, "late", -1,
        "if ARGV[3] ~= '' and now >= tonumber(ARGV[3]) then return {3, now} end",
    ),
    "the key was answered": Fault(
        lambda d: d.call("SET", "i:key", "first"), {}, "answered", -1,
        "if answered then return {4, now, answered} end",
    ),
    "a budget is spent": Fault(
        lambda d: d.call("HSET", "q:budget:boots:s", "total", 4), {}, "quota", 0, QUOTA_LINE
    ),
    "a capacity is held": Fault(
        lambda d: d.call("ZADD", "q:capacity:call:h", FAR_MS, "one more"), {}, "quota", 1, QUOTA_LINE
    ),
    "a capacity is taken": Fault(
        lambda d: d.call("HSET", "q:capacity:till:s", TILL.period, 1), {}, "quota", 2, QUOTA_LINE
    ),
    "one commit takes too much": Fault(nothing, {"quotas": TWICE}, "quota", 1, QUOTA_LINE),
    "a limit is no number": Fault(
        nothing, {"quotas": (QuotaOp(Quota("x", 1, float("nan"), "total"), "take", "m"),)}, "quota", 0, QUOTA_LINE  # type: ignore[arg-type]
    ),
}  # fmt: skip


def test_a_commit_under_conditions_that_all_hold_writes_all_of_it(desk: Desk) -> None:
    now, before = desk.now(), desk.dump()
    assert desk.run(desk.store.commit(commit(now))).code == "done"
    after = desk.dump()
    day = f"{HASH}:d:{now // DAY_MS}".encode()
    changed = {key for key in after.keys() | before.keys() if before.get(key) != after.get(key)}
    quotas = {
        "q:budget:boots:h",
        "q:capacity:call:h",
        "q:capacity:till:s",
        "q:capacity:push:h",
        "q:capacity:push:s",
    }
    assert changed == {HASH.encode(), day, b"i:key", *(key.encode() for key in quotas)}
    assert desk.call("HMGET", HASH, "f", "p", "e") == [NEW_FACTS, STATE, b"seen"]
    assert desk.call("HGET", day, make_uid(now, bytes)) == b"record"
    assert after[day][1] == FAR_MS
    assert desk.call("GET", "i:key") == b"answer"
    assert 0 < desk.call("PTTL", "i:key") <= 60_000
    assert desk.call("ZRANGE", "q:budget:boots:h", 0, -1) == [b"another", b"m-1"]
    assert desk.call("ZRANGE", "q:capacity:call:h", 0, -1) == [b"another", b"m-1"]
    assert desk.call("HGET", "q:capacity:till:s", TILL.period) == b"1"
    assert desk.call("HGET", "q:capacity:push:s", HELD.period) == b"1"


@pytest.mark.parametrize("name", FAULTS)
def test_a_commit_of_which_one_condition_fails_writes_nothing_at_all(desk: Desk, name: str) -> None:
    fault = FAULTS[name]
    fault.happens(desk)
    before = desk.dump()
    done = desk.run(desk.store.commit(commit(desk.now(), **fault.changed)))
    assert (done.code, done.quota) == (fault.code, fault.quota)
    assert desk.dump() == before


@pytest.mark.parametrize("name", FAULTS)
def test_a_commit_script_without_that_condition_is_found_out(desk: Desk, name: str) -> None:
    fault = FAULTS[name]
    desk.without("commit", fault.line, fault.instead)
    fault.happens(desk)
    before = desk.dump()
    assert desk.run(desk.store.commit(commit(desk.now(), **fault.changed))).code == "done"
    assert desk.dump() != before


def test_a_hold_counts_up_to_its_end_and_not_at_it(desk: Desk) -> None:
    """The script's own moment is not known beforehand, so both sides of it are given."""
    now = desk.now()
    for ends, code in ((now, "done"), (now + 60_000, "quota")):
        desk.begin()
        desk.call("ZADD", "q:capacity:call:h", ends, "one more")
        assert desk.run(desk.store.commit(commit(now))).code == code


@pytest.mark.parametrize(
    ("changed", "untouched"),
    [
        ({"facts": b""}, HASH),
        ({"record": b""}, f"{HASH}:d:*"),
        ({"idempotency_key": "", "answer": b""}, "i:key"),
        ({"quotas": ()}, "q:*"),
    ],
)
def test_what_a_commit_does_not_bring_stays_as_it_was(
    desk: Desk, changed: dict[str, Any], untouched: str
) -> None:
    before = desk.dump()
    assert desk.run(desk.store.commit(commit(desk.now(), **changed))).code == "done"
    after = desk.dump()
    kept = [
        {key: held for key, held in one.items() if fnmatchcase(key.decode(), untouched)}
        for one in (before, after)
    ]
    assert kept[0] == kept[1]


def test_without_a_deadline_or_a_policy_neither_is_asked(desk: Desk) -> None:
    desk.call("SET", POLICY, "sha256:other")
    assert desk.run(desk.store.commit(commit(desk.now(), policy_version="", deadline=0))).code == "done"


def test_a_hold_that_is_prolonged_is_not_asked_for_room(desk: Desk) -> None:
    desk.call("HSET", "q:capacity:push:s", HELD.period, 1)
    extended = (QuotaOp(HELD, "extend", "mine", FAR_MS + 1), QuotaOp(CALLS, "drop", "another"))
    assert desk.run(desk.store.commit(commit(desk.now(), quotas=extended))).code == "done"
    assert desk.call("ZSCORE", "q:capacity:push:h", "mine") == str(FAR_MS + 1).encode()
    assert desk.call("ZSCORE", "q:capacity:call:h", "another") is None


# ---------------------------------------------------------------------- fold

OUTCOME_DAY, FORGOTTEN_DAY = f"{HASH}:d:20000", f"{HASH}:d:19999"


def save(**changed: Any) -> Save:
    """Everything that a save can write, under conditions that all hold."""
    fields: dict[str, Any] = {
        "tag": TAG,
        "facts_version": FACTS[:8],
        "state_version": STATE[:8],
        "policy_version": VERSION,
        "facts": NEW_FACTS,
        "state": NEW_STATE,
        "seen": b"more seen",
        "outcomes": ((OUTCOME_DAY, "o-1", b"click"), (FORGOTTEN_DAY, "o-2", b"click")),
        "settled": (QuotaOp(HELD, "settle", "mine"),),
    }
    return Save(**fields | changed)


FACTS_CHECK = "(held[1] and string.sub(held[1], 1, 8) or none) ~= ARGV[1]"
STATE_CHECK = "(held[2] and string.sub(held[2], 1, 8) or none) ~= ARGV[2]"
POLICY_CHECK = "if active ~= ARGV[3] then return {2, now, active} end"
SAVE_FAULTS = {
    "another wrote the facts": Fault(
        lambda d: d.call("HSET", HASH, "f", NEW_FACTS), {}, "stale", -1, FACTS_CHECK, "false"
    ),
    "the facts are gone": Fault(lambda d: d.call("HDEL", HASH, "f"), {}, "stale", -1, FACTS_CHECK, "false"),
    "another wrote the features": Fault(
        lambda d: d.call("HSET", HASH, "p", NEW_STATE), {}, "stale", -1, STATE_CHECK, "false"
    ),
    "the features are gone": Fault(
        lambda d: d.call("HDEL", HASH, "p"), {}, "stale", -1, STATE_CHECK, "false"
    ),
    "another policy is active": Fault(
        lambda d: d.call("SET", POLICY, "sha256:other"), {}, "policy", -1, POLICY_CHECK
    ),
}


def with_decisions(desk: Desk) -> None:
    desk.call("HSET", OUTCOME_DAY, "uid", "record")


def test_a_save_under_conditions_that_all_hold_writes_all_of_it(desk: Desk) -> None:
    with_decisions(desk)
    assert desk.run(desk.store.save(save())).code == "done"
    assert desk.call("HMGET", HASH, "f", "p", "e") == [NEW_FACTS, NEW_STATE, b"more seen"]
    assert desk.call("HGET", OUTCOME_DAY, "o-1") == b"click"
    assert desk.call("EXISTS", FORGOTTEN_DAY) == 0
    assert desk.call("ZSCORE", "q:capacity:push:h", "mine") is None
    assert desk.call("HGET", "q:capacity:push:s", HELD.period) == b"1"


def test_a_save_may_take_fields_away(desk: Desk) -> None:
    assert desk.run(desk.store.save(save(facts=b"", state=b"-", seen=b"-"))).code == "done"
    assert desk.call("HMGET", HASH, "f", "p", "e") == [FACTS, None, None]


@pytest.mark.parametrize("name", SAVE_FAULTS)
def test_a_save_of_which_one_condition_fails_writes_nothing_at_all(desk: Desk, name: str) -> None:
    with_decisions(desk)
    fault = SAVE_FAULTS[name]
    fault.happens(desk)
    before = desk.dump()
    assert desk.run(desk.store.save(save(**fault.changed))).code == fault.code
    assert desk.dump() == before


@pytest.mark.parametrize("name", SAVE_FAULTS)
def test_a_fold_script_without_that_condition_is_found_out(desk: Desk, name: str) -> None:
    with_decisions(desk)
    fault = SAVE_FAULTS[name]
    desk.without("fold", fault.line, fault.instead)
    fault.happens(desk)
    before = desk.dump()
    assert desk.run(desk.store.save(save(**fault.changed))).code == "done"
    assert desk.dump() != before


# ---------------------------------------------------------------------- out of memory


@pytest.fixture
def small_desk(own_server: ValkeyServer, runner: asyncio.Runner) -> Iterator[Desk]:
    """A store of the test's own, which it may fill."""
    own_server.start()
    desk = Desk(own_server.socket_path, runner)
    desk.begin()
    yield desk
    runner.run(desk.connection.close())


def fill(desk: Desk) -> None:
    """Leave no room: less than the store uses already."""
    desk.call("CONFIG", "SET", "maxmemory", "1mb")


@pytest.mark.parametrize("script", ["commit", "fold"])
def test_a_store_out_of_memory_writes_nothing_and_all_of_it_later(small_desk: Desk, script: str) -> None:
    desk = small_desk
    with_decisions(desk)

    def write() -> Code:
        made = desk.store.commit(commit(desk.now())) if script == "commit" else desk.store.save(save())
        return desk.run(made).code

    fill(desk)
    before = desk.dump()
    with pytest.raises(StoreUnavailable, match="OOM"):
        write()
    assert desk.dump() == before
    desk.call("CONFIG", "SET", "maxmemory", "0")
    assert write() == "done"


@pytest.mark.parametrize("script", ["commit", "fold"])
def test_a_script_that_does_not_say_that_it_is_one_is_found_out(small_desk: Desk, script: str) -> None:
    """Without its first line the server lets it run on once it has written anything that takes no memory."""
    desk = small_desk
    with_decisions(desk)
    desk.without(script, "#!lua\n", "")
    fill(desk)
    before = desk.dump()
    frees_first = (QuotaOp(HELD, "drop", "mine"), QuotaOp(CALLS, "hold", "m-1", FAR_MS))
    if script == "commit":
        changed = {"facts": b"", "record": b"", "quotas": frees_first}
        done = desk.run(desk.store.commit(commit(desk.now(), **changed)))
    else:
        done = desk.run(desk.store.save(save(facts=b"", state=b"-", seen=b"")))
    assert done.code == "done"
    assert desk.dump() != before
