"""A run's history: one event a line, from which its state follows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.durable import explain_full_disk
from services.common.errors import DataCorrupted
from tutelage.v1 import training_pb2 as pb


class HistoryWriter:
    """Appends events; one writer at a time. A half-written last line, as a crash leaves it, is
    cut off first: what it said was never acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        reader = HistoryReader(path)
        self._sequence = 0
        for event in reader.read():
            self._sequence = event.sequence
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


class HistoryReader:
    """Reads events as they are appended. `offset` is where the next whole line starts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0

    def read(self) -> Iterator[pb.RunEvent]:
        """Events that were appended since the last call.

        Raises:
            DataCorrupted: when a line is not an event.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            try:
                event = json_format.Parse(line, pb.RunEvent(), ignore_unknown_fields=True)
            except (json_format.ParseError, UnicodeDecodeError) as error:
                raise DataCorrupted(f"{self._path} at byte {self.offset}: {error}") from None
            self.offset += len(line)
            yield event
