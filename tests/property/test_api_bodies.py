"""The fast decoders refuse and accept what the slow, strict way does, on any text: keys that come twice above all."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.bodies import check_row, convert, decide_request, parse_json
from api.problems import Problem
from engine.services.requests import CheckRow, DecideRequest

texts = st.one_of(st.sampled_from(["a", "b:c", "", "é", "\x00", "\ud800", '":'])).map(json.dumps)
scalars = st.one_of(
    texts, st.sampled_from(["0", "1.5", "1e999", "NaN", "true", "null", "9" * 30, "-0", "01"])
)
contexts = st.lists(st.tuples(texts, scalars), max_size=3).map(
    lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
)
values = st.one_of(scalars, contexts, st.just("[]"), st.just('["x"]'), st.just('{"k": {"l": [1]}}'))


def bodies(*names: str) -> st.SearchStrategy[bytes]:
    keys = st.sampled_from([json.dumps(name) for name in (*names, "other")])
    gaps = st.sampled_from(["", " ", "\n"])
    pairs = st.lists(st.tuples(keys, gaps, values), max_size=6)
    return pairs.map(
        lambda found: ("{" + ",".join(f"{key}{gap}:{value}" for key, gap, value in found) + "}").encode(
            "utf-8", "surrogatepass"
        )
    )


def slowly(raw: bytes, type_: Any) -> Any:
    return convert(parse_json(raw), type_)


def outcome(read: Any, raw: bytes) -> Any:
    try:
        return read(raw)
    except Problem as problem:
        return problem.status, problem.detail, problem.errors


@settings(max_examples=600, deadline=None)
@given(bodies("placement", "customer_id", "identities", "limit", "context", "exclude", "preview", "explain"))
@example(b'{"placement":"a","customer_id":"b","customer_id":"c"}')
@example(b'{"placement":"a","customer_id":"b","context":{"x":1,"x":2}}')
@example(b'{"placement":"a","customer_id":"b:c"}')
def test_a_decide_is_read_as_the_slow_way_reads_it(raw: bytes) -> None:
    assert outcome(decide_request, raw) == outcome(lambda body: slowly(body, DecideRequest), raw)


@settings(max_examples=400, deadline=None)
@given(bodies("customer_id", "channel", "category", "offer"))
@example(b'{"customer_id":"a","customer_id":"b","channel":"c"}')
@example(b'{"customer_id":"a","channel":"b"}')
def test_a_row_that_is_read_fast_is_what_the_slow_way_reads(raw: bytes) -> None:
    row = check_row(raw)
    assert row is None or row == outcome(lambda body: slowly(body, CheckRow), raw)
