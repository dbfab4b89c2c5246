"""Reading a file that somebody is still writing, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.run_directory import line_tail
from stages.run_directory.line_tail import Tail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_a_torn_last_line_waits_for_its_newline(file):
    file.write_bytes(b"one\ntw")
    reader = Tail(file)
    assert reader.poll().lines == [b"one"]
    assert reader.is_torn
    assert reader.poll().lines == []
    with file.open("ab") as writer:
        writer.write(b"o\nthree\n")
    assert reader.poll().lines == [b"two", b"three"]
    assert not reader.is_torn


@pytest.mark.parametrize("max_bytes", [1, 2, 3, 7, 100])
def test_lines_are_the_same_whatever_the_bites(file, max_bytes):
    lines = [b"a", b"", b"bcd", b"e" * 20, b"\xc3\xa9"]
    file.write_bytes(b"\n".join(lines) + b"\n")
    reader, read = Tail(file), []
    while not (bite := reader.poll(max_bytes)).is_at_end:
        assert sum(map(len, bite.lines)) <= max_bytes + 20
        read += bite.lines
    assert read + bite.lines == lines


def test_a_file_that_comes_later_is_read_then(file):
    reader = Tail(file)
    bite = reader.poll()
    assert (bite.lines, bite.is_at_end) == ([], True)
    assert "is not there" in bite.error
    file.write_bytes(b"one\n")
    assert reader.poll().lines == [b"one"]


def test_a_file_that_shrinks_is_read_anew(file):
    file.write_bytes(b"one\ntwo\n")
    reader = Tail(file)
    reader.poll()
    file.write_bytes(b"new\n")
    bite = reader.poll()
    assert bite.is_replaced
    assert bite.lines == [b"new"]
    assert not reader.poll().is_replaced


def test_another_file_under_the_name_is_read_anew(file, tmp_path):
    file.write_bytes(b"one\n")
    reader = Tail(file)
    reader.poll()
    other = tmp_path / "other"
    other.write_bytes(b"longer than before\n")
    other.replace(file)
    bite = reader.poll()
    assert bite.is_replaced
    assert bite.lines == [b"longer than before"]


def test_an_endless_line_does_not_fill_the_memory(file, monkeypatch):
    monkeypatch.setattr(line_tail, "MAX_LINE_BYTES", 10)
    file.write_bytes(b"x" * 100 + b"\nnext\n")
    reader, read = Tail(file), []
    while not (bite := reader.poll(4)).is_at_end:
        read += bite.lines
        assert len(reader._torn) <= 10
    assert read + bite.lines == [b"next"]
    assert reader.num_too_long == 1


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    bite = Tail(tmp_path).poll()
    assert "Is a directory" in bite.error
