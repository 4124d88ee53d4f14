"""How preparing scales: with cores, against one process that decodes in a loop; in memory, with ten times the images.

    python benchmarks/prepare.py cores FOLDER [--images 5000] [--size 224] [--rounds 3]
    python benchmarks/prepare.py memory [--images 10000 100000] [--size 64]

`cores`: the images below FOLDER, repeated under new names, so that each is read and decoded anew. Two shards are made
beforehand, which starts Ray's workers; what that takes is printed. Bare processes at once, which share nothing and keep
nothing, show what the cores can do together. Medians of alternating rounds, and of the rounds' own ratios.
`memory`: phantoms, by what `cxrtl prepare` does, each count in a process of its own. Peak of the summed proportional
set size (PSS) of everything that runs for it: driver, Ray's servers, workers, decoders, with the object store; sampled
twice a second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median

IMAGES = (".jpg", ".jpeg", ".png", ".dcm", ".tif", ".tiff", ".bmp")
MARK = "CXRTL_BENCHMARK"  # in the environment of all that belongs to one measurement


def decode(paths: list[str], size: int) -> float:
    """Seconds that this process takes in a loop."""
    from cxrtl.data.images import How
    from cxrtl.data.images.files import decode_file

    how = How(size)
    started = time.perf_counter()
    for path in paths:
        decode_file(path, how)
    return time.perf_counter() - started


def apart(paths: list[str], size: int, processes: int) -> float:
    """Images a second of `processes` loops at once, over a part of the images each."""
    parts = [paths[k::processes] for k in range(processes)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(decode, [part[:20] for part in parts], [size] * processes))  # they are up
        return len(paths) / max(pool.map(decode, parts, [size] * processes))


def cores(folder: Path, images: int, size: int, rounds: int) -> None:
    from cxrtl.config import Data
    from cxrtl.data import manifest
    from cxrtl.data.prepare import prepare
    from cxrtl.data.shards import SLICE
    from cxrtl.orchestrate import cluster
    from cxrtl.records import Manifest

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    with tempfile.TemporaryDirectory() as scratch:
        copies = []
        for number in range(images):
            original = files[number % len(files)]
            copy = Path(scratch, "set", "ab"[number % 2], f"{number:06d}{original.suffix}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, copy)
            copies.append(str(copy))
        data = Data(source="folder", path=str(Path(scratch, "set")), image_size=size)
        listed = manifest.build(data, b"k" * 32)
        decode(copies[:20], size)
        with cluster.connect(None, False) as nodes:
            count = int(sum(node.cpus for node in nodes))
            few = Manifest(listed.frame.iloc[:: len(listed.frame) // (2 * SLICE)], listed.classes)
            started = time.perf_counter()
            prepare(few, data, Path(scratch, "few"))
            start = time.perf_counter() - started

            def together(number: int) -> float:
                out = Path(scratch, f"out{number}")
                started = time.perf_counter()
                made = prepare(listed, data, out)
                seconds = time.perf_counter() - started
                assert made.images == images
                shutil.rmtree(out)
                return images / seconds

            measured: dict[str, Callable[[int], float]] = {
                "one process in a loop": lambda _: images / decode(copies, size),
                f"{count} bare processes": lambda _: apart(copies, size, count),
                f"prepare on {count} cores": together,
            }
            found: dict[str, list[float]] = {name: [] for name in measured}
            for number in range(rounds):
                for name in list(measured)[:: 1 if number % 2 else -1]:
                    found[name].append(measured[name](number))
    print(f"{images} images from {len(files)} files, {size} px, {rounds} rounds")
    print(f"first two shards        {start:8.1f} s")
    loop, bare, prepared = found.values()
    for name, rates in found.items():
        print(f"{name:<23} {median(rates):8.0f} images/s   {_of(rates, loop, count)} of {count} loops")
    print(f"beside bare processes, which the machine may not give all of its cores: {_of(prepared, bare)}")


def _of(rates: list[float], others: list[float], count: int = 1) -> str:
    """Median and all of the rounds' ratios."""
    ratios = [rate / (count * other) for rate, other in zip(rates, others, strict=True)]
    return f"{median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"


def memory(counts: list[int], size: int) -> None:
    peaks = []
    for images in counts:
        mark = uuid.uuid4().hex
        started = time.perf_counter()
        words = [sys.executable, __file__, "phantoms", str(images), str(size)]
        process = subprocess.Popen(words, env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, pss(mark))
            time.sleep(0.5)
        if process.returncode:
            raise SystemExit(process.returncode)
        peaks.append(peak)
        rate = images / (time.perf_counter() - started)
        print(f"{images:8} phantoms at {size} px: peak {peak / 2**20:7.0f} MiB, {rate:5.0f} images/s with Ray's start")
    print(f"ratio {peaks[-1] / peaks[0]:.2f}")


def pss(mark: str) -> int:
    """Bytes held by all processes whose environment has the mark."""
    total = 0
    wanted = f"{MARK}={mark}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (place / "environ").read_bytes():
                lines = (place / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        except (OSError, IndexError):  # it ended meanwhile, or is not ours to look at
            continue
    return total


def phantoms(images: int, size: int) -> None:
    from cxrtl.config import Data
    from cxrtl.console import Screen
    from cxrtl.orchestrate import study

    data = Data(source="phantom", phantom_patients=images // 2, phantom_images_per_patient=2, image_size=size)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack, Screen(as_json=True) as screen:
        home = Path(scratch)
        screen.prepared(study.prepare(data, home, study.Session(study.Options(home, ""), stack), screen))


def main() -> None:
    if sys.argv[1:2] == ["phantoms"]:
        return phantoms(int(sys.argv[2]), int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one, two = parts.add_parser("cores"), parts.add_parser("memory")
    one.add_argument("folder", type=Path)
    one.add_argument("--images", type=int, default=5000)
    one.add_argument("--size", type=int, default=224)
    one.add_argument("--rounds", type=int, default=3)
    two.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    two.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    if given.part == "cores":
        return cores(given.folder, given.images, given.size, given.rounds)
    return memory(given.images, given.size)


if __name__ == "__main__":
    main()
