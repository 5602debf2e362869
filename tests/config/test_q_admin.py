"""django-q2's own pages would let staff run any function: the admin has none of them."""

from django.contrib import admin

from config import q_admin


def modules_in_the_admin() -> set[str]:
    return {model.__module__ for model in admin.site._registry}


def test_has_no_model_of_django_q() -> None:
    assert "django.contrib.auth.models" in modules_in_the_admin()
    assert "django_q.models" not in modules_in_the_admin()


def test_discovering_the_admin_again_brings_nothing_back() -> None:
    admin.autodiscover()

    assert "django_q.models" not in modules_in_the_admin()


def test_twice_is_the_same_as_once() -> None:
    q_admin.unregister()

    assert "django_q.models" not in modules_in_the_admin()
