"""What an account may be told to be: a zone, a currency and a language that exist."""

from django.conf import settings
from django.core.exceptions import ValidationError
from moneyed import CURRENCIES

from accounts import zones


def check_time_zone(name: str) -> None:
    """
    Accept the name of a time zone.

    :raises ValidationError: if there is no such zone.
    """
    if not zones.is_known(name):
        raise ValidationError(
            f"There is no time zone {name!r}: enter one such as Europe/Budapest, or UTC."
        )


def check_currency(code: str) -> None:
    """
    Accept an ISO 4217 code.

    :raises ValidationError: if it is none.
    """
    if code not in CURRENCIES:
        raise ValidationError(f"There is no currency {code!r}: enter three letters such as EUR.")


def check_language(code: str) -> None:
    """
    Accept a language that we have texts in.

    :raises ValidationError: if we have none.
    """
    if code not in dict(settings.LANGUAGES):
        there_are = ", ".join(sorted(dict(settings.LANGUAGES)))
        raise ValidationError(f"There are no texts in {code!r}: enter one of {there_are}.")
