"""The parts that run as processes of their own (API, feature worker, learner, archive), and `tact up` that starts all.

`tact up` is a supervisor: the embedded store first, then the worker and the API processes, which share one
listening socket. Ctrl-C drains and stops everything it started; a part that dies is started again.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from api.running.settings import (
    DRAIN_S,
    END_S,
    Refused,
    at_once_setting,
    check_host,
    kafka_settings,
    metrics_port_setting,
    notice_setting,
    port_setting,
    setting,
    store_url,
)
from api.running.supervisor import Part, Program, Supervisor
from engine.errors import TactError
from engine.judging.plan import Plan, compile_plan
from engine.measures import FoldMeasures, FollowMeasures
from engine.runtime import Engine, open_engine
from policies.loader import load_dir

READY_S: Final = 5.0


def log_to_stderr() -> None:
    """Log to stderr at the level of TACT_LOG."""
    level = logging.getLevelNamesMapping().get(setting("TACT_LOG").upper(), logging.WARNING)
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    if level >= logging.WARNING:  # what they say at each attempt, our own words say once
        for name in ("aiokafka", "faust", "mode"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def run_api() -> None:
    """Serve the API of one process until SIGTERM or SIGINT."""
    from api.app import App  # noqa: PLC0415  # neither the supervisor nor the worker needs the web framework
    from api.http.server import Limits, bind, serve  # noqa: PLC0415  # as above

    url = store_url()
    kafka = kafka_settings()
    limits = Limits(at_once_max=at_once_setting())
    notice_s = notice_setting()
    descriptor = setting("TACT_LISTEN_FD")
    if descriptor:
        listener = socket.socket(fileno=int(descriptor))
    else:
        check_host(setting("TACT_HOST"))
        listener = bind(setting("TACT_HOST"), port_setting())
    failures: list[Exception] = []

    async def opened() -> Engine:
        try:
            return await wired()
        except Exception as failure:
            failures.append(failure)
            logging.getLogger("uvicorn.error").disabled = True  # the one sentence below says it better
            raise

    async def wired() -> Engine:
        engine = await open_engine(url, log_folder(), kafka)
        folder = setting("TACT_POLICIES")
        _, version = await engine.store.clock()
        if folder and not descriptor and not version:
            await engine.plans.activate(compile_plan(load_dir(folder).policy))
        elif version:
            await engine.plans.get(version)
        calm_collector()
        return engine

    app = App(opened)

    def leaving() -> None:
        if app.handlers is not None:
            app.handlers.leaving = True

    try:
        serve(
            cast("Any", app),
            [listener],
            find=app.hot,
            limits=limits,
            drain_s=min(DRAIN_S, END_S - notice_s),
            notice_s=notice_s,
            on_notice=leaving,
        )
    except SystemExit:
        if failures:
            raise failures[0] from None
        raise


def calm_collector() -> None:
    """Leave what start-up made out of the garbage collector's walks, and let it walk less often.

    Requests free their memory by reference counts; full walks over the compiled policies cost a tenth of the
    time and showed as the slowest answers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def run_worker() -> None:
    """Fold the journal until SIGTERM or SIGINT."""
    kafka, name = kafka_settings(), setting("TACT_WORKER")
    if kafka is not None:
        from engine.kafka.worker import KafkaWorker  # noqa: PLC0415  # nobody else needs Faust

    async def fold(engine: Engine, stop: asyncio.Event) -> None:
        worker = engine.worker if kafka is None else KafkaWorker(engine.folding, engine.journal, kafka, name)
        await _measured(engine, engine.folding.measures, worker.run, stop)

    _run(_until_stopped(store_url(), fold))


def run_learner() -> None:
    """Learn from what became of decisions until SIGTERM or SIGINT."""
    _give_way()
    from engine.workers.learner import Learner  # noqa: PLC0415  # after it gave way: the store and the API start first

    async def learn(engine: Engine, stop: asyncio.Event) -> None:
        learner = Learner(engine.customers, engine.plans)
        await _measured(engine, learner.measures, learner.run, stop)

    _run(_until_stopped(store_url(), learn))


def run_archive() -> None:
    """Write the decision log under TACT_DATA until SIGTERM or SIGINT."""
    _give_way()
    from engine.workers.archive import Archive  # noqa: PLC0415  # nobody else needs Parquet

    async def write(engine: Engine, stop: asyncio.Event) -> None:
        archive = Archive(engine.customers, engine.plans, log_folder())
        await _measured(engine, archive.measures, archive.run, stop)

    _run(_until_stopped(store_url(), write))


def log_folder() -> Path:
    """Return where the decision log is."""
    return Path(setting("TACT_DATA")) / "decisions"


def _give_way() -> None:
    """Let decisions go first: what follows them takes the processor when nobody waits for an answer."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):  # Linux: it also does not wake up in front of anybody
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


async def _until_stopped(
    url: str, work: Callable[[Engine, asyncio.Event], Coroutine[Any, Any, None]]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    engine = await open_engine(url)
    try:
        await work(engine, stop)
    finally:
        await engine.close()


async def _measured(
    engine: Engine,
    measures: FoldMeasures | FollowMeasures,
    run: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    stop: asyncio.Event,
) -> None:
    """Run a worker until it is stopped, and serve its measures where TACT_METRICS_PORT says so."""
    port = metrics_port_setting()
    if port is None:
        await run(stop)
        return
    from api.metrics import of_folding, of_following, of_store  # noqa: PLC0415  # only where it is wanted
    from api.running.metrics_server import serving  # noqa: PLC0415  # as above

    own = (
        partial(of_folding, measures)
        if isinstance(measures, FoldMeasures)
        else partial(of_following, measures)
    )
    with serving(port, own, partial(of_store, engine.connection.measures)):
        await run(stop)


def _run(work: Coroutine[Any, Any, None]) -> None:
    import uvloop  # noqa: PLC0415  # only the long-running processes want it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def run_up(
    policies: Path | None,
    example: Path,
    data: Path,
    host: str,
    port: int,
    workers: int,
    store: str | None,
    announce: Callable[[str, int, str, str], None],
    report: Callable[[str], None],
) -> None:
    """Start the store (unless `store` names one), the worker and `workers` API processes; return at Ctrl-C.

    `policies` is activated; without it the active version stays, and `example` is activated where there is none.
    `announce(host, port, store, policy_version)` is called once the API is ready, `report` with each sentence
    for the user.
    """
    from api.http.server import bind  # noqa: PLC0415  # the worker is ready sooner without the web stack
    from api.running.valkey import ValkeyServer  # noqa: PLC0415  # only the supervisor starts a store

    check_host(host)
    activation = _Activation(compile_plan(load_dir(policies or example).policy), always=policies is not None)
    listener = bind(host, port)
    listener.set_inheritable(True)
    port = listener.getsockname()[1]
    server = None if store is not None else ValkeyServer(data)
    url = store if store is not None else f"unix://{server.socket_path}"  # type: ignore[union-attr]  # one of the two
    environment = {
        **os.environ,
        "TACT_STORE": url,
        "TACT_LISTEN_FD": str(listener.fileno()),
        "TACT_DATA": str(data),
        "TACT_KAFKA": "",  # this is the embedded default, whatever else the caller's environment is for
        "TACT_DRAIN_S": "0",  # all stop together: there is nobody to send clients to
        "PYTHONUNBUFFERED": "1",
    }
    metrics_port = metrics_port_setting()

    def with_port(number: int) -> dict[str, str]:
        """Each worker tells its metrics on a port of its own: the one that is set, and those after it."""
        own = {} if metrics_port is None else {"TACT_METRICS_PORT": str(metrics_port + number)}
        return {**environment, **own}

    command = [sys.executable, "-m", "api.main"]
    worker = Program("the feature worker", [*command, "worker", "features"], with_port(0))
    followers: list[Part] = [
        _Follower("the learner", [*command, "worker", "learner"], with_port(1)),
        _Follower("the archive", [*command, "worker", "archive"], with_port(2)),
    ]
    apis = [
        Program(f"API process {number}", [*command, "api"], environment, (listener.fileno(),))
        for number in range(1, workers + 1)
    ]
    stages: list[list[Part]] = [[server]] if server is not None else []
    activation.url = url
    # The policy set is activated while the others are still starting up: nothing is ready before it is.
    stages += [[worker], list(apis), [activation], followers]
    where = f"http://{host}:{port}"

    def ready() -> bool:
        if not answers(where):
            return False
        announce(host, port, url, activation.version)
        return True

    Supervisor(stages, report=report).run(ready)


class _Follower(Program):
    """A part that decisions do not need: however often it dies, they go on and it is started again."""

    lasting = True


class _Activation:
    """A stage without a process: the policy set is active before anybody decides."""

    name = "the policy set"

    def __init__(self, plan: Plan, *, always: bool) -> None:
        self.url = ""
        self.version = ""
        self._plan = plan
        self._always = always
        self._ended: int | None = None

    def start(self) -> None:
        self.version = asyncio.run(_activate(self.url, self._plan, always=self._always))

    def poll(self) -> int | None:
        return self._ended

    def terminate(self) -> None:
        self._ended = 0

    def kill(self) -> None:
        self._ended = 0


async def _activate(url: str, plan: Plan, *, always: bool) -> str:
    """Activate the plan, unless another is active and `always` is false; return the active version."""
    engine = await open_engine(url)
    try:
        _, active = await engine.store.clock()
        if active and not always:
            return active
        await engine.plans.activate(plan)
    except TactError as error:
        raise Refused(error.detail) from None
    else:
        return plan.policy.version
    finally:
        await engine.close()


def answers(where: str) -> bool:
    """Say whether the API at a URL is ready."""
    try:
        with urllib.request.urlopen(f"{where}/readyz", timeout=1) as reply:  # noqa: S310  # an http URL of our own
            return bool(json.load(reply)["status"] == "ready")
    except (OSError, ValueError):
        return False
