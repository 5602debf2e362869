"""Tables to download: rows as CSV that no spreadsheet takes for formulas."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse

from billing.reports import csv_cells


def csv_file(name: str, rows: Iterable[dict[str, Any]], columns: Iterable[str]) -> HttpResponse:
    """Answer with the rows as a file."""
    response = HttpResponse(content_type=CONTENT_TYPE, headers=_headers(name))
    sheet = csv.DictWriter(response, list(columns), extrasaction="ignore")
    sheet.writeheader()
    for row in rows:
        sheet.writerow(csv_cells.safe(row))
    return response


def csv_stream(
    name: str, rows: Iterable[dict[str, Any]], columns: Sequence[str]
) -> StreamingHttpResponse:
    """Answer with the rows as a file that is sent while it is read: for a hundred thousand."""
    return StreamingHttpResponse(
        _lines(rows, columns), content_type=CONTENT_TYPE, headers=_headers(name)
    )


CONTENT_TYPE = "text/csv; charset=utf-8"


def _headers(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}.csv"'}


class _Line:
    """What csv writes to: it keeps the line for us."""

    def write(self, line: str) -> str:
        return line


def _lines(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    sheet = csv.writer(_Line())
    yield sheet.writerow(columns)
    for row in rows:
        safe = csv_cells.safe(row)
        yield sheet.writerow([safe[column] for column in columns])
