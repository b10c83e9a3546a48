"""``/openapi.json``: it describes what is served, and what is served keeps to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.transport import Response

import app
from tests.e2e.gateway_process import TOKEN, GatewayProcess
from tests.e2e.http_client import send

# How many requests are made up for each operation, right and wrong ones.
_EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "30"))
_PATIENCE = 20.0
_DOCUMENT = yaml.safe_load(
    Path(app.__file__).with_name("channels").joinpath("openapi.yaml").read_text("utf-8")
)
_RIGHT, _WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
_CASES = [
    pytest.param(operation["operationId"], mode, id=f"{operation['operationId']}-{mode.value}")
    for item in _DOCUMENT["paths"].values()
    for method, operation in item.items()
    for mode in (_RIGHT, _WRONG)
    if method not in ("x-switch", "parameters") and (mode is _RIGHT or operation.keys() & {"requestBody"})
]


@pytest.fixture(scope="module")
def document(generous: GatewayProcess) -> Any:
    return send(generous, method="GET", path="/openapi.json").json


def keeps_to_the_document(context: Any, response: Response, case: Case) -> None:
    """All that schemathesis can say of one answer."""
    for check in (content_type_conformance, status_code_conformance, response_schema_conformance):
        check(context, response, case)
    if not is_the_models_fault(response):
        not_a_server_error(context, response, case)


def is_the_models_fault(response: Response) -> bool:
    """True if the model, which only repeats what it is told, did not answer as the request demands."""
    return response.status_code == 502 and response.json()["error"]["code"] == "invalid_answer"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("operation_id", "mode"), _CASES)
def test_whatever_is_asked_the_answer_is_as_documented(
    generous: GatewayProcess, document: Any, operation_id: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document)
    operation = schema.find_operation_by_id(operation_id)

    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        case.call_and_validate(
            base_url=f"http://127.0.0.1:{generous.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            checks=[keeps_to_the_document],
            timeout=_PATIENCE,
        )

    ask()


def test_only_who_has_the_secret_gets_the_document(gateway: GatewayProcess) -> None:
    assert send(gateway, method="GET", path="/openapi.json", token=None).status == 401


def test_what_is_switched_off_is_not_in_the_document(start_gateway: Callable[..., GatewayProcess]) -> None:
    endpoints = {"chatCompletions": {"enabled": False}}
    off = start_gateway(gateway={"http": {"endpoints": endpoints}, "metrics": {"enabled": False}})
    document = send(off, method="GET", path="/openapi.json").json
    assert set(document["paths"]) == {"/healthz", "/readyz"}


def test_metrics_need_the_secret_or_not_as_the_document_says(
    gateway: GatewayProcess, start_gateway: Callable[..., GatewayProcess]
) -> None:
    public = start_gateway(gateway={"metrics": {"auth": "none"}})
    for one, needed in ((gateway, True), (public, False)):
        document = send(one, method="GET", path="/openapi.json").json
        security = document["paths"]["/metrics"]["get"].get("security", document["security"])
        assert bool(security) is needed
        assert send(one, method="GET", path="/metrics", token=None).status == (401 if needed else 200)
