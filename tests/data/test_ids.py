import os
import threading
from pathlib import Path

import pytest

from cxrtl.data.ids import derived, keyed_id, load_key
from cxrtl.errors import ManifestError


def test_id_has_a_prefix_and_16_hex_digits_and_depends_on_text_key_and_prefix() -> None:
    one = keyed_id("img", "a.png", b"k" * 32)
    assert one.startswith("img-") and len(one) == 20
    assert int(one[4:], 16) >= 0
    assert one == keyed_id("img", "a.png", b"k" * 32)
    others = {keyed_id("img", "b.png", b"k" * 32), keyed_id("img", "a.png", b"l" * 32)}
    assert one not in others
    assert one[4:] != keyed_id("pat", "a.png", b"k" * 32)[4:]


def test_keys_of_purposes_differ_and_that_of_none_is_the_key() -> None:
    key = b"k" * 32
    assert derived(key, "") == key
    assert len({key, derived(key, "ours"), derived(key, "theirs"), derived(b"l" * 32, "ours")}) == 4


def test_unknown_stays_unknown() -> None:
    assert keyed_id("pat", "", b"k" * 32) == ""


def test_name_that_is_not_utf8_has_an_id() -> None:
    assert keyed_id("img", os.fsdecode(b"\xff.png"), b"k" * 32) != keyed_id("img", os.fsdecode(b"\xfe.png"), b"k" * 32)


def test_key_is_made_once_for_the_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "id.key"
    monkeypatch.setenv("CXRTL_KEY_FILE", str(path))
    first = load_key()
    assert len(first) == 32 and load_key() == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["id.key"]


def test_processes_that_make_the_key_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRTL_KEY_FILE", str(tmp_path / "id.key"))
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(load_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8 and len(set(keys)) == 1


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_damaged_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    (tmp_path / "id.key").write_bytes(content)
    (tmp_path / "id.key").chmod(0o600)
    monkeypatch.setenv("CXRTL_KEY_FILE", str(tmp_path / "id.key"))
    with pytest.raises(ManifestError, match=f"holds {len(content)} bytes instead of 32"):
        load_key()


def test_place_that_cannot_hold_a_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CXRTL_KEY_FILE", str(tmp_path / "file" / "id.key"))
    with pytest.raises(ManifestError, match="cannot be read or made"):
        load_key()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_key_open_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.setenv("CXRTL_KEY_FILE", str(tmp_path / "id.key"))
    key = load_key()
    (tmp_path / "id.key").chmod(mode)
    with pytest.raises(ManifestError, match=rf"mode 0{mode:o}.*: chmod 600 it"):
        load_key()
    (tmp_path / "id.key").chmod(0o400)
    assert load_key() == key
