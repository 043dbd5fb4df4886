"""`tact replay` reads recorded lines in time order, shifts them as one, and sends each until it has an answer."""

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from api.cli.replay import Replay, ReplayFailure, Summary, read_lines, shifted
from features.event import format_time

NOW = 1_795_262_400_000  # 2026-11-21T12:00:00Z
Handler = Callable[[web.Request], Coroutine[Any, Any, web.Response]]


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOW * 1_000_000)


def row(at: int, customer_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"type": "page_view", "customer_id": customer_id, "occurred_at": format_time(at)} | more


def written(path: Path, *rows: Any) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


# ---------------------------------------------------------------------- reading


def test_lines_of_all_files_come_oldest_first_gzip_or_not(tmp_path: Path) -> None:
    plain = written(tmp_path / "a", row(NOW + 3), "", row(NOW + 1))
    packed = written(tmp_path / "b.gz", row(NOW + 2))
    assert read_lines([plain, packed]) == [(NOW + n, row(NOW + n)) for n in (1, 2, 3)]


def test_lines_of_one_moment_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [row(NOW, event_id=f"e{number}") for number in range(5)]
    assert [value["event_id"] for _, value in read_lines([written(tmp_path / "a", *rows)])] == [
        "e0",
        "e1",
        "e2",
        "e3",
        "e4",
    ]


def test_a_line_without_a_time_is_of_now(tmp_path: Path) -> None:
    file = written(tmp_path / "a", {"type": "page_view"}, row(NOW - 1))
    assert [at for at, _ in read_lines([file])] == [NOW - 1, NOW]


@pytest.mark.parametrize(
    "bad", ["{", "[]", '"occurred_at"', "1", '{"occurred_at": 5}', '{"occurred_at": "x"}']
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, bad: str) -> None:
    file = written(tmp_path / "a", row(NOW), "", bad)
    with pytest.raises(ReplayFailure, match=r"/a:3 is no event: .*; mend or remove the line$"):
        read_lines([file])


# ---------------------------------------------------------------------- shifting


def test_all_times_are_shifted_by_one_amount_so_that_the_last_is_now() -> None:
    rows = [(at, row(at)) for at in (1000, 5000, 61_000)]
    assert shifted(rows, keep_times=False) == [(at, row(at)) for at in (NOW - 60_000, NOW - 56_000, NOW)]


def test_times_that_are_kept_stay_and_nothing_is_added() -> None:
    rows = [(1000, row(1000)), (NOW, {"type": "page_view"})]
    assert shifted(rows, keep_times=True) is rows


def test_nothing_to_shift_is_nothing() -> None:
    assert shifted([], keep_times=False) == []


# ---------------------------------------------------------------------- sending


class Server:
    """A server that notes what it is sent; `before` may answer in its place."""

    def __init__(self, before: Handler | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.contacts: list[dict[str, Any]] = []
        self.before = before

    async def take_events(self, request: web.Request) -> web.Response:
        if self.before is not None and (answer := await self.before(request)).status != 100:
            return answer
        pack = [json.loads(line) for line in (await request.text()).splitlines()]
        good = [event for event in pack if event["type"] != "bad"]
        self.events += good
        rejected = [
            {"index": n, "detail": "bad type"} for n, event in enumerate(pack) if event["type"] == "bad"
        ]
        return web.json_response({"accepted": len(good), "rejected": rejected}, status=202 if good else 422)

    async def take_contact(self, request: web.Request) -> web.Response:
        said = await request.json()
        if "channel" not in said:
            return web.json_response({"detail": "/channel: is needed"}, status=422)
        self.contacts.append(said)
        return web.json_response(
            {"contact_id": said["contact_id"], "overrun": len(self.contacts) > 1}, status=201
        )

    def replayed(self, *rows: dict[str, Any], progress: Callable[[int], None] = lambda _: None) -> Summary:
        """Run a replay of the rows against this server."""

        async def run() -> Summary:
            app = web.Application()
            app.router.add_post("/v1/events", self.take_events)
            app.router.add_post("/v1/contacts", self.take_contact)
            runner = web.AppRunner(app)
            await runner.setup()
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
                return await Replay(url, None, progress).run([(NOW, value) for value in rows])
            finally:
                await runner.cleanup()

        return asyncio.run(run())


def test_everything_of_a_customer_arrives_in_order() -> None:
    server = Server()
    rows = [row(NOW, f"c{number % 7}", event_id=str(number)) for number in range(1500)]
    summary = server.replayed(*rows)
    assert (summary.sent, summary.accepted) == (1500, 1500)
    for customer in range(7):
        arrived = [event["event_id"] for event in server.events if event["customer_id"] == f"c{customer}"]
        assert arrived == [str(number) for number in range(1500) if number % 7 == customer]


def test_a_line_without_an_id_gets_one_so_that_a_pack_sent_twice_counts_once() -> None:
    answers = iter([503, 100])

    async def busy_once(request: web.Request) -> web.Response:
        status = next(answers)
        if status == 503:
            first.append(await request.text())
        return web.Response(status=status)

    first: list[str] = []
    server = Server(busy_once)
    summary = server.replayed(row(NOW), row(NOW, event_id="own"))
    assert (summary.sent, summary.accepted) == (2, 2)
    assert [json.loads(line) for line in first[0].splitlines()] == server.events
    assert server.events[0]["event_id"].startswith("replay-")
    assert server.events[1]["event_id"] == "own"


def test_rejected_lines_are_counted_by_reason() -> None:
    done: list[int] = []
    summary = Server().replayed(row(NOW), row(NOW, type="bad"), row(NOW, type="bad"), progress=done.append)
    assert (
        summary.as_dict().items()
        >= {"sent": 3, "accepted": 1, "rejected": 2, "reasons": {"bad type": 2}}.items()
    )
    assert sum(done) == 3


def test_contacts_go_one_by_one_with_their_overruns() -> None:
    server = Server()
    contact = {"type": "contact", "customer_id": "c1", "occurred_at": format_time(NOW)}
    summary = server.replayed(contact | {"channel": "email"}, contact | {"channel": "email"}, contact)
    said = summary.as_dict()
    assert [said[name] for name in ("sent", "accepted", "contacts", "overruns", "rejected")] == [
        3,
        2,
        2,
        1,
        1,
    ]
    assert [set(body) for body in server.contacts] == [
        {"customer_id", "occurred_at", "channel", "contact_id"}
    ] * 2


@pytest.mark.parametrize("status", [401, 404, 500])
def test_an_answer_that_makes_no_sense_ends_the_replay(status: int) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"detail": "no"}, status=status)

    with pytest.raises(ReplayFailure, match=f"answered {status} to a pack of events: no"):
        Server(refuse).replayed(row(NOW), row(NOW, "another"))
