"""People, entities, and what only the system writes about an account. Account itself: billing/admin/."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.db import models
from django.http import HttpRequest, HttpResponse

from accounts.codes import spelled_out
from accounts.models import (
    BillingContact,
    BillingEntity,
    ChargingPause,
    Hold,
    Invitation,
    Member,
    PaymentMethod,
    User,
)
from accounts.signing_in.forms import AdminSignInForm

admin.site.login_form = AdminSignInForm


class CodeFilter(admin.AllValuesFieldListFilter):
    """By a code that has no list of choices, spelled out."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice in super().choices(changelist):
            yield {**choice, "display": spelled_out(str(choice["display"]))}


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Read-only records: nobody adds, changes or deletes them by hand, not even superusers."""

    # Counting a table of millions only to say "of millions" costs seconds.
    show_full_result_count = False

    def acts(self, request: HttpRequest, record: Any) -> list[tuple[str, str]]:
        """What this person may do with the record now: an address and its text each. Billing's pages show them."""
        return []

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,  # noqa: FBT001, FBT002 - Django's
        change: bool = False,  # noqa: FBT001, FBT002 - Django's
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Render the record, with what may be done with it."""
        context["acts"] = self.acts(request, obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show an amount once: written out with its currency, not in minor units as well."""
        names: list[Any] = list(super().get_fields(request, obj))
        written_out = {f"{name}_minor": name for name in names}
        places = [written_out.get(name, name) for name in names]
        return list(dict.fromkeys(places))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyRows(admin.TabularInline):  # type: ignore[type-arg]
    """Read-only rows that belong to a record, shown below it."""

    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(BillingEntity)
class BillingEntityAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "name", "display_name", "slug", "invoice_prefix", "payment_terms_days", "retry_days", "grace_days",
    )  # fmt: skip
    formfield_overrides = {models.URLField: {"assume_scheme": "https"}}

    def get_readonly_fields(
        self, request: HttpRequest, obj: BillingEntity | None = None
    ) -> tuple[str, ...]:
        # Invoice numbers begin with the prefix, and scripts know the slug.
        return ("slug", "invoice_prefix") if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Member)
class MemberAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("user", "account", "role")
    list_filter = ("role",)
    list_select_related = ("user", "account")
    search_fields = ("user__email", "account__name", "account__external_id")
    autocomplete_fields = ("user", "account")


@admin.register(BillingContact)
class BillingContactAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("email", "account", "created_at")
    list_select_related = ("account",)
    search_fields = ("email", "account__name", "account__external_id")
    autocomplete_fields = ("account",)
    fields = ("account", "email")
    ordering = ("account__name", "email")


@admin.register(Invitation)
class InvitationAdmin(ReadOnlyAdmin):
    list_display = (
        "email", "account", "role", "invited_by", "created_at", "expires_at", "accepted_at",
        "revoked_at",
    )  # fmt: skip
    list_filter = ("role", ("accepted_at", admin.EmptyFieldListFilter))
    list_select_related = ("account",)
    search_fields = ("email", "account__name", "account__external_id")
    ordering = ("-pk",)
    exclude = ("token_digest",)


class EmailUserCreationForm(AdminUserCreationForm):  # type: ignore[type-arg]
    """A new person, known by their email."""

    class Meta:
        model = User
        fields = ("email",)
        field_classes: dict[str, Any] = {}


class EmailUserChangeForm(UserChangeForm):  # type: ignore[type-arg]
    """A person, known by their email."""

    class Meta:
        model = User
        fields = "__all__"
        field_classes: dict[str, Any] = {}


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]
    form = EmailUserChangeForm
    add_form = EmailUserCreationForm
    ordering = ("email",)
    list_display = ("email", "first_name", "last_name", "is_staff", "is_active")
    search_fields = ("email", "first_name", "last_name")
    fieldsets = (
        (None, {"fields": ("email", "password")}),
        ("Name", {"fields": ("first_name", "last_name")}),
        (
            "What they may do",
            {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")},
        ),
        ("When", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"fields": ("email", "usable_password", "password1", "password2")}),)


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = ("account", "reason", "warned_at", "placed_at", "lifted_at")
    list_filter = ("reason", ("lifted_at", admin.EmptyFieldListFilter))
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id")


@admin.register(ChargingPause)
class ChargingPauseAdmin(ReadOnlyAdmin):
    list_display = (
        "account", "reason", "because", "paused_at", "paused_by", "resumed_at", "resumed_by",
    )  # fmt: skip
    list_filter = ("reason", ("resumed_at", admin.EmptyFieldListFilter))
    list_select_related = ("account",)
    search_fields = ("account__name", "account__external_id")


@admin.register(PaymentMethod)
class PaymentMethodAdmin(ReadOnlyAdmin):
    list_display = (
        "__str__", "account", "expiry", "is_default", "state", "blocked_because", "gateway",
    )  # fmt: skip
    list_filter = ("state", "is_default", "gateway", ("blocked_at", admin.EmptyFieldListFilter))
    list_select_related = ("account",)
    search_fields = ("=last_four", "account__name", "account__external_id")
    # The token can charge: nobody may read it.
    exclude = ("token",)

    @admin.display(description="good until")
    def expiry(self, method: PaymentMethod) -> str:
        return method.good_until
