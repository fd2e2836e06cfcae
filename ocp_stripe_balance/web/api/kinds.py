"""
The kinds of problems there are: what happened, and what to do. The server has a page for each, and so have the docs.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """
    A kind of problem.
    """

    status: int
    title: str
    text: str
    """What happened, and what to do."""


KINDS = {
    "malformed-request": Kind(
        400,
        "The request cannot be read",
        "The body is not one JSON object, a name in it is given twice, or a header is not what it should be. Nothing "
        "was sent. Mend the request, and send it again.",
    ),
    "unauthorized": Kind(
        401,
        "No token that is good",
        "Each request names its caller by a token: `Authorization: Bearer …`. A person makes one with "
        "`ocp-stripe-balance tokens create NAME`. Nothing was sent.",
    ),
    "policy-refused": Kind(
        403,
        "The policy does not allow it",
        "A rule of the policy stopped the call, or a person said no. Nothing was sent. `rule` names the rule; `next` "
        "says whether to wait, to ask for something else, or to stop and tell whoever asked.",
    ),
    "not-found": Kind(
        404,
        "There is nothing here",
        "No tool, proposal or page of that name is there for this caller. Nothing was sent.",
    ),
    "resource-missing": Kind(
        404,
        "Stripe does not have it",
        "There is no such customer or entry in this account and mode. Nothing moved. Check the ID.",
    ),
    "method-not-allowed": Kind(
        405, "Another method is wanted", "A tool is called with POST, and everything else is read with GET."
    ),
    "under-way": Kind(
        409,
        "The same call is under way",
        "Somebody is sending this very call, and its outcome is not known yet. Send the same request again, with the "
        "same key, after `Retry-After`: it is answered with the outcome. Never use a new key.",
    ),
    "too-large": Kind(413, "The request is too large", "Nothing was read or sent. A call takes a few kilobytes."),
    "unsupported-media-type": Kind(
        415,
        "The body is not JSON",
        "A call has a body of `Content-Type: application/json` in UTF-8, without compression. Nothing was sent.",
    ),
    "misdirected": Kind(
        421,
        "Another server is meant",
        "The request names a host, or comes from a page of a site, that this server does not know. Nothing was sent. "
        "A person adds a name with `--allow-host NAME`.",
    ),
    "invalid-parameters": Kind(
        422,
        "The parameters are not valid",
        "The parameters break the schema of the tool. Nothing was sent. `problems` names each parameter, what is wrong "
        "with it, and what would be right. Mend them, and call again.",
    ),
    "idempotency-conflict": Kind(
        422,
        "The key belongs to another call",
        "The idempotency key, or the reference, was used for another call. Nothing was sent. For the same decision, "
        "repeat the first parameters; for another decision, use another key.",
    ),
    "rejected": Kind(
        422,
        "Stripe said no",
        "Stripe examined the call and rejected it. Nothing moved. `stripe_message`, `code` and `param` are Stripe's.",
    ),
    "too-many-calls": Kind(
        429,
        "Too many calls",
        "The token, the policy or Stripe allows fewer calls in that time. Nothing was sent. Send the same request "
        "again after `Retry-After`, with the same key.",
    ),
    "configuration": Kind(
        500,
        "The server is not set up",
        "A setting, the API key or a policy is missing or impossible. Nothing was sent. A person must mend it.",
    ),
    "stripe-access": Kind(
        500,
        "Stripe does not let the server in",
        "The API key of the server is not known to Stripe, or may not do this. Nothing moved. A person must mend it.",
    ),
    "server-fault": Kind(
        500,
        "The server failed",
        "What it was is in the server's log. `outcome` says whether money may have moved: where it is `unknown`, send "
        "the same request again with the same key.",
    ),
    "outcome-unknown": Kind(
        504,
        "The outcome is not known",
        "The money may have moved: the answer was lost (504), or proves nothing (502). Send the same request again "
        "with the `idempotency_key` that is named: it is answered with the first result, and moves nothing twice. "
        "Never use a new key.",
    ),
    "not-sent": Kind(
        503,
        "Nothing was sent",
        "Stripe cannot be reached, the journal cannot be used, or the server is being ended. Send the same request "
        "again after `Retry-After`, with the same key.",
    ),
}
