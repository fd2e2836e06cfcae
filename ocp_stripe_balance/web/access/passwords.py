"""
Passwords, kept as a slow hash (argon2id) with the parameters that argon2-cffi thinks right today.
"""

from __future__ import annotations

import asyncio
import base64
import os
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ocp_stripe_balance.errors import ConfigurationError

SHORTEST, LONGEST = 12, 1024
"""Of a password, in characters."""
_AT_ONCE = 2  # each takes 64 MB, and a core for a while


class Passwords:
    """
    Slow work, done in threads, of which there are no more than two.
    """

    def __init__(self) -> None:
        """
        Hash nothing yet.
        """
        self._hasher = PasswordHasher()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def hash(self, password: str) -> str:
        """
        What is kept of a password.

        Raises:
            ConfigurationError: it is too short, or too long.
        """
        if not SHORTEST <= len(password) <= LONGEST:
            message = f"A password has {SHORTEST} to {LONGEST} characters; this one has {len(password)}."
            raise ConfigurationError(message, hint="A few words in a row are long, and easy to keep.")
        return await self._hash(password)

    async def is_right(self, kept: str | None, password: str) -> bool:
        """
        Whether it is the password that is *kept*; where none is, as much work is done for a no.
        """
        if len(password) > LONGEST:
            kept, password = None, password[:LONGEST]
        async with self._turns:
            return await asyncio.to_thread(self._verify, kept or self._nobodys(), password) and kept is not None

    async def renewed(self, kept: str, password: str) -> str | None:
        """
        The same password as it is to be kept from now on; None where that is as it is kept already.
        """
        return await self._hash(password) if self._hasher.check_needs_rehash(kept) else None

    async def _hash(self, password: str) -> str:
        async with self._turns:
            return await asyncio.to_thread(self._hasher.hash, _bytes(password))

    def _verify(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False

    def _nobodys(self) -> str:
        """
        The hash of no password, which takes as long to look at as any.
        """
        salt, value = (base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32))
        hasher = self._hasher
        parameters = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        return f"$argon2id$v=19${parameters}${salt}${value}"


def _bytes(password: str) -> bytes:
    # Keyboards write the same letter in several ways.
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
