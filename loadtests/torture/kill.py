"""kill -9 of random processes under load: nothing acknowledged is lost or doubled, and it is back in seconds.

Each round kills one process at a random instant: the store, an API process, the worker, or the supervisor (with
which everything must go). Then every promise is checked, what had no answer is sent again, and every promise is
checked to be kept exactly; at the end those of all rounds.
"""

import random
import statistics
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from loadtests.crash import PARTS, Crashes, NotBackError
from loadtests.torture.wire import Progress, Verdict

KINDS: Final = ("lost", "doubled", "changed", "breaches", "slow recoveries")
RECOVERY_S: Final = 5.0


def run(count: int, seed: int, folder: Path, environment: Mapping[str, str], progress: Progress) -> Verdict:
    """Kill `count` processes."""
    verdict = Verdict("kill", seed)
    verdict.expect(*KINDS)
    rnd = random.Random(seed)
    killed: Counter[str] = Counter()
    crashes = Crashes(folder, seed, workers=2, environment=environment)
    try:
        for number in range(count):
            part = PARTS[number % len(PARTS)] if number < len(PARTS) else rnd.choice(PARTS)
            killed[part] += 1
            crashes.round(part)
            if (number + 1) % 5 == 0 or number + 1 == count:
                progress(said(crashes, number + 1, count))
        crashes.check_all()
    except NotBackError:
        progress("it did not come back: the run ends here")
    finally:
        with suppress(Exception):
            crashes.stop()
    take(crashes, verdict)
    verdict.figures |= {"killed": dict(killed)}
    return verdict


def said(crashes: Crashes, number: int, count: int) -> str:
    """Return how far a run has come, in a sentence."""
    report = crashes.report()
    return (
        f"{number} of {count}, {report['answered']} answered, {report['lost']} lost, {report['doubled']} doubled, "
        f"last recovery {(crashes.recovery_s or [0.0])[-1]:.2f} s"
    )


def take(crashes: Crashes, verdict: Verdict, recovery_s: float = RECOVERY_S) -> None:
    """Take what a run of crashes found into the verdict; a recovery over `recovery_s` is a broken promise."""
    found = crashes.verdict
    for kind, sentences in (("lost", found.lost), ("doubled", found.doubled), ("changed", found.changed)):
        for sentence in sentences:
            verdict.breach(kind, sentence)
    for _ in range(crashes.breaches):
        verdict.breach("breaches", "a cap was breached: see `tact audit`")
    for seconds in crashes.recovery_s:
        if seconds > recovery_s:
            verdict.breach("slow recoveries", f"{seconds:.2f} s, the promise is {recovery_s:g} s")
    report = crashes.report()
    verdict.figures |= {
        "rounds": report["rounds"],
        "answers": report["answered"],
        "events": report["events"],
        "contacts": report["contacts"],
        "sent again": report["resent"],
        "recovery worst s": round(max(crashes.recovery_s, default=0.0), 2),
        "recovery median s": round(statistics.median(crashes.recovery_s or [0.0]), 2),
    }
