"""Folders that appear whole: on a local disk by rename, elsewhere by a marker written last."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from services.common.durable import explain_full_disk, sync_folder, write_atomically
from services.common.errors import NotFound

LOCK = ".lock"


class FolderStore:
    """Reads and writes below one fsspec URL. Paths are relative, with forward slashes.

    A folder exists once its marker file does. Local folders are written aside, synced and
    renamed; on other file systems, which cannot rename a folder in one step, the marker is
    uploaded last.
    """

    def __init__(self, url: str, marker: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        self._marker = marker
        self.url = url

    def read(self, path: str, end: int | None = None) -> bytes:
        """Content of a file, of its first bytes only up to `end`.

        Raises:
            NotFound: when there is none.
        """
        try:
            content: bytes = self._fs.cat_file(self._at(path), end=end)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"no file {path} in {self.url}") from None
        return content

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders directly below path, hidden ones left out."""
        try:
            self._fs.invalidate_cache()
            entries = self._fs.ls(self._at(path), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if _is_folder(e))
        return sorted(name for name in names if not name.startswith("."))

    def exists(self, path: str) -> bool:
        """Whether the folder at path has been published."""
        return bool(self._fs.exists(self._at(f"{path}/{self._marker}")))

    def create(self, path: str, files: Mapping[str, bytes]) -> bool:
        """Publish a folder; False when there is one at path already.

        Raises:
            StorageFull: when the disk is full; nothing is published then.
        """
        if self._local is not None:
            return _create_local(self._local / path, files)
        if self.exists(path):
            return False
        for name in sorted(files, key=lambda name: name == self._marker):
            self._fs.pipe_file(self._at(f"{path}/{name}"), files[name])
        return True

    def replace(self, path: str, content: bytes) -> None:
        """Put a file in place of the one at path.

        Raises:
            StorageFull: when the disk is full; the old file stays.
        """
        if self._local is not None:
            write_atomically(self._local / path, content)
        else:
            self._fs.pipe_file(self._at(path), content)

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        """Keep other processes out of a read-change-write below a folder.

        On a local disk only: object stores have no lock, so there one writer at a time is
        the operator's to keep.
        """
        if self._local is None:
            yield
            return
        (self._local / folder).mkdir(parents=True, exist_ok=True)
        with (self._local / folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else str(self._root)


def _is_folder(entry: Mapping[str, object]) -> bool:
    return entry["type"] == "directory"


def _create_local(target: Path, files: Mapping[str, bytes]) -> bool:
    with explain_full_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=".publishing-"))
        try:
            aside.chmod(0o755)
            for name, content in files.items():
                with (aside / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            sync_folder(aside)
            try:
                # Fails when the target exists, as a published folder is never empty.
                aside.rename(target)
            except OSError:
                if target.exists():
                    return False
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync_folder(target.parent)
    return True
