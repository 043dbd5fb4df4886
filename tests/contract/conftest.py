"""One running Tact for all contract tests, and customers that nobody has used before.

With CONTRACT_ON=kafka it is a distributed one: two feature workers, learner and archive around Kafka and the store.
"""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count

import pytest

from loadtests import fleet
from loadtests.server import running
from tests.contract.client import Api
from tests.contract.shop import policy_files

Fresh = Callable[..., str]


@pytest.fixture(scope="session")
def started() -> datetime:
    """When the tests began."""
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def tact(tmp_path_factory: pytest.TempPathFactory, started: datetime) -> Iterator[Api]:
    """The engine of the session, with the tests' own policy set."""
    folder = tmp_path_factory.mktemp("policies")
    for name, text in policy_files(started).items():
        (folder / name).write_text(text)
    if os.environ.get("CONTRACT_ON") == "kafka":
        place = tmp_path_factory.mktemp("fleet")
        with fleet.running(
            place, folder, workers=2, followers=True, settings={"TACT_LOG": "warning"}
        ) as tact:
            yield Api(int(tact.urls[0].rpartition(":")[2]))
        return
    with running("--policies", str(folder)) as up:
        yield Api(up.port)


_NUMBERS = count(1)


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Fresh:
    """Make ids that no other test uses: `fresh()`, `fresh("friend")`."""

    def make(name: str = "c") -> str:
        return f"{name}-{next(_NUMBERS)}"

    return make
