"""What the README and the docs show is run here; what the command line offers is written there."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.cli.main import app
from api.routes import ROUTES
from api.running.settings import SETTINGS
from loadtests.server import Running, running
from tests.unit.engine.evaluation.logged import DAY_MS, START, candidate, logged, row

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [
        line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()
    ]


@pytest.fixture(scope="module")
def tact() -> Iterator[Running]:
    with running("--policies", str(ROOT / "policies" / "retail")) as one:
        # A second version, so that there is something to roll back to.
        files = {
            str(path.relative_to(ROOT / "policies/retail")): path.read_text()
            for path in (ROOT / "policies/retail").rglob("*.yaml")
        }
        one.ask(
            "POST",
            "/v1/policies/activate",
            {"files": {**files, "policy.yaml": files["policy.yaml"] + "\n# b\n"}},
        )
        yield one


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example and a decision log: a fair coin between two offers, one customer in ten in control."""
    folder = tmp_path_factory.mktemp("cwd")
    (folder / "policies").symlink_to(ROOT / "policies")
    made = []
    for number in range(4_000):
        control, heads = number % 10 == 0, number * 7 % 20 < 10
        two = [
            candidate("winter-boots", chance=0.5, value=12.0),
            candidate("running-shoes", chance=0.5, value=14.0),
        ]
        chosen = None if control else two[heads]["offer"]
        said = {"grp": "control" if control else "none", "reward": float(number % 3 == 0)}
        made.append(
            row(number, [] if control else two, chosen, placement="home_hero", outcome="accepted", **said)
        )
    later = START + 10 * DAY_MS  # so that every customer's time is over
    made.append(row(4_000, two, "winter-boots", at=later, outcome_at=later))
    logged(folder / "var" / "decisions", made)
    return folder


@pytest.mark.parametrize("line", [line for line in shell_lines(README) if not line.startswith("make")])
def test_every_command_of_the_readme_works(tact: Running, cwd: Path, line: str) -> None:
    words = shlex.split(line.replace("http://127.0.0.1:8080", tact.url))
    if words[0] == "tact":
        words = [sys.executable, "-m", "api.main", *words[1:]]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if words[0] == "curl":
        assert "detail" not in json.loads(done.stdout)


def test_every_make_target_of_the_readme_exists() -> None:
    targets = {line.split()[1] for line in shell_lines(README) if line.startswith("make")}
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_links_of_the_docs_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_modules_named_in_the_docs_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"python -m ([a-z_.]+)", document.read_text()):
            module = ROOT / name.replace(".", "/")
            found = module.with_suffix(".py").exists() or (module / "__main__.py").exists()
            assert found, f"{document.name}: {name}"


def test_every_command_is_named_in_the_readme() -> None:
    named = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    for name in (named | {"policy", "quarantine"}) - {"api", "up"}:
        assert f"tact {name}" in README, name


def test_every_setting_is_documented_where_it_is_defined() -> None:
    used = set()
    for path in [*(ROOT / "api").rglob("*.py"), *(ROOT / "engine").rglob("*.py")]:
        used |= set(re.findall(r"\bTACT_[A-Z_]+", path.read_text()))
    assert used <= {setting.name for setting in SETTINGS}


def test_every_route_has_a_scope_and_a_summary() -> None:
    for route in ROUTES:
        assert route.scope
        assert route.summary
