"""The page for marketers is a policy set that loads, and it names every key that the loader knows."""

import re
from collections.abc import Collection
from pathlib import Path

import pytest

from policies.loader import load_files
from policies.reading.survey import FILES
from policies.reading.values import Fields, Value

PAGE = (Path(__file__).parents[3] / "docs" / "policies.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```yaml\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> dict[str, str]:
    return dict(BLOCK.findall(PAGE))


def test_every_yaml_block_names_its_file() -> None:
    assert len(BLOCK.findall(PAGE)) == PAGE.count("```yaml") == len(examples())


def test_the_examples_are_one_complete_policy_set() -> None:
    assert FILES.keys() < examples().keys()
    loaded = load_files(examples())
    assert loaded.warnings == ()
    assert [case.name for case in loaded.cases][-1] == "the check says when"


def test_every_key_that_the_loader_knows_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[str] = set()
    fields = Value.fields

    def recording(self: Value, keys: Collection[str], required: Collection[str] = ()) -> Fields:
        known.update(keys)
        return fields(self, keys, required)

    monkeypatch.setattr(Value, "fields", recording)
    load_files(examples())
    assert {"quiet_hours", "cost_per_accept", "half_life", "expires_at", "shortlist", "same"} <= known
    missing = {key for key in known if not re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", PAGE)}
    assert missing == set()
