"""Work that a page leaves for when it has been sent: nobody waits for it."""

import logging
from typing import TypeVar

from django.db import Error
from django.http import HttpResponse

from accounts import clock
from billing.models import CloseRun
from billing.reports import progress

logger = logging.getLogger(__name__)
AnyResponse = TypeVar("AnyResponse", bound=HttpResponse)


def counted_afterwards(response: AnyResponse, run: CloseRun) -> AnyResponse:
    """Count the run's numbers anew once the response is out, for whoever asks next."""
    close = response.close

    def close_and_count() -> None:
        close()
        try:
            progress.refresh(run, as_of=clock.now())
        except Error:
            # Whoever asks next counts it, and sees what is wrong.
            logger.warning("%s could not be counted", run, exc_info=True)

    response.close = close_and_count  # type: ignore[method-assign]
    return response
