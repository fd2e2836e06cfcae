"""
What every page and endpoint of one server shares: settings, journal, tokens, who may come in, and each caller's desk.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from ocp_stripe_balance._journal import READING, Journal
from ocp_stripe_balance.backoffice import BackOffice
from ocp_stripe_balance.errors import ConfigurationError
from ocp_stripe_balance.serving.desk import Desk
from ocp_stripe_balance.serving.gate import Gate
from ocp_stripe_balance.serving.tokens import Tokens
from ocp_stripe_balance.web.console.plans import Plans
from ocp_stripe_balance.web.hooks.courier import Courier
from ocp_stripe_balance.web.hooks.endpoints import Endpoints

if TYPE_CHECKING:
    from types import TracebackType

    from ocp_stripe_balance.models import Proposal
    from ocp_stripe_balance.serving.tokens import Token
    from ocp_stripe_balance.settings import Settings

AGENT_TYPE = "gateway"
"""What asks, for the policy, the budgets and the audit."""
_PATIENCE_S = 2.0  # for calls under way where the server is ended


class Gateway:
    """
    What every page and endpoint of one server shares, opened by ``async with``.
    """

    def __init__(self, settings: Settings, user: str = "unknown") -> None:
        """
        Open nothing yet; *user* is the caller where no token was ever made.

        Raises:
            ConfigurationError: the journal, which people and other hosts must be able to read, is off.
        """
        place = settings.journal_place
        if place is None:
            message = "The journal is switched off (OCP_STRIPE_JOURNAL=off), and a server of many callers needs one."
            raise ConfigurationError(message, hint="Set OCP_STRIPE_JOURNAL to a path, or unset it.")
        self.settings = settings
        self.journal = Journal(place, patience_s=settings.timeout, counts=True)
        self.office = BackOffice(settings, self.journal)
        self.tokens, self.plans = Tokens(settings), Plans(settings)
        self.closing = asyncio.Event()
        """Set when no more is taken, so that pages which wait for news end."""
        self.gate = Gate(self.tokens, user)
        self._desks: dict[Token, Desk] = {}
        self._turn = asyncio.Lock()
        self._courier = Courier(settings, self.journal, Endpoints(settings))
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """
        The gateway itself, whose webhooks are told from now on.
        """
        await self._open.enter_async_context(self._courier.at_work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Let calls under way land, and close the connections and the journal.
        """
        await self._open.aclose()
        await self.journal.aclose()

    async def desk_of(self, caller: Token) -> Desk:
        """
        The tools of a caller, with the policy, the tools and the rate of its token.

        A token that was made anew has another one; what is under way at the one before ends there.

        Raises:
            ConfigurationError: the policy cannot be read.
        """
        async with self._turn:
            if caller not in self._desks:
                desk = Desk(caller.name, self.settings, agent_type=AGENT_TYPE, journal=self.journal, limits=caller)
                await self._open.enter_async_context(desk.open(self))
                self._desks[caller] = desk
                desk.is_closed = self.closing.is_set()  # by now
        return self._desks[caller]

    async def proposal(self, proposal_id: str) -> Proposal | None:
        """
        The proposal of that ID, whoever asks.

        Raises:
            NotSentError: the journal cannot be used.
        """
        return await self.journal.run(lambda book: book.proposal(proposal_id, self.journal.now()), reach=READING)

    async def close(self) -> None:
        """
        Take no more calls; each that is under way is answered with what is known of it.
        """
        self.closing.set()
        await asyncio.gather(self.plans.close(), *(desk.close(_PATIENCE_S) for desk in self._desks.values()))
