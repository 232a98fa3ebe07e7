"""A run's history: one event a line, from which its state follows."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.durable import explain_full_disk
from services.common.errors import DataCorrupted
from tutelage.v1 import training_pb2 as pb

# As lines begin, so that a reader can pass over those of kinds it has no use for: taking one
# apart costs fifty times as much as this.
_KIND = re.compile(rb'\{"sequence": "\d+", "time": "[^"]+", "(\w+)": ')


class HistoryWriter:
    """Appends events; one writer at a time. A half-written last line, as a crash leaves it, is
    cut off first: what it said was never acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        reader = HistoryReader(path)
        newest = deque(reader.lines(), maxlen=1)
        self._sequence = newest[0].event().sequence if newest else 0
        with explain_full_disk(path):
            self._file = path.open("ab")
            self._file.truncate(reader.offset)

    def write(self, event: pb.RunEvent, *, durable: bool = False) -> None:
        """Give the event its sequence number and time, and append it.

        Raises:
            StorageFull: when the disk is full.
        """
        self._sequence += 1
        event.sequence = self._sequence
        now = Timestamp()
        now.GetCurrentTime()
        event.time.CopyFrom(now)
        line = json_format.MessageToJson(event, indent=None, preserving_proto_field_name=True)
        with explain_full_disk(self._path):
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let another writer take over."""
        self._file.close()


@dataclass(frozen=True)
class HistoryLine:
    """An event as it was written."""

    path: Path
    offset: int
    text: bytes

    @property
    def kind(self) -> str:
        """Its field of RunEvent's `event`; empty when that takes parsing."""
        found = _KIND.match(self.text)
        return found[1].decode() if found else ""

    def event(self) -> pb.RunEvent:
        """The event.

        Raises:
            DataCorrupted: when the line is not one.
        """
        try:
            return json_format.Parse(self.text, pb.RunEvent(), ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise DataCorrupted(f"{self.path} at byte {self.offset}: {error}") from None


class HistoryReader:
    """Reads events as they are appended. `offset` is where the next whole line starts.

    Args:
        after: pass over events up to and including this sequence number.
    """

    def __init__(self, path: Path, after: int = 0) -> None:
        self._path, self._passed_over = path, after
        self.offset = 0

    def read(self) -> Iterator[pb.RunEvent]:
        """Events that were appended since the last call.

        Raises:
            DataCorrupted: when a line is not an event. The next call begins with it.
        """
        for line in self.lines():
            yield line.event()

    def lines(self) -> Iterator[HistoryLine]:
        """As `read`, not taken apart. Where the caller gives up is where the next call begins."""
        for text in self._appended().splitlines(keepends=True):
            if not text.endswith(b"\n"):
                return
            if self._passed_over:  # sequence numbers are line numbers
                self._passed_over -= 1
            else:
                yield HistoryLine(self._path, self.offset, text)
            self.offset += len(text)

    def _appended(self) -> bytes:
        try:
            if self._path.stat().st_size == self.offset:
                return b""
            with self._path.open("rb") as file:
                file.seek(self.offset)
                return file.read()
        except FileNotFoundError:
            return b""
