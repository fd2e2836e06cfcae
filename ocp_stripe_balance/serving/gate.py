"""
Who calls: whom a bearer token names; where none was ever made, the user of this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocp_stripe_balance.serving.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocp_stripe_balance.serving.tokens import Tokens

CHALLENGE = 'Bearer realm="ocp-stripe-balance", error="invalid_token"'
_SCHEME = "bearer "


class Gate:
    """
    Lets in everybody, until a token was made; from then on only who has one, also where that folder is taken away.
    """

    def __init__(self, tokens: Tokens | None, user: str) -> None:
        """
        Look whether there are tokens.

        Args:
            tokens: of which each request must have one, once there is any; None where none can be kept.
            user: the caller where no token names one.
        """
        self._tokens, self._anybody = tokens, Token(user)
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """
        Whether a request needs a token.
        """
        self._is_closed = self._is_closed or (self._tokens is not None and self._tokens.is_used)
        return self._is_closed

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Token | None:
        """
        Who sent a request with these headers; None where that is nobody who may.
        """
        if self._tokens is None or not self.is_closed:
            return self._anybody
        said = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
        if len(said) != 1 or not said[0].lower().startswith(_SCHEME):
            return None
        return self._tokens.caller_of(said[0][len(_SCHEME) :])
