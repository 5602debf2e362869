"""The file that lists rejected rows: which field, what is wrong with it, how to fix it, and the row."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from billing.usage.imports.file_errors import FileRefused, RowRejected

HEADER = ("row", "field", "value", "problem", "how_to_fix")


class Rejects:
    """Rejected rows on their way into their file, which is made for the first of them."""

    def __init__(self, path: Path, *, header: Sequence[str]) -> None:
        self.path = path
        self.header = header
        self.count = 0
        self.first = ""
        self.file: Any = None
        self.writer: Any = None

    def __enter__(self) -> "Rejects":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, *, number: int, rejection: RowRejected, row: Sequence[str]) -> None:
        """Write down one rejected row."""
        if self.writer is None:
            self._open()
            self.first = f"row {number}, {rejection}"
        self.count += 1
        self.writer.writerow(
            [number, rejection.field, rejection.value, rejection.problem, rejection.fix, *row]
        )

    def _open(self) -> None:
        try:
            self.file = self.path.open("w", newline="", encoding="utf-8")
        except OSError as problem:
            raise FileRefused(
                f"Some rows are rejected, and {self.path} cannot be written ({problem.strerror})."
                " Name another file with --rejects."
            ) from problem
        self.writer = csv.writer(self.file)
        self.writer.writerow([*HEADER, *self.header])
