"""What all trials of a run need besides images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrtl import rundir
from cxrtl.config import Recipe
from cxrtl.data.flat import Flat
from cxrtl.learn.precision import Precision
from cxrtl.learn.weights import Weights
from cxrtl.orchestrate import frozen
from cxrtl.orchestrate.probe import Share
from cxrtl.records import IntArray, Prepared, Trial


@dataclass(frozen=True)
class Job:
    """Travels once through the object store."""

    run: rundir.RunDir
    hashes: dict[str, str]  # by arm, see `ledger`
    recipes: dict[str, Recipe]
    trials: dict[str, Trial]
    weights: dict[str, Weights | None]  # by arm
    precision: dict[str, Precision]  # by arm
    seed: int
    division: IntArray  # `[repeats, N]`, each image's fold
    prepared: Prepared
    share: Share
    bank: frozen.Bank
    flat: Flat | None = None  # where pixels stream
    metered: bool = False  # where a cluster gathers metrics

    def tested(self, trial: Trial) -> npt.NDArray[np.bool_]:
        """`[N]`, the images that the trial's fold holds out."""
        return (self.division == trial.fold).any(axis=0)  # type: ignore[no-any-return]
