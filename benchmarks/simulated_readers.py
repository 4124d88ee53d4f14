"""A label table with readers that are nobody, for jobs/experiments/s4-small.toml.

    python benchmarks/simulated_readers.py [--data ../shared/data] [--out simulated]

Copies mednist's 1,200 images to `--out` and writes `labels.csv` beside them: image, label, and a column
`reader_simulated_N` for each rate of error: the true class, but in that share of each class's images another one, drawn
with a fixed seed.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

RATES = {"reader_simulated_5": 0.05, "reader_simulated_28": 0.283}
SEED = 0


def simulate(labels: pd.Series[str], rate: float, rng: np.random.Generator) -> pd.Series[str]:
    """`labels` with `rate` of each class, rounded to whole images, called one of the other classes at random."""
    said, classes = labels.copy(), sorted(labels.unique())
    for name in classes:
        places = labels.index[labels == name]
        wrong = rng.choice(places, size=round(rate * len(places)), replace=False)
        said[wrong] = rng.choice([other for other in classes if other != name], size=len(wrong))
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("simulated"))
    args = parser.parse_args()
    source = args.data / "mednist"
    files = sorted(path.relative_to(source) for path in source.glob("*/*.jpeg"))
    if not files:
        parser.error(f"{source} holds no images <class>/<name>.jpeg: give --data the folder that holds mednist")
    for file in files:
        (args.out / file.parent).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, args.out / file)
    frame = pd.DataFrame({"image": [file.as_posix() for file in files], "label": [file.parent.name for file in files]})
    rng = np.random.default_rng(SEED)
    for column, rate in RATES.items():
        frame[column] = simulate(frame["label"], rate, rng)
    frame.to_csv(args.out / "labels.csv", index=False)
    right = {column: round(float((frame[column] == frame["label"]).mean()), 4) for column in RATES}
    print(f"{len(frame)} images of {frame['label'].nunique()} classes in {args.out}; share right: {right}")


if __name__ == "__main__":
    main()
