"""A folder of YAML to a checked policy set, or every mistake in it at once.

What holds: a policy set is used whole or not at all; one mistake is one problem, with the file and line of
the offending value; the version is a hash of names and contents, so that equal files have equal versions.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import msgspec

from policies.cases import Case, read_cases
from policies.model import PolicyError, PolicySet, Problem
from policies.reading.channels import read_channels
from policies.reading.knowledge import read_features, read_profile, read_questions
from policies.reading.models import read_models
from policies.reading.nodes import MAX_BYTES, Node, Report, Spoilt, Table, compose
from policies.reading.oddities import find_oddities
from policies.reading.offers import read_offers
from policies.reading.rules import read_rules
from policies.reading.setup import read_setup
from policies.reading.survey import FILES, REQUIRED, Reading, survey
from policies.reading.values import Value

MAX_FILES: Final = 1000


class Loaded(msgspec.Struct, frozen=True):
    """A policy set that may be used, what is odd about it, and its own test cases."""

    policy: PolicySet
    warnings: tuple[Problem, ...]
    cases: tuple[Case, ...]


def load_dir(path: str | os.PathLike[str]) -> Loaded:
    """Read and check a folder; raises PolicyError with every mistake, unreadable files among them."""
    report = Report()
    files, unread = _read_folder(Path(path), report)
    return _load(files, report, unread)


def load_files(files: Mapping[str, str]) -> Loaded:
    """Check files by name (`policy.yaml`, `tests/evening.yaml`); raises PolicyError with every mistake."""
    return _load(files, Report())


def version_of(files: Mapping[str, str]) -> str:
    """Return `sha256:` and the hash of sorted names and contents, each after its length in bytes."""
    digest = hashlib.sha256()
    for name in sorted(files):
        for text in (name, files[name]):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data))
            digest.update(data)
    return "sha256:" + digest.hexdigest()


def is_yaml(name: str) -> bool:
    """Say whether a file is YAML by its name; all others in a folder are ignored."""
    return name.lower().endswith((".yaml", ".yml"))


def is_policy_file(name: str) -> bool:
    """Say whether a name belongs to a policy set."""
    folder, _, rest = name.partition("/")
    return name in FILES or (
        folder == "tests" and "/" not in rest and len(rest) > 5 and rest.endswith(".yaml")
    )


def _load(files: Mapping[str, str], report: Report, unread: frozenset[str] = frozenset()) -> Loaded:
    files = {name: text for name, text in files.items() if is_yaml(name)}
    nodes = _compose(files, report, unread)
    known = {name: files[name] for name in nodes if name in files}
    policy, cases = _read(nodes, known, report)
    if report.problems:
        raise PolicyError(report.problems)
    find_oddities(policy, nodes, report)
    return Loaded(policy, tuple(sorted(report.warnings)), cases)


def _compose(files: Mapping[str, str], report: Report, unread: frozenset[str]) -> dict[str, Node | None]:
    """Return the nodes of all policy files; what could not be read, or bears a wrong name, is `Spoilt`."""
    nodes: dict[str, Node | None] = dict.fromkeys(unread, Spoilt(1))
    for name in sorted(files):
        if is_policy_file(name):
            nodes[name] = compose(name, files[name], report)
            continue
        meant = next(iter(get_close_matches(name, set(FILES) - files.keys(), n=1, cutoff=0.7)), "")
        if meant:
            nodes[meant] = Spoilt(1)
        fix = f'did you mean "{meant}"?' if meant else "rename it; cases are tests/NAME.yaml"
        report.fail(name, 1, "", f'"{name}" is no file of a policy set', fix)
    for name in REQUIRED:
        if name not in nodes:
            nodes[name] = Spoilt(1)
            if "" not in unread:
                report.fail(name, 1, "", "the file is missing", f"add {name} to the folder")
    return nodes


def _read(
    nodes: Mapping[str, Node | None], files: dict[str, str], report: Report
) -> tuple[PolicySet, tuple[Case, ...]]:
    """Read every section; what it returns may be used only if nothing was reported."""

    def root(name: str) -> Value:
        node = nodes.get(name)
        return Value(Table(1, {}) if node is None else node, "", 1, name, report)

    reading = Reading(report, survey(nodes))
    setup = read_setup(reading, root("policy.yaml"))
    features = read_features(reading, root("features.yaml"))
    profile = read_profile(reading, root("profile.yaml"))
    channels, placements = read_channels(reading, root("channels.yaml"))
    categories, offers = read_offers(reading, root("offers.yaml"))
    caps, suppressions = read_rules(reading, root("contact_policy.yaml"))
    policy = PolicySet(
        version=version_of(files),
        channels=channels,
        placements=placements,
        categories=categories,
        offers=offers,
        caps=caps,
        suppressions=suppressions,
        features=features,
        profile=profile,
        models=read_models(reading, root("models.yaml") if "models.yaml" in nodes else None, offers.values()),
        questions=read_questions(reading, root("questions.yaml"), profile),
        files=files,
        **setup,
    )
    reading.offer_categories = {offer.id: offer.category for offer in offers.values() if offer.id}
    tests = {name: node for name, node in nodes.items() if name not in FILES}
    return policy, read_cases(reading, tests)


def _read_folder(path: Path, report: Report) -> tuple[dict[str, str], frozenset[str]]:
    """Return the YAML files of a folder by name, and the names that could not be read."""
    files: dict[str, str] = {}
    unread: set[str] = set()

    def refuse(name: str, detail: str, fix: str) -> None:
        report.fail(name, 1, "", detail, fix)
        unread.add(name)

    if not path.is_dir():
        report.fail("", 1, "", f'"{path}" is not a folder', "name the folder that holds policy.yaml")
        return {}, frozenset({""})
    home = path.resolve()
    for folder, inner, names in os.walk(path, onerror=None):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        linked = [name for name in inner if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *linked]):
            file = Path(folder) / name
            shown = file.relative_to(path).as_posix()
            if name.startswith(".") or not (is_yaml(name) or name in linked):
                continue
            if len(files) == MAX_FILES:
                report.fail(shown, 1, "", f"more than {MAX_FILES} files", "join some of them")
                return files, frozenset(unread)
            if not file.resolve().is_relative_to(home):
                refuse(shown, "a link that leads out of the folder", "put the file itself into the folder")
            elif name in linked:
                refuse(shown, "a link to a folder", "put the folder itself into the policy set")
            else:
                _read_file(file, shown, files, refuse)
    return files, frozenset(unread)


def _read_file(
    file: Path, shown: str, files: dict[str, str], refuse: Callable[[str, str, str], None]
) -> None:
    try:
        if not file.is_file():
            refuse(shown, "not a regular file", "replace it by a file")
            return
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            refuse(shown, "the file is larger than 8 MiB", "split or shorten it")
            return
        files[shown] = data.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(shown, f"the file is not UTF-8 (byte {error.start + 1})", "save it as UTF-8")
    except OSError as error:
        refuse(shown, f"the file cannot be read: {error.strerror}", "make it readable for this user")
