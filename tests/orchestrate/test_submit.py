"""Jobs by their content: found again, followed, succeeded by another; and a server that will not have us."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from ray.job_submission import JobStatus

from cxrtl import config
from cxrtl.errors import ConfigError, PlanError
from cxrtl.orchestrate import submit
from cxrtl.orchestrate.submit import Wish

FILE = """
name = "mine"
[data]
source = "phantom"
positive = "effusion"
"""
MIMIC = ["data.source=mimic", "data.path=/m", "data.tables=jpg", "data.cohort.finding=Edema"]


def experiment(extra: str = "", *overrides: str) -> config.Experiment:
    raw = tomllib.loads(FILE + extra)
    for override in overrides:
        config.apply(raw, override)
    return config.parse(raw)


class Client:
    """Ray's, as far as it is asked: jobs by id, and their logs."""

    def __init__(self) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}
        self.logs: list[list[str | Exception]] = []  # what each look at the log gives
        self.uploaded: dict[str, Any] = {}
        self.refusals: list[str] = []

    def list_jobs(self) -> list[SimpleNamespace]:
        return list(self.jobs.values())

    def submit_job(self, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str:
        if self.refusals:
            raise RuntimeError(self.refusals.pop())
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        folder = Path(runtime_env["working_dir"])
        self.uploaded = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
        }
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id,
            entrypoint=entrypoint,
            runtime_env=runtime_env,
            status=JobStatus.RUNNING,
            driver_exit_code=None,
            message=None,
        )
        return submission_id

    def end(self, job: str, status: JobStatus, code: int | None = None) -> None:
        self.jobs[job].status, self.jobs[job].driver_exit_code = status, code

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self.jobs[job]

    def get_job_status(self, job: str) -> JobStatus:
        return self.jobs[job].status

    def stop_job(self, job: str) -> bool:
        self.end(job, JobStatus.STOPPED)
        return True

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for chunk in self.logs.pop(0):
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "PAUSE", 0.0)


def test_the_same_again_finds_the_job_that_runs() -> None:
    client, wish = Client(), Wish(experiment(), "/mnt/cxrtl")
    job, found = submit.submit(client, wish)
    assert not found and job.startswith("cxrtl-mine-")
    assert submit.submit(client, Wish(experiment(), "/mnt/cxrtl", download=True)) == (job, True)
    assert len(client.jobs) == 1


@pytest.mark.parametrize("end", [JobStatus.FAILED, JobStatus.STOPPED, JobStatus.SUCCEEDED])
def test_after_its_end_the_next_id_goes_on(end: JobStatus) -> None:
    client, wish = Client(), Wish(experiment())
    first, _ = submit.submit(client, wish)
    client.end(first, end)
    second = submit.submit(client, wish)
    assert second == (f"{first}-2", False)
    client.end(second[0], end)
    client.jobs[f"{first}-10"] = SimpleNamespace(submission_id=f"{first}-10", status=end)
    assert submit.submit(client, wish) == (f"{first}-11", False)


def test_what_decides_the_id() -> None:
    plain = Wish(experiment(), "/mnt/a").job
    assert plain == Wish(experiment("[report]\n"), "/mnt/a").job  # defaults, spelled out or not
    assert plain != Wish(experiment("", "train.rate=1e-3"), "/mnt/a").job
    assert plain != Wish(experiment(), "/mnt/b").job


def test_two_at_the_same_moment_share_one_job() -> None:
    client, wish = Client(), Wish(experiment())
    listed = client.list_jobs
    late: Iterator[list[SimpleNamespace]] = iter([[]])  # what this one sees before the other's job is there
    job, _ = submit.submit(client, wish)
    client.list_jobs = lambda: next(late, None) or listed()  # type: ignore[method-assign]
    assert submit.submit(client, wish) == (job, True)


def test_a_head_that_has_just_started_is_asked_again() -> None:
    client = Client()
    client.refusals = ["No available agent to submit job, please try again later."] * 2
    assert submit.submit(client, Wish(experiment()))[0] in client.jobs


def test_the_experiment_travels_and_nothing_secret_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "S3CR3T-token")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3CR3T-key")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "folds.parquet").write_bytes(b"folds")
    client = Client()
    wish = Wish(experiment("", "train.budgets=[7]", "folds.file=mine/folds.parquet"), "/mnt/c x", bring=(Path("mine"),))
    job, _ = submit.submit(client, wish)
    sent = client.jobs[job]
    assert sent.entrypoint == "python -m cxrtl.cli run mine.toml --home '/mnt/c x'"
    assert list(sent.runtime_env) == ["working_dir"]
    assert client.uploaded["mine/folds.parquet"] == b"folds"
    assert {"cxrtl/cli.py", "cxrtl/report/page.html", "mine.toml"} <= set(client.uploaded)
    assert not [name for name in client.uploaded if "__pycache__" in name]
    (tmp_path / "sent.toml").write_bytes(client.uploaded["mine.toml"])
    assert config.load(tmp_path / "sent.toml") == wish.experiment
    assert "S3CR3T" not in repr(sent) and b"S3CR3T" not in b"".join(client.uploaded.values())


def test_too_much_to_upload_names_what_is_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "LIMIT", 4 * 2**20)
    Path("scan.dcm").write_bytes(bytes(5 * 2**20))
    with pytest.raises(ConfigError, match=r"takes \d+ MiB, Ray allows 4\. Largest: scan\.dcm \(5 MiB\)"):
        submit.submit(Client(), Wish(experiment(), bring=(Path("scan.dcm"),)))


@pytest.mark.parametrize(
    ("home", "overrides", "bring", "said"),
    [
        ("runs", [], [], "absolute path or a URL"),
        ("s3://AKIA:hush@bucket/runs", [], [], "holds a password or key"),
        ("s3://bucket/runs?secret_key=hush", [], [], "holds a password or key"),
        ("", ["data.source=folder", "data.path=images"], [], r"'data\.path': 'images'.*does not see this folder"),
        ("", MIMIC, [], r"'data\.tables': 'jpg'.*does not see this folder"),
        ("", ["train.init=file:w.safetensors"], [], r"'train\.init': 'w\.safetensors'"),
        ("", [], ["../outside"], r"--bring \['\.\./outside'\]"),
    ],
)
def test_what_a_job_could_not_use_is_refused(home: str, overrides: list[str], bring: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Wish(experiment("", *overrides), home, bring=tuple(map(Path, bring)))
    assert "hush" not in str(caught.value)


def test_the_log_is_followed_over_a_broken_connection() -> None:
    client, wish = Client(), Wish(experiment())
    job, _ = submit.submit(client, wish)
    client.logs = [["one\ntw", "o\n", OSError("cut")], ["one\n", "two\nthree\n"]]
    client.logs += [[]] * submit.TRIES + [[OSError("cut")]]  # a quiet hour: nothing is wrong
    client.logs += [["one\ntwo\nthree\nlast", OSError("cut")], ["one\ntwo\nthree\nlast\nand the rest"]]
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        if line == "last":
            client.end(job, JobStatus.SUCCEEDED, 0)

    assert submit.follow(client, job, write) == 0
    assert lines == ["one", "two", "three", "last", "and the rest"]


def test_a_server_that_is_gone_for_good_ends_the_following(monkeypatch: pytest.MonkeyPatch) -> None:
    client, wish = Client(), Wish(experiment())
    job, _ = submit.submit(client, wish)
    client.logs = [[OSError("gone")] if n % 2 else [] for n in range(20)]  # some end as if nothing were wrong
    monkeypatch.setattr(client, "get_job_info", Mock(side_effect=OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        submit.follow(client, job, print)
    assert 20 - len(client.logs) == submit.TRIES


def test_output_that_nobody_takes_ends_the_following() -> None:
    client, wish = Client(), Wish(experiment())
    job, _ = submit.submit(client, wish)
    client.logs = [["one\n"], ["one\ntwo\n"]]
    with pytest.raises(BrokenPipeError):
        submit.follow(client, job, Mock(side_effect=BrokenPipeError("| head")))
    assert len(client.logs) == 1


@pytest.mark.parametrize(
    ("status", "code", "exits"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.STOPPED, None, 130),
    ],
)
def test_the_exit_code_is_the_jobs(status: JobStatus, code: int | None, exits: int) -> None:
    client, wish = Client(), Wish(experiment())
    job, _ = submit.submit(client, wish)
    client.logs = [[]]
    client.end(job, status, code)
    assert submit.follow(client, job, print) == exits


def test_a_job_that_could_not_start_says_why() -> None:
    client, wish = Client(), Wish(experiment())
    job, _ = submit.submit(client, wish)
    client.logs = [[]]
    client.end(job, JobStatus.FAILED)
    client.jobs[job].message = "Traceback\nruntime_env setup failed"
    with pytest.raises(PlanError, match=r"did not start.*runtime_env setup failed"):
        submit.follow(client, job, print)


def test_stop_ends_what_runs() -> None:
    client, wish = Client(), Wish(experiment())
    assert submit.stop(client, wish) == []
    job, _ = submit.submit(client, wish)
    assert submit.stop(client, wish) == [job] and client.jobs[job].status == JobStatus.STOPPED


@pytest.fixture
def server() -> Iterator[Callable[[int], str]]:
    """Starts an HTTP server that answers everything with one status."""
    started: list[HTTPServer] = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"no")

            def log_message(self, *_: object) -> None: ...

        started.append(HTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, r"wants a token \(401\)"),
        (403, r"not the cluster's \(403\)"),
        (200, "JSONDecodeError"),
        (500, "HTTPError"),
    ],
)
def test_a_server_that_will_not_have_us(
    server: Callable[[int], str], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # put back afterwards: connect sets it
    with pytest.raises(PlanError, match=said):
        submit.connect(server(status))


def test_addresses() -> None:
    for wrong in ("127.0.0.1:8265", "ray://head:10001", "http://"):
        with pytest.raises(ConfigError, match="give the job server's"):
            submit.connect(wrong)
    with pytest.raises(ConfigError, match="--address holds a password or key"):
        submit.connect("http://me:hush@127.0.0.1:8265")
    with pytest.raises(PlanError, match=r"no job server answers at http://127\.0\.0\.1:1 "):
        submit.connect("http://127.0.0.1:1")
