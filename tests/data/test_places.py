"""Where DICOM frames lie, within one file and beside NIfTI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from cxrtl.data.images import Decoded, How, Unusable
from tests.data.test_dicom import radiograph
from tests.data.test_series import (
    AXIAL,
    COUNT,
    GREYS,
    ONE,
    STORED,
    cut,
    decoded,
    enhanced,
    folder,
    item,
    placed,
    reason,
    saved,
    shared,
    volume,
)

AFFINE = np.array([[-0.5, 0, 0, 100], [0, -0.7, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1]])  # as NIfTI has it


class TestEnhanced:
    order = (4, 2, 0, 1, 5, 3)

    def test_frames_lie_in_the_order_of_their_positions(self, tmp_path: Path) -> None:
        dataset = enhanced(STORED[list(self.order)], [placed(number) for number in self.order])
        assert np.array_equal(volume(saved(tmp_path / "a", dataset)), GREYS)
        (tmp_path / "s").mkdir()
        saved(tmp_path / "s/only", dataset)
        assert np.array_equal(volume(str(tmp_path / "s")), GREYS)  # the one file of its folder

    def test_each_frame_has_its_own_scale(self, tmp_path: Path) -> None:
        groups = [
            {"PixelValueTransformationSequence": item(RescaleSlope=k + 1, RescaleIntercept=-k)} for k in range(COUNT)
        ]
        values = np.stack([STORED[0]] * COUNT)
        found = volume(saved(tmp_path / "a", enhanced(values, [placed(k, **groups[k]) for k in range(COUNT)])))
        meant = np.stack([STORED[0] * (k + 1.0) - k for k in range(COUNT)])
        assert np.abs(found - (meant - meant.min()) / np.ptp(meant) * 255).max() <= 0.51

    def test_shared_scale_and_window(self, tmp_path: Path) -> None:
        common = shared(
            PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=-1024),
            FrameVOILUTSequence=item(WindowCenter=9000, WindowWidth=4001),
        )
        dataset = enhanced(STORED, [placed(number) for number in range(COUNT)], common)
        expected = np.clip((STORED * 2.0 - 1024 - 6999.5) / 4000, 0, 1) * 255
        assert np.abs(volume(saved(tmp_path / "a", dataset)) - expected).max() <= 0.51

    def test_what_is_no_volume_is_refused(self, tmp_path: Path) -> None:
        for number, (places, expected) in enumerate(
            (
                ([0, 1, 2, 2, 3, 4], "mixed_series"),  # two at one place: echoes, times, directions of diffusion
                ([0, 1, 2, 4, 5, 6], "slice_gaps"),
            )
        ):
            dataset = enhanced(STORED, [placed(place) for place in places])
            assert reason(ONE, saved(tmp_path / str(number), dataset)) == expected
        half = enhanced(STORED, [placed(k) if k else item(FrameContentSequence=item(StackID="1"))[0] for k in range(6)])
        assert reason(ONE, saved(tmp_path / "half", half)) == "slice_gaps"

    def test_without_places_as_stored(self, tmp_path: Path) -> None:
        dataset = radiograph(STORED[0], NumberOfFrames=COUNT, PixelData=STORED.tobytes())
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], AXIAL  # of the first frame
        assert np.array_equal(volume(saved(tmp_path / "a", dataset)), GREYS)


class TestGrid:
    """A DICOM series, and what NIfTI says of the same place."""

    def channels(self, tmp_path: Path, affine: np.ndarray, name: str = "b.nii") -> Callable[[], Decoded]:
        nibabel.save(nibabel.Nifti1Image(STORED.transpose(2, 1, 0).astype(np.int16), affine), tmp_path / name)
        if not (tmp_path / "s").exists():
            folder(tmp_path / "s", [cut(number) for number in range(COUNT)])
        return lambda: decoded(How(32, channels=2, slices=1), str(tmp_path / "s"), str(tmp_path / name), at=4)

    def test_the_same_place(self, tmp_path: Path) -> None:
        found = self.channels(tmp_path, AFFINE)().pixels
        assert np.array_equal(found[0], GREYS[4]) and np.array_equal(found[1], GREYS[4])

    def test_stored_in_another_order(self, tmp_path: Path) -> None:
        self.channels(tmp_path, AFFINE)
        turned = nibabel.load(tmp_path / "b.nii").as_reoriented(np.array([[1, -1], [0, -1], [2, 1]]))
        nibabel.save(turned, tmp_path / "c.nii")
        found = decoded(How(32, channels=2, slices=1), str(tmp_path / "s"), str(tmp_path / "c.nii"), at=4).pixels
        assert np.array_equal(found[0], found[1])

    def test_another_place(self, tmp_path: Path) -> None:
        moved = AFFINE + np.array([[0, 0, 0, 0.01], *np.zeros((3, 4))])
        with pytest.raises(Unusable, match="channel_size"):
            self.channels(tmp_path, moved)()
