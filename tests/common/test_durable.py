"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from services.common.durable import write_atomically
from services.common.errors import StorageFull


def fail_with(code: int) -> object:
    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_other_users_can_read_what_is_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"")
    mode = stat.S_IMODE((tmp_path / "file").stat().st_mode)
    assert mode & 0o444 == 0o444


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", fail_with(code))
    with pytest.raises(StorageFull, match=f"no space left for {path}"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_other_troubles_keep_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", fail_with(errno.EPERM))
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())
