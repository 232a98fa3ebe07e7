"""Where the children's output goes: one file each, appended to, kept within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from services.common.durable import explain_full_disk

LIMIT_BYTES = 16 << 20
TAIL_BYTES = 8192


def open_log(folder: Path, name: str) -> IO[bytes]:
    """Open `<name>.log` to append to; one that has grown too long becomes `<name>.log.1`.

    Raises:
        StorageFull: when the disk is full.
    """
    path = folder / f"{name}.log"
    with explain_full_disk(path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LIMIT_BYTES:
            path.replace(folder / f"{name}.log.1")
        return path.open("ab")


def last_lines(path: Path, count: int = 8) -> list[str]:
    """The last lines of a log that are not blank; none when there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
