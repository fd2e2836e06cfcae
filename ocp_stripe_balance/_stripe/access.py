"""
Whose Stripe account a call acts on: what the settings say, and what headers say instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from ocp_stripe_balance._process.forking import no_fork
from ocp_stripe_balance._process.once import Once
from ocp_stripe_balance._text.plain import shown
from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.settings import check_api_key, check_header, mode_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocp_stripe_balance.settings import Mode


@dataclass(frozen=True, kw_only=True)  # without slots, for what is worked out once
class Access:
    """
    Whose Stripe account a call acts on.
    """

    api_key: SecretStr | None
    account: str | None
    api_version: str
    idempotency_key: str | None = None

    @property
    def secret(self) -> str:
        """
        The bare API key, for the one header it goes into.
        """
        return "" if self.api_key is None else self.api_key.get_secret_value()

    @Once
    def mode(self) -> Mode:
        """
        Test or live, as the API key says.
        """
        return mode_of(self.secret)

    @Once
    def mark(self) -> tuple[str, str]:
        """
        The account and a mark of the API key: another key may see less of a customer, or another account.
        """
        with no_fork:
            import hashlib  # OpenSSL, which only a call needs

        return self.account or "", hashlib.sha256(self.secret.encode()).hexdigest()

    def __reduce__(self) -> tuple[object, ...]:
        """
        Not pickled: a pickle would hold the key.
        """
        message = "access to Stripe holds an API key and is not pickled"
        raise TypeError(message)

    def for_account(self, account: str | None) -> Access:
        """
        The same for that connected account, or for the API key's own.
        """
        return replace(self, account=account)

    def override(self, headers: object) -> Access:
        """
        With what *headers* say; any header but the four is refused.

        Raises:
            ConfigurationError: a header may not be set, or has an impossible value.
        """
        if type(headers) is dict and not headers:
            return self
        if not isinstance(headers, Mapping):
            kind = headers if isinstance(headers, type) else type(headers)
            message = f"headers is a Python {kind.__name__}, not a mapping of names to values."
            raise ConfigurationError(message)
        access, seen = self, set()
        try:
            names = list(headers)
        except Exception as error:  # noqa: BLE001  a mapping of the caller's own
            raise ConfigurationError(f"headers cannot be read: {type(error).__name__}.") from None
        for name in names:
            take = _HEADERS.get(name.lower()) if isinstance(name, str) else None
            if take is None:
                message = f"The header {shown(name)} cannot be set so."
                hint = "Only Authorization, Stripe-Account, Stripe-Version and Idempotency-Key can, to a text each."
                raise ConfigurationError(message, hint=hint)
            if name.lower() in seen:
                message = f"The header {name} is given twice."
                raise ConfigurationError(message)
            seen.add(name.lower())
            access, why = _taken(take, access, headers, name)
            if why:
                message = f"The header {name} is impossible: {why}."
                raise ConfigurationError(message)
        return access


def _taken(
    take: Callable[[Access, str], Access], access: Access, headers: Mapping[Any, Any], name: str
) -> tuple[Access, str]:
    """
    The access with one more header, and why it is impossible. Raises nothing: a frame of it would show the key.
    """
    try:
        return take(access, headers[name]), ""
    except (ValueError, AttributeError, TypeError) as error:
        return access, str(error)
    except Exception as error:  # noqa: BLE001  a mapping of the caller's own
        return access, f"it cannot be read ({type(error).__name__})"


def _take_authorization(access: Access, value: str) -> Access:
    scheme, _, key = value.partition(" ")
    if scheme.lower() != "bearer":
        message = "it reads 'Bearer ' and the API key"
        raise ValueError(message)
    return replace(access, api_key=SecretStr(check_api_key(key)))


_HEADERS: dict[str, Callable[[Access, str], Access]] = {
    "authorization": _take_authorization,
    "stripe-account": lambda access, value: replace(access, account=check_header("it", value)),
    "stripe-version": lambda access, value: replace(access, api_version=check_header("it", value)),
    "idempotency-key": lambda access, value: replace(access, idempotency_key=value),
}
