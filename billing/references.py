"""
Payment references: ISO 11649 "RF…", so that a bank transfer says by itself whose it is.

Made from the account's number, so an account has one from the start, and for ever. The two check
digits catch every single wrong digit, and two that were swapped.
"""

import re

# The account's number, filled up: sixteen characters are four groups of four.
DIGITS = 12
FOUND = re.compile(rf"RF[0-9]{{{DIGITS + 2}}}")
# "RF" and "00" in the digits of ISO 7064, behind the rest.
RF00 = "271500"


class WrongCheckDigits(ValueError):
    """It looks like a reference of ours, but its digits were mistyped."""


def reference_of(account_id: int) -> str:
    """The reference of an account, in groups of four: "RF38 0000 0000 0017"."""
    body = f"{account_id:0{DIGITS}}"
    whole = f"RF{_check_digits(body)}{body}"
    return " ".join(whole[start : start + 4] for start in range(0, len(whole), 4))


def account_ids_in(text: str) -> set[int]:
    """
    The account numbers of the references in what a payer wrote, whatever spaces and case it has.

    :raises WrongCheckDigits: if there is one whose digits were mistyped.
    """
    compact = re.sub(r"[^0-9A-Z]", "", text.upper())
    found = set(FOUND.findall(compact))
    for reference in sorted(found):
        if reference[2:4] != _check_digits(reference[4:]):
            raise WrongCheckDigits(reference)
    return {int(reference[4:]) for reference in found}


def _check_digits(body: str) -> str:
    return f"{98 - int(body + RF00) % 97:02}"
