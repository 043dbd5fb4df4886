"""`make run-distributed`: the services of docker-compose.yml as plain processes on loopback, until Ctrl-C.

The file itself is read: its commands, settings, environment and order of start are the ones that run here, so the two
cannot drift apart. Only what a container gives is put in its place: the paths of volumes become folders under DATA,
`tact` and `valkey-server` are this checkout's own, Kafka runs from its published jars (a JDK, and Maven once), and
Prometheus is left out. Ports are set by the same variables: `API_1_PORT=8090 make run-distributed`. Services that are
named start alone, as with `--no-deps`; a store or a Kafka that STORE_URL or KAFKA_BROKERS names is not started here.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import typer
import yaml

from api.remote import RemoteFailure, ask
from api.running.kafka.cluster import record_classes
from api.running.kafka.image import Broker, ports_of
from api.running.kafka.jars import KafkaMissing, find
from api.running.processes import answers
from api.running.supervisor import Part, ProcessFailure, Program, Supervisor, spawn
from api.running.valkey import ValkeyServer

ROOT: Final = Path(__file__).resolve().parents[2]
COMPOSE: Final = ROOT / "docker-compose.yml"
STORE: Final = "valkey"
KAFKA: Final = "kafka"
ELSEWHERE: Final = {STORE: "STORE_URL", KAFKA: "KAFKA_BROKERS"}
"""The variable that names such a service elsewhere."""
OURS: Final = "tact:"
END_S: Final = 14.0
"""Within this time of Ctrl-C all has ended: the APIs say for 3 s that they leave, and drain for up to 10 s."""
_VARIABLE: Final = re.compile(r"\$\{(\w+):-([^${}]*)\}")


class Refused(Exception):
    """A start that cannot be: the sentence says why."""


class Service(NamedTuple):
    """One service: what it runs, with which environment, after which others."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    after: tuple[str, ...]
    folders: Mapping[str, str]
    """The path of each named volume in the container, and the volume's name."""
    profiles: tuple[str, ...]


def read_services(text: str, environment: Mapping[str, str]) -> dict[str, Service]:
    """Return the services of a compose file by name, its `${NAME:-default}` filled in from the environment."""
    while (filled := _VARIABLE.sub(lambda found: environment.get(found[1]) or found[2], text)) != text:
        text = filled  # a default may hold another variable
    if "${" in text:
        raise Refused(f"only ${{NAME:-default}} is understood, not {text[text.index('${') :][:40]!r}")
    services = yaml.safe_load(text)["services"]
    return {name: _service(name, said) for name, said in services.items()}


def _service(name: str, said: Mapping[str, Any]) -> Service:
    volumes = (volume.split(":")[:2] for volume in said.get("volumes", ()))
    return Service(
        name,
        said["image"],
        tuple(map(str, said["command"])),
        {key: str(value) for key, value in said.get("environment", {}).items()},
        tuple(said.get("depends_on", ())),
        {target: source for source, target in volumes if not source.startswith((".", "/"))},
        tuple(said.get("profiles", ())),
    )


def stages(services: Mapping[str, Service]) -> list[list[Service]]:
    """Return the services in order of start: each after those that it depends on, if they are there at all."""
    left, found = dict(services), list[list[Service]]()
    while left:
        free = [one for one in left.values() if not any(name in left for name in one.after)]
        if not free:
            raise Refused(f"these wait for each other: {', '.join(left)}")
        found.append(free)
        left = {name: one for name, one in left.items() if one not in free}
    return found


def tact_command(service: Service) -> list[str]:
    """Return the command line of a service of ours."""
    return [sys.executable, "-m", "api.main", *service.command]


def tact_environment(service: Service, data: Path) -> dict[str, str]:
    """Return the environment of a service of ours: none of the caller's own TACT_ settings reach it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TACT_")}
    set_here = {key: str(_place(value, service, data)) for key, value in service.environment.items()}
    if "TACT_DATA" in set_here and set_here["TACT_DATA"] == service.environment["TACT_DATA"]:
        set_here["TACT_DATA"] = str(data)  # a part without the volume does not use it
    return {**inherited, **set_here, "PYTHONUNBUFFERED": "1"}


def _place(value: str, service: Service, data: Path) -> str | Path:
    """Return the folder under `data` that stands for a volume's path, any other value as it is."""
    return data / service.folders[value] if value in service.folders else value


def ports(service: Service) -> list[str]:
    """Return the ports on which a service listens."""
    words = service.command
    return [
        *(
            service.environment[name]
            for name in ("TACT_PORT", "TACT_METRICS_PORT")
            if name in service.environment
        ),
        *(words[words.index("--port") + 1 :][:1] if "--port" in words else ()),
        *(map(str, ports_of(service.environment)) if service.name == KAFKA else ()),
    ]


def taken_ports(services: Iterable[Service]) -> list[str]:
    """Return the ports of these services on which somebody listens already, or which two of them share."""
    taken = []
    with ExitStack() as held:
        for port in (port for service in services for port in ports(service)):
            try:
                held.enter_context(socket.create_server(("127.0.0.1", int(port))))
            except OSError:
                taken.append(port)
    return taken


class Store(ValkeyServer):
    """The store of the file on a folder of ours, under the lock and the supervision of the embedded one."""

    def __init__(self, service: Service, data: Path) -> None:
        """Keep the volume under `data`."""
        super().__init__(data / next(iter(service.folders.values())))
        program, *flags = service.command
        if program != "valkey-server":
            raise Refused(f"the store is started by {program}, not by valkey-server")
        self._flags = [str(_place(flag, service, data)) for flag in flags]

    def _settings(self) -> list[str]:
        """Return the file's settings, and the socket on which the supervision asks whether it answers."""
        return [*self._flags, "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]


class Lasting(Program):
    """A part that is started again however often it dies, as `restart: unless-stopped` says."""

    lasting = True


class Opening:
    """Asked until all APIs are ready; activates the first policy set where the store has none, as the file says."""

    def __init__(self, urls: Sequence[str], first_policy: Service, data: Path) -> None:
        """`urls` are those of the APIs."""
        self._urls = urls
        self._first = first_policy
        self._data = data
        self._has_policy = not urls
        self._activating: subprocess.Popen[bytes] | None = None

    def __call__(self) -> bool:
        """Say whether all APIs are ready, and tell the user when they are."""
        if not self._has_policy and self._activating is None:
            try:
                self._has_policy = bool(ask(self._urls[0], "GET", "/v1/policies/versions")["versions"])
            except RemoteFailure:
                return False
        if not self._has_policy:
            self._has_policy = self._activated()
        if not self._has_policy or not all(answers(url) for url in self._urls):
            return False
        _announce(self._urls, self._data)
        return True

    def _activated(self) -> bool:
        """Say whether the first policy set is active; its activation is started once, and never waited for."""
        command = tact_command(self._first)
        if self._activating is None:
            self._activating = spawn(command, env=tact_environment(self._first, self._data))
        status = self._activating.poll()
        if status:
            raise ProcessFailure(f"the first policy set could not be activated: {' '.join(command)}")
        return status == 0


def _announce(urls: Sequence[str], data: Path) -> None:
    if not urls:
        typer.echo(f"started; state in {data}")
        return
    first, last = urls[0], urls[-1]
    typer.echo(
        f"Tact is ready at {' and '.join(urls)}  (docs: {first}/docs)\n"
        f"  the services of docker-compose.yml as plain processes, without Prometheus; state in {data}\n\n"
        "Three commands to try:\n"
        f'  curl -s {first}/v1/decide --json \'{{"customer_id": "c1", "placement": "home_hero"}}\'\n'
        f'  curl -s {first}/v1/events --json \'{{"type": "page_view", "customer_id": "c1",'
        ' "properties": {"category": "boots"}}\'\n'
        f"  curl -s {last}/v1/customers/c1\n\n"
        "Ctrl-C drains and stops everything.",
    )


def chosen(
    services: Mapping[str, Service], names: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Service]:
    """Return the services to start: those named, else all that are ours or not elsewhere; Refused."""
    found = {
        name: service
        for name, service in services.items()
        if (name in names if names else not service.profiles and not environment.get(ELSEWHERE.get(name, "")))
        and (name in ELSEWHERE or service.image.startswith(OURS))
    }
    if missing := sorted(set(names) - set(found)):
        raise Refused(f"docker-compose.yml has no service to run here called {', '.join(missing)}")
    return found


def run(names: Sequence[str], data: Path, environment: Mapping[str, str]) -> None:
    """Run the named services, all of ours unless any is named, until a signal; ProcessFailure, Refused."""
    text = COMPOSE.read_text()
    described = read_services(text, environment)
    started = chosen(described, names, environment)
    urls = [
        f"http://{service.environment['TACT_HOST']}:{service.environment['TACT_PORT']}"
        for service in started.values()
        if "TACT_PORT" in service.environment
    ]
    first = next(service for service in described.values() if service.profiles)
    for port in taken_ports(started.values()):
        raise Refused(f"port {port} is in use: choose others with {', '.join(port_variables(text))}")
    parts = [[_part(service, data, environment) for service in stage] for stage in stages(started)]
    os.chdir(ROOT)  # the file's paths are relative to it, as they are to the image's working folder
    Supervisor(parts, report=_say, budget_s=END_S).run(Opening(urls, first, data))


def port_variables(text: str) -> list[str]:
    """Return the variables by which a compose file lets its ports be chosen, in its own order."""
    return list(dict.fromkeys(name for name, _ in _VARIABLE.findall(text) if name.endswith("_PORT")))


def _part(service: Service, data: Path, environment: Mapping[str, str]) -> Part:
    """Return what runs a service."""
    if service.name == STORE:
        return Store(service, data)
    if service.name == KAFKA:
        return _kafka(service, data, environment)
    return Lasting(service.name, tact_command(service), tact_environment(service, data))


def _kafka(service: Service, data: Path, environment: Mapping[str, str]) -> Broker:
    """Return the broker of the file, its jars fetched if they never were."""
    try:
        kafka = find(environment, report=_say, variable=ELSEWHERE[KAFKA])
    except KafkaMissing as missing:
        raise Refused(f"{missing} On one machine `make run` needs no Kafka.") from None
    record_classes(kafka)
    return Broker(kafka, service.environment, data / next(iter(service.folders.values())))


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("services", nargs="*", help="services to start alone; all of ours unless told")
    parser.add_argument("--data", type=Path, default=Path("./var/distributed"), help="where volumes are kept")
    asked = parser.parse_args()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # while jars are fetched; later the supervisor waits for it
    try:
        run(asked.services, asked.data.resolve(), os.environ)
    except (ProcessFailure, Refused) as failure:
        sys.exit(f"run-distributed: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
