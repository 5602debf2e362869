"""The groups "Support" and "Finance", created once; after that they are the operator's to change."""

from typing import Any

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission

APPS = ("accounts", "billing", "notifications")
# Everybody on staff sees everything of these apps; the rest is said here.
MAY = {
    "Support": (
        "change_account", "grant_credit", "charge_account", "refund_payment", "place_hold", "pause_charging",
        "add_member", "change_member", "delete_member",
        "change_step", "change_paymentattempt", "resolve_paymentattempt", "change_message", "change_lane",
    ),
    "Finance": (
        "grant_credit", "record_payment", "charge_account", "refund_payment", "place_hold", "pause_charging",
        "assign_incomingtransfer", "add_closerun", "change_step", "change_paymentattempt", "resolve_paymentattempt", "change_message", "change_lane",
        "run_reconciliation", "settle_break", "set_aside_rejects", "close_account",
        "add_product", "change_product", "add_price", "change_price", "delete_price",
        "add_leastamount", "change_leastamount",
    ),
}  # fmt: skip


def create_groups(**_signal: Any) -> None:
    """Create the groups that do not exist yet; after every migrate."""
    missing = set(MAY) - set(Group.objects.filter(name__in=MAY).values_list("name", flat=True))
    if not missing:
        return
    for label in APPS:
        # Ours may be heard before the receiver that makes the permissions.
        create_permissions(apps.get_app_config(label), verbosity=0)
    permissions = Permission.objects.filter(content_type__app_label__in=APPS)
    seen = permissions.filter(codename__startswith="view_")
    for name in sorted(missing):
        group = Group.objects.create(name=name)
        group.permissions.set(seen | permissions.filter(codename__in=MAY[name]))
