"""What guarding costs: images decoded in a process of their own beside the same in this one.

    python benchmarks/decoding.py FOLDER [--size 224] [--rounds 5]

Both decode every file in FOLDER on one core each, alternating. Prints images a second and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from cxrtl.data.images import How, Unusable
from cxrtl.data.images.files import decode_file
from cxrtl.data.images.guard import decode_all


def bare(paths: list[str], how: How) -> float:
    started = time.perf_counter()
    for path in paths:
        decode_file(path, how)
    return len(paths) / (time.perf_counter() - started)


def guarded(paths: list[str], how: How) -> float:
    started = time.perf_counter()
    unusable = sum(isinstance(answer, Unusable) for answer in decode_all(paths, how))
    assert not unusable
    return len(paths) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    paths, how = [str(path) for path in sorted(given.folder.iterdir())], How(given.size)
    guarded(paths[:1], how)  # starts the process
    rates = [(bare(paths, how), guarded(paths, how)) for _ in range(given.rounds)]
    one, two = (statistics.median(column) for column in zip(*rates, strict=True))
    print(f"{len(paths)} images: {one:.0f} images/s bare, {two:.0f} guarded, ratio {two / one:.2f}")


if __name__ == "__main__":
    main()
