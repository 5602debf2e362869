"""The forms of the pages and of the admin: Django's own, which look at a password only when they may."""

from typing import TYPE_CHECKING, Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError

from accounts.signing_in import hashing, tries
from accounts.signing_in.addresses import address_of

if TYPE_CHECKING:
    Base = AuthenticationForm
else:
    Base = object


class _Throttled(Base):
    def clean(self) -> dict[str, Any]:
        """Count the try, wait for a turn, then look whether the two fit."""
        who = {
            "username": str(self.cleaned_data.get("username", "")).strip().casefold(),
            "address": address_of(self.request),
        }
        try:
            tries.count(**who)
            with hashing.turn():
                cleaned = super().clean()
        except tries.TooManyTries:
            raise ValidationError(str(tries.TOO_MANY), code="too_many_tries") from None
        except hashing.TooBusy:
            raise ValidationError(str(hashing.BUSY), code="busy") from None
        if self.get_user() is not None:
            tries.forget(**who)
        return cleaned


class SignInForm(_Throttled, AuthenticationForm):
    """Of the customers' pages."""


class AdminSignInForm(_Throttled, AdminAuthenticationForm):
    """Of the admin."""
