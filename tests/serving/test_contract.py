"""The server does what its OpenAPI schema says, whatever is sent (Schemathesis writes it)."""

import os
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from hypersteer.config.serving import ServeConfig
from hypersteer.serving.app import new_app
from hypersteer.serving.metrics import Metrics
from hypersteer.serving.plan import Known
from hypersteer.serving.stored import StoredEdits

CASES = int(os.environ.get("HYPERSTEER_FUZZ_CASES", "20"))
NOTHING = Known(conditions={}, rules={}, steer={}, edits=StoredEdits(Path("none")))

schema = schemathesis.openapi.from_dict(new_app(ServeConfig(), {}, NOTHING, Metrics()).openapi())


@schema.hook
def map_body(_context, body):
    """Name a model that is there, more often than chance would."""
    if isinstance(body, dict) and len(str(body.get("model"))) % 2:
        body["model"] = "tiny"
    return body


@schema.parametrize()
@settings(
    max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_whatever_is_sent_gets_what_the_schema_says(case, server):
    # What a field's type allows is not all that may be said in it: rules, files, names of models.
    case.call_and_validate(base_url=server.url, excluded_checks=[positive_data_acceptance])
