"""Rows of several files: masks, channels, slices of volumes; what cannot be used has its reason."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from cxrtl.data.images import FILES, Decoded, How, Unusable, stack, volume
from cxrtl.data.images.files import decode_file
from cxrtl.data.images.guard import decode_all
from cxrtl.data.images.rules import Volume
from tests.data.bad_inputs import png
from tests.data.test_dicom import encoded, radiograph

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (40, 60), dtype=np.uint8)
BOX = np.zeros((40, 60), dtype=np.uint8)
BOX[10:30, 15:45] = 1
ONE = How(32, structures=1)


def saved(path: Path, values: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return str(path)


def nifti(path: Path, values: np.ndarray, codes: str = "LPS", **header: float) -> str:
    """`values[x, y, slice]` with axes that run towards `codes`."""
    affine = nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        ),
        values.shape,
    )
    image = nibabel.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return str(path)


def decoded(how: How, *files: str, mask: str = "", at: int | None = None) -> Decoded:
    return decode_file(FILES + json.dumps({"images": files, "mask": mask, "slice": at}), how)


def reason(how: How, *files: str, mask: str = "", at: int | None = None) -> str:
    with pytest.raises(Unusable) as caught:
        decoded(how, *files, mask=mask, at=at)
    return caught.value.reason


class TestMasks:
    @pytest.mark.parametrize("drawn", [BOX, BOX * 255, BOX.astype(bool), BOX.astype(np.int32) * 1000])
    def test_one_structure_in_whatever_number(self, tmp_path: Path, drawn: np.ndarray) -> None:
        image, mask = saved(tmp_path / "a.png", PICTURE), saved(tmp_path / "m.tiff", drawn)
        found = decoded(ONE, image, mask=mask)
        assert found.mask is not None and found.mask.shape == (32, 32) and set(np.unique(found.mask)) == {0, 1}
        assert found.mask[8:24, 8:24].all() and found.mask.sum() == 16 * 16

    @pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
    def test_mask_is_fitted_as_its_image(self, tmp_path: Path, aspect: str) -> None:
        image, mask = saved(tmp_path / "a.png", BOX * 255), saved(tmp_path / "m.png", BOX * 255)
        found = decoded(How(32, aspect, structures=1), image, mask=mask)
        assert found.mask is not None
        clear = np.abs(found.pixels.astype(int) - 128) > 120
        assert clear.mean() > 0.8 and np.array_equal(found.mask[clear] == 1, found.pixels[clear] > 128)

    def test_numbers_stay_whole(self, tmp_path: Path) -> None:
        mask = saved(tmp_path / "m.png", np.repeat(np.array([[0, 1, 3]], np.uint8), 40, 0).repeat(20, 1))
        found = decoded(How(32, structures=3), saved(tmp_path / "a.png", PICTURE), mask=mask)
        assert found.mask is not None and set(np.unique(found.mask)) == {0, 1, 3}
        assert reason(How(32, structures=2), saved(tmp_path / "a.png", PICTURE), mask=mask) == "mask_values"

    def test_reasons(self, tmp_path: Path) -> None:
        image, mask = saved(tmp_path / "a.png", PICTURE), saved(tmp_path / "m.png", BOX)
        (tmp_path / "junk.png").write_bytes(Path(mask).read_bytes()[:60])
        assert reason(ONE, image, mask=str(tmp_path / "gone.png")) == "mask_unusable"
        assert reason(ONE, image, mask=str(tmp_path / "junk.png")) == "mask_unusable"
        assert reason(ONE, str(tmp_path / "gone.png"), mask=mask) == "missing"
        assert reason(ONE, image, mask=saved(tmp_path / "small.png", BOX[:, :-1])) == "mask_size"
        assert reason(ONE, image, mask=saved(tmp_path / "grey.png", PICTURE)) == "mask_values"
        coloured = np.dstack([BOX, BOX * 0, BOX * 0])
        assert reason(ONE, image, mask=saved(tmp_path / "red.png", coloured)) == "mask_unusable"

    def test_same_answers_from_the_guarded_process(self, tmp_path: Path) -> None:
        image, mask = saved(tmp_path / "a.png", PICTURE), saved(tmp_path / "m.png", BOX)
        paths = [FILES + json.dumps({"images": [image], "mask": name}) for name in (mask, image, mask)]
        first, second, third = decode_all(paths, ONE)
        alone = decoded(ONE, image, mask=mask)
        assert isinstance(second, Unusable) and second.reason == "mask_values"
        for found in (first, third):
            assert isinstance(found, Decoded) and found.mask is not None and alone.mask is not None
            assert np.array_equal(found.mask, alone.mask) and np.array_equal(found.pixels, alone.pixels)
            assert (found.content_hash, found.mask_hash) == (alone.content_hash, alone.mask_hash)

    def test_numbers_that_pillow_would_cut_short(self, tmp_path: Path) -> None:
        """Of 16-bit colour it keeps the high bytes: structure 1 would be nowhere."""
        rows = [b"\0" + row.astype(">u2").repeat(3).tobytes() for row in BOX]
        (tmp_path / "deep.png").write_bytes(png(60, 40, 16, 2, b"".join(rows)))
        image = saved(tmp_path / "a.png", PICTURE)
        assert reason(ONE, image, mask=str(tmp_path / "deep.png")) == "mask_unusable"
        rows = [b"\0" + np.dstack([row, row * 0]).astype(">u2").tobytes() for row in BOX]
        (tmp_path / "alpha.png").write_bytes(png(60, 40, 16, 4, b"".join(rows)))
        found, plain = (
            decoded(ONE, image, mask=mask).mask
            for mask in (str(tmp_path / "alpha.png"), saved(tmp_path / "m.png", BOX))
        )
        assert np.array_equal(found, plain)

    def test_volume_is_judged_as_a_whole(self, tmp_path: Path) -> None:
        """A slice of a second structure alone must not pass for the one that is asked for."""
        drawn = np.zeros((30, 20, 7), np.uint8)
        drawn[5:9, 5:9, 2], drawn[5:9, 5:9, 3] = 1, 2
        image = nifti(tmp_path / "v.nii", TestVolumes.volume)
        mask = nifti(tmp_path / "m.nii", drawn)
        assert {reason(How(32, slices=1, structures=1), image, mask=mask, at=k) for k in (0, 2, 3)} == {"mask_values"}
        assert decoded(How(32, slices=1, structures=2), image, mask=mask, at=3).mask.max() == 2  # type: ignore[union-attr]

    def test_volume_must_lie_where_the_images_do(self, tmp_path: Path) -> None:
        """Without its directions a mask would be taken mirrored."""
        how = How(32, slices=1, structures=1)
        image = nifti(tmp_path / "v.nii", TestVolumes.volume)
        drawn = np.zeros((30, 20, 7), np.uint8)
        drawn[2:9, 3:5, 2] = 1
        same = nifti(tmp_path / "s.nii", drawn)
        turned = nifti(tmp_path / "t.nii", drawn[::-1, ::-1], "RAS")  # the same place
        assert decoded(how, image, mask=turned, at=2).mask_hash == decoded(how, image, mask=same, at=2).mask_hash
        nibabel.save(nibabel.Nifti1Image(drawn, np.diag([1, 1, 2, 1])), tmp_path / "m.nii")
        assert reason(how, image, mask=str(tmp_path / "m.nii"), at=2) == "mask_size"
        assert reason(how, image, mask=nifti(tmp_path / "n.nii", drawn[..., :6]), at=2) == "mask_size"
        picture = decoded(how, image, mask=saved(tmp_path / "m.png", drawn[..., 0].T), at=2).mask
        assert picture is not None and not picture.any()


class TestChannels:
    def test_pictures_of_different_size(self, tmp_path: Path) -> None:
        one, two = saved(tmp_path / "a.png", PICTURE), saved(tmp_path / "b.png", PICTURE[:, :-1])
        assert reason(How(32, channels=2), one, two) == "channel_size"
        assert decoded(How(32, channels=2), one, one).pixels.shape == (2, 32, 32)

    @pytest.mark.parametrize(
        ("shift", "slices", "expected"), [(0.0005, 7, ""), (0.01, 7, "channel_size"), (0, 6, "channel_size")]
    )
    def test_volumes_of_different_grids(self, tmp_path: Path, shift: float, slices: int, expected: str) -> None:
        one = nifti(tmp_path / "a.nii", TestVolumes.volume)
        image = nibabel.load(one)
        affine = image.affine.copy()
        affine[0, 3] += shift
        nibabel.save(nibabel.Nifti1Image(TestVolumes.volume[..., :slices], affine), tmp_path / "b.nii")
        how = How(32, channels=2, slices=1)
        if expected:
            assert reason(how, one, str(tmp_path / "b.nii"), at=2) == expected
        else:
            pixels = decoded(how, one, str(tmp_path / "b.nii"), at=2).pixels
            assert np.array_equal(pixels[0], pixels[1])


class TestMemory:
    """Whether a row can be used does not depend on those before it."""

    how = How(32, slices=1, memory_mib=1)  # a quarter of it for volumes of before

    @pytest.fixture(autouse=True)
    def nothing_kept(self) -> None:
        stack._kept.clear()

    def volumes(self, tmp_path: Path, count: int) -> list[str]:
        values = np.arange(64 * 64 * 20).astype(np.int16).reshape(64, 64, 20)
        return [nifti(tmp_path / f"{number}.nii", values + number) for number in range(count)]

    def test_volumes_kept_are_bounded(self, tmp_path: Path) -> None:
        for path in self.volumes(tmp_path, 8):
            decoded(self.how, path)
            sizes = [kept.values.nbytes for kept in stack._kept.values()]
            assert sum(sizes[:-1]) <= 2**18
        assert len(sizes) == 4

    def test_room_is_made_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one, two = self.volumes(tmp_path, 2)
        alone, real = decoded(self.how, two), stack._volume
        stack._kept.clear()

        def narrow(file: str, how: How) -> Volume:
            if stack._kept:
                raise MemoryError
            return real(file, how)

        monkeypatch.setattr(stack, "_volume", narrow)
        decoded(self.how, one)
        assert decoded(self.how, two).content_hash == alone.content_hash

        def full(file: str, how: How) -> Volume:
            raise MemoryError

        monkeypatch.setattr(stack, "_volume", full)
        with pytest.raises(MemoryError):
            decoded(self.how, one)

    def test_a_volume_is_not_blown_up_to_fractions(self) -> None:
        """As stored and as greys, three bytes a voxel, and a slice or two of fractions."""
        values = np.arange(128 * 128 * 64).astype(np.int16).reshape(128, 128, 64)
        data = gzip.compress(nibabel.Nifti1Image(values, np.eye(4)).to_bytes(), 1)
        tracemalloc.start()
        try:
            volume.nifti(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5 * values.size


class TestVolumes:
    volume = RNG.integers(0, 1000, (30, 20, 7)).astype(np.int16)

    def test_slices_about_one_and_beyond_the_ends(self, tmp_path: Path) -> None:
        path = nifti(tmp_path / "v.nii.gz", self.volume)
        how = How(32, channels=3, slices=3)
        whole = [decoded(How(32, slices=1), path, at=k).pixels for k in range(7)]
        assert np.array_equal(decoded(how, path, at=2).pixels, np.stack(whole[1:4]))
        assert np.array_equal(decoded(how, path).pixels, np.stack(whole[2:5]))  # the middle one
        assert np.array_equal(decoded(how, path, at=0).pixels, np.stack([whole[0], *whole[:2]]))
        assert reason(how, path, at=7) == "no_such_slice"

    def test_grey_by_the_whole_volume_or_its_display_range(self, tmp_path: Path) -> None:
        flat = np.broadcast_to(np.array([100, 200, 300], np.int16), (8, 8, 3))
        greys = [decoded(How(32, slices=1), nifti(tmp_path / "a.nii", flat), at=k).pixels.max() for k in range(3)]
        assert greys == [0, 128, 255]
        shown = nifti(tmp_path / "b.nii", flat, cal_min=0, cal_max=200)
        assert [decoded(How(32, slices=1), shown, at=k).pixels.max() for k in range(3)] == [128, 255, 255]

    @pytest.mark.parametrize("codes", ["LPS", "RAS", "PLS", "ARI", "PIL"])
    def test_any_stored_order_gives_the_same_picture(self, tmp_path: Path, codes: str) -> None:
        """Stored in another order of axes, a slice's rows still run to the back (or feet), columns to the left."""
        wanted = nibabel.orientations.axcodes2ornt("LPS" if codes[2] in "SI" else "PIL")
        there = nibabel.orientations.ornt_transform(wanted, nibabel.orientations.axcodes2ornt(codes))
        turned = nibabel.orientations.apply_orientation(self.volume, there)
        at = 6 if codes[2] == "I" else 0
        found = decoded(How(32, slices=1), nifti(tmp_path / "v.nii", turned, codes), at=at).pixels
        grey = np.floor((self.volume[:, :, 0].T - self.volume.min()) / np.ptp(self.volume) * 255 + 0.5)
        image = Image.fromarray(grey.astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(found, np.asarray(image))

    def test_frames_of_dicom(self, tmp_path: Path) -> None:
        frames = np.arange(3 * 32 * 32, dtype=np.uint16).reshape(3, 32, 32)
        (tmp_path / "a.dcm").write_bytes(encoded(radiograph(frames[0], NumberOfFrames=3, PixelData=frames.tobytes())))
        found = decoded(How(32, channels=3, slices=3), str(tmp_path / "a.dcm")).pixels
        assert np.array_equal(found, np.floor(frames / frames.max() * 255 + 0.5).astype(np.uint8))
        (tmp_path / "b.dcm").write_bytes(encoded(radiograph()))
        assert reason(How(32, slices=1), str(tmp_path / "b.dcm")) == "no_volume"
        assert reason(How(32), str(tmp_path / "a.dcm")) == "several_images"

    def test_mask_of_the_same_slice(self, tmp_path: Path) -> None:
        drawn = np.zeros((30, 20, 7), np.uint8)
        drawn[5:25, 4:16, 3] = 2
        image, mask = nifti(tmp_path / "v.nii", self.volume), nifti(tmp_path / "m.nii.gz", drawn)
        found = [decoded(How(32, slices=1, structures=2), image, mask=mask, at=k).mask for k in (2, 3)]
        assert found[0] is not None and found[1] is not None
        assert not found[0].any() and set(np.unique(found[1])) == {0, 2}

    def test_damaged(self, tmp_path: Path) -> None:
        whole = Path(nifti(tmp_path / "v.nii", self.volume)).read_bytes()
        for name, content in (("cut.nii", whole[:-500]), ("cut.nii.gz", gzip.compress(whole)[:-500])):
            (tmp_path / name).write_bytes(content)
            assert reason(How(32, slices=1), str(tmp_path / name)) in ("truncated", "undecodable")
        (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 50)
        assert reason(How(32, slices=1), str(tmp_path / "bad.nii.gz")) == "unknown_format"
        series = nifti(tmp_path / "t.nii", np.zeros((8, 8, 3, 2), np.int16))
        assert reason(How(32, slices=1), series) == "several_images"
        assert reason(How(32), nifti(tmp_path / "v.nii", self.volume)) == "several_images"
        assert reason(How(32, slices=1), saved(tmp_path / "a.png", PICTURE)) == "no_volume"
        assert reason(How(32, slices=1), str(tmp_path / ("n" * 300))) == "unreadable"  # longer than any name
