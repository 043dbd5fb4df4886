"""G10 on the running product: once an activation is acknowledged, nobody decides by an older version."""

from pathlib import Path

from loadtests import shop
from loadtests.activation import Activated, Answered, measure, verdict


def test_no_answer_after_an_activation_names_an_older_version(tmp_path: Path) -> None:
    found = measure(shop.write(tmp_path, 100), processes=2, connections=16, count=4, pause_s=0.1)
    assert found["answers_by_an_old_version"] == 0
    assert found["decisions"] > 0


def test_an_answer_by_an_older_version_would_be_found_out() -> None:
    activated = [Activated(1.0, 1.1, "new")]
    kept = [Answered(0.9, 1.05, "old"), Answered(1.05, 1.2, "old"), Answered(1.2, 1.3, "new")]
    assert verdict(kept, activated)["answers_by_an_old_version"] == 0
    assert verdict([*kept, Answered(1.11, 1.4, "old")], activated)["answers_by_an_old_version"] == 1
