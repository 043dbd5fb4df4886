"""Ids: made, taken apart, and never to be mistaken for one another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.judging.ids import RandomPool, derived_uid, made_at, make_uid, public_id, split_id
from tests.unit.engine.shop import NOW

TAG = "A-_z0123456789AB"


@given(st.integers(0, (1 << 44) - 1), st.binary(min_size=4, max_size=4))
def test_a_uid_knows_when_it_was_made(now: int, noise: bytes) -> None:
    uid = make_uid(now, lambda size: noise[:size])
    assert made_at(uid) == now
    assert len(uid) == 12
    assert split_id(public_id(TAG, uid)) == (TAG, uid)


def test_uids_of_one_moment_differ_by_their_noise() -> None:
    assert make_uid(NOW, lambda _: b"\x00\x00\x00\x10") != make_uid(NOW, lambda _: b"\x00\x00\x00\x20")


def test_a_retry_makes_the_same_uids_row_by_row() -> None:
    first = [derived_uid(b"seed", index) for index in range(100)]
    assert first == [derived_uid(b"seed", index) for index in range(100)]
    assert len(set(first)) == 100
    assert not {derived_uid(b"other", index) for index in range(100)} & set(first)
    assert {len(uid) for uid in first} == {12}


def test_a_long_seed_is_no_error() -> None:
    assert derived_uid(bytes(200), 1) == derived_uid(bytes(64), 1)


def test_an_id_of_the_outside_is_its_own() -> None:
    assert public_id(TAG, "!their-id") == "their-id"


@pytest.mark.parametrize(
    "text", ["", "short", TAG, TAG + "x" * 11, TAG + "x" * 13, TAG + "é" + "x" * 11, "x" * 27 + "\n"]
)
def test_what_we_cannot_have_made_is_no_id(text: str) -> None:
    assert split_id(text) is None


def test_a_random_pool_never_gives_a_byte_twice_and_asks_again_when_it_is_empty() -> None:
    given = iter([b"abcdefgh", b"ijklmnop"])
    pool = RandomPool(lambda _: next(given), size=8)
    assert [pool(3), pool(3), pool(3)] == [b"abc", b"def", b"ijk"]
