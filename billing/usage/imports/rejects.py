"""
The file that lists rejected rows: which field, what is wrong with it, how to fix it, and the row.

Repaired, it is imported as any other: the columns before the row say which import rejected it, and
its rows are then those of the file they come from. No import writes over the file of another.
"""

import csv
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, Any

from billing import spreadsheets
from billing.usage.imports import fields, named_money
from billing.usage.imports.file_errors import FileRefused, RowRejected
from billing.usage.imports.files import Table, open_table
from billing.usage.imports.named_money import Named
from billing.usage.imports.rows import Columns, Format

# The release before wrote the first five.
HEADER_BEFORE = ("row", "field", "value", "problem", "how_to_fix")
HEADER = (*HEADER_BEFORE, "of_import")

# Rows named beside the file, in memory; more of them are kept on the disk.
SPOOLED = 1 << 20
NAMES_A_FIELD = 200
# Whoever has as many of them cleans up first.
MOST_FILES = 10_000


class Rejects:
    """Rejected rows on their way into their file, which is made for the first of them."""

    def __init__(self, path: Path, *, rows: "Rows", form: Format, import_id: int) -> None:
        self.path = path
        self.header = rows.header
        self.import_id = import_id
        self.named = named_money.reader(Columns(rows.header).folded, form.money)
        self.count = 0
        self.first = ""
        self.file: Any = None
        self.writer: Any = None
        # What is kept of each row, as COPY reads it.
        self.kept: IO[str] = SpooledTemporaryFile(  # noqa: SIM115
            max_size=SPOOLED, mode="w+", encoding="utf-8", newline=""
        )

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kept.close()
        if self.file is not None:
            self.file.close()

    def add(self, *, number: int, rejection: RowRejected, row: Sequence[str]) -> None:
        """Write down one rejected row."""
        if self.writer is None:
            self._open()
            self.first = f"row {number}, {rejection}"
        self.count += 1
        self._write(
            [number, rejection.field, rejection.value, rejection.problem, rejection.fix,
             self.import_id, *row]
        )  # fmt: skip
        self.kept.write(_kept_line(self.import_id, number, rejection.field, self.named(row)))

    def _open(self) -> None:
        try:
            self.path, self.file = _new_file(self.path)
        except OSError as problem:
            raise FileRefused(
                f"Some rows are rejected, and {self.path} cannot be written ({problem.strerror})."
                " Name another file with --rejects."
            ) from problem
        self.writer = csv.writer(self.file)
        self._write([*HEADER, *self.header])

    def _write(self, cells: Sequence[object]) -> None:
        self.writer.writerow([spreadsheets.kept_from_running(str(cell)) for cell in cells])


def _new_file(path: Path) -> tuple[Path, IO[str]]:
    """Make the file, or where there is one already, the next that is free: usage.csv.2.rejects.csv."""
    stem = path.name.removesuffix(".rejects.csv")
    ending = ".rejects.csv" if stem != path.name else path.suffix
    stem = path.name.removesuffix(ending)
    for number in range(1, MOST_FILES):
        free = path if number == 1 else path.with_name(f"{stem}.{number}{ending}")
        try:
            return free, free.open("x", newline="", encoding="utf-8")
        except FileExistsError:
            continue
    raise FileRefused(f"There are {MOST_FILES} files like {path}: name another with --rejects.")


def _kept_line(import_id: int, number: int, field: str, named: Named) -> str:
    texts = (field, named.account, named.event_id, named.currency)
    cells = [
        str(import_id),
        str(number),
        *(fields.escaped(text[:NAMES_A_FIELD].replace("\x00", "")) for text in texts),
        "\\N" if named.amount is None else f"{named.amount:f}",
        named.month or "\\N",
    ]
    return "\t".join(cells) + "\n"


class Rows:
    """The rows of a usage file; of a file of rejects, as they stand in the file they come from."""

    def __init__(self, table: Table) -> None:
        self.table = table
        # The import and the row that each comes from, where a file of rejects says so.
        self.imports, self.numbers = array("q"), array("q")
        self._before = self._cells_before(table.header)
        self.header = table.header
        if self._before:
            self.header = [spreadsheets.as_it_was(cell) for cell in table.header[self._before :]]

    def _cells_before(self, header: Sequence[str]) -> int:
        for before in (HEADER, HEADER_BEFORE):
            if tuple(header[: len(before)]) == before:
                return len(before)
        return 0

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """
        Read every row with its number, the header being row 1.

        :raises FileRefused: where the file cannot be read on.
        """
        return self._repaired() if self._before else self.table.rows()

    def _repaired(self) -> Iterator[tuple[int, list[str]]]:
        says_whence = self._before == len(HEADER)
        for number, row in self.table.rows():
            if says_whence and len(row) >= self._before:
                self._note(row[len(HEADER) - 1], row[0])
            yield number, [spreadsheets.as_it_was(cell) for cell in row[self._before :]]

    def _note(self, import_id: str, number: str) -> None:
        if _ID(import_id) and _ID(number):
            self.imports.append(int(import_id))
            self.numbers.append(int(number))


_ID = re.compile(r"[0-9]{1,18}").fullmatch


@contextmanager
def open_rows(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> Iterator[Rows]:
    """
    Open a usage file, or a repaired file of rejects, and read its header.

    :raises FileRefused: if it cannot be opened, is empty or is no CSV file.
    """
    with open_table(path, on_bytes=on_bytes) as table:
        yield Rows(table)
