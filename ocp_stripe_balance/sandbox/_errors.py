"""
Stripe's error replies: https://docs.stripe.com/error-codes and what its API sends.
"""

from __future__ import annotations

from typing import Any


class StripeError(Exception):
    """
    A reply that is an error.
    """

    def __init__(  # noqa: PLR0913  the fields of Stripe's error object
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type: str = "invalid_request_error",  # noqa: A002  Stripe's name
        headers: dict[str, str] | None = None,
        is_stored: bool = False,
    ) -> None:
        """
        Describe the reply; *is_stored* says whether an idempotency key remembers it.
        """
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.is_stored = is_stored
        error: dict[str, Any] = {"message": message, "type": type}
        if code:
            error["code"] = code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param:
            error["param"] = param
        self.body = {"error": dict(sorted(error.items()))}


def no_key() -> StripeError:
    """
    401 without credentials.
    """
    return StripeError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer "
        "auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for "
        "details, or we can help at https://support.stripe.com/.",
    )


def bad_key(key: str) -> StripeError:
    """
    401 for a key nobody issued; the key is echoed masked, as Stripe does.
    """
    return StripeError(401, f"Invalid API Key provided: {_masked(key)}")


def not_permitted(key: str, permission: str) -> StripeError:
    """
    403 for a restricted key.
    """
    return StripeError(
        403,
        f"The provided key '{_masked(key)}' does not have the required permissions for this endpoint on account "
        f"'acct_sandbox'. Having the '{permission}' permission would allow this request to continue.",
    )


def bad_account(account: str) -> StripeError:
    """
    403 for a Stripe-Account that does not exist.
    """
    return StripeError(
        403,
        f"The provided key does not have access to account '{account}' (or that account does not exist). "
        "Application access may have been revoked.",
        code="account_invalid",
    )


def unknown_url(method: str, path: str) -> StripeError:
    """
    404 for a path Stripe does not have.
    """
    return StripeError(
        404,
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at "
        "https://support.stripe.com/.",
    )


def missing(noun: str, object_id: str, param: str, status: int = 404) -> StripeError:
    """
    An object that is not there.
    """
    return StripeError(status, f"No such {noun}: '{object_id}'", code="resource_missing", param=param, is_stored=True)


def wrong_parameters(key: str) -> StripeError:
    """
    400 for a key that came with other parameters.
    """
    return StripeError(
        400,
        "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using "
        f"a key other than '{key}' if you meant to execute a different request.",
        type="idempotency_error",
    )


def wrong_endpoint(key: str, path: str, first_path: str) -> StripeError:
    """
    400 for a key that came to another path.
    """
    return StripeError(
        400,
        "Keys for idempotent requests can only be used for the same endpoint they were first used for ("
        f"'{path}' vs '{first_path}'). Try using a key other than '{key}' if you meant to execute a different request.",
        type="idempotency_error",
    )


def key_in_use(key: str) -> StripeError:
    """
    409 while the first request under a key runs.
    """
    return StripeError(
        409,
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
        f"twice, and the other request is still going through): {key}. Please try again later.",
        code="idempotency_key_in_use",
    )


def rate_limit(reason: str = "global-rate") -> StripeError:
    """
    429 from the limiter.
    """
    return StripeError(
        429,
        "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.",
        code="rate_limit",
        headers={"Stripe-Rate-Limited-Reason": reason},
    )


def lock_timeout() -> StripeError:
    """
    429 when another request holds the customer.
    """
    return StripeError(
        429,
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it. If you see this error intermittently, retry the request. If you see this error frequently and are making "
        "multiple concurrent requests to a single object, make your requests serially or at a lower rate.",
        code="lock_timeout",
        headers={"Stripe-Should-Retry": "true"},
    )


def server_error(*, is_stored: bool) -> StripeError:
    """
    500.
    """
    return StripeError(
        500,
        "Error while communicating with one of our backends.  Sorry about that!  We have been notified of the "
        "problem.  If you have any questions, we can help at https://support.stripe.com/.",
        type="api_error",
        is_stored=is_stored,
    )


def _masked(key: str) -> str:
    prefix = "_".join(key.split("_")[:2]) + "_" if key.count("_") > 1 else ""
    return prefix + "*" * max(len(key) - len(prefix) - 4, 4) + key[-4:]
