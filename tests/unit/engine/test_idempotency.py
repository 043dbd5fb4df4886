"""Idempotency keys: one answer a key, one body a key, and no two callers meet."""

import pytest

from engine.errors import Invalid
from engine.services.idempotency import KEPT_MS, idempotency, unpack


def test_a_retry_gets_the_first_answer() -> None:
    used = idempotency("/v1/decide", "caller", "k-1", b'{"a": 1}')
    assert (
        unpack(used.pack(b"the answer"), idempotency("/v1/decide", "caller", "k-1", b'{"a": 1}'))
        == b"the answer"
    )


def test_the_same_key_with_another_body_is_refused() -> None:
    first = idempotency("/v1/decide", "caller", "k-1", b"one")
    second = idempotency("/v1/decide", "caller", "k-1", b"two")
    assert first.key == second.key
    with pytest.raises(Invalid, match="another body") as refused:
        unpack(first.pack(b"answer"), second)
    assert refused.value.status == 422


def test_routes_and_callers_do_not_meet() -> None:
    scopes = [("/a", "x", "k"), ("/b", "x", "k"), ("/a", "y", "k"), ("/a", "x", "l"), ("/a", "xk", "")]
    assert len({idempotency(*scope, b"").key for scope in scopes}) == len(scopes)


def test_a_key_says_nothing_about_its_caller_and_is_kept_a_day() -> None:
    used = idempotency("/v1/decide", "caller-secret", "k-1", b"")
    assert "caller" not in used.key
    assert used.ttl_ms == KEPT_MS == 86_400_000
