"""The folder of all that survives: it must be writable, and only one launcher may use it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.durable import explain_full_disk
from services.common.errors import PreconditionFailed, StorageFull

LOCK = ".tutelage.lock"
NEEDED_BYTES = 200 << 20


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Own the folder for as long as the block lasts; made when missing.

    The lock is the kernel's: it goes with the process that holds it, however that ends.

    Raises:
        PreconditionFailed: when it cannot be written to, or another launcher has it.
        StorageFull: when too little space is left to start.
    """
    try:
        with explain_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise PreconditionFailed(
            f"cannot write to the data folder {folder}: {error.strerror}; "
            "make it writable, or set TUTELAGE_DATA_DIR to another one"
        ) from None
    try:
        _lock(descriptor, folder)
        _check_space(folder)
        yield
    finally:
        os.close(descriptor)


def is_claimed(folder: Path) -> bool:
    """Whether a launcher, or a run in the foreground, owns the folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        raise PreconditionFailed(
            f"`tutelage up` or `tutelage train` is running already on {folder}"
            + (f" (process {holder})" if holder else "")
            + "; stop it with Ctrl-C, or set TUTELAGE_DATA_DIR to another folder"
        ) from None
    with explain_full_disk(folder):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise StorageFull(
            f"only {free >> 20} MiB are free on the disk of {folder}, at least "
            f"{NEEDED_BYTES >> 20} are needed; free some, or set TUTELAGE_DATA_DIR to another disk"
        )
