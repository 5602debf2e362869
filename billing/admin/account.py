"""Accounts: find one, see where it stands as of now, and act on it."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast
from zoneinfo import available_timezones

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.forms.utils import flatatt
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts import clock, zones
from accounts.models import Account, Hold, Member
from billing import ledger
from billing.admin import account_page, acts, closing, inviting
from billing.admin.cells import instant, money, tag
from billing.ledger import Standing
from billing.models import Invoice
from billing.money import UnknownCurrency, check_currency, is_currency
from billing.references import WrongCheckDigits, account_ids_in


class ManyOptions(forms.Select):
    """A choice of hundreds, written at once: Django's template for each option takes half of the page's time."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        """The same element that the templates make."""
        options = format_html_join(
            "\n",
            '<option value="{}"{}>{}</option>',
            ((key, " selected" if key == value else "", label) for key, label in self.choices),
        )
        own = self.build_attrs(self.attrs, {**(attrs or {}), "name": name})
        return format_html("<select{}>{}</select>", flatatt(own), options)


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    """What staff may change of an account. No money."""

    time_zone = forms.ChoiceField(
        choices=[(name, name) for name in sorted(available_timezones())],
        widget=ManyOptions,
        initial="UTC",
        help_text="Where its months begin and end. A change holds from the next period on.",
    )
    language = forms.ChoiceField(choices=settings.LANGUAGES, initial=settings.LANGUAGE_CODE)

    class Meta:
        model = Account
        fields = (
            "entity", "external_id", "name", "currency", "email", "language", "time_zone",
            "charges_other_cards",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zone = self.instance.time_zone
        if not zones.is_known(zone):
            # Shown as it stands, and refused: else a browser would choose the first of the list.
            field = self.fields["time_zone"]
            field.widget.choices = [(zone, f"{zone} (does not exist)"), *field.choices]  # type: ignore[attr-defined]

    def clean_currency(self) -> str:
        code: str = self.cleaned_data["currency"].upper()
        try:
            return check_currency(code)
        except UnknownCurrency as unknown:
            raise forms.ValidationError(f"{unknown}: enter three letters.") from unknown


class AccountList(ChangeList):
    """A page of accounts with their standings: one query for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        accounts = list(self.result_list)
        as_of = clock.now()
        self.true_at = instant(as_of)
        standings = ledger.standings([a.pk for a in accounts], as_of=as_of)
        held = set(
            Hold.objects.filter(account__in=accounts, lifted_at=None).values_list(
                "account", flat=True
            )
        )
        for account in accounts:
            account.standing = standings[account.pk]
            account.is_held = account.pk in held
        self.result_list = accounts


class MemberRows(admin.TabularInline):  # type: ignore[type-arg]
    model = Member
    extra = 0
    autocomplete_fields = ("user",)


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = AccountForm
    change_form_template = "admin/accounts/account/change_form.html"
    list_display = (
        "name", "external_id", "currency", "hold", "balance_due", "overdue", "in_flight", "credit",
    )  # fmt: skip
    list_filter = ("state", "currency", "entity")
    list_per_page = 50
    ordering = ("name", "pk")
    search_fields = ("name", "external_id", "email")
    search_help_text = (
        "Name, external id, email, invoice number, payment reference, or a card's last four digits"
    )
    actions = ("grant_credit", "record_payment", "charge", "place_hold")
    inlines = (MemberRows,)
    view_on_site = False

    # --- the list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return AccountList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Account], search_term: str
    ) -> tuple[QuerySet[Account], bool]:
        """By name, id and email; and by an invoice number or a card's last four digits, whole."""
        found, may_have_duplicates = super().get_search_results(request, queryset, search_term)
        if term := search_term.strip():
            of_invoice = Invoice.objects.filter(number=term.upper()).values("account")
            known_by = Q(pk__in=of_invoice)
            if len(term) == 4 and term.isdigit():
                known_by |= Q(payment_methods__last_four=term)
            with suppress(WrongCheckDigits):
                known_by |= Q(pk__in=account_ids_in(term))
            found |= queryset.filter(known_by)
            # A card is joined in: an account with two such cards would be listed twice.
            may_have_duplicates = True
        return found, may_have_duplicates

    @admin.display(description="balance due")
    def balance_due(self, account: Account) -> str:
        return _money(account, _standing(account).due_minor)

    @admin.display(description="overdue")
    def overdue(self, account: Account) -> str | SafeString:
        overdue_minor = _standing(account).uncovered_minor
        return tag(_money(account, overdue_minor), "bad") if overdue_minor else "–"

    @admin.display(description="credit")
    def credit(self, account: Account) -> str:
        return _money(account, _standing(account).credit_minor or None)

    @admin.display(description="on its way")
    def in_flight(self, account: Account) -> str | SafeString:
        in_flight_minor = _standing(account).in_flight_minor
        return tag(_money(account, in_flight_minor), "warn") if in_flight_minor else "–"

    @admin.display(description="hold")
    def hold(self, account: Account) -> str | SafeString:
        if account.state == Account.State.CLOSED:
            return tag("Closed", "")
        return tag("On hold", "bad") if account.is_held else "–"  # type: ignore[attr-defined]

    # --- one account

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The account at a glance, above its form."""
        account = self.get_object(request, object_id)
        glance = account_page.overview(account, as_of=clock.now()) if account else None
        may = {act: request.user.has_perm(f"accounts.{name}") for act, name in PERMISSIONS.items()}
        context = {**(extra_context or {}), "glance": glance, "may": may}
        return super().change_view(request, object_id, form_url, context)

    def get_readonly_fields(
        self, request: HttpRequest, obj: Account | None = None
    ) -> tuple[str, ...]:
        if obj is None:
            return ()
        # Usage knows it by the id, and its books are in the currency; in one that is none, there are no books.
        return ("entity", "external_id", *(["currency"] if is_currency(obj.currency) else []))

    def has_delete_permission(self, request: HttpRequest, obj: Account | None = None) -> bool:
        return False

    # --- its acts

    def get_urls(self) -> list[URLPattern]:
        """The pages of the buttons, beside the admin's own."""
        return [
            self._url("<int:account_id>/grant-credit/", acts.grant_credit, "grant_credit"),
            self._url("<int:account_id>/record-payment/", acts.record_payment, "record_payment"),
            self._url("<int:account_id>/charge/", acts.charge, "charge"),
            self._url("<int:account_id>/hold/", acts.place_hold, "place_hold"),
            self._url("<int:account_id>/holds/<int:hold_id>/lift/", acts.lift_hold, "lift_hold"),
            self._url("<int:account_id>/invite/", inviting.invite, "invite"),
            self._url("<int:account_id>/pause/", acts.pause_charging, "pause_charging"),
            self._url(
                "<int:account_id>/pauses/<int:pause_id>/resume/",
                acts.resume_charging,
                "resume_charging",
            ),
            self._url("<int:account_id>/close/", closing.close_account, "close"),
            self._url("<int:account_id>/reopen/", closing.reopen_account, "reopen"),
            self._url("<int:account_id>/invoice-later/", closing.invoice_later, "invoice_later"),
            *super().get_urls(),
        ]

    def _url(self, route: str, act: Callable[..., HttpResponse], name: str) -> URLPattern:
        view = self.admin_site.admin_view(partial(act, site=self.admin_site.each_context))
        return path(route, view, name=f"accounts_account_{name}")

    def has_grant_credit_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.grant_credit")

    def has_record_payment_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.record_payment")

    def has_charge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.charge_account")

    def has_place_hold_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.place_hold")

    @admin.action(description="Grant credit", permissions=["grant_credit"])
    def grant_credit(
        self, request: HttpRequest, queryset: QuerySet[Account]
    ) -> HttpResponse | None:
        return self._to_page_of_one(request, queryset, "grant_credit")

    @admin.action(description="Record payment", permissions=["record_payment"])
    def record_payment(
        self, request: HttpRequest, queryset: QuerySet[Account]
    ) -> HttpResponse | None:
        return self._to_page_of_one(request, queryset, "record_payment")

    @admin.action(description="Charge now", permissions=["charge"])
    def charge(self, request: HttpRequest, queryset: QuerySet[Account]) -> HttpResponse | None:
        return self._to_page_of_one(request, queryset, "charge")

    @admin.action(description="Place a hold by hand", permissions=["place_hold"])
    def place_hold(self, request: HttpRequest, queryset: QuerySet[Account]) -> HttpResponse | None:
        return self._to_page_of_one(request, queryset, "place_hold")

    def _to_page_of_one(
        self, request: HttpRequest, queryset: QuerySet[Account], act: str
    ) -> HttpResponse | None:
        """Money moves for one account at a time, after a look at it."""
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            self.message_user(request, "Choose one account for this.", messages.WARNING)
            return None
        return redirect(reverse(f"admin:accounts_account_{act}", args=[chosen[0].pk]))


PERMISSIONS = {
    "grant_credit": "grant_credit",
    "record_payment": "record_payment",
    "charge": "charge_account",
    "hold": "place_hold",
    "pause": "pause_charging",
    "close": "close_account",
    "invite": "add_member",
}


def _standing(account: Account) -> Standing:
    return cast("Standing", account.standing)  # type: ignore[attr-defined]


def _money(account: Account, amount_minor: int | None) -> str:
    return money(amount_minor, account.currency)
