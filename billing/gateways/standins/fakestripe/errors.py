"""What the provider answers when it refuses, in the words and codes of Stripe."""

from typing import Any

Object = dict[str, Any]


class ApiError(Exception):
    """
    A refusal. `executed` says that the request had begun to be carried out: what it wrote stays,
    and the reply is stored under its idempotency key.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        executed: bool = False,
        headers: dict[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.executed = executed
        self.headers = headers or {}
        said = {name: value for name, value in details.items() if value is not None}
        self.body: Object = {"error": {"type": kind, "message": message, **said}}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """The parameters do not pass: nothing began."""
    return ApiError(400, message, param=param, code=code)


def refused(message: str, *, code: str | None = None, **details: Any) -> ApiError:
    """The object is not in a state to do this: the request ran and ended here."""
    return ApiError(400, message, executed=True, code=code, **details)


def missing(kind: str, ref: str, *, param: str | None = "id", status: int = 404) -> ApiError:
    """Nothing of that kind has this id."""
    return ApiError(status, f"No such {kind}: '{ref}'", code="resource_missing", param=param)


def declined(error: Object, **details: Any) -> ApiError:
    """The bank said no."""
    details = {**{name: value for name, value in error.items() if name != "type"}, **details}
    return ApiError(402, details.pop("message"), kind="card_error", executed=True, **details)


def internal() -> ApiError:
    """Something broke at the provider: the outcome is anybody's guess."""
    return ApiError(500, "An unknown error occurred", kind="api_error", executed=True)


def unavailable() -> ApiError:
    """The provider is down, in front of everything that could remember the request."""
    return ApiError(503, "The API is temporarily unavailable", kind="api_error")


def key_in_use() -> ApiError:
    """Another request with the same idempotency key is running."""
    return ApiError(
        409,
        "There is currently another in-progress request using this Stripe-Idempotency-Key",
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )


def rate_limited(retry_after_seconds: float) -> ApiError:
    """Too many requests; refused before idempotency looks at them."""
    return ApiError(
        429,
        "Request rate limit exceeded",
        code="rate_limit",
        headers={"Retry-After": f"{retry_after_seconds:g}"},
    )
