"""Which held-out images are explained, by the model of the fold that held each out, and what checks the maps.

Writes `explain/` into the run folder: PNG and `explain.json` (`report.saliency`), which the report then shows.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image

from cxrtl import rundir, storage
from cxrtl.data.prepared import DATASET, open_prepared
from cxrtl.errors import DamagedError, PredictionsError, PreparedError
from cxrtl.evaluate.intervals import wilson
from cxrtl.evaluate.metrics import THRESHOLD
from cxrtl.learn import transfer
from cxrtl.predictions import FloatArray, Predictions
from cxrtl.records import Prepared
from cxrtl.report.saliency import FILE, FOLDER, Explained, Mean, Picture, Randomised, Region, write_explained
from cxrtl.report.samples import pixels_of
from cxrtl.use.model import Trained, best_device
from cxrtl.use.saliency import SHARES, Saliency, cascade, pointing

SMALLEST_MEAN = 10  # no image can be told in a mean of so many; of fewer, none is made
PER_CELL = 2  # pictures of each outcome, most certain, and as many nearest the threshold
MEAN_IMAGES = 100  # at most, of each class
REGION_IMAGES = 300  # at most, of each class, compared with regions
CHECKED_IMAGES = 24  # of the randomisation check
SIDE = 192  # pixels of a picture
RULE = (
    f"Of each outcome, the {PER_CELL} images scored with most certainty and the {PER_CELL} nearest the threshold, each "
    f"explained by the model of the fold that held it out. Mean maps: up to {MEAN_IMAGES} images of each class, drawn "
    "at random with a fixed seed."
)
Masks = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class _Heat:
    """What was explained of an image: its pixels and its map, both `[size, size]`."""

    pixels: npt.NDArray[np.uint8]
    heat: FloatArray


_Heats = dict[tuple[str, int], _Heat]  # by image id and the class that is explained


def explain(trained: Trained, prepared: Prepared, masks: Masks | None = None) -> Explained:
    """Explain held-out images of `prepared`, the set that the run was trained on.

    `masks` maps image ids to regions `[size, size]` to compare maps with.

    Raises:
        PredictionsError: as `require_scores`.
        PreparedError: `prepared` is another set, or lacks an image.
        ConfigError: the backbone has no layer that could be explained.
    """
    require_scores(trained)
    dataset = trained.loaded.resolved["dataset"]
    if prepared.dataset_hash != dataset["dataset_hash"] or prepared.image_size != dataset["image_size"]:
        raise PreparedError(f"{prepared.folder} is not the prepared set of run {trained.loaded.run.name!r}")
    frame = _outcomes(trained.loaded.predictions.select(trained.recipe.name, trained.iterations))
    chosen, drawn = _choose(frame), _draw(frame, MEAN_IMAGES)
    regions = _draw(frame[frame["image_id"].isin(masks or ()) & (frame["cell"] == "tp")], REGION_IMAGES)
    wanted = pd.concat([chosen, drawn, regions]).drop_duplicates(["image_id", "place"])
    device, folder = best_device(), trained.loaded.run.path(FOLDER)
    found: _Heats = {}
    checks, layer = [], ""
    for fold, part in wanted.groupby("fold"):
        model = trained.model(int(str(fold)), device)
        saliency = Saliency(
            model, trained.recipe.train.backbone, len(trained.classes), trained.task, prepared.image_size
        )
        pixels = _pixels(prepared, part)
        places, layer = part["place"].to_numpy(dtype=np.int64), saliency.layer
        keys = zip(part["image_id"], places.tolist(), strict=True)
        heats = saliency.maps(pixels, places)
        found |= {key: _Heat(image, heat) for key, image, heat in zip(keys, pixels, heats, strict=True)}
        some = slice(0, -(-CHECKED_IMAGES // len(trained.trials)))
        checks.append(cascade(saliency, _untrained(trained), pixels[some], places[some]))
    storage.remove(folder / FILE)  # first: it vouches for the pictures
    storage.remove(folder)
    folder.mkdir()
    result = Explained(
        version=1,
        run_hash=str(trained.loaded.resolved["run_hash"]),
        arm=trained.recipe.name,
        iterations=trained.iterations,
        layer=layer,
        rule=RULE,
        pictures=tuple(_pictures(chosen, found, trained.classes, folder)),
        means=tuple(_means(drawn, found, trained.classes, folder)),
        randomised=_randomised(checks),
        regions=_regions(regions, found, masks or {}),
    )
    write_explained(trained.loaded.run, result)
    return result


def require_scores(trained: Trained) -> None:
    """Raises PredictionsError for a segmentation: Grad-CAM asks where a class's score comes from."""
    if trained.task == "segmentation":
        raise PredictionsError(
            f"run {trained.loaded.run.name!r} is a segmentation: Grad-CAM shows where the score of a class comes from, "
            "and here no class has one. The masks themselves say where: the report outlines them, and `cxrtl predict "
            "--masks` writes those of further images"
        )


def find_prepared(home: Path, trained: Trained) -> Prepared:
    """The prepared set of the run among those of `home`; raises PreparedError where it is not there."""
    dataset = trained.loaded.resolved["dataset"]
    storage.pull(home / "prepared", (DATASET,))
    for path in sorted(home.glob(f"prepared/*/{DATASET}")):
        try:
            if rundir.read_json(path)["dataset_hash"] == dataset["dataset_hash"]:
                storage.pull(path.parent)
            prepared = open_prepared(path.parent)
        except (PreparedError, DamagedError, KeyError, TypeError):  # another set's damage is none of ours
            continue
        if (prepared.dataset_hash, prepared.image_size) == (dataset["dataset_hash"], dataset["image_size"]):
            return prepared
    raise PreparedError(
        f"the prepared images of run {trained.loaded.run.name!r} are not in {home / 'prepared'}: name their --home, or "
        "run its experiment again, which prepares them"
    )


def _outcomes(part: Predictions) -> pd.DataFrame:
    """A row for each held-out image and class with a score of its own: `place` of the class, `cell`, and `margin`, how
    far its score lies beyond the threshold (of several classes, beyond the best other)."""
    frame, scores = part.frame, part.scores
    first = (frame["repeat"] == 0).to_numpy() if "repeat" in frame else np.ones(len(frame), bool)
    rows = []
    for place, name in enumerate(part.classes):
        if part.task == "binary" and place == 0:
            continue
        others = np.delete(scores, place, axis=1).max(axis=1) if part.task == "multiclass" else THRESHOLD
        margin = scores[:, place] - others
        known = first if part.task != "multilabel" else first & ~np.isnan(part.labels[:, place])
        truth = part.labels[:, place] == 1 if part.task == "multilabel" else (frame["label"] == name).to_numpy()
        cell = np.where(truth, np.where(margin >= 0, "tp", "fn"), np.where(margin >= 0, "fp", "tn"))
        label = np.where(truth, name, f"not {name}") if part.task == "multilabel" else frame["label"]
        row = frame[["image_id", "fold"]].assign(place=place, cell=cell, margin=margin, score=scores[:, place])
        rows.append(row.assign(label=label)[known])
    return pd.concat(rows).sort_values(["place", "image_id"], ignore_index=True)


def _choose(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that `RULE` names, with `why`; an image is chosen once of each class."""
    found = []
    for _, part in frame.groupby(["place", "cell"]):
        distance = part["margin"].abs().sort_values(kind="stable")
        certain = distance.index[::-1][:PER_CELL]
        near = [row for row in distance.index[:PER_CELL] if row not in certain]
        found += [part.loc[certain].assign(why="most certain"), part.loc[near].assign(why="nearest the threshold")]
    return pd.concat(found)


def _draw(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    parts = [part.sample(min(most, len(part)), random_state=0) for _, part in frame.groupby(["place", "label"])]
    return pd.concat(parts) if parts else frame


def _pixels(prepared: Prepared, part: pd.DataFrame) -> npt.NDArray[np.uint8]:
    size, ids = prepared.image_size, part["image_id"].tolist()
    found = pixels_of(prepared, ids)
    return np.stack([np.frombuffer(found[name], np.uint8).reshape(size, size) for name in ids])


def _untrained(trained: Trained) -> dict[str, torch.Tensor]:
    train, classes = trained.recipe.train, len(trained.classes)
    return transfer.make_model(train, None, classes, 0, 0, torch.device("cpu"), trained.task).state_dict()


def _pictures(chosen: pd.DataFrame, found: _Heats, classes: Sequence[str], folder: Path) -> Iterator[Picture]:
    rows: list[Any] = list(chosen.itertuples(index=False))
    for number, row in enumerate(rows):
        heat = found[row.image_id, row.place]
        file, digest = _save(folder, f"image-{number:02d}.png", heat.pixels, heat.heat)
        yield Picture(
            file=file,
            sha256=digest,
            explained=classes[row.place],
            cell=row.cell,
            why=row.why,
            label=row.label,
            score=row.score,
            fold=row.fold,
        )


def _means(drawn: pd.DataFrame, found: _Heats, classes: Sequence[str], folder: Path) -> Iterator[Mean]:
    for number, (_, part) in enumerate(drawn.groupby(["place", "label"])):
        if len(part) < SMALLEST_MEAN:
            continue
        place, label = int(part["place"].iloc[0]), str(part["label"].iloc[0])
        heats = [found[image, place] for image in part["image_id"]]
        pixels = np.mean([heat.pixels for heat in heats], axis=0).round().astype(np.uint8)
        mean = np.mean([heat.heat for heat in heats], axis=0)
        file, digest = _save(folder, f"mean-{number:02d}.png", pixels, mean / (mean.max() or 1))
        yield Mean(file=file, sha256=digest, label=label, explained=classes[place], images=len(part))


def _save(folder: Path, name: str, pixels: npt.NDArray[np.uint8], heat: FloatArray) -> tuple[str, str]:
    return name, rundir.write_bytes(folder / name, overlay(pixels, heat))


def overlay(pixels: npt.NDArray[np.uint8], heat: FloatArray) -> bytes:
    """A PNG: the image, and beside it the same under its map (0 … 1), the brighter the more."""
    grey = np.repeat(pixels[:, :, None] / 255.0, 3, axis=2)
    strength = 0.65 * heat[:, :, None]
    under = grey * (1 - strength) + mpl.colormaps["inferno"](heat)[:, :, :3] * strength
    image = Image.new("RGB", (2 * SIDE, SIDE))
    for place, half in enumerate((grey, under)):
        part = Image.fromarray((255 * half).round().astype(np.uint8))
        image.paste(part.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (place * SIDE, 0))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _randomised(checks: list[list[FloatArray]]) -> tuple[Randomised, ...]:
    rows = []
    for share, parts in zip(SHARES, zip(*checks, strict=True), strict=True):
        values = np.concatenate(parts)
        known = values[np.isfinite(values)]
        mean = float(known.mean()) if len(known) else None
        sd = float(known.std(ddof=1)) if len(known) > 1 else None
        rows.append(Randomised(share=share, correlation=mean, sd=sd, images=len(known)))
    return tuple(rows)


def _regions(rows: pd.DataFrame, found: _Heats, masks: Masks) -> tuple[Region, ...]:
    out = []
    for label, part in rows.groupby("label"):
        keys = zip(part["image_id"], part["place"].tolist(), strict=True)
        pairs = [(found[key].heat, masks[key[0]]) for key in keys]
        scored = [(*pointing(heat, mask), float(mask.mean())) for heat, mask in pairs]
        hits = sum(hit for hit, _, _ in scored)
        interval = wilson(hits, len(scored))
        assert interval is not None
        out.append(
            Region(
                label=str(label),
                images=len(scored),
                hits=hits / len(scored),
                low=interval.low,
                high=interval.high,
                energy=float(np.mean([energy for _, energy, _ in scored])),
                area=float(np.mean([area for _, _, area in scored])),
            )
        )
    return tuple(out)
