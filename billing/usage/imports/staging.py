"""
The staging table: rows of a file, checked one by one, before the database looks at them together.

Temporary, so of this connection alone: a kill leaves nothing of it.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from itertools import islice

from django.db import DatabaseError, connection, transaction

from billing.usage.imports import fields
from billing.usage.imports.file_errors import RowRejected
from billing.usage.imports.rejects import Rejects, Rows
from billing.usage.imports.rows import (
    NUL,
    Columns,
    Format,
    StagedRow,
    check,
    check_shape,
    holds_nul,
    picker,
)

DROP = "DROP TABLE IF EXISTS pg_temp.usage_staging, pg_temp.usage_rejects"
CREATE = """
CREATE TEMPORARY TABLE usage_staging (
    row_number bigint, event_id text, account text, account_name text, product text,
    product_name text, currency text, kind text, item text, unit text, quantity numeric(36, 15),
    unit_price numeric(26, 12), amount numeric(30, 15), starts_at timestamptz, ends_at timestamptz,
    effective_at timestamptz, description text, attributes jsonb);
CREATE TEMPORARY TABLE usage_rejects (
    row_number bigint, field text, value text, problem text, fix text);
"""
COPY = "COPY usage_staging FROM STDIN"
ANALYZE = "ANALYZE usage_staging"
MONTHS = """
SELECT DISTINCT date_trunc('month', effective_at AT TIME ZONE 'UTC')::date FROM usage_staging
"""

# Rows handed to PostgreSQL at once: about half a megabyte.
ROWS_PER_CHUNK = 1000
# Between the fields of a digested row: no field of a sane file holds one.
UNIT_SEPARATOR = "\x1f"


@dataclass
class Staged:
    """What came of the rows of a file."""

    rows_read: int = 0


class Feed(io.RawIOBase):
    """What COPY reads: an iterator of lines that looks like a file."""

    def __init__(self, lines: Iterator[str]) -> None:
        super().__init__()
        self.lines = lines
        self.failure: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        """The next chunk, of whatever size: psycopg2 takes more than it asked for."""
        try:
            return "".join(islice(self.lines, ROWS_PER_CHUNK)).encode()
        except BaseException as failure:
            # psycopg2 would tell of it only as text.
            self.failure = failure
            raise


def stage(*, rows: Rows, form: Format, rejects: Rejects) -> int:
    """
    Copy the good rows of a file into a new staging table and return how many it read.

    :raises FileRefused: if the file cannot be read to its end.
    """
    staged = Staged()
    feed = Feed(_lines(rows=rows, form=form, rejects=rejects, staged=staged))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(DROP)
        cursor.execute(CREATE)
        try:
            with connection.wrap_database_errors:
                cursor.copy_expert(COPY, feed)
        except DatabaseError:
            if feed.failure is not None:
                raise feed.failure from None
            raise
        cursor.execute(ANALYZE)
    return staged.rows_read


def drop() -> None:
    """Drop the staging table, if there is one."""
    with connection.cursor() as cursor:
        cursor.execute(DROP)


def months() -> list[date]:
    """The months, in UTC, that the staged rows fall into."""
    with connection.cursor() as cursor:
        cursor.execute(MONTHS)
        return [month for (month,) in cursor.fetchall()]


def _lines(*, rows: Rows, form: Format, rejects: Rejects, staged: Staged) -> Iterator[str]:
    columns = Columns(rows.header)
    read = form.reader(columns)
    # In the order of their names: the same export with its columns moved is the same export.
    ordered = picker(sorted(range(len(columns)), key=columns.folded.__getitem__))
    digest = _digest if not form.has_event_ids else _no_digest
    for number, row in rows:
        staged.rows_read += 1
        try:
            check_shape(row, columns)
            raw = UNIT_SEPARATOR.join(ordered(row))
            if NUL in raw:
                raise holds_nul(row, columns)
            line = read([*row, ""], digest(raw))
            check(line, form.called)
        except RowRejected as rejection:
            rejects.add(number=number, rejection=rejection, row=row)
        else:
            yield _copy_line(number, line, raw)


def _digest(raw: str) -> str:
    """What an event without an id is known by."""
    return blake2b(raw.encode(), digest_size=16).hexdigest()


def _no_digest(_raw: str) -> str:
    return ""


def _copy_line(number: int, line: StagedRow, raw: str) -> str:
    texts: Sequence[str | None] = line
    if "\\" in raw or "\n" in raw or "\t" in raw or "\r" in raw:
        # Attributes, the last, are escaped already.
        texts = [*(text and fields.escaped(text) for text in line[:-1]), line.attributes]
    return "\t".join([str(number), *["\\N" if text is None else text for text in texts]]) + "\n"
