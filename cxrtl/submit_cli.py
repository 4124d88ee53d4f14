"""`cxrtl submit`: `cxrtl run` as a job of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxrtl import config
from cxrtl.console import Screen
from cxrtl.errors import Interrupted
from cxrtl.options import Download, File, Json, Set, manners

Server = Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server.")]
There = Annotated[str, typer.Option(help="As of `run`, seen by all nodes. [default: $CXRTL_HOME there, else ~/cxrtl]")]
Bring = Annotated[list[Path] | None, typer.Option(help="A file or folder below this one that the job needs; repeat.")]


def submit(
    experiment: File,
    address: Server = "http://127.0.0.1:8265",
    home: There = "",
    set_: Set = None,
    bring: Bring = None,
    download: Download = False,
    detach: Annotated[bool, typer.Option(help="Submit, and do not follow.")] = False,
    stop: Annotated[bool, typer.Option(help="Stop the job of this experiment; what is finished is kept.")] = False,
    as_json: Json = False,
) -> None:
    """`run` on a cluster: upload this cxrtl and the experiment, follow the job. Ctrl-C leaves it running; the same
    command comes back to it, or goes on with the run where the job has ended."""
    screen = Screen(as_json)
    with manners(screen):
        checked = config.load(experiment, set_ or ())
        from cxrtl.orchestrate import submit as submitting  # Ray: seconds to import

        wish = submitting.Wish(checked, home, download, as_json, tuple(bring or ()))
        client = submitting.connect(address)
        with submitting.answers(address):
            if stop:
                jobs = submitting.stop(client, wish)
                screen.stage(f"stopped {', '.join(jobs)}" if jobs else f"no job of {checked.name} with this home runs")
                return
            job, found = submitting.submit(client, wish)
            screen.stage(f"job {job} {'was running already' if found else 'submitted'}; {address}")
            if detach:
                return
            try:
                code = submitting.follow(client, job, screen.log)
            except KeyboardInterrupt:
                screen.stage(f"left job {job}, which goes on: the same command comes back to it, --stop ends it")
                code = Interrupted.exit_code
        raise typer.Exit(code)
