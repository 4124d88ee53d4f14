"""The command line: the verbs, and the only module that prints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cxrtl import config, storage, submit_cli, verbs, weights_cli
from cxrtl.console import Screen
from cxrtl.options import (
    Address,
    Download,
    File,
    Folder,
    Home,
    Json,
    Set,
    Verbose,
    data_of,
    experiment_of,
    holds_run,
    home_folder,
    lasting,
    manners,
    place,
    run_folder,
)
from cxrtl.rundir import RunDir

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Cross-validated transfer learning on medical images: how well a recipe classifies them, and what it cost. "
    "For research; no medical device.",
)

app.add_typer(weights_cli.app, name="weights")


@app.command()
def run(
    experiment: File,
    home: Home = None,
    set_: Set = None,
    address: Address = None,
    download: Download = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Train what is not done yet, then write the report. The same command again goes on where it stopped."""
    _study(experiment, home, set_, address, download, verbose, as_json, plan_only=False)


@app.command()
def plan(
    experiment: File,
    home: Home = None,
    set_: Set = None,
    address: Address = None,
    download: Download = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Say what `run` would do: where, how many folds at once, hours, cost, disk. Trains only the few steps it times."""
    _study(experiment, home, set_, address, download, verbose, as_json, plan_only=True)


def _study(
    experiment: Path,
    home: Path | None,
    overrides: list[str] | None,
    address: str | None,
    download: bool,
    verbose: bool,
    as_json: bool,
    *,
    plan_only: bool,
) -> None:
    screen = Screen(as_json, detailed=plan_only)
    with manners(screen):
        checked = config.load(experiment, overrides or ())
        from cxrtl.orchestrate import study  # torch and Ray: seconds to import, so not before the file is checked

        words = ["cxrtl", "plan" if plan_only else "run", str(experiment)]
        words += [word for item in overrides or () for word in ("--set", item)]
        options = study.Options(home_folder(home), " ".join(words), address, download, verbose, plan_only)
        with screen:
            done = study.run(checked, options, screen)
        if not plan_only:
            from cxrtl.orchestrate import board
            from cxrtl.report import finish

            if checked.report.explain:
                from cxrtl.use import explain, model

                screen.stage("explaining held-out images")
                explain.explain(model.open_trained(done.run), done.prepared)
            screen.stage("writing the report")
            report = finish.finish(done.run, done.prepared)
            board.pooled(done.run)
            screen.finished(done.run, report, done.done_before, done.trials)


@app.command()
def prepare(
    source: Annotated[
        Path, typer.Argument(help="An image folder (one sub-folder a class), a .csv or .parquet table, or a .toml.")
    ],
    home: Home = None,
    set_: Set = None,
    address: Address = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Turn images into Parquet shards; list what cannot be used. `run` does this too, where it is not done yet."""
    screen = Screen(as_json)
    with manners(screen):
        data = data_of(source, set_ or [])
        from contextlib import ExitStack

        from cxrtl.orchestrate import study

        options = study.Options(home_folder(home), "", address, verbose=verbose)
        with screen, ExitStack() as stack:
            prepared = study.prepare(data, options.home, study.Session(options, stack), screen)
        screen.prepared(prepared)


@app.command()
def audit(
    source: Annotated[
        Path,
        typer.Argument(parser=place, metavar="RUN_OR_SOURCE", help="A run; or an image folder, a table, a .toml."),
    ],
    home: Home = None,
    set_: Set = None,
    address: Address = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Look for leaks, look-alikes and shortcuts: in a run, or in images before anything trains on them."""
    screen = Screen(as_json)
    with manners(screen):
        is_run = holds_run(lasting(source).absolute())
        source = lasting(source) if is_run else source
        experiment = None if is_run else experiment_of(source, set_ or [])
        from contextlib import ExitStack

        from cxrtl.data.audit import require_clean
        from cxrtl.orchestrate import auditing, study

        place = source.absolute().parents[1] if is_run and home is None else home_folder(home)
        with screen, ExitStack() as stack:
            session = study.Session(study.Options(place, "", address, verbose=verbose), stack)
            if experiment:
                found = auditing.audit_source(experiment, session, screen)
            else:
                found = auditing.audit_run(RunDir(source.absolute()), session, screen)
        screen.audited(found.folder, found.certificate, found.found)
        require_clean(found.certificate)


@app.command()
def status(
    folder: Folder,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option(help="Look again every two seconds until the run ends.")] = False,
    log: Annotated[bool, typer.Option(help="What happened so far instead: an object a line.")] = False,
) -> None:
    """What of a run is done, running and missing."""
    from cxrtl.orchestrate import journal
    from cxrtl.report import status as reader

    screen, run = Screen(as_json), RunDir(lasting(folder).absolute())
    with manners(screen):
        if log:
            screen.events(journal.read(run))
            return
        while True:
            found = reader.read(run)
            screen.status(found)
            if not watch or not found.writing:
                return
            time.sleep(storage.pace(folder, 2))


@app.command()
def report(
    folder: Folder,
    partial: Annotated[bool, typer.Option(help="Report although folds are missing; the report is stamped.")] = False,
    as_json: Json = False,
) -> None:
    """Write report.html, report.md and summary.json again from a run's result files."""
    from cxrtl.report import page

    screen = Screen(as_json)
    with manners(screen):
        screen.written(page.write_report(run_folder(folder), partial))


@app.command()
def compare(
    first: Folder,
    second: Annotated[
        Path, typer.Argument(parser=place, metavar="RUN_OR_TABLE", help="Another run, or a published .csv or .toml.")
    ],
    unpaired: Annotated[bool, typer.Option(help="Allow other images or folds, as independent samples.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. [default: RUN/compare-NAME]")] = None,
    as_json: Json = False,
) -> None:
    """Set a run against another on the same images, or against a published table: compare.html, .md and .json."""
    from cxrtl.report import page, versus
    from cxrtl.report.load import load_run

    screen = Screen(as_json)
    with manners(screen):
        loaded = load_run(run_folder(first))
        if second.is_file():
            found = versus.compare_published(loaded, second)
        else:
            found = versus.compare_runs(loaded, load_run(run_folder(second)), unpaired)
        screen.written(
            page.write_comparison(found, lasting(out or loaded.run.path(f"compare-{second.absolute().stem}")))
        )


for verb in (
    submit_cli.submit,
    verbs.predict,
    verbs.evaluate,
    verbs.explain,
    verbs.export,
    verbs.doctor,
    verbs.bench,
):
    app.command()(verb)


def main(words: list[str] | None = None) -> None:
    """Run the command line on `words`, or on what the shell gave."""
    app(args=words, prog_name="cxrtl")


if __name__ == "__main__":
    main()
