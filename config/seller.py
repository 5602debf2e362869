"""Who sells: what customers' pages say at their top, and before anybody has signed in."""

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts.models import BillingEntity


def of_all(request: HttpRequest) -> dict[str, object]:
    """Tell templates the seller where there is only one; a page of an account says its own."""
    return {"seller": SimpleLazyObject(_only_one)}


def _only_one() -> dict[str, str]:
    sellers = [entity.seller for entity in BillingEntity.objects.all()[:2]]
    return sellers[0] if len(sellers) == 1 else {}
