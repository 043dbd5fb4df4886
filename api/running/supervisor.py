"""Child processes that never outlive us, restarted when they die and stopped in order.

What holds: every child is killed by the kernel the moment its parent is gone (PR_SET_PDEATHSIG), so `kill -9`
of the parent leaves nothing running; SIGKILL rather than SIGTERM, because everything here is safe to kill at
any instant (G16) and a child that is stuck would ignore the polite one. The kernel watches the *thread* that
forked, so children start from the main thread only.

Every child is the leader of its own process group. Ctrl-C in a terminal goes to the whole foreground group;
if that included the children, the store would stop before the requests that need it. So the signal reaches
the supervisor alone, once, and the supervisor stops the stages in reverse order of their start.

Signals are blocked and waited for (sigtimedwait), never handled: nothing can interrupt the supervisor halfway
through a start, and none is lost between a check and a sleep.
"""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

_PR_SET_PDEATHSIG = 1
_DEATHS_MAX = 10
_DEATHS_WINDOW_S = 30.0
_LAST_CHANCE_S = 1.0  # kept back for each earlier stage, so that one slow stage cannot eat the whole budget
_TURN_S = 0.05  # how often readiness is asked for; deaths and signals wake us at once


class ProcessFailure(Exception):  # the sentence is what matters; "Error" would say nothing more
    """A child cannot be kept running; the message says which, why and the way out."""


class StopRequested(Exception):  # not an error: the user pressed Ctrl-C during a slow start
    """SIGINT or SIGTERM is waiting while a part is still starting."""


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    output: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that dies with this process.

    `output` is a file descriptor for stdout and stderr (ours when None). OSError when it cannot be run;
    RuntimeError outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "children must be started from the main thread: they die with the thread that forked"
        )
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # ours is inherited, and the supervisor blocks signals
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl, so the kernel will never tell us
            os._exit(1)

    return subprocess.Popen(
        argv,
        env=None if env is None else dict(env),
        pass_fds=tuple(pass_fds),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
        preexec_fn=prepare,  # noqa: PLW1509  # nothing else sets PDEATHSIG in time
    )


def stop_process(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """SIGTERM, wait up to `timeout_s` seconds, then SIGKILL; returns when it is really gone."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop_is_pending() -> bool:
    """Tell whether a blocked SIGINT, SIGTERM or SIGHUP waits to be taken by the supervisor."""
    return not signal.sigpending().isdisjoint({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class Part(Protocol):
    """Something the supervisor keeps running: a Program or the store's server."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def start(self) -> None:
        """Start it; ProcessFailure when it cannot be started at all."""

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""

    def terminate(self) -> None:
        """Ask it to end; no error if it has."""

    def kill(self) -> None:
        """End it at once and wait until it is gone."""


@dataclass(slots=True)
class Program:
    """One program under supervision: arguments, environment (ours when None), inherited descriptors."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    pass_fds: Sequence[int] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """Process id of the latest start, None before the first."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; ProcessFailure when the system refuses."""
        try:
            self._process = spawn(self.argv, env=self.env, pass_fds=self.pass_fds)
        except OSError as fault:
            raise ProcessFailure(
                f"{self.name} cannot be started: {fault.strerror} ({self.argv[0]}). "
                "Check that the program exists and may be executed."
            ) from fault

    def poll(self) -> int | None:
        """Exit status (negative: the signal that killed it), None while it runs."""
        return None if self._process is None else self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass(slots=True)
class _Watched:
    part: Part
    deaths: deque[float] = field(default_factory=deque)
    running: bool = False
    due: float = 0.0  # monotonic seconds at which it is started again


class Supervisor:
    """Keeps stages of parts running until SIGINT, SIGTERM or SIGHUP.

    Stages start in the order given and stop in reverse; the parts of one stage stop together. A part that
    dies is started again after 0.1 s, then 0.2 s and so on up to 2 s; ten deaths within 30 s end everything.
    A `lasting` part (the store) is tried for ever once all was ready: a full disk must not end the engine.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Part]],
        *,
        report: Callable[[str], None],
        budget_s: float = 12.0,
        first_pause_s: float = 0.1,
        last_pause_s: float = 2.0,
    ) -> None:
        self._stages = [[_Watched(part) for part in stage] for stage in stages]
        self._report = report
        self._budget_s = budget_s
        self._first_pause_s = first_pause_s
        self._last_pause_s = last_pause_s
        self._ready = False

    def run(self, until_ready: Callable[[], bool] = lambda: True) -> None:
        """Start everything and return when a signal has ended it.

        `until_ready` is asked every 50 ms after the start until it says yes: the place to announce the
        address. ProcessFailure when a part cannot be started or kept running; everything is stopped first.
        """
        ends = {signal.SIGINT, signal.SIGTERM}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to survive the terminal
            ends.add(signal.SIGHUP)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ends, signal.SIGCHLD})
        try:
            self._run(ends, until_ready)
        except StopRequested:
            pass  # the signal stays pending until the mask is restored below, so it is taken here
        finally:
            self._stop()
            while signal.sigtimedwait({*ends, signal.SIGCHLD}, 0) is not None:
                pass  # a second Ctrl-C while draining means the same thing, so it is not raised afterwards
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _run(self, ends: set[signal.Signals], until_ready: Callable[[], bool]) -> None:
        watched = [one for stage in self._stages for one in stage]
        for one in watched:
            if stop_is_pending():
                return
            one.part.start()
            one.running = True
        while True:
            now = time.monotonic()
            due = min((one.due for one in watched if not one.running), default=now + 60.0)
            pause_s = min(due - now, 60.0 if self._ready else _TURN_S)
            caught = signal.sigtimedwait({*ends, signal.SIGCHLD}, max(pause_s, 0.0))
            if caught is not None and caught.si_signo in ends:
                return
            for one in watched:
                self._tend(one)
            self._ready = self._ready or until_ready()

    def _tend(self, one: _Watched) -> None:
        """Notice a death, or start again what is due."""
        now = time.monotonic()
        lasting = self._ready and getattr(one.part, "lasting", False)
        if not one.running:
            if now >= one.due:
                try:
                    one.part.start()
                except ProcessFailure as failure:
                    if not lasting:
                        raise
                    one.due = time.monotonic() + self._last_pause_s
                    self._report(f"{failure} It is tried again in {self._last_pause_s:g} s.")
                else:
                    one.running = True
            return
        status = one.part.poll()
        if status is None:
            return
        one.running = False
        while one.deaths and one.deaths[0] <= now - _DEATHS_WINDOW_S:
            one.deaths.popleft()
        one.deaths.append(now)
        how = _how(status)
        if len(one.deaths) >= _DEATHS_MAX and not lasting:
            raise ProcessFailure(
                f"{one.part.name} {how} for the {_DEATHS_MAX}th time within {_DEATHS_WINDOW_S:.0f} s, so "
                "everything is stopped. Its own messages above say why; put that right and start again."
            )
        pause_s = min(self._first_pause_s * 2 ** (len(one.deaths) - 1), self._last_pause_s)
        one.due = now + pause_s
        self._report(f"{one.part.name} {how}; it is started again in {pause_s:g} s.")

    def _stop(self) -> None:
        """Stop every stage in reverse within the budget: SIGTERM, wait, SIGKILL."""
        end = time.monotonic() + self._budget_s
        for earlier, stage in reversed(list(enumerate(self._stages))):
            limit = end - earlier * _LAST_CHANCE_S
            parts = [one.part for one in stage if one.running and one.part.poll() is None]
            for part in parts:
                part.terminate()
            while any(part.poll() is None for part in parts) and time.monotonic() < limit:
                signal.sigtimedwait({signal.SIGCHLD}, max(min(limit - time.monotonic(), _TURN_S), 0.0))
            for part in parts:
                if part.poll() is None:
                    self._report(f"{part.name} did not end in time and is killed.")
                    part.kill()


def _how(status: int) -> str:
    """Say how a process ended."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
