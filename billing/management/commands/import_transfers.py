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
        " The others wait for a person in the admin. The same file twice is as good as once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="print one JSON document"
        )

    def handle(self, *, file: Path, as_json: bool, **_: Any) -> None:
        try:
            imported = transfers.import_statement(file, as_of=clock.now())
        except FileRefused as refused:
            raise CommandError(str(refused)) from refused
        if as_json:
            self.stdout.write(json.dumps(_document(imported)))
            return
        self.stdout.write(
            f"{file.name}: {len(imported.booked)} booked, {len(imported.waiting)} wait for a person,"
            f" {imported.known} known already."
        )
        for transfer in imported.waiting:
            amount = money(transfer.amount_minor, transfer.currency)
            self.stdout.write(f"  {transfer}: {amount} from {transfer.payer!r}: {transfer.because}")


def _document(imported: transfers.Imported) -> dict[str, Any]:
    return {
        "booked": [_entry(each) for each in imported.booked],
        "waiting": [_entry(each) for each in imported.waiting],
        "known": imported.known,
    }


def _entry(transfer: IncomingTransfer) -> dict[str, Any]:
    return {
        "bank_ref": transfer.bank_ref,
        "amount": str(to_major(transfer.amount_minor, transfer.currency)),
        "currency": transfer.currency,
        "account": transfer.payment.account.external_id if transfer.payment else None,
        "because": transfer.because,
    }
