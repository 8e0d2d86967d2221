"""The API against its own OpenAPI schema: what the schema allows is answered as the schema says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
import yaml
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

from config.wsgi import application
from tests.cast import Cast

EXAMPLES = 12  # an operation
# A schema cannot say which ids exist, what two fields mean together, and that no text holds NUL: what is
# valid by it may be unknown, second or senseless. It may not be of a wrong type (415) or method (405).
CONFIG = schemathesis.config.SchemathesisConfig.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ["2xx", 400, 403, 404, 409, 422, 429, 503]}
        }
    }
)


@schemathesis.serializer("application/x-ndjson")
def one_line(context: Any, value: Any) -> bytes:
    return json.dumps(value, default=str).encode() + b"\n"


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_every_answer_is_what_the_schema_says(cast: Cast):
    cast.answered_prompt()
    described = yaml.load(Client().get("/api/schema/").content, Loader=yaml.CSafeLoader)
    schema = schemathesis.openapi.from_dict(described, config=CONFIG)
    schema.app = application
    wrong: dict[str, str] = {}
    labels = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        labels.append(operation.label)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def once(case: Any) -> None:
            headers = {"Authorization": f"Bearer {cast.manage_key}", "Host": "localhost"}
            response = case.call(headers=headers)
            try:
                case.validate_response(response, headers=headers)  # by all checks
            except (AssertionError, BaseExceptionGroup) as error:
                for one in getattr(error, "exceptions", [error]):
                    wrong.setdefault(f"{case.method} {case.path} {type(one).__name__}", str(one)[:400])

        once()
    assert len(labels) > 30
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())


def test_every_call_says_what_it_has_in_common():
    schema = Client().get("/api/schema/", headers={"Accept": "application/json"}).json()
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/api/v1/"):
                assert {"401", "403", "422", "429", "503"} <= operation["responses"].keys(), path
                names = {one["name"] for one in operation.get("parameters", [])}
                assert ("Idempotency-Key" in names) is (method == "post"), path
