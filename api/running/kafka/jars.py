"""Kafka's published jars and a Java that runs them, in the user's cache folder.

What holds, and why:
- The jars are fetched once by Maven, which checks them; the folder's name is the hash of `pom.xml`, so another
  version is another folder. It appears by one rename: whoever sees it sees all of it, two that fetch at once
  included.
- A class-data archive halves the start. It is made once for each Java, and its name is the hash of what makes
  it valid: a Java that finds an archive of another class path or collector ignores it in silence.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from api.running.supervisor import ProcessFailure, spawn

JAVA_AT_LEAST = 17
FETCH_S = 300.0
POM = Path(__file__).with_name("pom.xml")

# Small and quick to start rather than fast for hours: a node of a test lives for seconds.
JVM = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",  # else every kill -9 leaves a file in /tmp
    "-XX:+ExitOnOutOfMemoryError",
)


class KafkaMissing(ProcessFailure):
    """This machine lacks what running Kafka takes; the message says what and the way out."""


@dataclass(frozen=True, slots=True)
class Kafka:
    """What runs Kafka's programs: a Java, the jars and the class-data archive (which may not exist yet)."""

    java: str
    jars: tuple[Path, ...]
    archive: Path
    jvm: tuple[str, ...] = JVM

    def command(self, program: str, *arguments: str, scratch: Path, record: Path | None = None) -> list[str]:
        """Return the command line of a Java class of Kafka's.

        `scratch` is where it may put temporary files; with `record`, a new archive is written there at its end.
        """
        share = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive.exists() else []
        return [
            self.java,
            *self.jvm,
            *([f"-XX:ArchiveClassesAtExit={record}"] if record is not None else share),
            "-Xlog:disable",  # what the JVM says about archives; Kafka's own log is below
            "-Xlog:all=error:stderr",
            "-Dorg.apache.logging.log4j.level=INFO",
            f"-Djava.io.tmpdir={scratch}",
            f"-XX:ErrorFile={scratch}/java-crash.log",
            "-cp",
            os.pathsep.join(map(str, self.jars)),
            program,
            *arguments,
        ]


def find(
    environment: Mapping[str, str] = os.environ,
    report: Callable[[str], None] = lambda _: None,
    variable: str = "KAFKA_BOOTSTRAP",
) -> Kafka:
    """Return Kafka, fetched now if it never was (some 15 s); KafkaMissing without Java or Maven.

    `report` is told before a fetch; `variable` is the one that names a broker instead. ProcessFailure when a fetch
    fails. From the main thread only.
    """
    instead = f"or name a broker that already runs with {variable}=HOST:PORT"
    java, version = _java(environment, instead)
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tact"
    folder = cache / f"kafka-{_hash(POM.read_text())}"
    if not folder.exists():
        report(f"Fetching Kafka's jars, 45 MB, once, into {folder}.")
        _fetch(folder, environment, instead)
    jars = tuple(sorted(folder.glob("*.jar")))
    return Kafka(java, jars, folder / f"classes-{_hash(version, *JVM, *map(str, jars))}.jsa")


def _java(environment: Mapping[str, str], instead: str) -> tuple[str, str]:
    """Return the path of Java and all that it says about its version."""
    home, path = environment.get("JAVA_HOME"), environment.get("PATH", os.defpath)
    java = shutil.which("java", path=str(Path(home) / "bin") if home else path)
    if java is None:
        raise KafkaMissing(
            f"Kafka needs a JDK, {JAVA_AT_LEAST} or newer, and there is no java in "
            f"{'JAVA_HOME' if home else 'PATH'}: install one (Debian: openjdk-17-jre-headless), {instead}."
        )
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < JAVA_AT_LEAST:
        raise KafkaMissing(
            f"Kafka needs a JDK, {JAVA_AT_LEAST} or newer, and {java} is {(said.splitlines() or ['unknown'])[0]}: "
            f"name a newer one with JAVA_HOME, {instead}."
        )
    return java, said


def _fetch(folder: Path, environment: Mapping[str, str], instead: str) -> None:
    """Let Maven copy the jars; the folder is there in whole or not at all."""
    maven = shutil.which("mvn", path=environment.get("PATH", os.defpath))
    if maven is None:
        raise KafkaMissing(
            "Kafka's jars are fetched once with Maven, and there is no mvn in PATH: install it (Debian: maven), "
            f"{instead}."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetch-") as scratch:
        new, log = Path(scratch) / "jars", Path(scratch) / "log"
        with log.open("wb") as output:
            maven_process = spawn(
                [
                    maven,
                    "--batch-mode",
                    f"--file={POM}",
                    "dependency:copy-dependencies",
                    "-DincludeScope=runtime",
                    f"-DoutputDirectory={new}",
                ],
                env=environment,
                output=output.fileno(),
            )
            try:
                status: int | None = maven_process.wait(FETCH_S)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                maven_process.kill()
                maven_process.wait()
        if status != 0:
            why = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            how = f"took longer than {FETCH_S:.0f} s" if status is None else "failed"
            raise ProcessFailure(f"Fetching Kafka's jars with Maven {how}; its last words:\n{why}")
        try:
            new.rename(folder)
        except OSError:
            if not folder.exists():  # else somebody else was faster, with the same jars
                raise


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
