"""The command line as users meet it: one clear sentence on a mistake, exit codes, and nothing left running.

Commands that only print run in this process, through the same `main`; `tact up` runs as a child.
"""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from api.cli.main import main
from loadtests.random_load import POLICY
from loadtests.server import Running, children, running, start
from tests.conftest import is_gone
from tests.contract.client import Api, eventually

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
CASES = """
- name: a letter goes out
  now: 2026-11-21T12:00:00Z
  customer: {contacts: []}
  ask: {decide: {placement: letter}}
  expect: {action: offer}
"""


class Said(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs commands in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, *words: object) -> Said:
        self.monkeypatch.setattr(sys, "argv", ["tact", *map(str, words)])
        self.capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        out, err = self.capsys.readouterr()
        assert "Traceback" not in out + err
        return Said(code, out, err)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


def policy_folder(folder: Path, name: str = "crash", **more: str) -> Path:
    """Write the policy set under a name; a name of its own makes a version of its own."""
    files = POLICY | {"policy.yaml": POLICY["policy.yaml"].replace("crash", name)} | more
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policies"), **{"tests/letter.yaml": CASES})


@pytest.fixture(scope="module")
def tact(folder: Path) -> Iterator[Running]:
    """One Tact for the commands; Ctrl-C to the process alone ends it and all its parts."""
    with running("--policies", str(folder)) as tact:
        yield tact
        parts = children(tact.process.pid)
        assert tact.stop() == 0
        assert [is_gone(pid) for pid in parts] == [True] * 5


# ---------------------------------------------------------------------- tact up


class Up:
    """`tact up` in a process group of its own."""

    def __init__(self, *options: object) -> None:
        command = [sys.executable, "-m", "api.main", "up", "--port", "0", *map(str, options)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
        )
        assert self.process.stdout is not None
        self.ready = next(line for line in self.process.stdout if line.startswith("Tact is ready"))
        self.parts = children(self.process.pid)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.ready)
        assert found is not None, self.ready
        self.port = int(found[1])

    def end(self, group_signal: signal.Signals) -> int:
        """Signal the whole group, as a terminal does; returns the exit code."""
        os.killpg(self.process.pid, group_signal)
        return self.rest()

    def rest(self) -> int:
        self.process.communicate(timeout=15)
        return self.process.returncode


@pytest.fixture
def own() -> Iterator[list[subprocess.Popen[Any]]]:
    """Processes that a test started; what it leaves running is killed."""
    own: list[subprocess.Popen[Any]] = []
    yield own
    for process in own:
        process.kill()
        process.communicate()


def test_up_says_where_it_is_ready_and_the_second_on_its_folder_is_refused(data_folder: Path) -> None:
    up = Up("--data", data_folder)
    try:
        assert re.fullmatch(r"Tact is ready at (http://127\.0\.0\.1:\d+)  \(docs: \1/docs\)\n", up.ready)
        assert len(up.parts) == 5  # store, worker, API, learner, archive
        second = subprocess.run(
            [sys.executable, "-m", "api.main", "up", "--port", "0", "--data", str(data_folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert second.returncode == 1
        assert second.stdout == ""
        assert second.stderr.count("\n") == 1
        assert second.stderr.startswith("tact: ")
        assert str(data_folder) in second.stderr
        assert Api(up.port).get("/readyz")["status"] == "ready"  # the first one did not notice
    finally:
        code = up.end(signal.SIGINT)
    assert code == 0
    assert [is_gone(pid) for pid in up.parts] == [True] * 5


def test_a_policy_set_activated_meanwhile_outlives_a_restart(
    data_folder: Path, tmp_path: Path, own: list[subprocess.Popen[Any]]
) -> None:
    first = start(data_folder, "--policies", str(policy_folder(tmp_path / "one", "one")))
    own.append(first.process)
    changed = {"files": POLICY | {"policy.yaml": POLICY["policy.yaml"].replace("crash", "two")}}
    version = first.ask("POST", "/v1/policies/activate", changed)["policy_version"]
    parts = children(first.process.pid)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(15) == 0
    assert [is_gone(pid) for pid in parts] == [True] * 5

    second = start(data_folder)
    own.append(second.process)
    active = second.ask("GET", "/v1/policies/active")
    parts = children(second.process.pid)
    second.process.kill()
    second.process.wait()
    assert (active["policy"], active["policy_version"]) == ("two", version)
    assert len(parts) == 5
    assert [is_gone(pid) for pid in parts] == [True] * 5


def test_ctrl_c_while_modules_load_ends_it_without_a_word(
    data_folder: Path, own: list[subprocess.Popen[Any]]
) -> None:
    command = [sys.executable, "-m", "api.main", "up", "--port", "0", "--data", str(data_folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    own.append(process)
    eventually(lambda: "numpy" in Path(f"/proc/{process.pid}/maps").read_text(), bool)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=15)[0] == b""
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("part", [["api"], ["worker", "features"]], ids=" ".join)
def test_a_part_without_a_store_is_one_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, part: list[str]
) -> None:
    monkeypatch.delenv("TACT_STORE", raising=False)
    said = cli(*part)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("tact: TACT_STORE is not set: ")


@pytest.mark.parametrize("url", ["nonsense", "redis://", "redis://127.0.0.1:9", "unix:///nowhere"])
@pytest.mark.parametrize(
    "part", [["api"], ["worker", "features"], ["up", "--port", "0", "--store"]], ids=" ".join
)
def test_a_store_that_cannot_be_reached_is_one_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, part: list[str], url: str
) -> None:
    monkeypatch.setenv("TACT_STORE", url)
    monkeypatch.setenv("TACT_PORT", "0")
    said = cli(*part, *([url] if part[0] == "up" else []))
    assert (said.code, said.out) == (1, "")
    assert re.fullmatch(r"tact: The store.*\n", said.err), said.err


def test_a_port_that_is_no_number_is_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACT_STORE", "redis://127.0.0.1:9")
    monkeypatch.setenv("TACT_PORT", "high")
    assert cli("api").err == "tact: TACT_PORT is 'high': set it to a port number from 0 to 65535\n"


def test_a_port_in_use_is_one_sentence(cli: Cli, tact: Running, tmp_path: Path) -> None:
    said = cli("up", "--port", tact.port, "--data", tmp_path / "other")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"tact: Port {tact.port} on 127.0.0.1 is in use")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])  # noqa: S104  # it is refused
def test_listening_to_the_world_without_keys_is_refused(cli: Cli, tmp_path: Path, host: str) -> None:
    said = cli("up", "--host", host, "--data", tmp_path / "other", "--port", 0)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("tact: without API keys the server listens on loopback only")


def test_up_lists_every_mistake_of_a_bad_policy_set(cli: Cli, tmp_path: Path) -> None:
    folder = policy_folder(
        tmp_path / "bad",
        **{
            "contact_policy.yaml": "caps:\n  - {name: a, max: 0, per: 1d}\n  - {name: b, max: 1, per: moon}\n",
            "channels.yaml": POLICY["channels.yaml"].replace("kind: inbound", "kind: sideways"),
        },
    )
    said = cli("up", "--policies", folder, "--data", tmp_path / "other", "--port", 0)
    assert (said.code, said.out) == (1, "")
    places = [line.partition(" ")[0] for line in said.err.splitlines()]
    assert places[:3] == ["channels.yaml:3:", "contact_policy.yaml:2:", "contact_policy.yaml:3:"]
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------- tact policy


def test_policy_check_is_0_for_a_clean_set(cli: Cli, folder: Path) -> None:
    said = cli("policy", "check", folder)
    assert (said.code, said.err) == (0, "")
    assert "clean, sha256:" in said.out
    assert cli("policy", "check", folder, "--json").json == {"errors": [], "warnings": []}


def test_policy_check_is_1_and_names_file_line_field_and_fix(cli: Cli, tmp_path: Path) -> None:
    bad = policy_folder(tmp_path, **{"contact_policy.yaml": "caps:\n  - {name: a, max: 0, per: 1d}\n"})
    said = cli("policy", "check", bad, "--json")
    assert said.code == 1
    (error,) = said.json["errors"]
    assert (error["file"], error["line"]) == ("contact_policy.yaml", 2)
    assert all(error[part] for part in ("field", "detail", "fix"))
    assert cli("policy", "check", bad).code == 1


def test_policy_test_is_0_when_all_cases_hold_and_1_with_the_reason_when_not(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    assert cli("policy", "test", folder).out == "1 cases, 0 failed\n"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CASES.replace("action: offer", "action: none"))
    said = cli("policy", "test", folder, "--cases", wrong, "--json")
    assert said.code == 1
    assert (said.json["cases"], said.json["failed"]) == (1, 1)
    (failure,) = said.json["failures"]
    assert {"name": "a letter goes out", "expected": {"action": "none"}}.items() <= failure.items()
    assert failure["got"]["action"] == "offer"
    shown = cli("policy", "test", folder, "--cases", wrong)
    assert (shown.code, shown.out.splitlines()[-1]) == (1, "1 cases, 1 failed")


def test_activate_history_and_rollback(cli: Cli, tact: Running, tmp_path: Path) -> None:
    before = tact.ask("GET", "/v1/policies/active")["policy_version"]
    spring = policy_folder(tmp_path, "spring")
    done = cli("policy", "activate", spring, "--url", tact.url, "--json")
    assert (done.code, done.json["previous"]) == (0, before)
    version = done.json["policy_version"]
    listed = cli("policy", "history", "--url", tact.url, "--json").json["versions"]
    assert [(entry["policy_version"], entry["active"]) for entry in listed[:2]] == [
        (version, True),
        (before, False),
    ]
    shown = cli("policy", "history", "--url", tact.url).out
    assert version in shown
    assert before in shown
    back = cli("policy", "rollback", "--url", tact.url)
    assert (back.code, before in back.out) == (0, True)
    assert tact.ask("GET", "/v1/policies/active")["policy_version"] == before


def test_activating_a_bad_set_changes_nothing(cli: Cli, tact: Running, tmp_path: Path) -> None:
    before = tact.ask("GET", "/v1/policies/active")["policy_version"]
    said = cli(
        "policy", "activate", policy_folder(tmp_path, **{"offers.yaml": "offers: 5\n"}), "--url", tact.url
    )
    assert said.code == 1
    assert "offers.yaml:1: " in said.err
    assert tact.ask("GET", "/v1/policies/active")["policy_version"] == before


# ---------------------------------------------------------------------- tact replay


def ndjson(path: Path, rows: Sequence[Any]) -> Path:
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def view(customer_id: str, day: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "type": "page_view",
        "customer_id": customer_id,
        "occurred_at": f"2026-01-{day:02}T10:00:00Z",
        "properties": {"amount": 2},
    } | more


def views(tact: Running, customer_id: str, expected: int) -> Any:
    """Wait until so many views are folded; returns the customer."""
    api = Api(tact.port)

    def read() -> Any:
        reply = api.call("GET", f"/v1/customers/{customer_id}")
        return reply.json if reply.status == 200 else None

    return eventually(read, lambda c: c is not None and c["features"]["views"]["value"] == expected)


def test_replay_sends_plain_and_gzip_files_shifted_to_end_now(
    cli: Cli, tact: Running, tmp_path: Path
) -> None:
    plain = ndjson(tmp_path / "a.ndjson", [view("replayed", 3), view("replayed", 1)])
    packed = ndjson(tmp_path / "b.ndjson.gz", [view("replayed", 2), "\n"])
    said = cli("replay", plain, packed, "--url", tact.url, "--json")
    assert said.code == 0
    assert {"sent": 3, "accepted": 3, "rejected": 0, "reasons": {}}.items() <= said.json.items()
    as_of = views(tact, "replayed", 3)["as_of"]
    assert as_of > "2026-02"


def test_replay_keeps_the_times_when_told(cli: Cli, tact: Running, tmp_path: Path) -> None:
    said = cli("replay", ndjson(tmp_path / "a.ndjson", [view("kept")]), "--url", tact.url, "--keep-times")
    assert said.code == 0
    assert said.out.startswith("sent 1, accepted 1 ")
    api = Api(tact.port)
    known = eventually(lambda: api.call("GET", "/v1/customers/kept"), lambda reply: reply.status == 200)
    assert known.json["as_of"] == "2026-01-01T10:00:00.000Z"


def test_replay_counts_contacts_and_their_overruns(cli: Cli, tact: Running, tmp_path: Path) -> None:
    contact = {"type": "contact", "customer_id": "mailed", "channel": "email", "category": "promotion"}
    rows = [contact | {"occurred_at": f"2026-01-01T10:0{minute}:00Z"} for minute in range(4)]
    said = cli("replay", ndjson(tmp_path / "a.ndjson", rows), "--url", tact.url, "--json")
    assert (said.json["contacts"], said.json["overruns"]) == (4, 1)


def test_replay_says_why_lines_were_rejected_and_sends_the_rest(
    cli: Cli, tact: Running, tmp_path: Path
) -> None:
    rows = [view("mixed"), view("mixed", type="page_wiew"), view("mixed", type="page_wiew")]
    said = cli("replay", ndjson(tmp_path / "a.ndjson", rows), "--url", tact.url, "--json")
    assert (said.json["sent"], said.json["accepted"], said.json["rejected"]) == (3, 1, 2)
    ((reason, count),) = said.json["reasons"].items()
    assert (count, "page_wiew" in reason or "type" in reason) == (2, True)
    views(tact, "mixed", 1)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1, 2]",
        '"text"',
        "17",
        '{"occurred_at": "yesterday"}',
        '{"occurred_at": null}',
        "[" * 99_999,
    ],
    ids=["not json", "array", "string", "number", "bad time", "null time", "deep"],
)
def test_replay_names_the_file_and_line_of_a_bad_line_and_sends_nothing(
    cli: Cli, tact: Running, tmp_path: Path, line: str
) -> None:
    file = ndjson(tmp_path / "a.ndjson", [view("untouched"), line + "\n"])
    said = cli("replay", file, "--url", tact.url)
    assert (said.code, said.out) == (1, "")
    assert f"tact: {file}:2 is no event" in said.err
    assert Api(tact.port).call("GET", "/v1/customers/untouched").status == 404


def test_replay_of_what_cannot_be_read_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gz"
    whole = gzip.compress(os.urandom(4000))
    broken.write_bytes(whole[:200] + b"\0" * 400 + whole[600:])
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing", tmp_path, broken, binary):
        said = cli("replay", file, "--url", NOWHERE)
        assert (said.code, said.out) == (1, ""), file
        assert said.err.startswith(f"tact: {file} cannot be read: "), said.err


def test_replay_of_an_empty_file_sends_nothing(cli: Cli, tact: Running, tmp_path: Path) -> None:
    said = cli("replay", ndjson(tmp_path / "empty", []), "--url", tact.url, "--json")
    assert (said.code, said.json["sent"]) == (0, 0)


# ---------------------------------------------------------------------- tact audit, quarantine, settings


def test_audit_of_caps_that_held_is_0_and_tells_overruns_apart(cli: Cli, tact: Running) -> None:
    api = Api(tact.port)
    for _ in range(3):
        api.confirm(api.reserve("email", "promotion", "audited"))
    outside = {"customer_id": "audited", "channel": "email", "category": "promotion"}
    assert api.post("/v1/contacts", outside, 201)["rules"] == ["email-weekly"]
    said = cli("audit", "--url", tact.url, "--json")
    assert (said.code, said.json["breaches"]) == (0, [])
    assert said.json["overruns"] >= 1
    shown = cli("audit", "--url", tact.url)
    assert (shown.code, "0 breaches" in shown.out) == (0, True)


def test_the_quarantine_is_listed_and_sent_again(cli: Cli, tact: Running) -> None:
    api = Api(tact.port)
    api.event("aged", "page_view", occurred_at="2020-01-01T00:00:00Z", event_id="old-1")
    listed = eventually(
        lambda: cli("quarantine", "list", "--url", tact.url, "--json").json["entries"],
        lambda found: len(found) == 1,
    )
    assert [event["event_id"] for event in listed[0]["events"]] == ["old-1"]
    assert "older than keep.events" in listed[0]["reason"]
    assert "1 entries in the quarantine" in cli("quarantine", "list", "--url", tact.url).out
    assert cli("quarantine", "replay", "--url", tact.url, "--json").json == {"sent": 1, "unreadable": 0}
    again = eventually(
        lambda: cli("quarantine", "list", "--url", tact.url, "--json").json["entries"],
        lambda found: len(found) == 1,
    )
    assert again[0]["entry_id"] != listed[0]["entry_id"]  # too old is still too old: it came back


def test_settings_lists_every_variable_with_its_meaning(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACT_PORT", "9099")
    rows = {row["name"]: row for row in cli("settings", "--json").json["settings"]}
    assert (rows["TACT_PORT"]["value"], rows["TACT_PORT"]["default"]) == ("9099", "8080")
    assert all(row["meaning"] for row in rows.values())
    assert "TACT_PORT=9099\n" in cli("settings").out


# ---------------------------------------------------------------------- mistakes


class Stranger:
    """Something that listens and is no Tact: it answers every request with the same bytes and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                link, _ = self.listener.accept()
                with link:
                    link.recv(65_536)
                    link.sendall(self.answer)

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    stranger = Stranger()
    yield stranger
    stranger.stop()


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["policy", "check"],
        ["policy", "nonsense"],
        ["up", "--port", "high"],
        ["up", "--port", "70000"],
        ["up", "--workers", "0"],
        ["replay"],
        ["replay", "file"],
        ["replay", "file", "--url", NOWHERE, "--speed", "0"],
        ["audit", "--nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(cli: Cli, words: list[str]) -> None:
    said = cli(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err != ""


@pytest.mark.parametrize(
    "command",
    [
        ["policy", "activate", "FOLDER"],
        ["policy", "history"],
        ["policy", "rollback"],
        ["audit"],
        ["quarantine", "list"],
        ["quarantine", "replay"],
        ["replay", "FILE"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "url", [NOWHERE, "nonsense", "http://", "http://a b", "ftp://127.0.0.1", "http://[::1"]
)
def test_a_url_that_does_not_answer_is_one_sentence(
    cli: Cli, folder: Path, tmp_path: Path, command: list[str], url: str
) -> None:
    names = {"FOLDER": str(folder), "FILE": str(ndjson(tmp_path / "a", [view("c")]))}
    said = cli(*(names.get(word, word) for word in command), "--url", url)
    assert (said.code, said.out) == (1, "")
    assert re.fullmatch(r"tact: .*\n", said.err), said.err
    assert url in said.err


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhtml"]
)
@pytest.mark.parametrize(
    "command", [["audit"], ["policy", "history"], ["quarantine", "replay"]], ids=" ".join
)
def test_a_url_where_something_else_runs_is_one_sentence(
    cli: Cli, command: list[str], answer: bytes, stranger: Stranger
) -> None:
    stranger.answer = answer
    said = cli(*command, "--url", stranger.url)
    assert (said.code, said.out) == (1, "")
    assert re.fullmatch(rf"tact: {stranger.url}.*\n", said.err), said.err


@pytest.mark.parametrize(
    "command",
    [["policy", "check"], ["policy", "test"], ["policy", "activate"], ["up", "--policies"]],
    ids=" ".join,
)
@pytest.mark.parametrize("bad", ["missing", "file", "empty", "garbage", "binary"])
def test_a_folder_that_is_no_policy_set_is_refused_with_a_sentence(
    cli: Cli, tmp_path: Path, command: list[str], bad: str
) -> None:
    folder = tmp_path / bad
    if bad == "file":
        folder.write_text("policy: x\n")
    elif bad != "missing":
        folder.mkdir()
    if bad == "garbage":
        (folder / "policy.yaml").write_text("{{{: - ]\n\t&a *b !!python/object:os.system x")
    if bad == "binary":
        (folder / "policy.yaml").write_bytes(b"\xff\xfe\x00\x01")
    more = ["--data", tmp_path / "data", "--port", 0] if command[0] == "up" else []
    said = cli(*command, folder, *more)
    assert said.code == 1
    assert (said.out + said.err).strip() != ""


def test_cases_that_cannot_be_read_are_refused_with_a_sentence(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage.yaml"
    garbage.write_text("{{{: - ]")
    for file in (tmp_path / "missing.yaml", tmp_path, garbage):
        said = cli("policy", "test", folder, "--cases", file)
        assert (said.code, said.out) == (1, ""), file
        assert str(file) in said.err
