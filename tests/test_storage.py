"""A home at a URL: written there first and in order, pulled on any machine, readable after a fault at any moment."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cxrtl import options, rundir, storage
from cxrtl.config import parse
from cxrtl.data import flat
from cxrtl.errors import ConfigError, DamagedError, ManifestError, RunError
from cxrtl.rundir import RunDir
from tests.data.test_flat import prepared
from tests.homes import HOME, SECRET, Machines, mirrored, stored


class TestPlace:
    def test_a_path_stays_one(self, tmp_path: Path) -> None:
        assert storage.place("runs/x") == Path("runs/x") and storage.at(tmp_path) is None
        assert storage.name(tmp_path) == str(tmp_path) and storage.pace(tmp_path, 1) == 1

    def test_a_path_in_a_mirror_knows_its_url(self, machines: Machines) -> None:
        path = machines.use("one") / "runs" / "x"
        assert path == storage.place(f"{HOME}/runs/x/")
        assert storage.name(path) == f"{HOME}/runs/x" and storage.pace(path, 1) == storage.PACE

    @pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "s3://bucket/x?key=secret", "s3://", "s3://b/../c"])
    def test_urls_that_are_refused(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            storage.place(url)
        assert "key:secret" not in str(caught.value) and "=secret" not in str(caught.value)

    def test_a_mirror_of_another_machine_is_no_folder_of_this(self, machines: Machines) -> None:
        path = machines.use("one")
        machines.use("two")
        with pytest.raises(RunError, match=storage.VARIABLE):
            rundir.write_json(path / "x.json", 1)

    def test_unknown_filesystems_are_named(self, machines: Machines) -> None:
        machines.use("one")
        with pytest.raises(ConfigError, match="no filesystem 'nosuch'"):
            storage.at(storage.place("nosuch://bucket/x"))

    def test_the_command_line_takes_urls(self, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
        home = machines.use("one")
        monkeypatch.setenv("CXRTL_HOME", HOME)
        assert options.home_folder(None) == options.home_folder(options.place(HOME)) == home
        with pytest.raises(ConfigError, match=f"{HOME}/runs/x holds no run"):
            options.run_folder(options.place(f"{HOME}/runs/x"))
        write(home / "runs/x/experiment.resolved.json")
        machines.use("two")
        assert options.run_folder(options.place(f"{HOME}/runs/x")).path("experiment.resolved.json").exists()

    def test_images_come_from_folders(self, machines: Machines) -> None:
        with pytest.raises(ConfigError, match=r"s3://b/x.* is no folder: copy"):
            parse({"name": "x", "data": {"source": "folder", "path": "s3://b/x"}}, where="x")
        machines.use("one")
        with pytest.raises(ManifestError, match=f"{HOME}.* does not exist"):
            options.experiment_of(storage.place(HOME), [])


def write(path: Path, value: Any = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(path, value)
    return path


class TestWriting:
    def test_the_storage_has_it_before_the_mirror(self, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
        path, put, before = machines.use("one") / "runs/x.json", MemoryFileSystem.put_file, []

        def watched(self: Any, *words: Any, **more: Any) -> None:
            before.append(path.exists())
            put(self, *words, **more)

        monkeypatch.setattr(MemoryFileSystem, "put_file", watched)
        write(path)
        assert before == [False] and stored() == mirrored(machines.use("one")) == {"runs/x.json": b"1\n"}

    def test_a_write_that_fails_there_leaves_both_as_they_were(
        self, machines: Machines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(machines.use("one") / "runs/x.json")

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError("Access Denied")

        monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
        with pytest.raises(OSError, match="Access Denied") as caught:
            write(path, 2)
        assert caught.value.filename == f"{HOME}/runs/x.json"
        assert stored() == mirrored(machines.use("one")) == {"runs/x.json": b"1\n"}
        assert [each.name for each in path.parent.iterdir()] == ["x.json"]

    def test_what_serves_one_machine_stays_there(self, machines: Machines) -> None:
        home = machines.use("one")
        for name in ("prepared/p/private/identities.parquet", f"prepared/p/{flat.NAME}", f"prepared/p/{flat.ABOUT}"):
            write(home / name)
        write(home / "runs/r/private/fold0/result.json")  # an arm may be called so
        with RunDir(home / "runs/r").lock():
            assert [name for name in stored() if ".lock" not in name] == ["runs/r/private/fold0/result.json"]
            storage.pull(home)
            assert (home / "prepared/p" / flat.NAME).exists() and (home / "runs/r/lock").exists()
        assert list(stored()) == ["runs/r/private/fold0/result.json"]

    def test_deleting_is_mirrored(self, machines: Machines) -> None:
        home = machines.use("one")
        first, _ = write(home / "runs/x.json"), write(home / "runs/figures/y.json")
        storage.remove(first)
        storage.remove(first)
        assert list(stored()) == list(mirrored(home)) == ["runs/figures/y.json"]
        storage.remove(home / "runs/figures")
        storage.remove(home / "runs/figures")
        assert stored() == mirrored(home) == {}

    def test_forgetting_leaves_what_is_stored(self, machines: Machines) -> None:
        home = machines.use("one")
        write(home / "runs/x.json")
        storage.forget(home / "runs")
        assert mirrored(home) == {} and list(stored()) == ["runs/x.json"]
        storage.pull(home)
        assert mirrored(home) == stored()
        storage.forget(machines.folder / "elsewhere")

    def test_what_grows_is_sent_when_asked(self, machines: Machines) -> None:
        home = machines.use("one")
        events = home / "tensorboard/events.out.tfevents.1.host"
        events.parent.mkdir(parents=True)
        for content in (b"1", b"12"):
            events.write_bytes(content)
            storage.pull(home)
            assert events.read_bytes() == content
            storage.send(home)
            assert stored() == {"tensorboard/events.out.tfevents.1.host": content}
        before = dict(MemoryFileSystem.store)
        storage.send(home)
        assert MemoryFileSystem.store == before

    def test_where_writes_show_early_a_file_is_renamed_into_place(self, tmp_path: Path, machines: Machines) -> None:
        machines.home = f"file://{tmp_path}/far"
        path = write(machines.use("one") / "runs/x.json")
        (tmp_path / "far/runs/y.json.abcd.part").touch()
        assert (tmp_path / "far/runs/x.json").read_bytes() == path.read_bytes()
        storage.pull(machines.use("two"))
        assert list(mirrored(machines.use("two"))) == ["runs/x.json"]
        storage.remove(machines.use("two") / "runs")
        assert not (tmp_path / "far/runs").exists()


class TestPulling:
    def test_another_machine_gets_what_is_there(self, machines: Machines) -> None:
        one = machines.use("one")
        for name in ("a.json", "b/c.json"):
            write(one / "runs" / name, name)
        two = machines.use("two")
        storage.pull(two / "runs/none")
        assert mirrored(two) == {}
        storage.fetch(two / "runs/b/c.json")
        storage.fetch(two / "runs/none.json")
        assert list(mirrored(two)) == ["runs/b/c.json"]
        storage.pull(two, ("a.json",))
        assert mirrored(two) == stored()
        write(two / "runs/a.json", "new")
        storage.remove(two / "runs/b/c.json")
        storage.pull(machines.use("one"))
        assert mirrored(one) == stored() == {"runs/a.json": b'"new"\n'}

    def test_only_what_differs_is_fetched(self, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
        home, get, fetched = machines.use("one"), MemoryFileSystem.get_file, []

        def counted(self: Any, there: str, *words: Any, **more: Any) -> None:
            fetched.append(there.rpartition("/")[2])
            get(self, there, *words, **more)

        monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
        for name in ("a.json", "b.json", "c.json"):
            write(home / name)
        storage.pull(home)
        assert fetched == []
        (home / "a.json").write_text("damaged")
        (home / "b.json").unlink()
        storage.pull(home)
        assert sorted(fetched) == ["a.json", "b.json"] and mirrored(home) == stored()

    @pytest.mark.parametrize("deleted", [False, True])
    def test_what_is_written_here_meanwhile_stays(
        self, machines: Machines, monkeypatch: pytest.MonkeyPatch, deleted: bool
    ) -> None:
        path, found = write(machines.use("one") / "x.json"), MemoryFileSystem.find
        machines.use("two")
        write(storage.place(HOME) / "x.json", 2)
        home = machines.use("one")
        if deleted:
            MemoryFileSystem.store.clear()

        def slow(self: Any, *words: Any, **more: Any) -> Any:
            listed = found(self, *words, **more)
            write(path, 3)
            return listed

        monkeypatch.setattr(MemoryFileSystem, "find", slow)
        storage.pull(home)
        assert mirrored(home) == stored() == {"x.json": b"3\n"}

    def test_no_name_leads_out(self, machines: Machines) -> None:
        home = machines.use("one")
        MemoryFileSystem().pipe_file("/bucket/home/runs/../../../evil", b"")
        with pytest.raises(DamagedError, match="leads out of it"):
            storage.pull(home)
        assert mirrored(home) == {}

    def test_a_storage_that_does_not_answer_is_named(self, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(machines.use("one") / "runs/x.json")

        def silent(*_: Any, **__: Any) -> None:
            raise ConnectionError(errno.ECONNREFUSED, "Connection refused")

        for name in ("find", "info", "rm_file"):
            monkeypatch.setattr(MemoryFileSystem, name, silent)
        for call in (storage.pull, storage.fetch, storage.remove):
            with pytest.raises(OSError, match="Connection refused") as caught:
                call(path)
            assert caught.value.filename == f"{HOME}/runs/x.json" and path.exists()

    def test_a_set_that_streams_has_a_file_on_each_machine(self, machines: Machines) -> None:
        one, planes = prepared(machines.use("one") / "prepared/p")
        storage.send(one.folder)
        there = replace(one, folder=machines.use("two") / "prepared/p")
        flat.make_here(there)
        assert (flat.describe(there).read(np.arange(len(planes))) == planes).all()
        assert not any("pixels" in name for name in stored())


@pytest.mark.usefixtures("s3")
class TestS3:
    def test_there_and_back(self, machines: Machines) -> None:
        machines.home = "s3://bucket/some/prefix"
        one = machines.use("one")
        for name in ("a.json", "b/c.json", "b/d.json"):
            write(one / "runs" / name, name)
        storage.remove(one / "runs/b/d.json")
        storage.remove(one / "runs/b/none.json")
        wanted = mirrored(one)
        two = machines.use("two")
        storage.pull(two)
        assert mirrored(two) == wanted and len(wanted) == 2
        stamps = {path: path.stat().st_mtime_ns for path in two.rglob("*.json")}
        storage.pull(two)
        storage.fetch(two / "runs/a.json")
        assert stamps == {path: path.stat().st_mtime_ns for path in two.rglob("*.json")}
        write(two / "runs/a.json", "new")
        storage.remove(two / "runs/b")
        storage.pull(machines.use("one"))
        assert mirrored(one) == {"runs/a.json": b'"new"\n'}

    def test_a_bucket_that_is_not_there_is_named(self, machines: Machines) -> None:
        machines.home = "s3://nosuch/prefix"
        with pytest.raises(OSError, match="bucket does not exist") as caught:
            write(machines.use("one") / "x.json")
        assert caught.value.filename == "s3://nosuch/prefix/x.json"

    def test_no_key_is_written(self, machines: Machines, tmp_path: Path) -> None:
        machines.home = "s3://bucket/home"
        home = machines.use("one")
        with RunDir(home / "runs/x").lock():
            write(home / "runs/x/a.json")
            files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
            store = storage.at(home)
            assert store
            files += [store.files.cat_file(name) for name in store.files.find("bucket")]
        assert len(files) >= 4 and not any(SECRET.encode() in content for content in files)
