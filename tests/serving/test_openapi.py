"""Requests made from the OpenAPI document, right and wrong ones: none is answered by a fault of the server."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

ROUTES = ["/api/explain", "/api/model", "/api/predict", "/api/timeline", "/health/live", "/health/ready", "/metrics"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize("route", ROUTES)
def test_no_request_finds_a_fault(server, route, mode):
    schema = schemathesis.openapi.from_dict(json.loads(server.get("/openapi.json").body))
    method = "POST" if route in ("/api/explain", "/api/predict", "/api/timeline") else "GET"
    operation = schema[route][method]
    if mode == GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("a route without parameters takes no wrong ones")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=8, suppress_health_check=list(HealthCheck), database=None)
    def ask(case):
        response = case.call(base_url=f"http://127.0.0.1:{server.port}", timeout=30)
        assert response.status_code < 500
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"kind", "message", "remedy"}
        described = {int(status) for status in operation.definition.raw["responses"]}
        assert response.status_code in described

    ask()
