"""Run one suite, or all of them; exit 1 when any promise was broken.

python -m loadtests.torture hammer --count 20000 --seed 7
python -m loadtests.torture all
python -m loadtests.torture hammer --count 2000 --without version     # a negative control: must exit 1
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from loadtests.torture import budget, faults, hammer, kill, merge, sync
from loadtests.torture.sabotage import CUTS, sabotaged
from loadtests.torture.wire import Progress, Verdict

Run = Callable[[int, int, Path, Mapping[str, str], Progress], Verdict]


class Suite(NamedTuple):
    """A suite, how much of it is a full run, and the cuts under which it must turn red."""

    run: Run
    full: int
    controls: tuple[str, ...]


SUITES: Final[dict[str, Suite]] = {
    "hammer": Suite(hammer.run, 1_000_000, ("version", "live", "early", "expiry", "suppression")),
    "merge": Suite(merge.run, 1_000, ("union", "denied", "merge-version")),
    "budget": Suite(budget.run, 100_000, ("quota", "give-back")),
    "kill": Suite(kill.run, 200, ("log", "dedupe")),
    "faults": Suite(faults.run, 30, ("eviction",)),
    "sync": Suite(sync.run, 100, ("nosync",)),
}


def run(name: str, count: int | None, seed: int, without: str = "") -> Verdict:
    """Run one suite, of its full length unless a count is given, with one check cut out if `without` names it."""
    suite = SUITES[name]

    def progress(sentence: str) -> None:
        print(f"  {name}: {sentence}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tact-torture-") as folder:
        environment = sabotaged(without, Path(folder)) if without else {}
        return suite.run(count or suite.full, seed, Path(folder), environment, progress)


def main() -> None:
    """Read the command line, run, and say the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("suite", choices=(*SUITES, "all"))
    parser.add_argument("--count", type=int, help="how much; a full run unless told")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--without", choices=CUTS, default="", help="cut this check out of the product")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", file=sys.stderr)
    kept = True
    for name in SUITES if asked.suite == "all" else (asked.suite,):
        begun = time.monotonic()
        verdict = run(name, asked.count, asked.seed, asked.without)
        for example in verdict.examples():
            print(example, file=sys.stderr)
        print(f"{verdict.line()}, {time.monotonic() - begun:.0f} s", flush=True)
        kept = kept and verdict.kept
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
