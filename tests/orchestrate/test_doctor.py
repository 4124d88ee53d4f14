"""The doctor: what it makes of facts, what it sees of this machine, and a real cluster of two nodes."""

from __future__ import annotations

import http.server
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from cxrtl.config import parse
from cxrtl.orchestrate import checks, doctor, facts
from cxrtl.orchestrate.checks import Check, Facts
from cxrtl.orchestrate.upload import upload_size

HERE = Facts(
    where="driver",
    python="3.11.7",
    versions={"cxrtl": "1", "ray": "2.60.0", "torch": "2.13.0+cpu", "torchvision": "0.28.0", "pillow": "13.0.0"},
    features=("amx_bf16",),
    token=True,
)
NODE = replace(HERE, where="10.0.0.1")


def at(node: str, **versions: str) -> Facts:
    return replace(HERE, where=node, versions={**HERE.versions, **versions})


def states(found: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in found}


def test_versions_must_be_alike() -> None:
    assert set(states(checks.versions([HERE, NODE])).values()) == {"ok"}
    found = checks.versions([HERE, NODE, at("10.0.0.2", ray="2.59.0", pillow="12.2.0"), replace(NODE, python="3.12.1")])
    wanted = {
        "python": "fail",
        "ray": "fail",
        "torch": "ok",
        "torchvision": "ok",
        "cxrtl": "ok",
        "other packages": "warn",
    }
    assert states(found) == wanted
    text = next(check.found for check in found if check.name == "ray")
    assert text == "2.60.0 (driver, 10.0.0.1, 10.0.0.1); 2.59.0 (10.0.0.2)"


def test_a_missing_package_is_a_fault_but_for_a_job_that_brings_cxrtl_along() -> None:
    without = [replace(each, versions={"ray": "2.60.0", "torch": "2.13.0"}) for each in (HERE, NODE)]
    found = states(checks.versions(without))
    assert (found["torchvision"], found["cxrtl"], found["torch"]) == ("fail", "ok", "ok")


def test_gpus_that_nobody_uses_or_torch_cannot() -> None:
    gpu = replace(NODE, cuda="12.8", driver="570.1", gpus=("L4",), gpus_offered=1.0)
    assert checks.cuda([HERE, NODE]).state == "ok" and checks.cuda([HERE, gpu]).state == "ok"
    blind = checks.cuda([HERE, gpu, replace(gpu, where="10.0.0.2", cuda="")])
    assert blind.state == "fail" and "10.0.0.2" in blind.found
    assert checks.cuda([HERE, replace(gpu, gpus_offered=0.0)]).state == "warn"
    assert checks.cuda([HERE, gpu, replace(gpu, gpus=("A10",))]).state == "warn"


def test_processors_that_differ() -> None:
    assert checks.processor([HERE, NODE]).found == "amx_bf16"
    other = checks.processor([HERE, NODE, replace(NODE, where="10.0.0.2", features=())])
    assert other.state == "warn" and "no bf16 units (10.0.0.2)" in other.found


def test_clocks_are_compared_by_the_middle_of_the_quickest_round_trip() -> None:
    found, about = checks.offset([(0.0, 5.5, 1.0), (10.0, 15.1, 10.2), (20.0, 30.0, 24.0)])
    assert (found, about) == (pytest.approx(5.0), pytest.approx(0.1))
    assert checks.clock({"a": (5.0, 0.1)}, {}).state == "warn"
    assert checks.clock({"a": (-0.2, 0.1), "b": (1.5, 0.9)}, {}).state == "ok"  # it may be 0.6
    silent = checks.clock({"a": (0.0, 0.1)}, {"b": "its actor died"})
    assert silent.state == "warn" and "b: its actor died" in silent.found


@pytest.mark.parametrize(
    ("listens", "unasked", "state"),
    [
        ((), None, "ok"),
        (("127.0.0.1",), 200, "ok"),
        (("::1", "127.0.0.1"), 401, "ok"),
        (("0.0.0.0",), 200, "fail"),
        (("::",), None, "fail"),  # it may be a dashboard that hangs
        (("127.0.0.1", "10.0.0.1"), 401, "warn"),
    ],
)
def test_a_dashboard_beyond_loopback(listens: tuple[str, ...], unasked: int | None, state: str) -> None:
    assert checks.dashboard([HERE, replace(NODE, listens=listens, unasked=unasked)]).state == state


def test_token_authentication() -> None:
    assert checks.token([HERE, NODE], ["10.0.0.1"]).state == "ok"
    off = replace(NODE, token=False)
    assert checks.token([HERE, off], ["10.0.0.1"]).state == "fail"  # whoever reaches it can run code
    assert checks.token([HERE, off], ["127.0.0.1"]).state == "ok"  # nobody else gets there
    answers = checks.token([HERE, replace(NODE, unasked=200)], ["10.0.0.1"])  # a server begun without
    assert answers.state == "fail" and "200" in answers.found


def test_known_holes() -> None:
    checked, known = checks.advisories()
    assert checked >= "2026-11-21" and len({hole.id for hole in known}) == len(known)
    assert checks.vulnerable([HERE, NODE]).state == "ok"
    old = checks.vulnerable([HERE, at("10.0.0.2", ray="2.51.1", pillow="11.0.0")])
    assert old.state == "fail" and "CVE-2025-62593: ray 2.51.1" in old.found and "CVE-2026-25990" in old.found
    assert "CVE-2023-50447" not in old.found  # mended in 10.2
    assert checks.vulnerable([at("x", pillow="12.9.9")]).state == "warn"
    assert checks.vulnerable([at("x", torch="2.5.1+cu124")]).state == "fail"


def test_upload() -> None:
    found = [checks.upload(size).state for size in (None, checks.LIMIT - 1, checks.LIMIT)]
    assert found == ["ok", "ok", "fail"]


def test_upload_size_is_that_of_rays_own_archive(tmp_path: Path) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    root = tmp_path / "source"
    for name, size in {"a.py": 10, "runs/big.bin": 9999, "deep/b.txt": 200, "deep/skip.log": 5, ".venv/x": 7}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    (root / "bild-ä").mkdir()
    (root / ".gitignore").write_text("runs/\n")
    (root / "deep" / ".rayignore").write_text("*.log\n")
    packed = tmp_path / "packed.zip"
    create_package(str(root), packed, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    assert upload_size(root) == packed.stat().st_size < 2000


def done(answer: tuple[str, str, str]) -> Future[tuple[str, str, str]]:
    future: Future[tuple[str, str, str]] = Future()
    future.set_result(answer)
    return future


def mark(folder: Path, name: str) -> Future[tuple[str, str, str]]:
    return done(facts.Inspector().mark(folder, name))


def test_marker_files_go_there_and_back_and_leave_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert doctor.round_trip(home, {"a": mark, "b": mark}) == {"a": "", "b": ""}
    assert list(home.iterdir()) == []


def test_storage_that_is_not_shared_or_cannot_be_written(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"

    def other(folder: Path, name: str) -> Future[tuple[str, str, str]]:
        """A node on which the same path is another disk."""
        (elsewhere / folder.name).mkdir(parents=True)
        return mark(elsewhere / folder.name, name)

    def stale(folder: Path, name: str) -> Future[tuple[str, str, str]]:
        (elsewhere / name).mkdir(parents=True)
        shutil.copy(folder / "driver", elsewhere / name)
        return mark(elsewhere / name, name)

    def full(folder: Path, name: str) -> Future[tuple[str, str, str]]:
        read, _, _ = mark(folder, f"{name}/not/there").result()
        return done((read, "", "it cannot be written to (No space left on device)"))

    found = doctor.round_trip(tmp_path / "home", {"good": mark, "other": other, "stale": stale, "full": full})
    assert found["good"] == "" and "cannot be read" in found["other"]
    assert "cannot be read by the driver" in found["stale"] and "No space" in found["full"]
    assert checks.storage(tmp_path, found).state == "fail"
    (tmp_path / "file").write_text("")
    assert "driver" in doctor.round_trip(tmp_path / "file", {"a": mark})


def test_storage_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ANSWER_WITHIN", 0.2)
    home = tmp_path / "home"
    found = doctor.round_trip(home, {"good": mark, "hangs": lambda *_: Future()})
    assert found == {"good": "", "hangs": "it gave no answer (no answer within 0.2 s)"}
    assert list(home.iterdir()) == []

    let_go = threading.Event()
    monkeypatch.setattr(doctor.rundir, "write_bytes", lambda *_: let_go.wait())
    assert doctor.round_trip(home, {"good": mark}) == {"driver": "no answer within 0.2 s"}
    let_go.set()


def test_what_was_found_before_a_fault_is_told_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: object) -> Iterator[Check]:
        yield Check("storage", "fail", "another disk")
        raise ray.exceptions.RaySystemError("the head is gone")

    monkeypatch.setattr(doctor.cluster, "connect", lambda *_: nullcontext([]))
    monkeypatch.setattr(doctor, "_cluster", faulty)
    found = {check.name: check for check in doctor.examine(None, tmp_path, None)}
    assert found["storage"].found == "another disk" and "the head is gone" in found["cluster"].found


def test_weights_are_looked_for_where_they_are_read(tmp_path: Path) -> None:
    raw = {"name": "x", "data": {"source": "phantom"}}
    scratch = doctor.starts(parse({**raw, "train": {"init": "scratch"}}), tmp_path)
    assert (scratch.state, scratch.found) == ("ok", "every arm starts from scratch")
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"content")
    given = {"init": f"file:{file}"}
    assert "nodes need no copy" in doctor.starts(parse({**raw, "train": given}), tmp_path).found
    altered = doctor.starts(parse({**raw, "train": {**given, "init_sha256": "0" * 64}}), tmp_path)
    assert altered.state == "fail" and "altered or cut short" in altered.found
    assert doctor.starts(parse({**raw, "train": {"init": "stage:nowhere"}}), tmp_path).state == "fail"


@contextmanager
def serving(status: int) -> Iterator[int]:
    """A job server on loopback that answers with this status."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [200, 401])
def test_the_job_server_is_asked_without_a_token(status: int) -> None:
    with serving(status) as port:
        found = facts.gather("here", f"127.0.0.1:{port}")
    assert (found.listens, found.unasked) == (("127.0.0.1",), status)


def test_sockets_that_listen_are_told_by_their_address() -> None:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as server:
            try:
                server.bind((address, 0))
            except OSError:
                continue  # no IPv6 here
            assert facts.listening(server.getsockname()[1]) == ()
            server.listen()
            assert facts.listening(server.getsockname()[1]) == (address,)


def test_addresses_as_the_kernel_writes_them() -> None:
    assert facts._address("0100007F") == "127.0.0.1"
    assert facts._address("0000000000000000FFFF00000100007F") == "127.0.0.1"
    assert facts._address("B80D0120000000000000000001000000") == "2001:db8::1"


def test_where_no_cluster_answers_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    found = {check.name: check for check in doctor.examine(None, tmp_path, "127.0.0.1:1")}
    assert found["cluster"].state == "fail" and {"known holes", "job upload"} <= found.keys()
