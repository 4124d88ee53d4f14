"""An experiment as a job of a Ray cluster: brought there, followed from here, left and found again.

A job's id is made of what it computes and where that goes. While it runs, submitting the same again finds it; once it
has ended, however it ended, the same runs again under the next id and goes on where the run folder stands.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import tomli_w
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import cxrtl
from cxrtl.config import Experiment, refuse_secret
from cxrtl.errors import ConfigError, Interrupted, PlanError, last_line
from cxrtl.orchestrate.cluster import ANSWER_WITHIN
from cxrtl.orchestrate.upload import LIMIT, upload_size
from cxrtl.rundir import content_hash

TRIES = 5  # to submit where another does the same at the same moment, or to follow over a broken connection
PAUSE = 2.0  # seconds between them
STOP_WITHIN = 60.0  # seconds
_PASSING = ("already exists", "No available agent")  # another did the same in this moment; the head has just started
_BROKEN = (OSError, aiohttp.ClientError, RuntimeError)  # what Ray's client raises of a connection
_TOKEN = "export RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"


@dataclass(frozen=True)
class Wish:
    """What to run. `home` is a folder or URL that every node of the cluster sees, "" the cluster's own default; `bring`
    are files and folders below the current one that travel with the job."""

    experiment: Experiment
    home: str = ""
    download: bool = False
    as_json: bool = False
    bring: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        refuse_secret(self.home, "--home")
        if self.home and not (self.home.startswith(("/", "~")) or "://" in self.home):
            raise ConfigError(f"--home {self.home!r}: a job starts elsewhere, give an absolute path or a URL")
        here = Path.cwd()
        outside = [str(path) for path in self.bring if not path.resolve().is_relative_to(here) or not path.exists()]
        if outside:
            raise ConfigError(f"--bring {outside}: give files or folders below {here}")
        brought = [path.resolve() for path in self.bring]
        if lost := {
            key: path for key, path in self._paths() if not any(map(Path(path).resolve().is_relative_to, brought))
        }:
            raise ConfigError(
                f"{lost}: a job does not see this folder. Give paths that its nodes see, or --bring these"
            )

    def _paths(self) -> Iterator[tuple[str, str]]:
        """The experiment's paths that start from the current folder."""
        experiment = self.experiment
        starts = [recipe.train.init for recipe in experiment.recipes]
        data = experiment.data
        named = [("data.path", data.path), ("data.tables", data.tables), ("folds.file", experiment.folds.file)]
        named += [("train.init", start.removeprefix("file:")) for start in starts if start.startswith("file:")]
        return (
            (key, path) for key, path in named if path and not path.startswith(("/", "~", "$")) and "://" not in path
        )

    @property
    def job(self) -> str:
        """The job's id at its first try."""
        what = [self.experiment.model_dump(mode="json"), self.home]
        return f"cxrtl-{self.experiment.name}-{content_hash(what)[:12]}"

    @property
    def entrypoint(self) -> str:
        """The job's command. It is there for all who see the cluster: knobs travel in the file, secrets not at all."""
        words = ["python", "-m", "cxrtl.cli", "run", self._file, *(["--home", self.home] if self.home else [])]
        flags = {"--download": self.download, "--json": self.as_json}
        return shlex.join(words + [flag for flag, wanted in flags.items() if wanted])

    @property
    def _file(self) -> str:
        return f"{self.experiment.name}.toml"

    def pack(self, folder: Path) -> None:
        """Fill `folder` with what the job needs: this cxrtl, installed or not, the experiment, and what is brought.

        Raises:
            ConfigError: that is too much to upload; names what is largest.
        """
        package = Path(cxrtl.__file__).parent
        sources = {package: folder / "cxrtl"}
        sources |= {path: folder / path.resolve().relative_to(Path.cwd()) for path in self.bring}
        if (size := sum(map(upload_size, sources))) >= LIMIT:
            files = [file for path in sources for file in (path, *path.rglob("*")) if file.is_file()]
            largest = sorted(((file.stat().st_size, str(file)) for file in files), reverse=True)[:5]
            named = ", ".join(f"{name} ({bytes_ / 2**20:.0f} MiB)" for bytes_, name in largest)
            raise ConfigError(
                f"the upload takes {size / 2**20:.0f} MiB, Ray allows {LIMIT // 2**20}. Largest: {named}. Put images "
                "where the cluster's nodes see them, name that folder in data.path, and bring less"
            )
        for path, target in sources.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                unwanted = shutil.ignore_patterns("__pycache__", ".git", ".venv")
                shutil.copytree(path, target, ignore=unwanted, dirs_exist_ok=True)
            else:
                shutil.copy(path, target)
        given = self.experiment.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        (folder / self._file).write_text(tomli_w.dumps(given), encoding="utf-8")


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at `address`, `http://host:8265`.

    Raises:
        ConfigError: it is no such address.
        PlanError: nothing answers there, or it does not let this client in.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--address {address!r}: give the job server's, such as http://127.0.0.1:8265")
    refuse_secret(address, "--address")
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # what it packs and uploads, file by file
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # or RAY_ADDRESS, where it is set, would win over what was asked for
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    with answers(address):
        socket.create_connection((parts.hostname, port), timeout=ANSWER_WITHIN).close()  # Ray would wait for minutes
        return JobSubmissionClient(address)


@contextmanager
def answers(address: str) -> Iterator[None]:
    """Turns what Ray's client raises into a PlanError that says what to do."""
    try:
        yield
    except AuthenticationError as error:
        known = "the token is not the cluster's (403)" if "failed" in error.message else "it wants a token (401)"
        raise PlanError(f"the job server at {address} refuses: {known}. To be let in, {_TOKEN}") from None
    except (OSError, aiohttp.ClientError) as error:  # those of `requests` are among them
        if getattr(error, "filename", None):  # a file of ours
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise PlanError(
            f"no job server answers at {address} ({reason}). Is the cluster up, and the tunnel to its port 8265 "
            "(`ray dashboard cluster.yaml`, or `ssh -L 8265:127.0.0.1:8265 HEAD`)?"
        ) from None
    except (RuntimeError, ValueError, KeyError) as error:  # the last two: something else than Ray
        raise PlanError(f"the job server at {address} says: {last_line(str(error), 'nothing')}") from None


def tries(client: JobSubmissionClient, job: str) -> dict[int, JobDetails]:
    """Every job that was submitted under `job` or a later id of it, by its number from 1, in order."""
    pattern = re.compile(rf"{re.escape(job)}(?:-(\d+))?")
    known = ((pattern.fullmatch(found.submission_id or ""), found) for found in client.list_jobs())
    return dict(sorted((int(match[1] or 1), found) for match, found in known if match))


def running(found: dict[int, JobDetails]) -> list[str]:
    return [str(job.submission_id) for job in found.values() if not job.status.is_terminal()]


def submit(client: JobSubmissionClient, wish: Wish) -> tuple[str, bool]:
    """The id of a job that does what is wished, and whether it was running already.

    Raises:
        ConfigError: as `Wish.pack`.
        RuntimeError: the server refuses.
    """
    for attempt in range(TRIES):
        earlier = tries(client, wish.job)
        if there := running(earlier):
            return there[-1], True
        job = f"{wish.job}-{max(earlier) + 1}" if earlier else wish.job
        with tempfile.TemporaryDirectory(prefix="cxrtl-job-") as folder:
            wish.pack(Path(folder))
            try:
                client.submit_job(entrypoint=wish.entrypoint, submission_id=job, runtime_env={"working_dir": folder})
            except RuntimeError as error:
                if attempt == TRIES - 1 or not any(word in str(error) for word in _PASSING):
                    raise
                time.sleep(PAUSE)
                continue
        return job, False
    raise AssertionError


def follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> int:
    """Give each line of the job's log to `write` until it ends; its exit code. A broken connection is made again.

    Raises:
        PlanError: the job could not even start.
        OSError, ClientError, RuntimeError: the server did not answer `TRIES` times in a row.
    """
    log, cut, broken = _Log(client, job, write), 0, 0
    while True:
        try:
            asyncio.run(log.tail())
            cut = 0
        except _BROKEN:  # the server says whether the job goes on
            if log.unread:
                raise
            cut += 1
        try:
            found = client.get_job_info(job)
            broken = 0
        except _BROKEN:
            broken += 1
            if broken >= TRIES:
                raise
        else:
            if found.status.is_terminal() and (not cut or cut >= TRIES):  # the rest of its log may still be had
                return _exit_code(found)
        time.sleep(PAUSE)


class _Log:
    """A job's log from the first line that was not shown yet; the server always sends all of it."""

    def __init__(self, client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> None:
        self.client, self.job, self.write, self.shown = client, job, write, 0
        self.unread = False  # nobody takes what is written

    async def tail(self) -> None:
        seen, rest = 0, ""
        async for chunk in self.client.tail_job_logs(self.job):
            *lines, rest = (rest + chunk).split("\n")
            for line in lines:
                seen += 1
                self._show(seen, line)
        if rest:
            self._show(seen + 1, rest)

    def _show(self, number: int, line: str) -> None:
        if number > self.shown:
            self.shown, self.unread = number, True
            self.write(line)
            self.unread = False


def _exit_code(found: JobDetails) -> int:
    if found.status == JobStatus.SUCCEEDED:
        return 0
    if found.status == JobStatus.STOPPED:
        return Interrupted.exit_code
    if found.driver_exit_code is None:
        said = last_line(found.message or "", "nothing")
        raise PlanError(f"job {found.submission_id} did not start, or its node died. Ray says: {said}")
    code = int(found.driver_exit_code)
    return 128 - code if code < 0 else code  # below 0: the signal that ended it


def stop(client: JobSubmissionClient, wish: Wish) -> Sequence[str]:
    """End the wish's jobs that run, and wait until they have; their ids.

    Raises:
        PlanError: one does not end.
    """
    jobs = running(tries(client, wish.job))
    for job in jobs:
        client.stop_job(job)
    until = time.monotonic() + STOP_WITHIN
    while left := [job for job in jobs if not client.get_job_status(job).is_terminal()]:
        if time.monotonic() > until:
            raise PlanError(f"job {left[0]} was told to stop and has not after {STOP_WITHIN:.0f} s: look at its node")
        time.sleep(PAUSE / 4)
    return jobs
