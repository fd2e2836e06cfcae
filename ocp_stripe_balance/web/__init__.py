"""
The gateway for agents in any language, and the console for the people who answer for them: one server, one journal.

Needs the extra ``web``. `server.application` makes it; the command is ``ocp-stripe-balance serve``.
"""
