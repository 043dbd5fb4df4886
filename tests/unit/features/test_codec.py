"""The stored form: small, and clear about what it cannot read."""

import pytest

from features.codec import (
    CodecError,
    decode_facts,
    decode_seen,
    decode_state,
    encode_facts,
    encode_seen,
    encode_state,
)
from features.facts import Contact, Facts, Item
from features.state import FeatureState, Seen

NOW = 1_795_255_200_000


def test_ten_contacts_take_three_hundred_bytes() -> None:
    contacts = tuple(
        Contact(
            f"AbCd-_012{number:03}",
            NOW + number * 300_000_000,
            "email",
            (Item(f"offer-{number % 3}", "promotion"),),
        )
        for number in range(10)
    )
    facts = Facts(customer_id="customer-1", version=3, high_water=NOW, since=NOW, contacts=contacts)
    blob = encode_facts(facts)
    assert len(blob) <= 300
    assert decode_facts(blob) == facts


def test_another_layout_names_the_way_out() -> None:
    blob = bytearray(encode_facts(Facts(customer_id="c1")))
    blob[8] = 1
    with pytest.raises(CodecError, match="layout 1, this release reads 2; run the release that wrote them"):
        decode_facts(bytes(blob))


@pytest.mark.parametrize("size", range(13))
def test_what_is_too_short_is_damaged(size: int) -> None:
    with pytest.raises(CodecError, match="damaged"):
        decode_facts(encode_facts(Facts(customer_id="c1"))[:size])


def test_one_record_is_never_taken_for_another() -> None:
    state, seen = encode_state(FeatureState(1, 2, (3,)), 4), encode_seen(Seen({1: b"abcdef"}))
    with pytest.raises(CodecError):
        decode_facts(state)
    with pytest.raises(CodecError):
        decode_state(seen)
    with pytest.raises(CodecError):
        decode_seen(state)
