"""
The pages that close an account, open it again, and invoice what came in after.

The page that closes says first what would be invoiced, and what would be due or left as credit; its form carries
these amounts, and a token. Sent twice, it closes once; where the amounts have changed, it shows them anew.
"""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from accounts import clock
from accounts.models import Account
from billing import closure
from billing.admin.acts import Context, _account, _email, _sent
from billing.admin.cells import instant, money
from billing.admin.forms import ReasonForm
from billing.models import AccountClosure

PERMISSION = "accounts.close_account"


class CloseForm(ReasonForm):
    """What becomes of debt and credit, and why the account is closed."""

    debt = forms.ChoiceField(
        label="What is still due",
        widget=forms.RadioSelect,
        choices=[
            (
                AccountClosure.Debt.COLLECT,
                "Still to be paid: nothing is charged by itself; the customer can pay on their pages or by transfer",
            ),
            (
                AccountClosure.Debt.CHARGE,
                "Charge the card on file once, now; what it does not pay is still to be paid as above",
            ),
            (AccountClosure.Debt.WRITE_OFF, "Write it off: the customer owes nothing any more"),
        ],
        required=False,
    )
    credit = forms.ChoiceField(
        label="Unused credit",
        widget=forms.RadioSelect,
        choices=[
            (AccountClosure.Credit.KEEP, "Keep it: it is used if the account is opened again"),
            (
                AccountClosure.Credit.PAY_BACK,
                "Pay it back the way it came, as far as a provider can; the rest is kept",
            ),
        ],
        required=False,
    )
    token = forms.UUIDField(widget=forms.HiddenInput)
    invoiced_minor = forms.IntegerField(widget=forms.HiddenInput)
    due_minor = forms.IntegerField(widget=forms.HiddenInput)
    credit_minor = forms.IntegerField(widget=forms.HiddenInput)
    field_order = ("debt", "credit", "reason")

    def __init__(self, *args: Any, seen: closure.Preview, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Nothing is preselected that moves money, or gives it up.
        self.fields["debt"].required = seen.due_minor > 0
        self.fields["credit"].required = seen.credit_minor > 0
        self.shown = {
            "invoiced_minor": seen.invoiced_minor,
            "due_minor": seen.due_minor,
            "credit_minor": seen.credit_minor,
        }

    def wanted(self, *, actor: str) -> closure.Wanted:
        """What was chosen, and the amounts that were looked at."""
        chosen = self.cleaned_data
        return closure.Wanted(
            token=chosen["token"],
            debt=chosen["debt"] or AccountClosure.Debt.COLLECT,
            credit=chosen["credit"] or AccountClosure.Credit.KEEP,
            because=chosen["reason"],
            actor=actor,
            **{name: chosen[name] for name in self.shown},
        )


def close_account(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Show what closing does, ask what becomes of debt and credit, then close."""
    account = _account(request, account_id, PERMISSION)
    as_of = clock.now()
    seen = closure.preview(account_id=account.pk, as_of=as_of)
    form = CloseForm(_sent(request), seen=seen)
    if form.is_valid():
        try:
            closed = closure.close_account(
                account_id=account.pk, wanted=form.wanted(actor=_email(request)), as_of=as_of
            )
        except closure.AlreadyClosed as already:
            messages.info(request, f"Nothing was done: {already}.")
            return redirect(account)
        except closure.CannotClose as refused:
            messages.warning(request, f"The account was not closed: {refused}.")
            return redirect(request.path)
        _charge(request, closed)
        messages.success(request, f"{account} is closed.")
        return redirect(account)
    context = {
        "title": "Close account",
        "account": account,
        "form": form,
        "as_of": instant(as_of),
        "seen": _in_words(seen),
        "shown": form.shown,
        "token": form.data.get("token") or str(AccountClosure().token),
    }
    return render(request, "admin/accounts/account/close.html", site(request) | context)


def _charge(request: HttpRequest, closed: AccountClosure) -> None:
    """The charge that was decided on. Should it not come to it now, the next sweep makes it."""
    if closed.charge_at is not None:
        closure.charge_due(as_of=closed.closed_at, account_id=closed.account_id)
        messages.info(request, "The charge was asked for: the account's attempts say how it ends.")


def _in_words(seen: closure.Preview) -> dict[str, Any]:
    currency = seen.currency
    return {
        "invoiced": money(seen.invoiced_minor, currency) if seen.invoiced_minor else "",
        "due": money(seen.due_minor, currency) if seen.due_minor > 0 else "",
        "credit": money(seen.credit_minor, currency) if seen.credit_minor else "",
        "payable": money(seen.payable_minor, currency) if seen.payable_minor else "",
        "kept": money(seen.credit_minor - seen.payable_minor, currency)
        if seen.credit_minor > seen.payable_minor
        else "",
        "in_flight": money(seen.in_flight_minor, currency) if seen.in_flight_minor else "",
        "cannot": seen.cannot,
        "more_usage_waits": seen.more_usage_waits,
    }


def reopen_account(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Open a closed account again, with a reason."""
    account = _account(request, account_id, PERMISSION)
    form = ReasonForm(_sent(request))
    if form.is_valid():
        try:
            closure.reopen_account(
                account_id=account.pk,
                because=form.cleaned_data["reason"],
                actor=_email(request),
                as_of=clock.now(),
            )
        except closure.NotClosed:
            messages.info(request, f"{account} is open already.")
        else:
            messages.success(request, f"{account} is open again.")
        return redirect(account)
    context = {"title": "Open the account again", "account": account, "form": form}
    return render(request, "admin/accounts/account/reopen.html", site(request) | context)


def invoice_later(request: HttpRequest, account_id: int, *, site: Context) -> HttpResponse:
    """Invoice what came in after an account was closed, with a reason."""
    account = _account(request, account_id, PERMISSION)
    form = ReasonForm(_sent(request))
    as_of = clock.now()
    if form.is_valid():
        _invoice_later(request, account, because=form.cleaned_data["reason"])
        return redirect(account)
    seen = closure.preview(account_id=account.pk, as_of=as_of)
    context = {
        "title": "Invoice later usage",
        "account": account,
        "form": form,
        "seen": _in_words(seen),
    }
    return render(request, "admin/accounts/account/invoice_later.html", site(request) | context)


def _invoice_later(request: HttpRequest, account: Account, *, because: str) -> None:
    try:
        invoice = closure.invoice_later_usage(
            account_id=account.pk, because=because, actor=_email(request), as_of=clock.now()
        )
    except closure.CannotClose as refused:
        messages.warning(request, f"Nothing was invoiced: {refused}.")
        return
    if invoice is None:
        messages.info(request, "Nothing was used that is not invoiced.")
    else:
        total = money(invoice.total_minor, invoice.currency)
        messages.success(request, f"Invoice {invoice.number} of {total} is issued.")
