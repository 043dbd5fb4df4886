"""Exactly once under faults: 300,000 events through Kafka, every customer compared; exit 1 where one differs.

python -m loadtests.once --events 300000 --seed 7
python -m loadtests.once --events 20000 --without-positions     # the negative control: must exit 1
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from loadtests.once.run import Run, running, say


def main() -> None:
    """Read the command line, run, say the verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--without-positions", action="store_true", help="workers that pay no heed to them")
    parser.add_argument("--folder", type=Path, help="where everything is kept; a temporary one unless told")
    asked = parser.parse_args()
    began = time.monotonic()
    say(f"seed {asked.seed}")
    with tempfile.TemporaryDirectory(prefix="tact-once-") as scratch:
        folder = asked.folder or Path(scratch)
        with running(folder) as (tact, policies):
            one = Run(tact, policies, asked.seed, workers=asked.workers, careless=asked.without_positions)
            try:
                plan = one.faults.plan(asked.faults)
                say(f"faults: {', '.join(plan)}")
                one.send(asked.events, asked.customers, plan)
                one.settle()
                verdict = one.judge()
            except BaseException:
                say(tact.logs())
                raise
    for sentence in verdict.differences[:10]:
        print(sentence)
    print(one.summary(verdict), f"{time.monotonic() - began:.0f} s")
    sys.exit(0 if verdict.right else 1)


if __name__ == "__main__":
    main()
