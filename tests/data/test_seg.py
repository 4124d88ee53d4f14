"""DICOM SEG as the mask of a DICOM series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from cxrtl.data.images import How
from tests.data.test_dicom import radiograph
from tests.data.test_series import COUNT, STORED, cut, decoded, enhanced, folder, item, placed, reason, saved

DRAWN = np.zeros((COUNT, 32, 32), np.uint8)
DRAWN[1:4, 4:20, 6:25] = 1
DRAWN[3, 22:30, 3:9] = 2


def seg(frames: list[tuple[int, int]], drawn: np.ndarray = DRAWN, **attributes: Any) -> Dataset:
    """A SEG of (segment, slice) each."""
    values = np.stack([drawn[at] == number for number, at in frames])
    bits = np.packbits(values.ravel(), bitorder="little").tobytes()
    groups = [placed(at, SegmentIdentificationSequence=item(ReferencedSegmentNumber=number)) for number, at in frames]
    dataset = enhanced(values.astype(np.uint8), groups)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.PixelData = 0, bits + bytes(len(bits) % 2)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.SegmentationType = "BINARY"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


class TestSeg:
    how = How(32, slices=1, structures=2)
    frames = [(2, 3), (1, 3), (1, 1), (1, 2)]  # noqa: RUF012

    def images(self, tmp_path: Path) -> str:
        return folder(tmp_path / "s", [cut(number) for number in range(COUNT)])

    def test_frames_lie_where_they_say(self, tmp_path: Path) -> None:
        image, mask = self.images(tmp_path), saved(tmp_path / "m", seg(self.frames))
        for at in range(COUNT):
            found = decoded(self.how, image, mask=mask, at=at).mask
            assert found is not None and np.array_equal(found, DRAWN[at])
        single = saved(tmp_path / "n", seg([(1, 2)]))
        found = decoded(replace(self.how, structures=1), image, mask=single, at=2).mask
        assert found is not None and np.array_equal(found, DRAWN[2])

    def test_what_cannot_be_a_mask_of_these(self, tmp_path: Path) -> None:
        image = self.images(tmp_path)
        both = np.where(DRAWN == 2, 1, DRAWN)
        overlapping = seg([(1, 3), (1, 2)], both)
        overlapping.PerFrameFunctionalGroupsSequence[1] = placed(
            3, SegmentIdentificationSequence=item(ReferencedSegmentNumber=2)
        )
        homeless = seg(self.frames)
        del homeless.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
        elsewhere = seg(self.frames)
        elsewhere.PerFrameFunctionalGroupsSequence[0] = placed(
            9, SegmentIdentificationSequence=item(ReferencedSegmentNumber=2)
        )
        turned = seg(self.frames)
        turned.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = item(
            ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]
        )
        for number, (dataset, expected) in enumerate(
            (
                (seg(self.frames, SegmentationType="FRACTIONAL"), "mask_unusable"),
                (overlapping, "mask_unusable"),
                (homeless, "mask_unusable"),
                (elsewhere, "mask_size"),
                (turned, "mask_size"),
            )
        ):
            mask = saved(tmp_path / str(number), dataset)
            assert reason(self.how, image, mask=mask, at=3) == expected, number
        mask = saved(tmp_path / "two", seg(self.frames))
        assert reason(replace(self.how, structures=1), image, mask=mask, at=2) == "mask_values"
        unplaced = saved(tmp_path / "u", radiograph(STORED[0], NumberOfFrames=COUNT, PixelData=STORED.tobytes()))
        assert reason(self.how, unplaced, mask=mask, at=2) == "mask_unusable"
