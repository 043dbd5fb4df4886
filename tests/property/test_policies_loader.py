"""Whatever the files hold, loading them gives a policy set or its mistakes, never another exception."""

from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policies
from policies.loader import is_policy_file, load_dir, load_files, version_of
from policies.model import PolicyError
from policies.reading.nodes import Listing, Node, Report, Scalar, Table, compose, converted
from policies.reading.survey import FILES

RETAIL = load_dir(Path(policies.__file__).parent / "retail").policy.files
NAMES = sorted(RETAIL)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SNIPPETS = st.sampled_from(
    ["\n", "  ", "- ", ": ", "{", "}", "[", "]", '"', "'", "&a ", "*a", "!!str ", "#", "|", ">", "%", "\t",
     "---\n", "? ", "null", "~", "yes", "1:30", "2026-11-01", "name", "when", "id", "5%", "7d", "\x00",
     "\ud800", "\ufeff", "\u2028"]
)  # fmt: skip


def problems_in(files: dict[str, str]) -> int:
    try:
        load_files(files)
    except PolicyError as error:
        found = error.problems
    else:
        return 0
    assert found
    assert all(problem.line >= 1 and problem.detail and problem.fix for problem in found)
    return len(found)


@QUICK
@given(st.data())
def test_the_example_with_a_few_edits_loads_or_says_what_is_wrong(data: st.DataObject) -> None:
    files = dict(RETAIL)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(NAMES))
        text = files[name]
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        files[name] = text[:start] + data.draw(SNIPPETS | st.text(max_size=3)) + text[end:]
    problems_in(files)


@QUICK
@given(
    st.dictionaries(st.sampled_from([*FILES, "tests/a.yaml", "other.yaml"]), st.lists(SNIPPETS, max_size=20))
)
def test_arbitrary_files_load_or_say_what_is_wrong(texts: dict[str, list[str]]) -> None:
    problems_in({name: "".join(parts) for name, parts in texts.items()})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["a", "web", "7d", "5%", "page_view"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*sum(FILES.values(), ()), "name", "id", "when", "max", "per", "x"]), inner
        )
    ),
    max_leaves=12,
)


@QUICK
@given(st.sampled_from([*FILES, "tests/a.yaml"]), JSON)
def test_well_formed_files_of_the_wrong_shape_say_what_is_wrong(name: str, value: object) -> None:
    problems_in({**RETAIL, name: yaml.safe_dump(value)})


def plain(node: Node) -> object:
    if isinstance(node, Table):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, Listing):
        return [plain(member) for member in node.members]
    assert isinstance(node, Scalar)
    return node.text


TEXTS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8)


@QUICK
@given(st.dictionaries(TEXTS, st.lists(TEXTS, max_size=3) | TEXTS, min_size=1, max_size=4))
def test_texts_come_through_as_they_were_written(value: dict[str, object]) -> None:
    report = Report()
    # In quotes: what is a number in some YAML ("08") must be, and PyYAML does not know of all.
    text = yaml.safe_dump(value, allow_unicode=True, default_style='"')
    node = compose("x.yaml", text, report)
    assert report.problems == []
    assert node is not None
    assert plain(node) == value


@QUICK
@given(TEXTS | st.integers().map(str) | st.floats().map(str) | st.dates().map(str))
def test_whatever_yaml_converts_is_known_to_be_converted(text: str) -> None:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return
    if (
        not isinstance(value, str | list | dict)
        and text.strip() == text
        and not text.startswith(("'", '"', "#"))
    ):
        assert converted(text)


@QUICK
@given(st.dictionaries(TEXTS, TEXTS, max_size=4), st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_versions_are_equal_for_equal_files_only(one: dict[str, str], other: dict[str, str]) -> None:
    assert (version_of(one) == version_of(other)) == (one == other)
    assert version_of(one) == version_of(dict(reversed(one.items())))


def test_every_file_of_the_example_is_a_policy_file() -> None:
    assert all(is_policy_file(name) for name in RETAIL)
