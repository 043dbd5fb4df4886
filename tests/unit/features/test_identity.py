"""Tags hide ids, and groups are sticky and even."""

import pytest

from features.identity import alias_tag, bucket, derived_customer_id, in_share, tag

SECRET = b"0123456789abcdef"


def test_tags_are_stable_across_releases() -> None:
    assert tag(SECRET, "c1") == "DOlE7qVSnpEhB4mi"
    assert alias_tag(SECRET, "cookie", "abc") == "M7LLHfEbICqZIeKq"
    assert derived_customer_id(SECRET, "cookie", "abc") == "anon-SnLmdYP32efB7lk9Atlj"
    assert bucket("c1", "control") == 0.41270683550767984


def test_tags_differ_by_customer_secret_and_use() -> None:
    tags = {
        tag(SECRET, "c1"),
        tag(SECRET, "c2"),
        tag(SECRET[::-1], "c1"),
        tag(SECRET, "6:cookiec1"),
        alias_tag(SECRET, "cookie", "c1"),
        alias_tag(SECRET, "cookiec", "1"),
        derived_customer_id(SECRET, "cookie", "c1")[5:21],
    }
    assert len(tags) == 7
    assert {len(one) for one in tags} == {16}


def test_a_derived_id_says_what_it_is() -> None:
    derived = derived_customer_id(SECRET, "cookie", "abc")
    assert derived.startswith("anon-")
    assert len(derived) == 25


@pytest.mark.parametrize("secret", [b"", b"short", b"x" * 65])
def test_a_secret_that_is_none_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="16 to 64 bytes"):
        tag(secret, "c1")


def test_shares_are_even_and_larger_ones_keep_the_smaller() -> None:
    customers = [f"c{n}" for n in range(20_000)]
    small = {one for one in customers if in_share(one, "control", 0.05)}
    large = {one for one in customers if in_share(one, "control", 0.10)}
    assert small < large
    assert 0.045 < len(small) / 20_000 < 0.055


def test_purposes_are_independent() -> None:
    customers = [f"c{n}" for n in range(20_000)]
    both = sum(in_share(one, "control", 0.2) and in_share(one, "random", 0.2) for one in customers)
    assert 0.035 < both / 20_000 < 0.045


def test_nobody_is_in_no_share_and_everybody_in_the_whole() -> None:
    assert all(0 <= bucket(f"c{n}", "control") < 1 for n in range(1000))
    assert not any(in_share(f"c{n}", "control", 0.0) for n in range(1000))
    assert all(in_share(f"c{n}", "control", 1.0) for n in range(1000))
