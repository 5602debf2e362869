from django.urls import path

from billing.api.runs import RunView
from billing.views import profile
from billing.views.customer import cards, invoices, mandates, overview, pay, settings
from billing.views.ops import health, metrics, webhooks
from billing.views.staff import run_steps, runs, view_as

urlpatterns = [
    path("", overview.start, name="overview"),
    path("accounts/<int:account_id>/", overview.account, name="account"),
    path("accounts/<int:account_id>/view-as/", view_as.begin, name="view-as"),
    path("accounts/<int:account_id>/view-as/end/", view_as.end, name="view-as-end"),
    path("accounts/<int:account_id>/invoices/", invoices.listed, name="invoices"),
    path("accounts/<int:account_id>/invoices/<int:invoice_id>/", invoices.detail, name="invoice"),
    path(
        "accounts/<int:account_id>/invoices/<int:invoice_id>.csv",
        invoices.download,
        name="invoice-csv",
    ),
    path("accounts/<int:account_id>/pay/", pay.pay, name="pay"),
    path("accounts/<int:account_id>/payments/<uuid:attempt_id>/", pay.attempt, name="attempt"),
    path(
        "accounts/<int:account_id>/payments/<uuid:attempt_id>/confirm/",
        pay.confirm,
        name="attempt-confirm",
    ),
    path(
        "accounts/<int:account_id>/payments/<uuid:attempt_id>/confirmed/",
        pay.confirmed,
        name="attempt-confirmed",
    ),
    path("accounts/<int:account_id>/cards/", cards.listed, name="cards"),
    path("accounts/<int:account_id>/cards/entered/", cards.entered, name="card-entered"),
    path("accounts/<int:account_id>/cards/others/", cards.others, name="cards-others"),
    path("accounts/<int:account_id>/cards/add/", cards.add, name="card-add"),
    path("accounts/<int:account_id>/cards/add-mandate/", mandates.add, name="mandate-add"),
    path(
        "accounts/<int:account_id>/cards/<int:method_id>/default/",
        cards.make_default,
        name="card-default",
    ),
    path(
        "accounts/<int:account_id>/cards/<int:method_id>/remove/", cards.remove, name="card-remove"
    ),
    path("accounts/<int:account_id>/settings/", settings.overview, name="settings"),
    path("accounts/<int:account_id>/settings/writing/", settings.write_in, name="settings-writing"),
    path(
        "accounts/<int:account_id>/settings/contacts/add/", settings.add_contact, name="contact-add"
    ),
    path(
        "accounts/<int:account_id>/settings/contacts/<int:contact_id>/remove/",
        settings.remove_contact,
        name="contact-remove",
    ),
    path("accounts/<int:account_id>/settings/invite/", settings.invite, name="invite"),
    path(
        "accounts/<int:account_id>/settings/invitations/<int:invitation_id>/revoke/",
        settings.revoke,
        name="invitation-revoke",
    ),
    path(
        "accounts/<int:account_id>/settings/members/<int:member_id>/remove/",
        settings.remove_member,
        name="member-remove",
    ),
    path("profile/", profile.profile, name="profile"),
    path("profile/email/<str:token>/", profile.confirm_email, name="email-confirm"),
    path("invitations/<str:token>/", profile.invitation, name="invitation"),
    path("runs/", runs.listed, name="runs"),
    path("runs/lift-halt/", runs.lift_halt, name="halt-lift"),
    path("runs/start/", runs.start, name="run-start"),
    path("runs/<int:run_id>/", runs.detail, name="run"),
    path("runs/<int:run_id>/steps/", run_steps.listed, name="run-steps"),
    path("runs/<int:run_id>/steps.csv", run_steps.listed_csv, name="run-steps-csv"),
    path("runs/<int:run_id>/changes/", runs.changes, name="run-changes"),
    path("runs/<int:run_id>/changes.csv", runs.changes_csv, name="run-changes-csv"),
    path("runs/<int:run_id>/invoiced.csv", runs.report_csv, name="run-report-csv"),
    path("runs/<int:run_id>/report.json", runs.report_json, name="run-report-json"),
    path("api/runs/<int:run_id>/", RunView.as_view(), name="api-run"),
    path("webhooks/<slug:gateway>/", webhooks.receive, name="webhook"),
    path("metrics", metrics.scrape, name="metrics"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
]
