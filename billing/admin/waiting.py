"""
Needs a person: everything that waits for longer than its state may, oldest first, with who looks after it.

Staff take a row, which puts their name on it; the row's own page has what can be done. And how long each state may
last, which is data.
"""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from accounts import clock
from accounts.admin import ReadOnlyAdmin
from accounts.models import Account
from billing import waiting
from billing.admin.cells import Cell, instant, row
from billing.models import WaitingLimit, WaitingOwner
from billing.reports import pace
from billing.waiting import WAITS, Waiting


@admin.register(WaitingOwner)
class WaitingAdmin(ReadOnlyAdmin):
    """The queue stands where the list of owners would: what has an owner is a part of it."""

    def has_take_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_waitingowner")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the queue; a post takes a row of it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            self._take(request)
            return redirect("admin:billing_waitingowner_changelist")
        as_of = clock.now()
        found = waiting.needing_a_person(as_of=as_of)
        accounts = Account.objects.in_bulk({each.account_id for each in found if each.account_id})
        context = {
            "title": "Needs a person",
            "as_of": instant(as_of),
            "rows": [
                {
                    "kind": each.wait.kind,
                    "ref": each.ref,
                    "cells": _cells(each, accounts),
                    "since": instant(each.since),
                    "age": _time(as_of - each.since),
                    "owner": each.owner,
                    "is_mine": each.owner == _email(request),
                    "advice": each.wait.advice,
                }
                for each in found
            ],
            "shown_at_most": waiting.SHOWN_AT_MOST,
            "is_cut": len(found) == waiting.SHOWN_AT_MOST,
            "may_take": self.has_take_permission(request),
            "limits": reverse("admin:billing_waitinglimit_changelist"),
        }
        template = "admin/billing/waitingowner/queue.html"
        return render(request, template, self.admin_site.each_context(request) | context)

    def _take(self, request: HttpRequest) -> None:
        if not self.has_take_permission(request):
            raise PermissionDenied
        kind, _, ref = request.POST.get("take", "").partition(":")
        try:
            waiting.take(kind=kind, refs=[ref], owner=_email(request), as_of=clock.now())
        except waiting.UnknownWait:
            self.message_user(request, "There is no such row.")
            return
        self.message_user(request, "It is yours to look after.")


def _cells(each: Waiting, accounts: dict[int, Account]) -> list[Cell]:
    account = accounts.get(each.account_id) if each.account_id else None
    page = reverse(f"admin:{each.wait.page}_change", args=[each.ref]) if each.wait.page else ""
    return row(
        Cell(each.wait.title, url=page),
        Cell(str(account), url=account.get_absolute_url()) if account else "–",
        Cell(_in_words(each.stands), tone="warn"),
        each.because or "–",
    )


def _time(time: timedelta) -> str:
    """ "9 days 3 h", "2 h 5 min"."""
    if time.days:
        return f"{time.days} days {time.seconds // 3600} h"
    return pace.duration(time.total_seconds())


def _in_words(stands: str) -> str:
    """Codes that are stored in capitals, as a word."""
    return stands.replace("_", " ").capitalize() if stands.isupper() else stands


def _email(request: HttpRequest) -> str:
    return str(request.user.email)  # type: ignore[union-attr]


class WaitingLimitForm(forms.ModelForm):  # type: ignore[type-arg]
    """A limit of a state that there is."""

    kind = forms.ChoiceField(
        choices=[(wait.kind, f"{wait.title} (else {_time(wait.limit)})") for wait in WAITS]
    )

    class Meta:
        model = WaitingLimit
        fields = ("kind", "seconds")


@admin.register(WaitingLimit)
class WaitingLimitAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = WaitingLimitForm
    list_display = ("kind", "lasts")
    ordering = ("kind",)

    @admin.display(description="may last")
    def lasts(self, limit: WaitingLimit) -> str:
        return _time(timedelta(seconds=limit.seconds))
