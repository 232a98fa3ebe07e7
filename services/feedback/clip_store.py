"""Where clips lie: one MP4 a segment below an fsspec URL."""

from __future__ import annotations

from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from services.common.durable import write_atomically
from services.common.errors import DataCorrupted


class ClipStore:
    """Writes clips whole and durably, and reads them again."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        self.url = url

    def put(self, segment_id: str, clip: bytes) -> None:
        """Store a segment's clip.

        Raises:
            StorageFull: when the disk is full; no part of the clip is left behind.
        """
        if self._local is not None:
            write_atomically(self._local / _name(segment_id), clip)
        else:
            self._fs.pipe_file(f"{self._root}/{_name(segment_id)}", clip)

    def get(self, segment_id: str) -> bytes:
        """A segment's clip.

        Raises:
            DataCorrupted: when it is not there; call this for known segments only.
        """
        try:
            clip: bytes = self._fs.cat_file(f"{self._root}/{_name(segment_id)}")
        except FileNotFoundError:
            raise DataCorrupted(
                f"the clip of segment {segment_id} is missing from {self.url}; upload it again"
            ) from None
        return clip


def _name(segment_id: str) -> str:
    # Folders by prefix: some file systems get slow with very many files in one.
    return f"{segment_id[:2]}/{segment_id}.mp4"
