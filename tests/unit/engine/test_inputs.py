"""What a model reads: features to three digits, so that what fades all the time is the same for minutes."""

import pytest

from engine.judging.plan import compile_plan
from engine.learning.inputs import Inputs, rounded
from features.event import Event
from features.state import FeatureState
from policies.loader import load_files
from tests.unit.engine.test_outcomes import FILES

DAY_MS = 86_400_000
MODELS = "models:\n  accept: {predicts: accept}\n"
FEATURES = """
features:
  since_store: {since: [store_scan]}
  opens: {rate: [email_open], per: [email_delivered], half_life: 30d, prior: {hits: 1, trials: 5}}
  scans: {count: [store_scan], within: 90d}
"""


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0.0, 0.0),
        (259_234.567, 259_000.0),
        (0.0123456, 0.0123),
        (-98.76, -98.8),
        (9.999, 10.0),
        (5e-324, 5e-324),
        (1e308, 1e308),
        (float("inf"), float("inf")),
    ],
)
def test_numbers_are_read_to_three_digits(number: float, said: float) -> None:
    assert rounded(number) == pytest.approx(said, rel=1e-12)


def test_what_fades_reads_the_same_for_minutes_and_not_for_hours() -> None:
    plan = compile_plan(load_files({**FILES, "features.yaml": FEATURES, "models.yaml": MODELS}).policy)
    state = FeatureState()
    for kind in ("store_scan", "email_delivered", "email_open"):
        state = plan.catalogue.fold(
            state, Event(type=kind, customer_id="c", occurred_at=0, event_id=kind, received_at=0)
        )
    inputs = Inputs(plan, plan.policy.models[0])
    read = [inputs.read(state, {}, {}, "home", 3 * DAY_MS + ago) for ago in (0, 60_000, 6 * 3_600_000)]
    assert read[0] == read[1]
    assert read[0]["features.since_store"] == 259_000.0
    assert read[0]["features.scans"] == read[2]["features.scans"] == 1
    assert read[0]["features.opens"] != read[2]["features.opens"]
