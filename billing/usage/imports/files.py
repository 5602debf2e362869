"""Reading CSV files of any size, plain or gzip, a row at a time."""

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from billing.usage.imports.file_errors import FileRefused

GZIP = b"\x1f\x8b"
# What an export may come as, and is not.
OTHER_KINDS = {
    b"PK": "a ZIP archive or a spreadsheet",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text",
}
LONGEST_MAGIC = 4
# Read from the disk at once.
BLOCK = 1 << 18
# Characters of one row, over however many lines: a thousand columns of a thousand. A packed file of a
# few kilobytes may hold a line that fills the memory.
LONGEST_ROW = 1 << 20


class Source(io.RawIOBase):
    """The bytes of a file as they lie on the disk, told of and digested as they are read."""

    def __init__(self, path: Path, *, on_bytes: Callable[[int], None] | None) -> None:
        super().__init__()
        self.file = path.open("rb", buffering=0)
        self.on_bytes = on_bytes
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:count])
        if self.on_bytes is not None:
            self.on_bytes(count)
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


class Table:
    """A CSV file being read: its header, then its rows with their numbers, once."""

    def __init__(self, path: Path, *, text: io.TextIOBase, source: Source, is_gzip: bool) -> None:
        self.path = path
        self.source = source
        self.is_gzip = is_gzip
        self.text = text
        # Characters of the row that is being read.
        self.row_length = 0
        # strict: a quote that is never closed would swallow the rest of the file as one field.
        self.reader = csv.reader(self._lines(), strict=True)
        self.header = next((row for row in self._rows() if row), [])
        if not self.header:
            raise FileRefused(f"{path} is empty: its first line must name the columns.")

    @property
    def sha256(self) -> str:
        """Of the bytes read so far: of the file, once all rows were read."""
        return self.source.digest.hexdigest()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """
        Read every row with its number, the header being row 1. Blank lines don't count.

        :raises FileRefused: where the file cannot be read on.
        """
        number = 1
        for row in self._rows():
            if row:
                number += 1
                yield number, row

    def _rows(self) -> Iterator[list[str]]:
        try:
            for row in self.reader:
                self.row_length = 0
                yield row
        except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
            raise self._unreadable(
                "its gzip data is cut short or damaged", "Fetch it again", problem
            ) from problem
        except UnicodeDecodeError as problem:
            raise self._unreadable(
                "it is not UTF-8 text", "Export it as UTF-8", problem
            ) from problem
        except csv.Error as problem:
            fix = "Look for a quote that is never closed there"
            raise self._unreadable("it is not valid CSV", fix, problem) from problem

    def _lines(self) -> Iterator[str]:
        """Read the lines, and of one that does not end no more than a row may be long."""
        # Hot: once for every line of a file of any size.
        readline, most = self.text.readline, LONGEST_ROW
        while line := readline(most + 1):
            self.row_length += len(line)
            if self.row_length > most:
                raise self._too_long(line)
            yield line

    def _too_long(self, line: str) -> FileRefused:
        before = re.sub(r'"[^"]*"', "", line[:LONGEST_ROW])
        return FileRefused(
            f"{self.path} cannot be read: line {self.reader.line_num + 1} makes a row of more than"
            f" {LONGEST_ROW:,} characters, in its field {before.count(',') + 1}. Look for a line end or a"
            " closing quote that is missing there, or export the file again. Nothing was imported."
        )

    def _unreadable(self, what: str, fix: str, problem: Exception) -> FileRefused:
        where = f"after line {self.reader.line_num}"
        return FileRefused(f"{self.path} cannot be read: {what} ({problem}) {where}. {fix}.")


@contextmanager
def open_table(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> Iterator[Table]:
    """
    Open a CSV file, gzip or plain by its first bytes, and read its header.

    `on_bytes` is told how many bytes were read from the disk, as they are.

    :raises FileRefused: if it cannot be opened, is empty or is no CSV file.
    """
    try:
        source = Source(path, on_bytes=on_bytes)
    except OSError as problem:
        raise FileRefused(f"{path} cannot be opened: {problem.strerror}.") from problem
    with source, io.BufferedReader(source, BLOCK) as raw:
        start = raw.peek(LONGEST_MAGIC)
        for magic, kind in OTHER_KINDS.items():
            if start.startswith(magic):
                raise FileRefused(f"{path} is {kind}: export it as CSV in UTF-8, plain or gzip.")
        is_gzip = start.startswith(GZIP)
        with _decoded(raw, is_gzip=is_gzip) as text:
            yield Table(path, text=text, source=source, is_gzip=is_gzip)


def _decoded(raw: "io.BufferedReader[Source]", *, is_gzip: bool) -> io.TextIOWrapper:
    # GzipFile reads small pieces: it gets a buffer of its own behind it.
    unpacked: Any = io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK) if is_gzip else raw
    return io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="")
