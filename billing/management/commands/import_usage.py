import json
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from accounts import clock
from billing.management import progress_bar
from billing.reports import rejected_rows
from billing.usage import imports
from billing.usage.imports import price_book
from billing.usage.imports.price_book import PriceBook, StoredPrices

# The good rows are stored; 1 is an error, and nothing is.
ROWS_REJECTED = 3


class Command(BaseCommand):
    help = (
        "Imports a usage export, plain or gzip, of any size. Importing a file again adds nothing."
        " Rows that cannot be billed are listed in a file of their own, and it ends with 3."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument(
            "--format",
            required=True,
            choices=imports.FORMATS,
            dest="form",
            help="; ".join(f"{form.name}: {form.description}" for form in imports.FORMATS.values()),
        )
        parser.add_argument(
            "--price-book",
            type=Path,
            metavar="FILE",
            dest="book_path",
            help="prices, by usage type and month, for rows that state none",
        )
        parser.add_argument(
            "--currency",
            default="USD",
            help="of the price book, where it names none (default: %(default)s)",
        )
        parser.add_argument(
            "--rejects",
            type=Path,
            metavar="FILE",
            help="where rejected rows are listed (default: <FILE>.rejects.csv, in the working directory);"
            " numbered on where there is such a file",
        )
        parser.add_argument(
            "--strict", action="store_true", help="one rejected row keeps the whole file out"
        )
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="print one JSON document"
        )

    def handle(
        self,
        *,
        file: Path,
        form: str,
        book_path: Path | None,
        currency: str,
        rejects: Path | None,
        strict: bool,
        as_json: bool,
        **_: Any,
    ) -> None:
        if settings.DATABASE_POOLED:
            raise CommandError(
                "An import reads a file into temporary tables, which need a session of their own: run it"
                " with DATABASE_URL set to PostgreSQL itself, and DATABASE_POOLED=false."
            )
        started_at = time.monotonic()
        try:
            book = _read_book(book_path, currency=currency)
            with progress_bar.bar("Reading", total=_size(file), unit="B") as bar:
                imported = imports.import_usage(
                    path=file,
                    form=imports.FORMATS[form],
                    as_of=clock.now(),
                    rejects_path=rejects or Path(f"{file.name}.rejects.csv"),
                    book=book,
                    strict=strict,
                    watch=imports.Watch(on_bytes=bar.advance, on_phase=bar.say),
                )
        except imports.FileRefused as refused:
            raise CommandError(str(refused)) from refused
        seconds = time.monotonic() - started_at
        if as_json:
            self.stdout.write(json.dumps(_document(imported, book=book, seconds=seconds)))
        else:
            self.stdout.write("\n".join(_lines(imported, book=book, seconds=seconds)))
        if rejected_rows.of_import(imported.batch) is not None:
            sys.exit(ROWS_REJECTED)


def _read_book(path: Path | None, *, currency: str) -> PriceBook | None:
    return None if path is None else price_book.read(path=path, currency=currency)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _document(
    imported: imports.Imported, *, book: PriceBook | None, seconds: float
) -> dict[str, Any]:
    batch = imported.batch
    document: dict[str, Any] = {
        "file": batch.name,
        "format": batch.source,
        "sha256": batch.sha256,
        "batch": batch.pk,
        "rows_read": batch.rows_read,
        "rows_added": batch.rows_added,
        "rows_known": batch.rows_known,
        "rows_rejected": batch.rows_rejected,
        "rejects_file": str(imported.rejects_path) if imported.rejects_path else None,
        "rejected": rejected_rows.of_import(batch),
        "rows_repaired": imported.repaired,
        "accounts_added": imported.accounts_added,
        "products_added": imported.products_added,
        "batches_tallied": imported.batches_tallied,
        "seconds": round(seconds, 3),
        "prices": None,
    }
    if book is not None and imported.prices is not None:
        document["prices"] = {
            "added": imported.prices.added,
            "known": imported.prices.known,
            "different": imported.prices.different,
            "free_tiers": book.free_tiers,
            "skipped": book.skipped,
        }
    return document


def _lines(imported: imports.Imported, *, book: PriceBook | None, seconds: float) -> list[str]:
    batch = imported.batch
    lines = [
        f"{batch.name} ({batch.source}): {batch.rows_read} rows read in {seconds:.1f} s.",
        f"{batch.rows_added} added, {batch.rows_known} known already, {batch.rows_rejected} rejected.",
    ]
    if imported.rejects_path:
        lines.append(f"The rejected rows, and how to fix each, are in {imported.rejects_path}.")
    if (waiting := rejected_rows.of_import(batch)) is not None:
        lines.append(
            f"It is not done: {rejected_rows.in_words(waiting)}. Repair them in that file and import it,"
            f" or set import {batch.pk} aside with a reason, in the admin."
        )
    if imported.repaired:
        lines.append(
            f"Of rows that earlier imports rejected, {imported.repaired} came again in it."
        )
    if imported.accounts_added or imported.products_added:
        lines.append(
            f"New accounts: {imported.accounts_added}. New products: {imported.products_added}."
        )
    if book is not None and imported.prices is not None:
        lines += _price_lines(book, imported.prices)
    return lines


def _price_lines(book: PriceBook, stored: StoredPrices) -> list[str]:
    lines = [f"Prices: {stored.added} added, {stored.known} known already."]
    if stored.different:
        lines.append(
            f"Prices that differ from those stored before, which stay: {stored.different}."
            " Add a price with a later start to change one."
        )
    if book.free_tiers:
        lines.append(
            f"Free tiers whose size the book does not state: {book.free_tiers}."
            " The paid rate was stored, with nothing free."
        )
    lines += [f"Left out: {rows} {reason}." for reason, rows in sorted(book.skipped.items())]
    return lines
