"""Supervised processes: restarted when they die, stopped in order, none left over.

The supervisor runs in a process of its own (it blocks signals and owns its children). Its parts are small
programs that write lines to one pipe: `up NAME PID` when they run, `down NAME` when SIGTERM has drained them.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Protocol, TypeAlias

import pytest

from api.running.supervisor import Program, Supervisor, spawn, stop_process
from tests.conftest import is_gone

_SUPERVISOR = """
import os, signal, sys
if os.environ.get("HANGUP") != "ignored":  # whoever runs these tests under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
else:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
from api.running.supervisor import ProcessFailure, Program, Supervisor
say = lambda *words: os.write(1, (" ".join(words) + "\\n").encode())  # whole lines, whoever else writes
part, layout, options = sys.argv[1], eval(sys.argv[2]), eval(sys.argv[3])
start = lambda name, kind: Program(name, [sys.executable, "-c", part, name, kind])
stages = [[start(*one) for one in stage] for stage in layout]
asked = []
def until_ready():
    asked.append(1)
    if len(asked) == 2:
        say("ready")
    return len(asked) == 2
try:
    Supervisor(stages, report=lambda line: say("told", line), **options).run(until_ready)
except ProcessFailure as failure:
    sys.exit("failed: " + str(failure))
say("ended")
"""

_PART = """
import os, signal, sys
say = lambda *words: os.write(1, (" ".join(words) + "\\n").encode())
name, kind = sys.argv[1:]
ends = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, ends)
say("up", name, str(os.getpid()))
if kind == "dies":
    sys.exit(7)
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
say("down", name, signal.Signals(signal.sigwait(ends)).name)
"""


Layout: TypeAlias = list[list[tuple[str, str]]]  # stages of (name, kind)


class Told:
    """A supervisor under test and the lines that it and its parts write."""

    def __init__(self, layout: Layout, **options: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SUPERVISOR, _PART, repr(layout), repr(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.pending: list[str] = []  # read, and not yet asked for: parts write in any order

    def until(self, start: str) -> str:
        """Take the next line that begins so, reading on where it has not come yet."""
        for line in self.pending:
            if line.startswith(start):
                self.pending.remove(line)
                return line
        assert self.process.stdout is not None
        for written in self.process.stdout:
            line = written.strip()
            if line.startswith(start):
                return line
            self.pending.append(line)
        pytest.fail(f"it ended without {start!r}: {self.pending}")

    def pid_of(self, name: str) -> int:
        return int(self.until(f"up {name} ").split()[2])

    def rest(self) -> tuple[list[str], str]:
        """Take all other lines and what it said on stderr, once all that hold the pipe have ended."""
        out, err = self.process.communicate(timeout=30)
        return self.pending + out.splitlines(), err


class Supervise(Protocol):
    """Starts a supervisor that the test cannot leave behind."""

    def __call__(self, layout: Layout, **options: float) -> Told: ...


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    started: list[Told] = []

    def start(layout: Layout, **options: float) -> Told:
        started.append(Told(layout, **options))
        return started[-1]

    yield start
    for told in started:
        told.process.kill()
        told.process.communicate(timeout=30)


def test_kill_9_of_the_supervisor_leaves_nothing_running(supervise: Supervise) -> None:
    told = supervise([[("first", "lives")], [("second", "stubborn")]])
    pids = [told.pid_of("first"), told.pid_of("second")]
    told.process.kill()
    assert [is_gone(pid) for pid in pids] == [True, True]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_group_drains_each_part_once_last_stage_first(
    supervise: Supervise, ending: signal.Signals
) -> None:
    told = supervise([[("store", "lives")], [("worker", "lives")], [("api", "lives")]])
    for name in ("store", "worker", "api"):
        told.pid_of(name)
    told.until("ready")
    os.killpg(told.process.pid, ending)
    assert told.rest() == (["down api SIGTERM", "down worker SIGTERM", "down store SIGTERM", "ended"], "")
    assert told.process.returncode == 0


def test_under_nohup_it_outlives_its_terminal(supervise: Supervise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGUP", "ignored")
    told = supervise([[("store", "lives")]])
    first = told.pid_of("store")
    told.until("ready")
    os.killpg(told.process.pid, signal.SIGHUP)
    os.kill(first, signal.SIGKILL)
    assert told.pid_of("store") != first  # it is still there, and does its work
    told.process.terminate()
    said, errors = told.rest()
    assert (said[-2:], errors, told.process.returncode) == (["down store SIGTERM", "ended"], "", 0)


def test_a_part_that_dies_is_started_again_and_the_others_stay(supervise: Supervise) -> None:
    told = supervise([[("store", "lives")], [("api", "lives")]])
    told.pid_of("store")
    first = told.pid_of("api")
    os.kill(first, signal.SIGKILL)
    second = told.pid_of("api")
    assert second != first
    told.until("told api was killed by SIGKILL; it is started again in 0.1 s.")
    told.until("ready")
    told.process.terminate()
    assert told.rest() == (["down api SIGTERM", "down store SIGTERM", "ended"], "")


def test_a_part_that_keeps_dying_ends_everything_with_its_name_and_how(supervise: Supervise) -> None:
    told = supervise([[("store", "lives")], [("api", "dies")]], first_pause_s=0.001, last_pause_s=0.002)
    out, err = told.rest()
    assert told.process.returncode == 1
    assert "failed: api ended with exit status 7 for the 10th time within 30 s" in err
    assert [line.split()[0] for line in out if "api" in line and not line.startswith("told")] == ["up"] * 10
    assert out[-1] == "down store SIGTERM"


def test_a_part_that_will_not_end_is_killed_and_the_others_still_get_their_turn(supervise: Supervise) -> None:
    told = supervise([[("store", "lives")], [("api", "stubborn"), ("other", "lives")]], budget_s=1.1)
    for name in ("store", "api", "other"):
        told.pid_of(name)
    told.process.terminate()
    out, _ = told.rest()
    assert out[-3:] == ["told api did not end in time and is killed.", "down store SIGTERM", "ended"]
    assert told.process.returncode == 0


def test_a_program_that_does_not_exist_stops_what_runs_already_and_says_so() -> None:
    script = (
        "from api.running.supervisor import *\n"
        "parts = [[Program('store', ['/bin/sleep', '60'])], [Program('api', ['/no/such'])]]\n"
        "try: Supervisor(parts, report=print).run()\n"
        "except ProcessFailure as failure: print(failure, parts[0][0].poll())"
    )
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == (
        "api cannot be started: No such file or directory (/no/such). "
        "Check that the program exists and may be executed. -15"
    )


def test_children_start_with_no_signal_blocked_and_with_only_the_descriptors_given() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    reader, given = os.pipe()
    try:
        os.set_inheritable(reader, True)
        script = (
            "import os, signal\n"
            "blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
            f"os.write({given}, repr((blocked, os.path.exists('/proc/self/fd/{reader}'))).encode())"
        )
        assert spawn([sys.executable, "-c", script], pass_fds=[given]).wait(30) == 0
        assert os.read(reader, 100) == b"(set(), False)"
    finally:
        os.close(reader)
        os.close(given)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_stopping_what_has_ended_is_no_error() -> None:
    program = Program("true", ["/bin/true"])
    program.terminate()
    program.start()
    child = spawn(["/bin/true"])
    child.wait(30)
    stop_process(child, 1)
    program.kill()
    program.terminate()


def test_a_lasting_part_is_started_again_without_end_once_all_was_ready() -> None:
    class Store(Program):
        lasting = True

    deaths: list[str] = []

    def report(sentence: str) -> None:
        deaths.append(sentence)
        if len(deaths) == 15:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    stages = [[Store("the store", [sys.executable, "-S", "-c", "raise SystemExit(1)"])]]
    Supervisor(stages, report=report, first_pause_s=0.001, last_pause_s=0.001).run()
    assert len(deaths) >= 15
