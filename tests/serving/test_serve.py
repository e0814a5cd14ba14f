"""The command itself: what it refuses before it serves, and what an export cannot answer."""

import json
import socket

import pytest

from actionfusion.errors import RuntimeUnavailable, SettingsError
from actionfusion.serving.limits import ServingLimits
from actionfusion.serving.serve import serve


def test_without_the_extra_the_error_says_how_to_get_it(tiny_run, monkeypatch):
    from actionfusion.inference.runtimes import packages

    monkeypatch.setattr(packages, "is_installed", lambda package: package != "uvicorn")
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'actionfusion\[serve\]'"):
        serve(tiny_run)


def test_a_port_that_is_taken_or_none_is_named(tiny_run):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="cannot be listened at"):
        serve(tiny_run, port=taken.getsockname()[1])
    with pytest.raises(SettingsError, match="is no port"):
        serve(tiny_run, port=70_000)


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "file:///x", "*"])
def test_an_origin_that_is_none_is_named(tiny_run, origin):
    with pytest.raises(SettingsError, match="is no origin"):
        serve(tiny_run, cors_origins=(origin,))


@pytest.mark.parametrize("change", [{"bytes": 0}, {"seconds": -1.0}, {"seconds": float("inf")}, {"videos_waiting": -1}])
def test_limits_that_are_none_are_named(change):
    with pytest.raises(SettingsError, match=f"limits.{next(iter(change))}"):
        ServingLimits(**change)


def test_nobody_need_wait():
    assert ServingLimits(videos_waiting=0).videos_waiting == 0


def test_an_export_answers_clips_alone(server, clip, monkeypatch):
    from websockets.sync.client import connect

    monkeypatch.setattr(server.answers, "explains", False)
    assert server.post("/api/predict", clip.read_bytes()).status == 200
    for path in ("/api/timeline", "/api/explain"):
        reply = server.post(path, clip.read_bytes())
        assert (reply.status, reply.error["kind"]) == (422, "settings")
        assert "clips alone" in reply.error["message"]
    with connect(f"ws://127.0.0.1:{server.port}/api/stream") as line:
        line.send("{}")
        assert json.loads(line.recv(20))["error"]["kind"] == "settings"


def test_a_fault_of_the_server_says_nothing_of_the_request(server, clip, monkeypatch, capfd):
    async def fault(*_):
        raise KeyError("secret-of-a-client")

    monkeypatch.setattr(server.answers, "predict", fault)
    reply = server.post("/api/predict", clip.read_bytes())
    assert (reply.status, reply.error["kind"]) == (500, "internal")
    assert reply.headers["x-content-type-options"] == "nosniff"
    printed = capfd.readouterr().err
    assert "fault: KeyError at " in printed
    assert "secret-of-a-client" not in printed
