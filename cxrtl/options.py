"""What the verbs of the command line share: their options, and how an error ends them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cxrtl import config, storage
from cxrtl.console import Screen
from cxrtl.errors import ConfigError, CxrtlError, Interrupted, ManifestError, RunError, of_system
from cxrtl.rundir import RunDir


def place(text: str) -> Path:
    """`storage.place`, its error as the command line's own."""
    try:
        return storage.place(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


Home = Annotated[
    Path | None,
    typer.Option(
        parser=place,
        metavar="FOLDER",
        help="Folder of `runs` and `prepared`, or s3://BUCKET/PREFIX, gs://… [default: $CXRTL_HOME, else here; in a "
        "Ray job ~/cxrtl]",
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a knob: train.rate=1e-3")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join. [default: $RAY_ADDRESS, else Ray is started here]")
]
Download = Annotated[bool, typer.Option(help="Fetch ImageNet weights that are missing here.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what Ray says.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for machines.")]
File = Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The experiment file.")]
Folder = Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="The run's folder, such as runs/demo.")]


def home_folder(given: Path | None) -> Path:
    """Where runs and prepared sets live. A Ray job's working directory is a copy that is thrown away: not there."""
    fallback = Path.home() / "cxrtl" if config.in_job() else Path()
    return (given or storage.place(os.environ.get("CXRTL_HOME") or fallback)).expanduser().absolute()


def lasting(path: Path) -> Path:
    """Where a path of a run, or of what a verb writes, lies: if relative, from here, in a Ray job from home."""
    return (home_folder(None) if config.in_job() else Path()) / path


def data_of(source: Path, overrides: list[str]) -> config.Data:
    return experiment_of(source, overrides).data


def experiment_of(source: Path, overrides: list[str]) -> config.Experiment:
    """The experiment of a file, or one about a folder or table; keys of its table `data` need not say `data.`."""
    if source.suffix == ".toml":
        return config.load(source, overrides)
    if not source.exists():
        raise ManifestError(
            f"source {storage.name(source)!r} does not exist: give an image folder, a table or an experiment (images "
            "in a bucket: copy them to a folder, or mount it as one)"
        )
    kind = "folder" if source.is_dir() else "table"
    raw: dict[str, Any] = {"name": "prepare", "data": {"source": kind, "path": str(source)}}
    for override in overrides:
        key = override if override.startswith(("data.", "folds.")) else f"data.{override}"
        config.apply(raw, key)
    return config.parse(raw, where="prepare")


def run_folder(folder: Path) -> RunDir:
    """The run in `folder`, pulled where it is at a storage; raises ConfigError where there is none."""
    root = lasting(folder).absolute()
    if not holds_run(root):
        raise ConfigError(
            f"{storage.name(root)} holds no run: give the folder that `cxrtl run` printed, such as runs/demo"
        )
    return RunDir(root)


def holds_run(folder: Path) -> bool:
    storage.pull(folder)
    return (folder / "experiment.resolved.json").exists()


@contextmanager
def manners(screen: Screen) -> Iterator[None]:
    """Turn our errors into a message and an exit code, and the user's Ctrl-C into a calm end."""
    try:
        yield
    except CxrtlError as error:
        screen.error(error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        screen.error(Interrupted("stopped. What is finished is kept: run the same command to go on."))
        raise typer.Exit(Interrupted.exit_code) from None
    except OSError as error:
        screen.error(RunError(of_system(error)))
        raise typer.Exit(RunError.exit_code) from None
