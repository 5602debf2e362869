"""
Acts inside an installation, old or new: `python - ACT … < inside.py`, in its folder.

Only what Django finds by name is used, and django-q2's own: nothing of ours is imported by its path.

`build FILE SLUG PREFIX`, `limit RATES`, `ring LANE…`, `answer FILE`
"""

import json
import pydoc
import sys
from pathlib import Path

import django


def build(file: str, slug: str, prefix: str) -> None:
    """A billing entity, its accounts, their cards, and who signs in."""
    from django.apps import apps
    from django.contrib.auth.hashers import make_password

    def model(name):
        return apps.get_model("accounts", name)

    rows = json.loads(Path(file).read_text())
    entity, _ = model("BillingEntity").objects.update_or_create(
        slug=slug, defaults={"name": slug, "invoice_prefix": prefix}
    )
    # One for all: it is made slow on purpose.
    password = make_password(rows[0]["password"])
    for row in rows:
        account = model("Account").objects.create(
            entity=entity,
            external_id=row["name"],
            name=row["name"],
            currency=row["currency"],
            email=row["email"],
        )
        if row["card"]:
            model("PaymentMethod").objects.create(account=account, is_default=True, **row["card"])
        if row["signs_in"]:
            user = model("User").objects.create(email=row["email"], password=password)
            model("Member").objects.create(account=account, user=user)


def limit(rates: str) -> None:
    """Limit providers' lanes: a lane that is opened with a new key begins with what the one before had."""
    from django.apps import apps

    for provider, rate in json.loads(rates).items():
        apps.get_model("notifications", "Lane").objects.create(
            provider=provider, credential="the key before", rate=rate, burst=4
        )


def ring(*lanes: str) -> None:
    """Leave a doorbell in each lane, as the one is that the start of a close has left here."""
    from django_q.brokers import get_broker
    from django_q.models import OrmQ
    from django_q.tasks import async_task

    left = OrmQ.objects.filter(key=lanes[0]).latest("pk").task
    for lane in lanes:
        # Task and lane are what a doorbell says; anything else in it would not be known here.
        assert (left["args"], left["kwargs"]) == ((lanes[0],), {}), left
        async_task(left["func"], lane, broker=get_broker(lane))


def answer(file: str) -> None:
    """Hear these doorbells and no other, one after the other, and do what a worker does with each."""
    from django_q.models import OrmQ
    from django_q.signing import SignedPackage

    for payload in json.loads(Path(file).read_text()):
        OrmQ.objects.all().delete()
        task = SignedPackage.loads(payload)
        work = pydoc.locate(task["func"])
        assert callable(work), f"{task['func']} is not there any more"
        work(*task["args"], **task["kwargs"])
    OrmQ.objects.all().delete()


if __name__ == "__main__":
    django.setup()
    globals()[sys.argv[1]](*sys.argv[2:])
