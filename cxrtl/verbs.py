"""The verbs that use a finished run."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cxrtl.console import Screen
from cxrtl.options import Address, Folder, Json, Verbose, manners, run_folder

ArmName = Annotated[str, typer.Option("--arm", help="The arm whose models to use. [default: the first]")]
Iterations = Annotated[int, typer.Option(help="The budget whose weights to use. [default: the arm's last]")]


def predict(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(help="Images, folders of images, .csv or .parquet tables.")],
    out: Annotated[Path, typer.Option(help="The table to write, .csv or .parquet.")] = Path("predictions.csv"),
    arm: ArmName = "",
    iterations: Iterations = 0,
    image_column: Annotated[str, typer.Option(help="Column of a table that holds the image paths.")] = "image",
    address: Address = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Score images by the run's fold models together. For research; nothing here is fit for decisions about patients.

    The table names your files: it is yours to keep safe.
    """
    screen = Screen(as_json)
    with manners(screen), ExitStack() as stack:
        from cxrtl.orchestrate import cluster  # torch and Ray: seconds to import
        from cxrtl.use import listing, model
        from cxrtl.use import predict as predicting

        trained = model.open_trained(run_folder(folder), arm, iterations)
        listed = listing.list_images(images, image_column)
        address = address or os.environ.get("RAY_ADDRESS")
        on_ray = bool(address) or len(listed.names) > predicting.LOCAL
        if on_ray:
            stack.enter_context(cluster.connect(address, verbose))
        stack.enter_context(screen)
        screen.stage(f"{len(listed.names)} images by {len(trained.trials)} models of arm {trained.recipe.name}")
        found = predicting.predict(trained, listed, out, on_ray=on_ray, on_progress=screen.predicting)
        screen.predicted(out, found.scored, found.reasons)
