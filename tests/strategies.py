"""
Hypothesis strategies: valid parameters of the create tool, and JSON values of all sorts.
"""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
customers = st.text(sorted(set(PRINTABLE) - set("/\\?#%")), min_size=1, max_size=255).filter(
    lambda value: value not in {".", ".."}
)
amounts = st.integers(-99999999999, 99999999999).filter(bool)
currencies = st.text(string.ascii_letters, min_size=3, max_size=3)
metadata = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[]\0"), min_size=1, max_size=40).filter(
        lambda name: name not in {"ocp_call", "ocp_reference"}
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=500),
    max_size=6,
)
expand = st.lists(
    st.tuples(
        st.sampled_from(["checkout_session", "credit_note", "customer", "invoice"]),
        st.lists(st.sampled_from(["customer", "charge", "data", "line_items"]), max_size=3),
    ).map(lambda pair: ".".join([pair[0], *pair[1]])),
    max_size=4,
)
keys = st.text(PRINTABLE, min_size=1, max_size=255)

valid_parameters: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"customer": customers, "amount": amounts | amounts.map(float), "currency": currencies},
    optional={
        "description": text.filter(bool).map(lambda value: value[:350]),
        "metadata": metadata | st.just(""),
        "expand": expand,
        "idempotency_key": keys,
    },
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["usd", "cus_1", -500, "\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
any_parameters: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["customer", "amount", "currency", "description", "metadata", "expand", "idempotency_key"])
    | st.text(max_size=12),
    json_values,
    max_size=8,
)
