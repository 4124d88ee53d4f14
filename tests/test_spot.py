"""The watcher for AWS's notice that a spot machine is taken back, at a stand-in for the machine's metadata service."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from jobs import spot


class Metadata:
    """Answers as AWS's service does (IMDSv2): nothing without a token, 404 until the machine is taken back."""

    def __init__(self) -> None:
        self.asked = 0
        self.says: list[int | bytes] = [404]  # the last one for ever

    def take_back(self, seconds: float) -> None:
        when = datetime.now(UTC) + timedelta(seconds=seconds)
        self.says = [json.dumps({"action": "terminate", "time": f"{when:%Y-%m-%dT%H:%M:%SZ}"}).encode()]

    def __enter__(self) -> Metadata:
        service, tokens = self, set[str]()

        class Answer(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                fits = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                tokens.add(f"token-{len(tokens)}")
                self._say(f"token-{len(tokens) - 1}".encode() if fits else 400)

            def do_GET(self) -> None:
                if self.headers["X-aws-ec2-metadata-token"] not in tokens:
                    return self._say(401)
                if self.path != "/latest/meta-data/spot/instance-action":
                    return self._say(404)
                service.asked += 1
                return self._say(service.says.pop(0) if len(service.says) > 1 else service.says[0])

            def _say(self, what: int | bytes) -> None:
                self.send_response(what if isinstance(what, int) else 200)
                self.end_headers()
                self.wfile.write(b"" if isinstance(what, int) else what)

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_the_notice_is_passed_on_until_ray_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.scripts.scripts import drain_node

    ray, told = tmp_path / "ray", tmp_path / "told"
    ray.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {told}\n[ -e {tmp_path}/again ] || {{ touch {tmp_path}/again; exit 1; }}'
    )
    ray.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(spot, "LOOK_EVERY", 0.01)
    with Metadata() as service:
        service.take_back(110)
        service.says = [404, 500, 500, b"no JSON", b"{}", *service.says]
        monkeypatch.setattr(spot, "SERVICE", service.address)
        spot.main(["--address=10.0.0.1:6379"])
    assert service.asked == 7  # the last twice: Ray did not take it at once
    first, second = told.read_text().split("drain-node\n")[1:]
    assert first.splitlines()[:2] == second.splitlines()[:2]
    given: dict[str, Any] = drain_node.make_context("drain-node", second.splitlines()).params
    assert given["reason"] == "DRAIN_NODE_REASON_PREEMPTION" and "terminate" in given["reason_message"]
    assert 60 < given["deadline_remaining_seconds"] <= 110 and given["address"] == "10.0.0.1:6379"
    faults = capsys.readouterr().out.splitlines()
    assert len(faults) == 3 and "500" in faults[0]  # each once in a row


def test_a_machine_without_the_service_is_told_of_in_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter(range(3))

    def sleep(_: float) -> None:
        if next(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(spot, "SERVICE", "http://127.0.0.1:1")
    monkeypatch.setattr(spot.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        spot.main([])
    assert capsys.readouterr().out.count("refused") == 1
