"""The loader reads YAML without its silent conversions and shortcuts, from files and from folders."""

import os
from pathlib import Path

import pytest

import policies
from policies.loader import load_dir, load_files, version_of
from policies.model import PolicyError, Problem

RETAIL = Path(policies.__file__).parent / "retail"

SMALL = {
    "policy.yaml": "policy: small\ntimezone: UTC\n",
    "channels.yaml": "channels: {web: {kind: inbound}}\nplacements: {hero: {channel: web}}\n",
    "offers.yaml": "categories: {service: {}}\noffers: [{id: a, category: service, placements: [hero]}]\n",
}


def problems_of(**changes: str | None) -> list[Problem]:
    """Load the small policy set with some files changed (`__` stands for the dot), None leaves one out."""
    files = dict(SMALL)
    for key, text in changes.items():
        name = key.replace("__", ".")
        if text is None:
            files.pop(name)
        else:
            files[name] = text
    with pytest.raises(PolicyError) as caught:
        load_files(files)
    return caught.value.problems


def content(value: str) -> str:
    offer = f"- id: a\n  category: s\n  placements: [hero]\n  content: {{x: {value}}}\n"
    return f"categories: {{s: {{}}}}\noffers:\n{offer}"


def test_defaults_are_those_of_the_contract() -> None:
    policy = load_files(SMALL).policy
    web, offer, hero = policy.channels["web"], policy.offers["a"], policy.placements["hero"]
    assert (web.cost, web.consent, web.reservation_ttl_ms, web.quiet) == (0.0, None, 1_800_000, None)
    assert (offer.weight, offer.value, offer.prior, offer.eligible) == (1.0, 0.0, 0.01, None)
    assert (hero.slots, hero.fallback) == (1, None)
    assert (policy.groups.control, policy.groups.random) == (0.0, 0.0)
    assert policy.keep.contacts_ms == policy.keep.events_ms == 400 * 86_400_000
    assert policy.keep.decisions_ms == 90 * 86_400_000
    assert [(model.name, model.predicts) for model in policy.models] == [("accept", ("accept",))]


@pytest.mark.parametrize(
    "value",
    ["no", "YES", "on", "~", "Null", "1:30", "0o17", "0x1F", "0b11", "1_000", ".inf", "-.INF", ".nan", "+5",
     "5.", ".5", "007", "2026-11-01", "2026-11-01T10:00:00Z", "1e999", "=", "True"],
)  # fmt: skip
def test_what_yaml_would_convert_must_be_quoted(value: str) -> None:
    (problem,) = problems_of(offers__yaml=content(value))
    assert (problem.file, problem.line, problem.field) == ("offers.yaml", 6, "offers[0].content.x")


@pytest.mark.parametrize("value", ["no", "on", "1:30", "2026-11-01", "0x1F", "12"])
def test_a_name_that_yaml_would_convert_must_be_quoted(value: str) -> None:
    channels = f"channels:\n  web: {{kind: inbound}}\n  {value}: {{kind: inbound}}\n"
    (problem,) = problems_of(channels__yaml=channels + "placements: {hero: {channel: web}}\n")
    assert (problem.line, problem.field) == (3, f"channels.{value}")
    assert problem.fix == f'write "{value}" in quotes'


def test_digits_of_other_scripts_are_no_numbers_to_yaml() -> None:
    files = {**SMALL, "policy.yaml": "policy: \u0ce6\ntimezone: UTC\n"}
    assert load_files(files).policy.name == "\u0ce6"


def test_quoted_and_plain_values_stay_what_they_were_written_as() -> None:
    files = SMALL | {
        "offers.yaml": content('{a: "no", b: 1.50, c: 3, d: true, e: null, f: [x, "1:30"], g: 5%}')
    }
    expected = {"a": "no", "b": 1.5, "c": 3, "d": True, "e": None, "f": ["x", "1:30"], "g": "5%"}
    assert load_files(files).policy.offers["a"].content == {"x": expected}


@pytest.mark.parametrize(
    ("text", "line", "detail"),
    [
        ("policy: a\npolicy: b\n", 2, "already in line 1"),
        ("policy: &x a\ncurrency: *x\n", 1, "anchors and aliases"),
        ("policy: *x\n", 1, "anchors and aliases"),
        ("policy: a\ncurrency: !!str GBP\n", 2, "tags"),
        ("policy: ! a\n", 1, "tags"),
        ("policy: a\n---\npolicy: b\n", 2, "a second document"),
        ("policy: a\nkeep:\n\tcontacts: 4d\n", 3, "not YAML"),
        ("policy: [a\n", 2, "not YAML"),
        ("policy: a\n currency: GBP\n", 2, "not YAML"),
        ("policy: a\nx: \x07\n", 2, "control character"),
        ("policy: '\ud800'\n", 1, "UTF-8"),
        ("policy: a\n? [b]\n: c\n", 2, "a key must be a text"),
        ("policy: a\n<<: {currency: GBP}\n", 2, "merge"),
        ("policy: a\nkeep: " + "[" * 40 + "]" * 40 + "\n", 2, "32 levels"),
        ("- policy\n", 1, "a mapping"),
        ("policy: ''\n", 1, "is empty"),
        ("policy: '" + "x" * 129 + "'\n", 1, "129 characters"),
        ('policy: "a\\u0007"\n', 1, "control character"),
        ("policy:\n", 1, "not nothing"),
    ],
)  # fmt: skip
def test_shortcuts_and_broken_yaml_are_refused_with_their_line(text: str, line: int, detail: str) -> None:
    (problem,) = problems_of(policy__yaml=text)
    assert (problem.file, problem.line) == ("policy.yaml", line)
    assert detail in problem.detail


def test_a_file_beyond_8_mib_is_refused() -> None:
    (problem,) = problems_of(policy__yaml="policy: a\n" + "#" * (8 * 1024 * 1024))
    assert "8 MiB" in problem.detail


def test_an_unreadable_file_makes_no_mistakes_elsewhere() -> None:
    broken = problems_of(channels__yaml="channels: {web: {kind: inbound\n")
    assert [problem.file for problem in broken] == ["channels.yaml"]


def test_a_missing_file_is_one_mistake() -> None:
    (problem,) = problems_of(channels__yaml=None)
    assert (problem.file, problem.detail) == ("channels.yaml", "the file is missing")


def test_a_misspelt_file_is_one_mistake_that_names_the_right_one() -> None:
    (problem,) = problems_of(channels__yaml=None, chanels__yaml=SMALL["channels.yaml"])
    assert (problem.file, problem.fix) == ("chanels.yaml", 'did you mean "channels.yaml"?')


def test_an_invalid_channel_does_not_spoil_its_placements() -> None:
    (problem,) = problems_of(
        channels__yaml="channels: {web: {knd: inbound}}\nplacements: {hero: {channel: web}}\n"
    )
    assert problem.field == "channels.web.knd"


def test_a_broken_feature_does_not_spoil_the_conditions_that_read_it() -> None:
    offers = SMALL["offers.yaml"].replace("id: a,", "id: a, eligible: features.f > 1,")
    (problem,) = problems_of(
        offers__yaml=offers, features__yaml="features: {f: {count: [page_view], within: 7}}\n"
    )
    assert problem.field == "features.f.within"


def test_other_files_are_ignored() -> None:
    assert load_files(SMALL | {"README.md": "hello"}).policy.version == load_files(SMALL).policy.version


def test_the_version_tells_names_and_contents_apart() -> None:
    versions = {
        version_of(files) for files in ({"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "bc", "": ""})
    }
    assert len(versions) == 4
    assert version_of({"a": "1", "b": "2"}) == version_of({"b": "2", "a": "1"})


# ---------------------------------------------------------------------- folders


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def folder_problems(folder: Path) -> list[Problem]:
    with pytest.raises(PolicyError) as caught:
        load_dir(folder)
    return caught.value.problems


def test_a_folder_and_its_files_are_the_same_policy_set(tmp_path: Path) -> None:
    write(tmp_path, SMALL | {"notes.txt": "x", ".git/config.yaml": "x"})
    assert load_dir(tmp_path).policy == load_files(SMALL).policy


def test_a_folder_that_is_not_there_is_one_mistake(tmp_path: Path) -> None:
    (problem,) = folder_problems(tmp_path / "nowhere")
    assert "not a folder" in problem.detail


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "set", tmp_path / "elsewhere.yaml"
    inside.mkdir()
    write(inside, SMALL)
    outside.write_text("profile: {}\n")
    (inside / "profile.yaml").symlink_to(outside)
    (problem,) = folder_problems(inside)
    assert (problem.file, problem.detail) == ("profile.yaml", "a link that leads out of the folder")


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    (tmp_path / "..data").mkdir()
    (tmp_path / "policy.yaml").rename(tmp_path / "..data" / "policy.yaml")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    assert load_dir(tmp_path).policy == load_files(SMALL).policy


def test_bytes_that_are_not_utf8_and_odd_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    (tmp_path / "profile.yaml").write_bytes(b"profile: \xff\n")
    os.mkfifo(tmp_path / "models.yaml")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.yml").write_text("[]")
    assert [(p.file, p.line) for p in folder_problems(tmp_path)] == [
        ("models.yaml", 1),
        ("profile.yaml", 1),
        ("tests/a.yml", 1),
    ]


# ---------------------------------------------------------------------- warnings


def warned(**changes: str) -> list[tuple[str, int, str]]:
    files = SMALL | {name.replace("__", "."): text for name, text in changes.items()}
    return [(warning.file, warning.line, warning.field) for warning in load_files(files).warnings]


def test_the_example_has_no_warnings() -> None:
    assert load_dir(RETAIL).warnings == ()


def test_quiet_hours_that_leave_no_moment_in_all_zones_are_warned_of() -> None:
    channels = (
        "channels:\n  web: {kind: inbound}\n  mail:\n    kind: outbound\n"
        '    quiet_hours: {from: "20:00", to: "09:00"}\nplacements: {hero: {channel: web}}\n'
    )
    zones = "policy: a\ntimezone: [Europe/London, America/Los_Angeles, Asia/Tokyo]\n"
    assert warned(channels__yaml=channels, policy__yaml=zones) == [
        ("channels.yaml", 5, "channels.mail.quiet_hours")
    ]
    assert warned(channels__yaml=channels) == []


def test_offers_and_placements_that_never_meet_are_warned_of() -> None:
    assert warned(offers__yaml="categories: {s: {}}\noffers: [{id: a, category: s}]\n") == [
        ("channels.yaml", 2, "placements.hero"),
        ("offers.yaml", 2, "offers[0]"),
    ]


@pytest.mark.parametrize("when", ["{kind: outbound}", "{category: service, kind: outbound}"])
def test_a_rule_that_nothing_matches_is_warned_of(when: str) -> None:
    caps = f"caps:\n- {{name: x, gap: 1h, when: {when}}}\n"
    assert warned(contact_policy__yaml=caps) == [("contact_policy.yaml", 2, "caps[0].when")]


def test_a_rule_about_categories_that_pass_rules_is_warned_of() -> None:
    offers = "categories: {s: {obeys_caps: false}}\noffers: [{id: a, category: s, placements: [hero]}]\n"
    caps = "caps:\n- {name: x, gap: 1h, when: {category: s, channel: web}}\n"
    assert warned(offers__yaml=offers, contact_policy__yaml=caps) == [
        ("contact_policy.yaml", 2, "caps[0].when")
    ]


def test_a_large_control_group_is_warned_of() -> None:
    assert warned(policy__yaml="policy: a\ntimezone: UTC\ngroups: {control: 60%}\n") == [
        ("policy.yaml", 3, "groups.control")
    ]


def test_context_in_a_while_is_warned_of() -> None:
    rules = 'suppressions:\n- {name: x, while: context.page == "cart"}\n'
    assert warned(contact_policy__yaml=rules) == [("contact_policy.yaml", 2, "suppressions[0].while")]
