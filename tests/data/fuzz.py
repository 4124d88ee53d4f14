"""Random damage to images, label tables and experiment files: each is used or refused by our own words, always.

python -m tests.data.fuzz SECONDS [SEED]     prints what it tried; what went wrong is shown shrunk, and ends it
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import tomli_w
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from cxrtl import config
from cxrtl.data import manifest
from cxrtl.data.images import FILES, REASONS, Decoded, How
from cxrtl.data.images.guard import close, decode_all
from cxrtl.errors import ConfigError, ManifestError
from tests.data import public_sets
from tests.data.bad_inputs import corpus
from tests.data.helpers import CANARY, labelled
from tests.data.test_dicom import BUNDLED, encoded, radiograph
from tests.data.test_places import AFFINE
from tests.data.test_seg import DRAWN, seg
from tests.data.test_series import COUNT, STORED, cut, enhanced, folder, placed
from tests.data.test_stack import nifti

HOW = How(32, file_seconds=20, memory_mib=1024)
VOLUME = replace(HOW, slices=1)
MASK = replace(VOLUME, structures=2)
EXPERIMENTS = Path(__file__).parents[2] / "jobs/experiments"
LARGEST_SEED = 60_000  # bytes: larger files make rounds slow and hold nothing new
ROUND = 100  # examples of one round
Edit = tuple[str, float, bytes]

edits = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "cut", "repeat"]), st.floats(0, 1), st.binary(max_size=12)
    ),
    min_size=1,
    max_size=8,
)


def mutated(data: bytes, changes: list[Edit]) -> bytes:
    for kind, place, new in changes:
        at = int(place * len(data))
        if kind == "overwrite":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[at : at + 200] * (len(new) + 1) + data[at:]
    return data[: 4 * LARGEST_SEED]


class Fuzz:
    """The targets over one corpus in `root`; `seen` counts outcomes."""

    def __init__(self, root: Path) -> None:
        self.root, self.seen = root, Counter[str]()
        files = [*map(Path, corpus(root / "bad")), *BUNDLED]
        images = {path.name: path.read_bytes() for path in files} | {"plain.dcm": encoded(radiograph())}
        self.images = sorted((name, data) for name, data in images.items() if len(data) <= LARGEST_SEED)
        self.series = folder(root / "series", [cut(number) for number in range(COUNT)])
        self.volumes, self.masks = self._volumes()
        self.tables = self._tables()
        self.experiments = [path.read_bytes() for path in sorted(EXPERIMENTS.glob("*.toml"))]

    def _tables(self) -> list[tuple[config.Data, Path]]:
        """Each label table there is, with the source that reads it."""
        cohort = {"cohort": {"finding": "Pleural Effusion"}}
        mimic, chexpert = public_sets.mimic(self.root / "mimic", "csv"), public_sets.chexpert(self.root / "chexpert")
        nih, own = public_sets.nih(self.root / "nih"), labelled(self.root / "own")
        pd.read_csv(own, dtype=str).to_parquet(own.with_suffix(".parquet"), index=False)
        sources = [
            ({"source": "mimic", "path": str(mimic), **cohort}, sorted(mimic.glob("*.csv"))),
            ({"source": "chexpert", "path": str(chexpert), **cohort}, sorted(chexpert.glob("*.csv"))),
            ({"source": "nih", "path": str(nih), "cohort": {"finding": "Effusion"}}, [nih / "Data_Entry_2017.csv"]),
            *(
                ({"source": "table", "path": str(path), "keep_columns": ["age"]}, [path])
                for path in (own, own.with_suffix(".parquet"))
            ),
        ]
        return [(config.Data.model_validate(raw), path) for raw, paths in sources for path in paths]

    def _volumes(self) -> tuple[list[Path], list[bytes]]:
        """Files of a volume, among them the slices of `series`; and masks of it."""
        frames = enhanced(STORED, [placed(number) for number in range(COUNT)])
        (self.root / "frames.dcm").write_bytes(encoded(frames))
        drawn, png = nibabel.Nifti1Image(DRAWN.transpose(2, 1, 0), AFFINE).to_bytes(), io.BytesIO()
        names = [nifti(self.root / name, STORED.astype(np.int16)) for name in ("volume.nii", "volume.nii.gz")]
        Image.fromarray(DRAWN[2]).save(png, "PNG")
        masks = [drawn, gzip.compress(drawn), png.getvalue(), encoded(seg([(2, 3), (1, 3), (1, 2)]))]
        return [*map(Path, names), self.root / "frames.dcm", *sorted(Path(self.series).iterdir())], masks

    def decoder(self, which: int, changes: list[Edit]) -> None:
        _, data = self.images[which % len(self.images)]
        path = self.root / "mutated"
        path.write_bytes(mutated(data, changes))
        self._decoded("decoder", str(path), HOW)

    def volume(self, which: int, changes: list[Edit]) -> None:
        path = self.volumes[which % len(self.volumes)]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, changes))
        try:
            self._decoded("volume", _row(self.series if path.parent.name == "series" else str(path)), VOLUME)
        finally:
            path.write_bytes(whole)

    def mask(self, which: int, changes: list[Edit]) -> None:
        path = self.root / "mutated-mask"
        path.write_bytes(mutated(self.masks[which % len(self.masks)], changes))
        self._decoded("mask", _row(self.series, str(path)), MASK)

    def _decoded(self, target: str, path: str, how: How) -> None:
        (answer,) = decode_all([path], how)
        outcome = "used" if isinstance(answer, Decoded) else answer.reason
        self.seen[f"{target}: {outcome}"] += 1
        assert outcome == "used" or outcome in REASONS
        assert outcome not in ("decoder_died", "timed_out"), path

    def table(self, which: int, changes: list[Edit]) -> None:
        data, path = self.tables[which % len(self.tables)]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, changes))
        try:
            made = manifest.build(data, b"k" * 32)
            assert CANARY not in made.frame.drop(columns="path").to_csv()
            self.seen["table: read"] += 1
        except ManifestError as error:
            assert CANARY not in str(error)
            self.seen["table: refused"] += 1
        finally:
            path.write_bytes(whole)

    def experiment(self, which: int, changes: list[Edit]) -> None:
        path = self.root / "mutated.toml"
        path.write_bytes(mutated(self.experiments[which % len(self.experiments)], changes))
        self._load(path)

    def value(self, which: int, value: object) -> None:
        """Any value in any place of an experiment."""
        raw = {"name": "x", "data": {"source": "phantom"}}
        tables = {"": config.Experiment, "data": config.Data, "folds": config.Folds, "train": config.Train}
        tables |= {"augment": config.Augment, "data.cohort": config.Cohort, "resources": config.Resources}
        keys = [f"{table}.{name}".strip(".") for table, model in tables.items() for name in model.model_fields]
        *parents, last = keys[which % len(keys)].split(".")
        node = raw
        for part in parents:
            node = node.setdefault(part, {})  # type: ignore[assignment,arg-type]
        node[last] = value  # type: ignore[assignment]
        try:
            text = tomli_w.dumps(raw)
        except (TypeError, ValueError, AttributeError):
            return  # no TOML can say this
        path = self.root / "value.toml"
        path.write_text(text, encoding="utf-8", errors="replace")
        self._load(path)

    def _load(self, path: Path) -> None:
        try:
            loaded = config.load(path)
            assert len({recipe.name for recipe in loaded.recipes}) == len(loaded.recipes) > 0
            self.seen["experiment: read"] += 1
        except ConfigError as error:
            assert str(error).isprintable() or "\n" in str(error)
            self.seen["experiment: refused"] += 1

    def run(self, seconds: float, first_seed: int = 0) -> dict[str, int]:
        """Rounds of each target in turn until the time is over; the same seeds try the same things."""
        scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
        values = st.recursive(
            scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        )
        targets: list[tuple[Callable[..., None], st.SearchStrategy[object]]] = [
            *((target, edits) for target in (self.decoder, self.volume, self.mask, self.table, self.experiment)),
            (self.value, values),
        ]
        quiet = settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        until, number = time.monotonic() + seconds, first_seed
        try:
            while time.monotonic() < until:
                target, strategy = targets[number % len(targets)]
                seed(number)(quiet(given(st.integers(0, 10_000), strategy)(_plain(target))))()
                number += 1
        finally:
            close()
        return dict(sorted(self.seen.items()))


def _row(image: str, mask: str = "") -> str:
    return FILES + json.dumps({"images": [image], "mask": mask, "slice": 2})


def _plain(target: Callable[[int, object], None]) -> Callable[[int, object], None]:
    """A function, as hypothesis wants it, of a method."""

    def run(which: int, what: object) -> None:
        target(which, what)

    return run


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        found = Fuzz(Path(scratch)).run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    sys.stdout.write(json.dumps(found, indent=1) + f"\n{sum(found.values())} tried\n")
