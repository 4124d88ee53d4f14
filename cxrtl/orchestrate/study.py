"""A whole study: images to shards, folds, plan, trials, ledger. One call; calling it again goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cxrtl import rundir, storage
from cxrtl.config import Data, Experiment, expand
from cxrtl.data import audit, feed, flat, folds, manifest, phantom, sets, survey
from cxrtl.data.ids import fingerprint, load_key
from cxrtl.data.prepared import read_index
from cxrtl.learn import backbones, freeze, lineage, segment, state, weights
from cxrtl.orchestrate import cluster, environment, frozen, growth, ledger, plan, sweep
from cxrtl.orchestrate.claim import Claim
from cxrtl.orchestrate.fold import Job
from cxrtl.orchestrate.journal import Journal
from cxrtl.orchestrate.probe import Prober
from cxrtl.records import Folds, Plan, Prepared, Trial
from cxrtl.rundir import RunDir


class Watcher(Protocol):
    """Whoever shows a study's progress."""

    def stage(self, text: str) -> None: ...
    def preparing(self, done: int, total: int) -> None: ...
    def planned(self, run: RunDir, plan: Plan) -> None: ...
    def training(self, run: RunDir) -> None: ...


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: nothing here changes a number."""

    home: Path
    command: str
    address: str | None = None
    download: bool = False
    verbose: bool = False
    plan_only: bool = False


@dataclass(frozen=True)
class Outcome:
    """Where the run is, its images, and how many of its trials were `done_before` this call."""

    run: RunDir
    prepared: Prepared
    done_before: int
    trials: int


@dataclass(frozen=True)
class _Todo:
    experiment: Experiment
    identity: ledger.Identity
    trials: tuple[Trial, ...]
    done: list[str]
    prepared: Prepared
    folds: Folds
    starts: dict[str, weights.Weights | None]
    kept: dict[str, bool]  # see `frozen`
    origin: dict[str, Any]  # `id_key`, by which patients can be compared, and `lineage` of the arms that have one


@dataclass
class Session:
    """One call of `run`: its Ray instance, begun when first needed, and its times in seconds; `started` is a date,
    `begun` on a clock that nobody sets."""

    options: Options
    stack: ExitStack
    nodes: list[cluster.Node] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.monotonic)
    prepare_seconds: float = 0.0
    features_seconds: float = 0.0
    launch_seconds: float = 0.0

    def ray(self, say: Callable[[str], None]) -> None:
        if not self.nodes:
            self.nodes = self.stack.enter_context(cluster.connect(self.options.address, self.options.verbose))
            growth.require_cpu(self.nodes, say)


def prepare(data: Data, home: Path, session: Session, watcher: Watcher, begun: str = "") -> Prepared:
    """The prepared set of these images, from `<home>/prepared` where it was made before.

    Its folder is named by a hash of the source's paths, sizes, dates and labels: a changed source gets a new one. So
    does, with a number behind the name, one of whose files some could not be used then and can now: a run that was
    begun goes on with the set that it was begun with, whose dataset's hash is `begun`.

    Raises:
        SkippedError: as `data.prepare.prepare`.
    """
    from cxrtl.data import prepare as making  # Ray Data

    watcher.stage("reading labels")
    listed = manifest.build(_expanded(data), load_key() if data.source != "phantom" else b"")
    made, folder = sets.made(home / "prepared" / f"{data.source}-{sets.fingerprint(data, listed)[:12]}")
    there = next((found for found in made if found.dataset_hash == begun), None)
    if there and (doubtful := sets.doubtful(there)):
        watcher.stage(f"going on without {doubtful} file(s), as begun: a run of another name tries them again")
    elif made and not there:
        if doubtful := sets.doubtful(made[-1]):
            watcher.stage(f"trying again {doubtful} file(s) that could not be used")
        there = made[-1] if sets.stands(made[-1], listed, making.how_of(listed, data)) else None
    if there:
        making.refuse_skipped(listed, there, data.max_skipped)
        return there
    watcher.stage(f"preparing {len(listed.frame)} images at {data.image_size} px")
    session.ray(watcher.stage)
    started = time.monotonic()
    if made:
        sets.link_shards(made[-1].folder, folder)
    prepared = making.prepare(listed, data, folder, on_progress=watcher.preparing)
    session.prepare_seconds = time.monotonic() - started
    return prepared


def _expanded(data: Data) -> Data:
    return data.model_copy(update={"path": str(expand(data.path))}) if data.path else data


def _saved_folds(run: RunDir, experiment: Experiment) -> Folds | None:
    """Those of the run, where it was begun, else those that the experiment names."""
    if run.path("folds.parquet").exists():
        return folds.read_folds(run.path("folds.parquet"))
    return folds.read_folds(expand(experiment.folds.file)) if experiment.folds.file else None


def ensure_folds(run: RunDir, experiment: Experiment, prepared: Prepared) -> Folds:
    """The run's folds: decided once, saved, checked against the images and for leaks on every start.

    Raises:
        StaleFoldsError, LeakageError, FoldsError: see `data.folds` and `data.audit`.
    """
    index, path = read_index(prepared), run.path("folds.parquet")
    made = _saved_folds(run, experiment) or folds.make_folds(index, prepared, experiment.folds)
    folds.check_current(made, index, prepared)
    certificate = audit.audit(made, prepared.classes[-1], prepared.task)
    rundir.write_json(run.path("leakage.json"), certificate)
    audit.require_clean(certificate)
    if not path.exists():
        folds.write_folds(path, made)
    return made


def run(experiment: Experiment, options: Options, watcher: Watcher) -> Outcome:
    """Do what the run's ledger lacks.

    Raises:
        CxrtlError: whatever `errors` draws; what is finished is kept.
    """
    folder = RunDir(options.home / "runs" / experiment.name)
    for recipe in experiment.recipes:
        backbones.check_name(recipe.train.backbone)
        if experiment.data.task == "segmentation":
            segment.levels(recipe.train.backbone)  # refuses one that has no maps of several sizes
        freeze.check(recipe.train)
    stages = lineage.sources(experiment, folder.root.parent)
    starts = weights.of_arms(experiment, stages, download=options.download)
    with folder.lock(), Journal(folder, watcher) as watcher, ExitStack() as stack:
        session = Session(options, stack)
        begun = _saved_folds(folder, experiment)
        prepared = prepare(experiment.data, options.home, session, watcher, begun.dataset_hash if begun else "")
        made = ensure_folds(folder, experiment, prepared)
        id_key = fingerprint(phantom.KEY if experiment.data.source == "phantom" else load_key())
        history = {arm: lineage.check(arm, found, made, id_key) for arm, found in stages.items()}
        origin = {"id_key": id_key, "lineage": history}
        kept = frozen.kept(experiment, starts, prepared)
        identity = ledger.Identity.of(experiment, prepared, made, starts, kept)
        saved = ledger.check_unchanged(folder, identity)
        watcher.stage("looking at the images")  # not before it is sure that the run may go on
        survey.survey(folder, prepared, made)
        lineage.write_seen(folder, stages)
        trials = plan.trials(experiment, made.k)
        hashes = saved["arm_hashes"] if saved else {}
        done = [trial.name for trial in trials if folder.result(trial, hashes.get(trial.arm, ""))]
        for name in done:
            state.clear(folder.path(name))  # of one that was cut off between its result and here
            Claim(folder.path(name), "").release()
        todo = _Todo(experiment, identity, trials, done, prepared, made, starts, kept, origin)
        if len(done) < len(trials):
            _go_on(folder, todo, saved, session, watcher)
        elif options.plan_only:
            watcher.stage(f"all {len(trials)} trials are done: nothing to plan")
        elif saved:
            machine = ledger.Machine.of(saved, saved["precision_by_arm"])
            _keep(folder, todo, saved, machine, options.command)
    return Outcome(folder, prepared, len(done), len(trials))


def _go_on(folder: RunDir, todo: _Todo, saved: dict[str, Any] | None, session: Session, watcher: Watcher) -> None:
    experiment, options = todo.experiment, session.options
    session.ray(watcher.stage)
    done = frozenset(todo.done)
    left = [trial for trial in todo.trials if trial.name not in done]
    open_arms = {trial.arm for trial in left}
    recipes = [recipe for recipe in experiment.recipes if recipe.name in open_arms]
    begun = saved or {"precision_by_arm": {}, "threads": 0}
    given = experiment.resources, len(left), begun["threads"], watcher.stage
    alive, nodes = growth.nodes(*given, ask=not options.plan_only)
    watcher.stage("timing a few steps")
    with Prober(todo.starts, todo.prepared, begun["precision_by_arm"], todo.kept, alive) as prober:
        share, probes = plan.lay_out(experiment, recipes, left, nodes, prober, begun["threads"])
    drawn = plan.make(experiment, todo.trials, todo.done, nodes, share, probes, folder.root, todo.prepared)
    watcher.planned(folder, drawn)
    if options.plan_only:
        return
    precision, gpu = {name: found.precision for name, found in probes.items()}, next(iter(probes.values())).gpu
    machine = ledger.Machine(drawn.device, precision, share.cpus, gpu)
    if saved:
        machine = ledger.check_machine(folder, saved, machine)
    hashes = _keep(folder, todo, saved, machine, options.command)
    rundir.write_json(folder.path("plan.json"), asdict(drawn))
    rundir.write_json(folder.path("environment.json"), environment.describe(gpu))
    began, frozen_arms = time.monotonic(), [recipe for recipe in recipes if todo.kept.get(recipe.name)]
    if frozen_arms:
        watcher.stage("computing what frozen layers give")
    bank = frozen.bank(options.home, experiment.seed, frozen_arms, todo.starts, todo.prepared, machine, drawn)
    session.features_seconds = time.monotonic() - began
    if drawn.streams:
        watcher.stage("writing pixels to stream")
    file = flat.make(todo.prepared) if drawn.streams else None
    watcher.stage("reading images")
    images, own = feed.images(todo.prepared, streamed=drawn.streams), cluster.address_of(options.address) == cluster.OWN
    if own:
        cluster.spare_data_actors()
    job = Job(
        run=folder,
        hashes=hashes,
        recipes={recipe.name: recipe for recipe in recipes},
        trials={trial.name: trial for trial in todo.trials},
        weights=todo.starts,
        precision=precision,
        seed=experiment.seed,
        division=todo.folds.division,
        prepared=todo.prepared,
        share=share,
        bank=bank,
        flat=file,
        metered=not own,
    )
    most = plan.most_at_once(experiment.resources, drawn, job.metered)
    watcher.training(folder)
    session.launch_seconds = time.monotonic() - session.begun - session.prepare_seconds - session.features_seconds
    try:
        sweep.run(job, drawn, images, most, options.verbose)
    except BaseException:
        with suppress(OSError):  # a full disk, say: the first fault is the one to show
            _record(folder, todo, session, hashes)
        raise
    _record(folder, todo, session, hashes)


def _keep(
    folder: RunDir, todo: _Todo, saved: dict[str, Any] | None, machine: ledger.Machine, command: str
) -> dict[str, str]:
    """Keep the experiment where it is new, has other arms, or says other things that decide no number; arm hashes."""
    if saved is None or saved["experiment"] != todo.experiment.model_dump(mode="json"):
        arms = todo.identity.decides["arms"]
        machine = replace(machine, precision={name: machine.precision[name] for name in arms})
        saved = ledger.write(
            folder,
            todo.experiment,
            todo.identity,
            todo.prepared,
            todo.folds,
            todo.starts,
            machine,
            command,
            todo.origin,
        )
    hashes: dict[str, str] = saved["arm_hashes"]
    return hashes


def _record(folder: RunDir, todo: _Todo, session: Session, hashes: dict[str, str]) -> None:
    """Add this session to `sessions.json`. `launch_seconds` is all before the trials but preparing and
    computing features."""
    storage.pull(folder.root)
    path = folder.path("sessions.json")
    earlier = rundir.read_json(path) if path.exists() else []
    done = sum(folder.result(trial, hashes[trial.arm]) is not None for trial in todo.trials)
    entry = {
        "started": datetime.fromtimestamp(session.started, UTC).isoformat(timespec="seconds"),
        "prepare_seconds": round(session.prepare_seconds, 2),
        "features_seconds": round(session.features_seconds, 2),
        "launch_seconds": round(session.launch_seconds, 2),
        "wall_seconds": round(time.monotonic() - session.begun, 2),
        "trials_done": done - len(todo.done),
    }
    rundir.write_json(path, [*earlier, entry])
