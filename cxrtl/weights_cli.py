"""The verbs of `cxrtl weights`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cxrtl.console import Screen
from cxrtl.errors import WeightsError
from cxrtl.options import Json, manners

app = typer.Typer(no_args_is_help=True, help="Pretrained weights on this machine: names, sha256, licence, where found.")
Name = Annotated[str, typer.Option(help='The name to give them: train.init = "weights:NAME".')]
Licence = Annotated[str, typer.Option(help="Their licence, for the record.")]
Sha256 = Annotated[str, typer.Option(help="What the file must hash to.")]


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are not on this machine.")] = False,
    as_json: Json = False,
) -> None:
    """What is here, and with --all where torchvision's ImageNet weights of each backbone are looked for."""
    from cxrtl.learn import shelf  # torch: seconds to import

    screen = Screen(as_json)
    with manners(screen):
        found = [entry for entry in shelf.entries() if everything or entry.present]
        for entry in found:
            screen.weights(asdict(entry), "here" if entry.present else "missing")
        if not found:
            screen.stage(f"no weights in {shelf.home()} nor in torch's cache; --all lists what may be fetched")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Which. [default: all that are here]")] = None,
    as_json: Json = False,
) -> None:
    """Hash files again; exit code 2 where one is not what it should be."""
    from cxrtl.learn import shelf

    screen = Screen(as_json)
    with manners(screen):
        checked = shelf.verify(names or ())
        for entry, sound in checked:
            screen.weights(asdict(entry), "sound" if sound else "ALTERED")
        if altered := [entry.path for entry, sound in checked if not sound]:
            raise WeightsError(f"altered or cut short: {altered}. Delete these files and get them again.")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A .safetensors or .pth state dict.")],
    name: Name,
    licence: Licence,
    source: Annotated[str, typer.Option(help="Where it comes from: a URL, a paper, a person.")],
    sha256: Sha256 = "",
    as_json: Json = False,
) -> None:
    """Copy a file among the weights of this machine."""
    from cxrtl.learn import shelf

    screen = Screen(as_json)
    with manners(screen):
        screen.weights(asdict(shelf.add(file, name, licence, source, sha256)), "added")


@app.command()
def fetch(
    what: Annotated[str, typer.Argument(help="A backbone, for its ImageNet weights, or an https URL.")],
    name: Name = "",
    licence: Licence = "",
    sha256: Sha256 = "",
    as_json: Json = False,
) -> None:
    """Download weights, checked by sha256. The only verb, beside --download, that uses the network."""
    from cxrtl.learn import shelf

    screen = Screen(as_json)
    with manners(screen):
        screen.weights(asdict(shelf.fetch(what, name, licence, sha256)), "fetched")
