"""The step joins by one setting, and leaves again."""

from collections.abc import Callable, Iterator

import pytest
from django.conf import settings as django_settings

from billing.close import pipeline

OURS = list(django_settings.CLOSE_STEPS)
WITH_ITS_OWN = [*OURS[:-1], "tests.close_app.thanks", OURS[-1]]


@pytest.fixture
def installed() -> Iterator[Callable[[], None]]:
    """CLOSE_STEPS lists the step, in this process; called, it does not any more."""
    pipeline.install(WITH_ITS_OWN)
    yield lambda: pipeline.install(OURS)
    pipeline.install(OURS)
