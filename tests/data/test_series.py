"""DICOM volumes as hospitals have them: a folder of slices."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cxrtl.data import shards
from cxrtl.data.images import FILES, Decoded, How, Unusable, rules, series
from cxrtl.data.images.files import decode_file
from cxrtl.data.images.guard import decode_all
from cxrtl.data.images.rules import file_paths
from tests.data.test_dicom import encoded, radiograph

COUNT = 6
STORED = (np.arange(COUNT * 32 * 32) * 3).astype(np.uint16).reshape(COUNT, 32, 32)
GREYS = np.floor(STORED / STORED.max() * 255 + 0.5).astype(np.uint8)
ONE = How(32, slices=1)
AXIAL = [1, 0, 0, 0, 1, 0]


def cut(number: int, values: np.ndarray | None = None, **attributes: Any) -> Dataset:
    """One slice of `STORED`, 2.5 mm above the one before."""
    said = {
        "SeriesInstanceUID": "1.2.4",
        "ImagePositionPatient": [-100, -80, -40 + 2.5 * number],
        "ImageOrientationPatient": AXIAL,
        "PixelSpacing": [0.7, 0.5],
    }
    return radiograph(STORED[number] if values is None else values, **said | attributes)


def folder(root: Path, slices: list[Dataset]) -> str:
    """Named so that their names' order is not that of their places."""
    root.mkdir()
    for number, dataset in enumerate(slices):
        (root / f"IM{(5 * number + 3) % 17:04d}").write_bytes(encoded(dataset))
    return str(root)


def decoded(how: How, *files: str, mask: str = "", at: int | None = None) -> Decoded:
    return decode_file(FILES + json.dumps({"images": files, "mask": mask, "slice": at}), how)


def reason(how: How, *files: str, mask: str = "", at: int | None = None) -> str:
    with pytest.raises(Unusable) as caught:
        decoded(how, *files, mask=mask, at=at)
    assert caught.value.reason in rules.REASONS
    return caught.value.reason


def volume(path: str) -> np.ndarray:
    return np.stack([decoded(ONE, path, at=number).pixels for number in range(COUNT)])


def item(**attributes: Any) -> list[Dataset]:
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return [dataset]


def shared(**groups: list[Dataset]) -> list[Dataset]:
    measures = {"PixelMeasuresSequence": item(PixelSpacing=[0.7, 0.5])}
    return item(PlaneOrientationSequence=item(ImageOrientationPatient=AXIAL), **measures, **groups)


def placed(number: int, **groups: list[Dataset]) -> Dataset:
    corner = [-100, -80, -40 + 2.5 * number]
    return item(PlanePositionSequence=item(ImagePositionPatient=corner), **groups)[0]


def enhanced(values: np.ndarray, places: list[Dataset], common: list[Dataset] | None = None) -> Dataset:
    dataset = radiograph(values[0], NumberOfFrames=len(values), PixelData=values.tobytes())
    dataset.SharedFunctionalGroupsSequence = shared() if common is None else common
    dataset.PerFrameFunctionalGroupsSequence = places
    return dataset


def saved(path: Path, dataset: Dataset) -> str:
    path.write_bytes(encoded(dataset))
    return str(path)


class TestFolder:
    def test_slices_lie_in_the_order_of_their_positions(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "s", [cut(number) for number in (3, 0, 5, 1, 4, 2)])
        assert np.array_equal(volume(path), GREYS)
        assert reason(ONE, path, at=COUNT) == "no_such_slice"
        about = decoded(How(32, channels=3, slices=3), path, at=1).pixels
        assert np.array_equal(about, GREYS[:3])

    def test_along_the_normal_whatever_the_direction(self, tmp_path: Path) -> None:
        """Sagittal slices, rows to the back, columns to the feet: their normal points to the right."""
        said = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
        slices = [cut(number, ImagePositionPatient=[-1.5 * number, 9, 7], **said) for number in range(COUNT)]
        assert np.array_equal(volume(folder(tmp_path / "s", slices)), GREYS)

    def test_tilted_and_rounded_positions(self, tmp_path: Path) -> None:
        """A tilted gantry shifts each slice against the last; makers round to a tenth of a millimetre."""
        corners = [[0, round(0.21 * number, 1), round(0.625 * number, 1)] for number in range(COUNT)]
        slices = [cut(number, ImagePositionPatient=corners[number]) for number in range(COUNT)]
        assert np.array_equal(volume(folder(tmp_path / "s", slices)), GREYS)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"SeriesInstanceUID": "1.2.5"}, "mixed_series"),
            ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "mixed_series"),
            ({"PixelSpacing": [0.7, 0.7]}, "mixed_series"),
            ({"ImagePositionPatient": [-100, -80, -40 + 2.5 * 3]}, "mixed_series"),  # where another lies
            ({"ImagePositionPatient": None}, "slice_gaps"),
            ({"PixelSpacing": None}, "slice_gaps"),
            ({"ImagePositionPatient": [-100, -80, -36.5]}, "slice_gaps"),
            ({"ImagePositionPatient": [-90, -80, -37.5]}, "slice_gaps"),  # beside the others
            ({"BurnedInAnnotation": "YES"}, "burned_in"),
            ({"NumberOfFrames": 2, "Rows": 16}, "mixed_series"),
        ],
    )
    def test_what_is_no_volume_is_refused(self, tmp_path: Path, change: dict[str, Any], expected: str) -> None:
        slices = [cut(number) for number in range(COUNT)]
        slices[1] = cut(1, **change)
        assert reason(ONE, folder(tmp_path / "s", slices)) == expected

    def test_missing_slice_other_size_and_none_with_a_position(self, tmp_path: Path) -> None:
        assert reason(ONE, folder(tmp_path / "a", [cut(number) for number in (0, 1, 2, 4, 5)])) == "slice_gaps"
        slices = [cut(0), cut(1), cut(2, STORED[2, :30])]
        assert reason(ONE, folder(tmp_path / "b", slices)) == "mixed_series"
        assert reason(ONE, folder(tmp_path / "c", [radiograph(STORED[k]) for k in range(3)])) == "slice_gaps"
        assert reason(ONE, folder(tmp_path / "d", [cut(0)])) == "no_volume"
        assert reason(ONE, folder(tmp_path / "e", [])) == "no_volume"
        assert reason(How(32), str(tmp_path / "a")) == "unreadable"  # a picture was wanted

    def test_what_else_lies_there_is_passed_over(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "s", [cut(number) for number in range(COUNT)])
        report = radiograph()
        del report.PixelData
        (tmp_path / "s/DICOMDIR").write_bytes(encoded(report))
        (tmp_path / "s/.DS_Store").write_bytes(b"\0")
        (tmp_path / "s/notes.txt").write_text("a folder beneath:")
        (tmp_path / "s/other").mkdir()
        assert np.array_equal(volume(path), GREYS)
        sex = How(32, slices=1, attributes=("sex",))
        (tmp_path / "s/A").write_bytes((tmp_path / "s/DICOMDIR").read_bytes())  # the first, and without an image
        assert decoded(sex, path).attributes == {"sex": ""}
        (tmp_path / "s/IM0001").write_bytes(encoded(cut(3, PatientSex="F")))
        assert decoded(sex, path).attributes == {"sex": "F"}

    def test_limits_and_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = folder(tmp_path / "s", [cut(number) for number in range(COUNT)])
        for name, most, expected in (
            ("MAX_FOLDER_FILES", COUNT - 1, "too_large_file"),
            ("MAX_FOLDER_BYTES", 5 * 2048, "too_large_file"),
            ("MAX_VOXELS", STORED.size - 1, "too_many_pixels"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(series, name, most)
                assert reason(ONE, path) == expected
        (tmp_path / "s/IM0003").rename(tmp_path / "away")
        (tmp_path / "s/IM0003").symlink_to(tmp_path / "away")
        assert reason(ONE, path) == "outside_root"

    def test_a_volume_has_one_scale(self, tmp_path: Path) -> None:
        """Rescaled slice by slice, as in PET, and shown through a window where all have the same."""
        own = [cut(k, STORED[0], RescaleSlope=k + 1, RescaleIntercept=k) for k in range(COUNT)]
        meant = np.stack([STORED[0] * (k + 1.0) + k for k in range(COUNT)])
        expected = (meant - meant.min()) / np.ptp(meant) * 255
        assert np.abs(volume(folder(tmp_path / "a", own)) - expected).max() <= 0.51
        same = [cut(k, WindowCenter=9000, WindowWidth=4001) for k in range(COUNT)]
        windowed = np.clip((STORED - 6999.5) / 4000, 0, 1) * 255
        assert np.abs(volume(folder(tmp_path / "b", same)) - windowed).max() <= 0.51
        differing = [cut(k, WindowCenter=9000 + k, WindowWidth=4001) for k in range(COUNT)]
        assert np.array_equal(volume(folder(tmp_path / "c", differing)), GREYS)

    def test_padding_of_a_volume(self, tmp_path: Path) -> None:
        slices = [cut(k, np.where(STORED[k] < 300, 60000, STORED[k]), PixelPaddingValue=60000) for k in range(COUNT)]
        found = volume(folder(tmp_path / "s", slices))
        seen = STORED >= 300
        assert not found[~seen].any()
        assert np.abs(found[seen] - (STORED[seen] - 300) / (STORED.max() - 300.0) * 255).max() <= 0.51

    def test_signed_by_its_files(self, tmp_path: Path) -> None:
        """A slice that is changed, added or taken away makes the row's shard again."""
        path = folder(tmp_path / "s", [cut(number) for number in range(COUNT)])
        entry = FILES + json.dumps({"images": [path], "mask": "", "slice": None})
        assert file_paths(entry) == sorted(map(str, Path(path).iterdir()))
        layout = shards.Layout(str(tmp_path), ONE, ("a", "b"), {})
        piece = {"first": 0, "columns": {"path": [entry], "image_id": ["x"]}}
        seen = {shards._made_from(piece, layout)}
        os.utime(tmp_path / "s/IM0003", ns=(1, 1))
        seen.add(shards._made_from(piece, layout))
        (tmp_path / "s/IM0003").unlink()
        seen.add(shards._made_from(piece, layout))
        (tmp_path / "s/new").write_bytes(b"")
        seen.add(shards._made_from(piece, layout))
        assert len(seen) == 4

    def test_a_changed_slice_is_read_again(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "s", [cut(number) for number in range(COUNT)])
        before = decoded(ONE, path, at=0)
        (tmp_path / "s/IM0003").write_bytes(encoded(cut(0, STORED[0] + 99, PatientSex="F")))
        assert decoded(ONE, path, at=0).content_hash != before.content_hash

    def test_same_answers_from_the_guarded_process(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "s", [cut(number) for number in range(COUNT)])
        entries = [FILES + json.dumps({"images": [path], "mask": "", "slice": at}) for at in (0, 9, 5)]
        first, second, third = decode_all(entries, ONE)
        assert isinstance(second, Unusable) and second.reason == "no_such_slice"
        for answer, at in ((first, 0), (third, 5)):
            assert isinstance(answer, Decoded) and np.array_equal(answer.pixels, GREYS[at])
