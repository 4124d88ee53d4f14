"""The verbs that use a finished run."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from cxrtl import config
from cxrtl.console import Screen
from cxrtl.errors import ConfigError
from cxrtl.options import (
    Address,
    Folder,
    Home,
    Json,
    Set,
    Verbose,
    data_of,
    home_folder,
    lasting,
    manners,
    run_folder,
)

ArmName = Annotated[str, typer.Option("--arm", help="The arm whose models to use. [default: the first]")]
Iterations = Annotated[int, typer.Option(help="The budget whose weights to use. [default: the arm's last]")]


def predict(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(help="Images, folders of images, .csv or .parquet tables.")],
    out: Annotated[Path, typer.Option(help="The table to write, .csv or .parquet.")] = Path("predictions.csv"),
    arm: ArmName = "",
    iterations: Iterations = 0,
    explain: Annotated[Path | None, typer.Option(help="Folder for Grad-CAM overlays, one PNG an image.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Segmentation: folder for the masks, one PNG an image and as large.")
    ] = None,
    image_column: Annotated[str, typer.Option(help="Column of a table that holds the image paths.")] = "image",
    address: Address = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Score or outline images by the run's fold models together. For research; unfit for decisions about patients.

    The table names your files: it is yours to keep safe.
    """
    screen = Screen(as_json)
    with manners(screen), ExitStack() as stack:
        from cxrtl.orchestrate import cluster  # torch and Ray: seconds to import
        from cxrtl.use import explain as explaining
        from cxrtl.use import listing, model
        from cxrtl.use import predict as predicting

        out, pictures = lasting(out), explain or masks
        trained = model.open_trained(run_folder(folder), arm, iterations)
        if explain:
            explaining.require_scores(trained)
        if masks and trained.task != "segmentation":
            raise ConfigError(f"--masks {str(masks)!r}: a run of the task {trained.task} finds none; see --explain")
        listed = listing.list_images(images, image_column)
        address = address or os.environ.get("RAY_ADDRESS")
        on_ray = bool(address) or len(listed.names) > predicting.LOCAL
        if on_ray:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # a hint to Ray's own developers, in red
            stack.enter_context(cluster.connect(address, verbose))
        stack.enter_context(screen)
        screen.stage(f"{len(listed.names)} images by {len(trained.trials)} models of arm {trained.recipe.name}")
        progress = screen.predicting
        kept = lasting(pictures) if pictures else None
        found = predicting.predict(trained, listed, out, pictures=kept, on_ray=on_ray, on_progress=progress)
        screen.predicted(out, found.scored, found.reasons)


def evaluate(
    folder: Folder,
    source: Annotated[
        Path, typer.Argument(help="The other set: an experiment .toml, a .csv or .parquet table, an image folder.")
    ],
    arm: ArmName = "",
    iterations: Iterations = 0,
    seen: Annotated[
        Literal["refuse", "drop", "other-patients"],
        typer.Option(help="What to do with images or patients that training knew; see the error that `refuse` gives."),
    ] = "refuse",
    out: Annotated[Path | None, typer.Option(help="Folder to write to. [default: RUN/external-NAME]")] = None,
    home: Home = None,
    set_: Set = None,
    address: Address = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """External validation: the fold models together on another set, with the report's statistics."""
    screen = Screen(as_json)
    with manners(screen), ExitStack() as stack:
        data = data_of(source, set_ or [])
        from cxrtl.orchestrate import study
        from cxrtl.report.external import write_external
        from cxrtl.use import external, model

        run = run_folder(folder)
        trained = model.open_trained(run, arm, iterations)
        stack.enter_context(screen)
        options = study.Options(home_folder(home), "", address, verbose=verbose)
        data = external.as_in_training(trained, data)
        prepared = study.prepare(data, options.home, study.Session(options, stack), screen)
        screen.stage(f"{prepared.images} images by {len(trained.trials)} models of arm {trained.recipe.name}")
        found, scores, chosen = external.evaluate(trained, prepared, source.stem, seen, screen.predicting)
        screen.written(write_external(found, scores, chosen, lasting(out or run.path(f"external-{source.stem}"))))


def export(
    folder: Folder,
    arm: ArmName = "",
    iterations: Iterations = 0,
    fold: Annotated[list[int] | None, typer.Option(help="Only this fold's model; repeat for several.")] = None,
    check: Annotated[list[Path] | None, typer.Option(help="Images or folders to check the file on as well.")] = None,
    out: Annotated[Path | None, typer.Option(help="[default: RUN/export/RUN-ARM-ITERATIONS.onnx]")] = None,
    as_json: Json = False,
) -> None:
    """One ONNX file with the preprocessing inside, checked against PyTorch, and a model card beside it."""
    screen = Screen(as_json)
    with manners(screen):
        from cxrtl.use import export as exporting
        from cxrtl.use import model

        run = run_folder(folder)
        trained = model.open_trained(run, arm, iterations)
        images = exporting.read_images(check or [], trained)
        out = lasting(out or run.path("export", f"{run.name}-{trained.recipe.name}-{trained.iterations}.onnx"))
        screen.stage(f"exporting arm {trained.recipe.name} after {trained.iterations} iterations")
        found = exporting.export(trained, out, fold or (), images)
        screen.exported(out, found.difference, found.images)


def explain(
    folder: Folder,
    arm: ArmName = "",
    iterations: Iterations = 0,
    regions: Annotated[
        Path | None, typer.Option(help="Table of masks or boxes to compare maps with: see cxrtl/use/regions.py.")
    ] = None,
    image_column: Annotated[str, typer.Option(help="Column of that table with the image path.")] = "image",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Grad-CAM of held-out images by a stated rule, with the randomisation check; the report then shows them."""
    screen = Screen(as_json)
    with manners(screen):
        from cxrtl.data.ids import derived, load_key
        from cxrtl.report import page
        from cxrtl.use import explain as explaining
        from cxrtl.use import model
        from cxrtl.use.regions import read_regions

        run = run_folder(folder)
        trained = model.open_trained(run, arm, iterations)
        explaining.require_scores(trained)
        prepared = explaining.find_prepared(home_folder(home) if home else run.root.parents[1], trained)
        key = derived(load_key(), trained.loaded.experiment.data.id_namespace)
        masks = read_regions(regions, image_column, trained.how, key) if regions else None
        screen.stage(f"explaining arm {trained.recipe.name} after {trained.iterations} iterations")
        explaining.explain(trained, prepared, masks)
        screen.written(page.write_report(run))


def doctor(
    experiment: Annotated[
        Path | None, typer.Argument(metavar="EXPERIMENT.toml", help="Also look for its images and weights.")
    ] = None,
    home: Home = None,
    set_: Set = None,
    address: Address = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Look at this machine and every node of the cluster: versions, storage, weights, clocks, open doors."""
    screen = Screen(as_json)
    with manners(screen):
        checked = config.load(experiment, set_ or []) if experiment else None
        from cxrtl.orchestrate import doctor as examining

        found = examining.examine(checked, home_folder(home), address, verbose)
        screen.examined(found)
        if any(check.state == "fail" for check in found):
            raise typer.Exit(1)


def bench(
    backbone: Annotated[str, typer.Option(help="Any classification model of torchvision.")] = "resnet50",
    batch: Annotated[int, typer.Option(help="Images an iteration.")] = 25,
    size: Annotated[int, typer.Option(help="Side of the images, pixels.")] = 224,
    steps: Annotated[int, typer.Option(help="Steps each loop is timed over; 0: as suits device and network.")] = 0,
    rounds: Annotated[int, typer.Option(help="Rounds of every loop in turn.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = Path("benchmarks"),
    as_json: Json = False,
) -> None:
    """How near to this machine's limit training is: its peak, a tutorial's loop, the best plain loop, and cxrtl."""
    screen = Screen(as_json)
    with manners(screen):
        from cxrtl.bench import bench as benching
        from cxrtl.learn.backbones import check_name
        from cxrtl.rundir import write_json

        check_name(backbone)
        out = lasting(out)
        if not out.is_dir():
            raise ConfigError(f"--out {str(out)!r} is no folder: make it, or name another")
        found = benching.measure(benching.Wish(backbone, batch, size, steps, rounds), screen.stage)
        path = out / f"bench-{backbone}-{size}.json"
        write_json(path, found)
        screen.measured(found, path)
