"""Negative controls: a copy of the product in which one check is patched out, and a suite that must turn red.

The processes run from the copy by PYTHONPATH; PYTHONSAFEPATH keeps the checkout that we stand in from coming
first. A line that is not found exactly once fails loudly: a control that changes nothing proves nothing.
"""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("api", "engine", "features", "policies")


class Cut(NamedTuple):
    """One line of the product and what stands there instead."""

    file: str
    line: str
    instead: str


CUTS: Final[dict[str, Cut]] = {
    "version": Cut(
        "engine/store/scripts/commit.lua",
        "if version ~= ARGV[1] then",
        "if false then",
    ),
    "live": Cut("engine/judging/governor.py", "            live.append(now)", "            pass"),
    "early": Cut(
        "engine/judging/governor.py",
        "max(at, times[-cap.max] + cap.per_ms)",
        "max(at, times[-cap.max] + cap.per_ms - 1)",
    ),
    "expiry": Cut(
        "engine/judging/governor.py", " and now < contact.expires_at:", ":  # expired ones as well"
    ),
    "suppression": Cut(
        "engine/judging/governor.py", "            if start <= at < end:", "            if False:"
    ),
    "union": Cut(
        "engine/judging/ledger.py",
        "        known[contact.uid] = max(known.get(contact.uid, contact), contact, key=_certainty)",
        "        pass",
    ),
    "denied": Cut(
        "features/fold.py",
        "consent=_latest(mine.consent, theirs.consent, _denied_first)",
        "consent=_latest(mine.consent, theirs.consent, _later_consent)",
    ),
    "merge-version": Cut(
        "engine/store/scripts/fold.lua",
        "if (held[1] and string.sub(held[1], 1, 8) or none) ~= ARGV[1]",
        "if false",
    ),
    "quota": Cut(
        "engine/store/scripts/commit.lua",
        "if not (live * amount + spent + taken[holds] <= tonumber(ARGV[arg + 3])) then",
        "if false then",
    ),
    "give-back": Cut(
        "engine/store/scripts/commit.lua",
        "    redis.call('ZREM', holds, member)",
        "    if op ~= 'drop' then redis.call('ZREM', holds, member) end",
    ),
    "log": Cut("api/running/valkey.py", '"appendonly": "yes"', '"appendonly": "no"'),
    "dedupe": Cut("features/fold.py", "    if customer.seen.has(key):", "    if False:"),
    "eviction": Cut(
        "api/running/valkey.py",
        '"maxmemory-policy": "noeviction"',
        '"maxmemory-policy": "allkeys-random"',
    ),
    "nosync": Cut("api/running/valkey.py", '"appendfsync": "always"', '"appendfsync": "no"'),
}


def sabotaged(name: str, folder: Path) -> dict[str, str]:
    """Copy the product into `folder` with one cut made; returns the environment that runs the copy.

    KeyError for an unknown name, RuntimeError where the line is not there exactly once.
    """
    cut = CUTS[name]
    copy = folder / f"without-{name}"
    for package in _PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / cut.file
    text = file.read_text()
    if text.count(cut.line) != 1:
        raise RuntimeError(
            f"{cut.file} has the line of the control '{name}' {text.count(cut.line)} times, not once: "
            f"{cut.line.strip()!r}; mend loadtests/torture/sabotage.py"
        )
    file.write_text(text.replace(cut.line, cut.instead))
    return {"PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"}
