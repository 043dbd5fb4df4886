"""Checks that requirements.lock is what pyproject.toml asks for; prints the way out where it is not."""

import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path("requirements.lock")


def main() -> None:
    """Resolve again with the pins at hand and compare."""
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch) / "requirements.lock"
        again.write_text(LOCK.read_text())
        uv = Path(sys.executable).with_name("uv")
        options = [
            "--quiet",
            "--group",
            "dev",
            "--python-version",
            "3.11",
            "--universal",
            "--generate-hashes",
        ]
        subprocess.run(
            [str(uv), "pip", "compile", "pyproject.toml", *options, "--no-header", "-o", str(again)],
            check=True,
        )
        if pins(again) != pins(LOCK):
            sys.exit("requirements.lock is not what pyproject.toml asks for: run `make lock` and commit it")
    print("requirements.lock is fresh")


def pins(path: Path) -> list[str]:
    """Return the pinned names and hashes, without comments."""
    return [
        line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


if __name__ == "__main__":
    main()
