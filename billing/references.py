"""
Payment references: ISO 11649 "RF…", so that a bank transfer says by itself whose it is.

Made from the account's number, so an account has one from the start, and for ever. The two check
digits catch every single wrong digit, and two that were swapped.
"""

import re
from collections.abc import Iterator

# The account's number, filled up: sixteen characters are four groups of four.
DIGITS = 12
# Whatever a payer puts between the digits, and the digit behind the last one, if it follows at once:
# one digit too many moves all behind it, and what is left may be another account's by chance.
FOUND = re.compile(rf"R[^0-9A-Z]*F((?:[^0-9A-Z]*[0-9]){{{DIGITS + 2}}})([0-9]?)")
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
    found = set()
    for digits, one_more in sorted(_written(text)):
        if one_more or not _is_right(digits):
            raise WrongCheckDigits(f"RF{digits}{one_more}")
        found.add(int(digits[2:]))
    return found


def account_ids_near(text: str) -> set[int]:
    """The account numbers one wrong digit, or two swapped ones, away from the references in a text."""
    return {
        int(near[2:])
        for digits, _one_more in _written(text)
        for near in _one_slip_away(digits)
        if _is_right(near)
    }


def _written(text: str) -> set[tuple[str, str]]:
    return {
        (re.sub(r"[^0-9]", "", digits), one_more)
        for digits, one_more in FOUND.findall(text.upper())
    }


def _one_slip_away(digits: str) -> Iterator[str]:
    yield digits
    for place, digit in enumerate(digits):
        for other in "0123456789".replace(digit, ""):
            yield digits[:place] + other + digits[place + 1 :]
        yield digits[:place] + digits[place : place + 2][::-1] + digits[place + 2 :]


def _is_right(digits: str) -> bool:
    return digits[:2] == _check_digits(digits[2:])


def _check_digits(body: str) -> str:
    return f"{98 - int(body + RF00) % 97:02}"
