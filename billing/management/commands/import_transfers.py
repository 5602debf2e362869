"""Import incoming transfers from a bank's statement."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import clock
from billing.models import IncomingTransfer
from billing.money import money, to_major
from billing.payments import transfers
from billing.usage.imports.file_errors import FileRefused


class Command(BaseCommand):
    """`manage.py import_transfers november.csv`"""

    help = (
        "Imports incoming bank transfers from CSV and books those whose reference names an account."
        " The others wait for a person in the admin. The same file twice is as good as once; several"
        " files are the parts of one statement."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="print one JSON document"
        )

    def handle(self, *, files: list[Path], as_json: bool, **_: Any) -> None:
        try:
            imported = transfers.import_statement(*files, as_of=clock.now())
        except FileRefused as refused:
            raise CommandError(str(refused)) from refused
        if as_json:
            self.stdout.write(json.dumps(_document(imported)))
            return
        names = ", ".join(file.name for file in files)
        self.stdout.write(
            f"{names}: {len(imported.booked)} booked, {len(imported.waiting)} wait for a person,"
            f" {imported.known} known already."
        )
        for transfer in imported.waiting:
            perhaps = (
                f"; perhaps of {transfer.suggested_account}" if transfer.suggested_account else ""
            )
            self.stdout.write(f"  {_in_words(transfer)}: {transfer.because}{perhaps}")
        if imported.repeated:
            self.stdout.write(
                "Taken for what was imported before. If one is another payment, say so in the admin,"
                " under Repeated transfers:"
            )
        for repeat in imported.repeated:
            self.stdout.write(f"  {repeat.file}, line {repeat.line}: {_in_words(repeat.transfer)}")


def _in_words(transfer: IncomingTransfer) -> str:
    amount = money(transfer.amount_minor, transfer.currency)
    return f"{transfer}: {amount} from {transfer.payer!r}"


def _document(imported: transfers.Imported) -> dict[str, Any]:
    return {
        "booked": [_entry(each) for each in imported.booked],
        "waiting": [_entry(each) for each in imported.waiting],
        "known": imported.known,
        "repeated": [
            {"file": each.file, "line": each.line, **_entry(each.transfer)}
            for each in imported.repeated
        ],
    }


def _entry(transfer: IncomingTransfer) -> dict[str, Any]:
    suggested = transfer.suggested_account
    return {
        "bank_ref": transfer.bank_ref,
        "date": transfer.received_on.isoformat(),
        "amount": str(to_major(transfer.amount_minor, transfer.currency)),
        "currency": transfer.currency,
        "account": transfer.payment.account.external_id if transfer.payment else None,
        "because": transfer.because,
        "suggested": suggested.external_id if suggested else None,
    }
