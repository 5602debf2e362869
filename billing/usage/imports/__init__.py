"""
Usage files into usage events, and on into the tally.

Read and checked row by row into a staging table, stored from there in one transaction: killed at
any point, a file is imported whole or not at all, and importing it again adds nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from django.db import Error, transaction

from billing.models import UsageBatch
from billing.usage import partitions, tallying
from billing.usage.imports import (
    aws_cur,
    csv_file,
    focus,
    following_up,
    price_book,
    rejects,
    staging,
    storing,
)
from billing.usage.imports.file_errors import FileRefused, RowsRejected
from billing.usage.imports.price_book import PriceBook, StoredPrices
from billing.usage.imports.rejects import Rejects, Rows
from billing.usage.imports.rows import Columns, Format

__all__ = ["FORMATS", "FileRefused", "Imported", "RowsRejected", "Watch", "import_usage"]

FORMATS = {form.name: form for form in (aws_cur.FORMAT, focus.FORMAT, csv_file.FORMAT)}

LONGEST_FILE_NAME = 300
LONGEST_PATH = 500
# What of a header is shown to somebody who sent another file than we expect.
COLUMNS_SHOWN = 8
COLUMN_NAME_SHOWN = 40


@dataclass(frozen=True)
class Watch:
    """Who is told how far an import has come."""

    # Bytes read from the disk since the last call.
    on_bytes: Callable[[int], None] | None = None
    # What is being done now.
    on_phase: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    batch: UsageBatch
    accounts_added: int
    products_added: int
    prices: StoredPrices | None
    # Where the rejected rows are listed; None: there were none.
    rejects_path: Path | None
    # How many rejected rows of earlier imports came again in this one.
    repaired: int
    # Batches, this one included, that were added to the summaries.
    batches_tallied: int = 0


def import_usage(
    *,
    path: Path,
    form: Format,
    as_of: datetime,
    rejects_path: Path,
    book: PriceBook | None = None,
    strict: bool = False,
    watch: Watch | None = None,
) -> Imported:
    """
    Import a usage file, with a price book where there is one, and tally it.

    Rows that cannot be billed are listed at `rejects_path` and the others imported; if `strict`,
    one such row keeps the whole file out.

    :raises FileRefused: if the file cannot be read, or none of its rows; nothing was imported.
    """
    watch = watch or Watch()
    try:
        with (
            rejects.open_rows(path, on_bytes=watch.on_bytes) as rows,
            Rejects(rejects_path, rows=rows, form=form, import_id=storing.new_id()) as rejected,
        ):
            _check_columns(rows, form)
            rows_read = staging.stage(rows=rows, form=form, rejects=rejected)
            batch = UsageBatch(
                pk=rejected.import_id,
                source=form.name,
                name=path.name[:LONGEST_FILE_NAME],
                sha256=rows.table.sha256,
                rows_read=rows_read,
            )
            watch.on_phase("Storing")
            partitions.ensure_partitions(staging.months())
            stored = _store(
                batch=batch, rows=rows, form=form, book=book, rejected=rejected, strict=strict
            )
    finally:
        # A lost connection has dropped it already.
        with suppress(Error):
            staging.drop()
    watch.on_phase("Tallying")
    return replace(stored, batches_tallied=tallying.tally(as_of=as_of))


def _check_columns(rows: Rows, form: Format) -> None:
    table, columns = rows.table, Columns(rows.header)
    missing = columns.missing(form.required)
    if not missing:
        return
    fitting = [other.name for other in FORMATS.values() if not columns.missing(other.required)]
    if fitting:
        fix = f"It looks like {fitting[0]}: import it with --format {fitting[0]}."
    elif table.path.suffix == ".gz" and not table.is_gzip:
        fix = "It is named .gz and is no gzip file: fetch it again."
    else:
        fix = "Export it with these columns, or name the --format it has."
    raise FileRefused(
        f"{table.path} is not in the format {form.name} ({form.description}): it lacks the"
        f" column{'s' * (len(missing) > 1)} {', '.join(missing)}. Its columns are"
        f" {_shown(columns.names)}. {fix} Nothing was imported."
    )


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(name[:COLUMN_NAME_SHOWN] for name in names[:COLUMNS_SHOWN])
    return f"{shown}, …" if len(names) > COLUMNS_SHOWN else shown


@transaction.atomic(durable=True)
def _store(
    *,
    batch: UsageBatch,
    rows: Rows,
    form: Format,
    book: PriceBook | None,
    rejected: Rejects,
    strict: bool,
) -> Imported:
    """Store the staged rows of a file as one batch: all of it or, if it raises, nothing."""
    storing.lock()
    prices = None if book is None else price_book.store(book)
    accounts_added = storing.add_accounts()
    moved_out = storing.reject_other_currencies(form)
    all_are_new = storing.all_are_new(form)
    if form.has_event_ids and not all_are_new:
        moved_out += storing.reject_other_content(form)
    if moved_out:
        _list_rejected(rows.table.path, rejected)
    _refuse_rejected(batch, rejected, strict=strict)
    products_added = storing.add_products()
    batch.rows_rejected = rejected.count
    batch.rejects_file = str(rejected.path.resolve())[:LONGEST_PATH] if rejected.count else ""
    batch.save(force_insert=True)
    batch.rows_added = storing.add_events(
        batch=batch, form=form, all_are_new=all_are_new, repaired_of=set(rows.imports)
    )
    batch.rows_known = batch.rows_read - batch.rows_rejected - batch.rows_added
    batch.save()
    repaired = following_up.follow_up(batch=batch, form=form, rows=rows, rejected=rejected)
    return Imported(
        batch=batch,
        accounts_added=accounts_added,
        products_added=products_added,
        prices=prices,
        rejects_path=rejected.path if rejected.count else None,
        repaired=repaired,
    )


def _list_rejected(path: Path, rejected: Rejects) -> None:
    """The file is read once more: the staging table does not keep the rows as they were."""
    with rejects.open_rows(path) as again:
        rows = iter(again)
        for number, rejection in storing.rejections():
            raw = next(row for found, row in rows if found == number)
            rejected.add(number=number, rejection=rejection, row=raw)


def _refuse_rejected(batch: UsageBatch, rejected: Rejects, *, strict: bool) -> None:
    if rejected.count and (strict or rejected.count == batch.rows_read):
        raise RowsRejected(
            f"{rejected.count} of {batch.rows_read} rows of {batch.name} cannot be billed, the first:"
            f" {rejected.first}. All are listed in {rejected.path}. Nothing was imported."
        )
