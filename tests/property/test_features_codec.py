"""Whatever is stored comes back the same, and damaged bytes never become a fact."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from features import codec
from features.facts import EXTERNAL, Case, Contact, Dated, Facts, Item, Mark, State
from features.packing import packed
from features.state import FeatureState, Seen

texts = st.text(st.characters(codec="utf-8"), max_size=12)
times = st.integers(0, 2**43)
own_uids = st.text(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", min_size=12, max_size=12
)
uids = st.one_of(own_uids, texts.map(lambda text: EXTERNAL + text), st.text(max_size=12, alphabet="Aa+/="))
items = st.builds(Item, st.one_of(st.none(), st.sampled_from(["boots", "hat"]), texts), texts)
states: st.SearchStrategy[State] = st.sampled_from(["reserved", "confirmed", "released"])
contacts = st.builds(
    Contact,
    uids.filter(bool),
    times,
    st.sampled_from(["email", "web", "é"]),
    st.lists(items, max_size=3).map(tuple),
    states,
    st.one_of(st.just(0), times),
    st.lists(texts, max_size=2).map(tuple),
)
values = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(texts, max_size=3).map(tuple),
    st.none(),
)
dated = st.dictionaries(texts, st.builds(Dated, values, times), max_size=3)
marks = st.builds(Mark, texts, times, st.lists(texts, max_size=3).map(tuple), st.integers(0, 2**48 - 1))
facts = st.builds(
    Facts,
    customer_id=texts,
    version=st.integers(0, 2**64 - 1),
    high_water=times,
    moved_to=texts,
    erased_at=times,
    contacts=st.lists(contacts, max_size=6).map(tuple),
    consent=dated,
    profile=dated,
    marks=st.lists(marks, max_size=4).map(tuple),
    cases=st.lists(st.builds(Case, texts, times, times), max_size=3).map(tuple),
    answers=dated,
    aliases=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    since=times,
)
features: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.integers(), st.integers(-(2**1100), 2**1100), texts, st.binary(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(texts, inner, max_size=3),
        st.dictionaries(st.integers(0, 2**40), inner, max_size=3),
    ),
    max_leaves=8,
)
state = st.builds(FeatureState, st.integers(0, 2**48 - 1), times, st.lists(features, max_size=5).map(tuple))
seen = st.builds(
    Seen,
    st.dictionaries(st.integers(0, 5000), st.binary(max_size=18), max_size=3),
    st.dictionaries(texts, st.tuples(times, st.integers(0, 2**40)), max_size=3),
)


def typed(value: Any) -> Any:
    """Show types too: 1, 1.0 and True are equal to Python, not to us."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    return (type(value).__name__, repr(value))


@settings(max_examples=150, deadline=None)
@given(facts)
def test_facts_come_back_the_same(one: Facts) -> None:
    back = codec.decode_facts(codec.encode_facts(one))
    assert back == one
    assert typed(back.profile) == typed(one.profile)


@settings(max_examples=50, deadline=None)
@given(facts)
def test_the_version_stands_first(one: Facts) -> None:
    blob = codec.encode_facts(one)
    assert codec.facts_version(blob) == blob[:8] == one.version.to_bytes(8)


@settings(max_examples=200, deadline=None)
@given(state, st.integers(0, 2**64 - 1))
def test_states_come_back_the_same(one: FeatureState, version: int) -> None:
    blob = codec.encode_state(one, version)
    assert codec.decode_state(blob) == (one, version)
    assert codec.facts_version(blob) == version.to_bytes(8)


@settings(max_examples=100, deadline=None)
@given(seen)
def test_seen_comes_back_the_same(one: Seen) -> None:
    assert codec.decode_seen(codec.encode_seen(one)) == one


@settings(max_examples=300, deadline=None)
@given(facts, st.data())
def test_a_flipped_bit_is_refused(one: Facts, data: st.DataObject) -> None:
    for blob, skip, decode in (
        (codec.encode_facts(one), 8, codec.decode_facts),
        (codec.encode_state(FeatureState(1, 2, ([3, 4],)), 5), 8, codec.decode_state),
        (codec.encode_seen(Seen({1: b"abcdef"})), 0, codec.decode_seen),
    ):
        at = data.draw(st.integers(skip * 8, len(blob) * 8 - 1))
        damaged = bytearray(blob)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(codec.CodecError):
            decode(bytes(damaged))


def refusal(decode: Callable[[bytes], object], blob: bytes) -> str:
    """Return which way out the refusal names, "" if the bytes happen to be a record."""
    try:
        decode(blob)
    except codec.CodecError as error:
        return next(way for way in ("restore", "run the release") if way in str(error))
    return ""


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_refused_with_a_sentence(body: bytes) -> None:
    sealed = codec._sealed(body)
    for blob in (body, b"\0" * 8 + sealed, sealed):
        for decode in (codec.decode_facts, codec.decode_state, codec.decode_seen):
            assert refusal(decode, blob) in {"", "restore", "run the release"}


@given(facts, own_uids, times, st.lists(items, max_size=2).map(tuple), states, st.integers(0, 2**40))
def test_a_contact_added_to_a_blob_is_as_if_it_had_been_encoded_with_the_others(
    before: Facts, uid: str, now: int, about: tuple[Item, ...], state: State, expires_in: int
) -> None:
    before = replace(before, contacts=tuple(sorted(before.contacts, key=lambda c: (c.at, c.uid))), version=7)
    now = max([now, *(contact.at + 1 for contact in before.contacts)])
    contact = Contact(uid, now, "email", about, state, expires_in and now + expires_in)
    new = codec.encode_appended(packed(before), before, contact, now)
    assert codec.decode_facts(new) == replace(
        before,
        version=8,
        contacts=(*before.contacts, contact),
        high_water=max(before.high_water, now),
        since=before.since or now,
    )


@given(own_uids, times)
def test_a_contact_of_a_new_customer_is_as_if_it_had_been_encoded(uid: str, now: int) -> None:
    contact = Contact(uid, now, "email", (Item("boots", "promotion"),), "reserved", now + 1)
    after = Facts(customer_id="c", version=1, high_water=now, contacts=(contact,), since=now)
    assert codec.encode_appended(None, Facts(customer_id="c"), contact, now) == codec.encode_facts(
        replace(after, since=after.since or now)
    )
