"""The decoding process: what a hostile file may do to it, and what it costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cxrtl.data.images import Decoded, How, Unusable, guard
from cxrtl.data.images.files import decode_file
from cxrtl.data.images.guard import Guard, GuardError, decode, decode_all
from cxrtl.data.images.worker import BATCHES, batch_size
from tests.data.helpers import save

HOW = How(32, file_seconds=1, memory_mib=1024)
BATCH = batch_size(HOW)
# What `decode_file` does in the process under test, by the file's name: stands for decoders with faults.
FAULTS = """
import os, sys, time
from cxrtl.data.images import worker
real = worker.decode_file
def faulty(path, how):
    name = os.path.basename(path)
    if "crash" in name: os.abort()
    if "hang" in name:
        while True: pass
    if "sleep" in name: time.sleep(99)
    if "fill" in name: return bytearray(8 << 30)
    if "print" in name: print("noise"); os.write(1, b"noise"); os.write(2, b"noise")
    if "once" in name and not os.path.exists(path + ".seen"):
        os.mkdir(path + ".seen"); os._exit(3)
    return real(path, how)
worker.decode_file = faulty
worker.main()
"""


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """A guard whose process has the faults above."""
    start = subprocess.Popen

    def swapped(command: list[str], **options: object) -> object:
        return start([sys.executable, "-c", FAULTS], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", swapped)
    made = Guard(HOW)
    yield made
    made.close()


def files(root: Path, *names: str) -> list[str]:
    for number, name in enumerate(names):
        save(root / f"{name}.png", number)
    return [str(root / f"{name}.png") for name in names]


def told(answers: list[Decoded | Unusable]) -> list[str]:
    return [answer.reason if isinstance(answer, Unusable) else "" for answer in answers]


def decoded(count: int) -> None:
    """Wait for so many answers of this process's guard, taken or not."""
    for _ in range(1200):
        if guard._kept and guard._kept._slots.count >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"{count} files were not decoded")


class TestFaults:
    def test_each_costs_its_own_file(self, faulty: Guard, tmp_path: Path) -> None:
        names = ["a", "crash", "b", "hang", "c", "fill", "print", "sleep", "d", "once", "e", *"fghijklmnop", "crash2"]
        paths = files(tmp_path, *names)
        answers = list(faulty.run(paths))
        expected = {"crash": "decoder_died", "crash2": "decoder_died", "fill": "out_of_memory"}
        expected |= dict.fromkeys(("hang", "sleep"), "timed_out")
        assert told(answers) == [expected.get(name, "") for name in names]
        for path, answer in zip(paths, answers, strict=True):
            if isinstance(answer, Decoded):
                assert answer.content_hash == decode_file(path, HOW).content_hash

    def test_time_limit(self, faulty: Guard, tmp_path: Path) -> None:
        assert told(list(faulty.run(files(tmp_path, "hang")))) == ["timed_out"]

    def test_process_that_no_signal_reaches_is_given_up(self) -> None:
        """Stuck in the kernel, on a network drive that hangs, not even SIGKILL ends it."""

        class Stuck:
            stdin = stdout = None
            killed = False

            def kill(self) -> None:
                self.killed = True

            def wait(self, timeout: float | None = None) -> int:
                assert timeout is not None, "waits for ever"
                raise subprocess.TimeoutExpired("", timeout)

        for end in (Guard._bury, Guard.close):
            made, process = Guard(HOW), Stuck()
            made._process = process  # type: ignore[assignment]
            assert end(made) in ("timed_out", None)
            assert process.killed and made._process is None

    def test_process_that_ends_between_files_blames_none(self, faulty: Guard, tmp_path: Path) -> None:
        paths = files(tmp_path, "a", "b")
        assert told(list(faulty.run(paths))) == ["", ""]
        assert faulty._process
        os.kill(faulty._process.pid, signal.SIGKILL)
        faulty._process.wait()
        assert told(list(faulty.run(paths))) == ["", ""]

    def test_process_that_cannot_start_is_no_file_s_fault(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(GuardError):
            list(Guard(HOW).run(files(tmp_path, "a")))

    def test_given_up_half_way(self, tmp_path: Path) -> None:
        """Answers that nobody took are not given to the next caller."""
        paths = files(tmp_path, *"abcdefgh")
        first = decode_all(paths, HOW)
        next(first)
        first.close()  # type: ignore[attr-defined]
        again = decode(paths[7], HOW)
        assert again.content_hash == decode_file(paths[7], HOW).content_hash


class TestAhead:
    def test_files_are_decoded_while_the_caller_is_busy(self, tmp_path: Path) -> None:
        """As many as fit, and no path is read that nobody decodes yet."""
        read: list[str] = []
        paths = files(tmp_path, *map(str, range(BATCH * 5)))
        answers = decode_all((read.append(path) or path for path in paths), HOW)
        next(answers)
        assert len(read) <= BATCH * (BATCHES + 1)
        decoded(BATCH * (BATCHES + 1))
        assert told(list(answers)) == [""] * (len(paths) - 1) and read == paths

    def test_answers_stay_their_own_behind_a_slow_caller(self, tmp_path: Path) -> None:
        """What is decoded ahead overwrites nothing that was not taken."""
        paths = files(tmp_path, *map(str, range(BATCH * 5)))
        for k, answer in enumerate(decode_all(paths, HOW)):
            decoded(min(len(paths), k // BATCH * BATCH + BATCH * (BATCHES + 1)))
            assert isinstance(answer, Decoded) and np.array_equal(answer.pixels, decode_file(paths[k], HOW).pixels)

    def test_within_another_use(self, tmp_path: Path) -> None:
        """As where paths come from a generator that looks at other files: each use has its own answers."""
        paths = files(tmp_path, *map(str, range(30)))

        def looked_at() -> Iterator[str]:
            for path in paths:
                assert told(list(decode_all(["/nowhere"], HOW))) == ["missing"]
                yield path

        list(decode_all(paths[:1], HOW))
        assert guard._kept and guard._kept._process
        before = guard._kept._process.pid
        assert told(list(decode_all(looked_at(), HOW))) == [""] * 30
        assert guard._kept._process.pid == before


class TestLife:
    def test_it_ends_with_its_owner(self, tmp_path: Path) -> None:
        """However the owner ends: here by SIGKILL, as Ray and the kernel's memory killer do."""
        code = (
            "import sys, time; from cxrtl.data.images import How, guard\n"
            "list(guard.decode_all(sys.argv[1:], How(32))); print(guard._kept._process.pid, flush=True); time.sleep(99)"
        )
        owner = subprocess.Popen([sys.executable, "-c", code, *files(tmp_path, "a")], stdout=subprocess.PIPE, text=True)
        assert owner.stdout
        child = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        owner.stdout.close()
        for _ in range(1200):
            if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
                return
            time.sleep(0.05)
        pytest.fail("the decoding process outlived its owner")

    def test_it_is_kept_for_the_next_call(self, tmp_path: Path) -> None:
        paths = files(tmp_path, "a")
        list(decode_all(paths, HOW))
        assert guard._kept and guard._kept._process
        before = guard._kept._process.pid
        list(decode_all(paths, HOW))
        assert guard._kept._process.pid == before

    def test_paths_are_not_in_the_process_list(self, tmp_path: Path) -> None:
        list(decode_all(files(tmp_path, "CANARY7319"), HOW))
        assert guard._kept and guard._kept._process
        assert b"CANARY" not in Path(f"/proc/{guard._kept._process.pid}/cmdline").read_bytes()


class TestPaths:
    def test_names_of_every_kind(self, tmp_path: Path) -> None:
        names = ["new\nline", 'quo"te', "<script>", "‮gnp", os.fsdecode(b"\xff\xfe"), "x" * 250, " ", "back\\slash"]
        assert told(list(decode_all(files(tmp_path, *names), HOW))) == [""] * len(names)

    def test_own_schemes_and_impossible_paths(self) -> None:
        paths = ["refused:outside_root:/etc/passwd", "phantom:0:1:1:1", "x" * 5000, "a\0b", "/nowhere/a.png"]
        assert told(list(decode_all(paths, HOW))) == ["outside_root", "", "unreadable", "unreadable", "missing"]

    def test_many_long_names_at_once(self, tmp_path: Path) -> None:
        """More bytes than a pipe holds."""
        paths = [f"/nowhere/{'é' * 1900}{number}" for number in range(300)]
        assert set(told(list(decode_all(paths, HOW)))) == {"missing"}

    def test_large_squares(self, tmp_path: Path) -> None:
        """Several pictures larger than the pipe in flight."""
        answers = list(decode_all(files(tmp_path, *"abcdefghijkl"), How(1024)))
        assert all(isinstance(answer, Decoded) and answer.pixels.shape == (1024, 1024) for answer in answers)
