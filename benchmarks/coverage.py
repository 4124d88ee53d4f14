"""How often 95 % intervals hold the truth when patients have several images: ours, and one that ignores patients.

    python benchmarks/coverage.py [--studies 2000] [--patients 150] [--images 4] [--processes 2]

Each simulated study draws patients, half of them positive, whose images share the patient's own deviation: score =
class shift + patient effect + image noise, with 60 % of the variance the patient's. The truth follows from the normal
distribution. Prints, for each metric, the share of studies whose interval holds it: ours (`estimates.estimate`) and the
naive one (every image a patient of its own), with the Monte Carlo error.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from scipy.stats import norm

from cxrtl.evaluate.estimates import estimate

SHIFT, SHARE = 1.4, 0.6  # between the class means, in standard deviations; of the variance, the patient's
TRUTH = {
    "auc": float(norm.cdf(SHIFT / math.sqrt(2))),
    "sensitivity": float(norm.cdf(SHIFT / 2)),
    "specificity": float(norm.cdf(SHIFT / 2)),
    "accuracy": float(norm.cdf(SHIFT / 2)),
}


def study(patients: int, images: int, seed: int) -> dict[str, tuple[bool, bool]]:
    """Whether the interval of each metric holds the truth: ours, the naive one."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(patients), images)
    truth = code % 2 == 1
    effect = math.sqrt(SHARE) * rng.normal(size=patients)[code]
    score = SHIFT * (truth - 0.5) + effect + math.sqrt(1 - SHARE) * rng.normal(size=len(code))
    ours, naive = (estimate(truth, score, codes, threshold=0.0, seed=seed) for codes in (code, None))
    held = {}
    for name, value in TRUTH.items():
        pair = [found[name].interval for found in (ours, naive)]
        held[name] = tuple(bool(i and i.low <= value <= i.high) for i in pair)
    return held  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("studies", 2000), ("patients", 150), ("images", 4), ("processes", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.processes) as pool:
        work = partial(study, given.patients, given.images)
        found = list(pool.map(work, range(given.studies), chunksize=10))
    error = 100 * math.sqrt(0.95 * 0.05 / given.studies)
    print(f"{given.studies} studies of {given.patients} patients with {given.images} images each; error ±{error:.1f} %")
    print(f"{'metric':12} {'truth':>6} {'ours':>7} {'naive':>7}")
    for name, value in TRUTH.items():
        ours, naive = np.mean([held[name] for held in found], axis=0)
        print(f"{name:12} {value:6.3f} {100 * ours:6.1f}% {100 * naive:6.1f}%")


if __name__ == "__main__":
    main()
