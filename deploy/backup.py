"""Copy the store's append-only files while it serves: `python deploy/backup.py STORE_FOLDER COPY`.

The files only grow, but for the moment at which the store writes them anew; that is held off for the length of the copy
(through TACT_STORE), so the copy is whole: what was acknowledged before the start is in it. Its last command may be
torn; a store that starts on it cuts that off. To restore, give a stopped store the copy as its folder.
"""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Final

from api.running.settings import setting
from engine.store.address import BadStoreUrl
from engine.store.connection import StoreAddress, StoreConnection, StoreReplyError, StoreUnavailable
from engine.store.store import as_bytes, as_list

FOLDER: Final = "appendonlydir"
REWRITE: Final = "auto-aof-rewrite-percentage"
POLL_S: Final = 0.1


async def copy(address: str, source: Path, target: Path) -> int:
    """Copy the append-only files of the store at `address`; returns their size in bytes.

    OSError where a folder cannot be read or written, FileExistsError where the copy is there already.
    """
    connection = StoreConnection(StoreAddress.parse(address))
    await connection.open()
    try:
        said = as_list(await connection.call("CONFIG", "GET", REWRITE))
        before = as_bytes(said[1]) or b""
        await connection.call("CONFIG", "SET", REWRITE, 0)
        try:
            while await _rewriting(connection):  # noqa: ASYNC110  # the store's own state, asked for
                await asyncio.sleep(POLL_S)
            await asyncio.to_thread(shutil.copytree, source / FOLDER, target / FOLDER)
        finally:
            await connection.call("CONFIG", "SET", REWRITE, before)
    finally:
        await connection.close()
    return sum(path.stat().st_size for path in (target / FOLDER).iterdir())


async def _rewriting(connection: StoreConnection) -> bool:
    return b"aof_rewrite_in_progress:1" in (as_bytes(await connection.call("INFO", "persistence")) or b"")


def main() -> None:
    """Copy what the command line names."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python deploy/backup.py STORE_FOLDER COPY\n")
        sys.exit(2)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        size = asyncio.run(copy(setting("TACT_STORE"), source, target))
    except (OSError, shutil.Error, StoreUnavailable, StoreReplyError, BadStoreUrl) as failure:
        sys.exit(f"no copy was made: {failure}")
    print(f"{size} bytes copied to {target / FOLDER}")  # noqa: T201  # a command's answer


if __name__ == "__main__":
    main()
