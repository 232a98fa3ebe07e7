"""A run's history: one event a line, whole or cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.common.errors import DataCorrupted, StorageFull
from services.trainer.runs.history import HistoryReader, HistoryWriter
from tutelage.v1 import training_pb2 as pb


def say(text: str) -> pb.RunEvent:
    return pb.RunEvent(message=pb.Message(level="info", text=text))


def write(path: Path, *texts: str) -> None:
    writer = HistoryWriter(path)
    for text in texts:
        writer.write(say(text))
    writer.close()


def read(path: Path) -> list[tuple[int, str]]:
    return [(event.sequence, event.message.text) for event in HistoryReader(path).read()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_events_are_numbered_and_dated(path: Path) -> None:
    write(path, "one", "two\nlines", "ü")
    assert read(path) == [(1, "one"), (2, "two\nlines"), (3, "ü")]
    assert all(event.time.seconds for event in HistoryReader(path).read())


def test_the_next_writer_goes_on_counting(path: Path) -> None:
    write(path, "one", "two")
    write(path, "three")
    assert read(path) == [(1, "one"), (2, "two"), (3, "three")]


def test_a_torn_last_line_is_not_read_and_is_cut_off(path: Path) -> None:
    write(path, "one", "two")
    with path.open("ab") as file:
        file.write(b'{"sequence": "3", "mess')
    assert read(path) == [(1, "one"), (2, "two")]
    write(path, "three")
    assert read(path) == [(1, "one"), (2, "two"), (3, "three")]


def test_a_reader_gives_only_what_is_new(path: Path) -> None:
    reader = HistoryReader(path)
    assert list(reader.read()) == []
    write(path, "one")
    assert [event.message.text for event in reader.read()] == ["one"]
    assert list(reader.read()) == []
    write(path, "two")
    assert [event.message.text for event in reader.read()] == ["two"]


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_reader_passes_over_what_was_read_before(path: Path, after: int) -> None:
    write(path, "one", "two", "three")
    reader = HistoryReader(path, after)
    expected = [(1, "one"), (2, "two"), (3, "three"), (4, "four"), (5, "five"), (6, "six")]
    assert [(e.sequence, e.message.text) for e in reader.read()] == expected[after:3]
    write(path, "four", "five", "six")
    found = [(e.sequence, e.message.text) for e in reader.read()]
    assert found == expected[max(after, 3) :]


def test_the_kind_of_a_line_is_known_without_parsing_it(path: Path) -> None:
    writer = HistoryWriter(path)
    writer.write(pb.RunEvent(status_changed=pb.RunStatusChanged(status=pb.RUN_STATUS_RUNNING)))
    writer.write(pb.RunEvent(metrics=pb.Metrics(env_steps=1, values={"loss": 1.0})))
    writer.write(say('"time": "x", "progress": {}'))
    writer.close()
    lines = list(HistoryReader(path).lines())
    assert [line.kind for line in lines] == ["status_changed", "metrics", "message"]
    assert [line.event().WhichOneof("event") for line in lines] == [line.kind for line in lines]


def test_a_line_that_is_not_yet_whole_is_read_when_it_is(path: Path) -> None:
    write(path, "one")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    reader = HistoryReader(path)
    assert list(reader.read()) == []
    path.write_bytes(whole)
    assert [event.message.text for event in reader.read()] == ["one"]


@pytest.mark.parametrize("line", [b"not an event\n", b"\xff\xfe\n", b"\0\0\0\n"])
def test_a_damaged_line_is_said_with_its_place(path: Path, line: bytes) -> None:
    write(path, "one")
    place = path.stat().st_size
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(DataCorrupted, match=f"{path} at byte {place}"):
        read(path)
    with pytest.raises(DataCorrupted):
        HistoryWriter(path)


def test_fields_of_a_later_release_are_left_aside(path: Path) -> None:
    path.write_text('{"sequence": "1", "colour": "red", "message": {"text": "one"}}\n')
    assert read(path) == [(1, "one")]


def test_a_full_disk_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = HistoryWriter(path)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="no space left"):
        writer.write(say("one"), durable=True)
    writer.close()
