"""
Properties of the request: whatever the parameters, it stays on its path, and its form gives them back.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import pytest
import strategies
import yarl
from hypothesis import given
from hypothesis import strategies as st

from ocp_stripe_balance._stripe.request import Request, build_request, encode_form
from ocp_stripe_balance._tools.manifest import load_manifest
from ocp_stripe_balance._tools.validation import ParameterValidator
from ocp_stripe_balance.sandbox._form import decode

BASE = "https://api.stripe.com"
CREATE = load_manifest().tools[0]
VALIDATOR = ParameterValidator(CREATE.parameters_json_schema)


def build(parameters: dict[str, Any]) -> Request:
    return build_request(CREATE, parameters, base_url=BASE, headers={"Authorization": "Bearer k"})


@given(strategies.valid_parameters)
def test_request_is_the_template_whatever_the_parameters(parameters: dict[str, Any]) -> None:
    """Host, path shape, query and headers are the template's, as three URL parsers see them."""
    request = build(parameters)
    url = urlsplit(request.url)
    assert ("https", "api.stripe.com", "", "") == (url.scheme, url.netloc, url.query, url.fragment)
    segments = url.path.split("/")
    assert ["", "v1", "customers", segments[3], "balance_transactions"] == segments
    assert parameters["customer"] == unquote(segments[3])
    assert url.path.encode() == httpx.URL(request.url).raw_path
    assert url.path == yarl.URL(request.url, encoded=True).raw_path
    headers = {"Authorization", "Content-Type"} | ({"Idempotency-Key"} if "idempotency_key" in parameters else set())
    assert headers == set(request.headers)


@given(strategies.valid_parameters)
def test_decoding_the_form_gives_back_the_parameters(parameters: dict[str, Any]) -> None:
    """The body says what the caller said, no more and no less."""
    form = decode(build(parameters).body)
    assert str(int(parameters["amount"])) == form["amount"]
    assert parameters["currency"].lower() == form["currency"]
    assert parameters.get("description") == form.get("description")
    assert (parameters.get("metadata") or ("" if "metadata" in parameters else None)) == form.get("metadata")
    assert parameters.get("expand", []) == list(form.get("expand", {}).values())
    assert set(form) <= {"amount", "currency", "description", "metadata", "expand"}


@given(strategies.valid_parameters)
def test_what_is_valid_passes_the_schema(parameters: dict[str, Any]) -> None:
    """The strategies above are within the published schema, so the properties speak of real calls."""
    assert [] == VALIDATOR.check(parameters)[1]


@given(st.text())
def test_any_customer_is_refused_or_stays_one_segment(customer: str) -> None:
    """No text at all leaves its place in the path."""
    _, problems = VALIDATOR.check({"customer": customer, "amount": 1, "currency": "usd"})
    if not problems:
        path = httpx.URL(build({"customer": customer, "amount": 1, "currency": "usd"}).url).raw_path.decode()
        assert ["", "v1", "customers", unquote(path.split("/")[3]), "balance_transactions"] == unquote(path).split("/")
        assert customer == unquote(path.split("/")[3])


@pytest.mark.parametrize("customer", ["", ".", ".."])
def test_a_path_that_would_change_is_refused_even_unvalidated(customer: str) -> None:
    """The builder itself never makes another path, whoever calls it."""
    with pytest.raises(ValueError, match="cannot be a path segment"):
        build({"customer": customer, "amount": 1, "currency": "usd"})


@given(st.dictionaries(st.sampled_from("abc"), strategies.text | st.booleans() | st.integers()))
def test_scalars_survive_any_form_decoder(values: dict[str, Any]) -> None:
    """Python's own decoder reads the form as we wrote it; booleans are lower case."""
    written = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    assert written == dict(parse_qsl(encode_form(values).decode(), keep_blank_values=True, strict_parsing=bool(values)))


def test_repr_has_no_credentials() -> None:
    """A request in a log line or a traceback shows where it goes, not with which key."""
    shown = repr(build({"customer": "cus_1", "amount": 1, "currency": "usd"}))
    assert "<Request POST https://api.stripe.com/v1/customers/cus_1/balance_transactions>" == shown
