"""Exactly once under faults: 300,000 events through Kafka, every customer compared; exit 1 where one differs.

python -m loadtests.once --events 300000 --seed 7
python -m loadtests.once --events 20000 --without-positions     # the negative control: must exit 1; 2 if it is blind
"""

import argparse
import logging
import random
import sys
import tempfile
import time
from itertools import takewhile
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
    parser.add_argument("--pace", type=int, default=1000, help="events a second; faults happen meanwhile")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--without-positions", action="store_true", help="workers that pay no heed to them")
    parser.add_argument("--folder", type=Path, help="where everything is kept; a temporary one unless told")
    asked = parser.parse_args()
    began = time.monotonic()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers are killed here
    say(f"seed {asked.seed}")
    with tempfile.TemporaryDirectory(prefix="tact-once-") as scratch:
        folder = asked.folder or Path(scratch)
        with running(folder) as (tact, policies):
            one = Run(tact, policies, asked.seed, workers=asked.workers, careless=asked.without_positions)
            try:
                sender = one.start(asked.events, asked.customers, pace=asked.pace)
                for kind in takewhile(lambda _: not sender.ended, one.faults.plan()):
                    one.faults.pause()
                    one.hurt(kind)
                sender.finish()
                one.settle()
                verdict = one.judge()
            except BaseException:
                say(tact.logs())
                raise
    for sentence in verdict.differences[:10]:
        print(sentence)
    print(one.summary(verdict), f"{time.monotonic() - began:.0f} s")
    if asked.without_positions:
        if verdict.differences:
            print("Without positions events count twice, as expected.")
        else:
            print("Without positions nothing differs: this run proves nothing.")
            sys.exit(2)
    sys.exit(0 if verdict.right else 1)


if __name__ == "__main__":
    main()
