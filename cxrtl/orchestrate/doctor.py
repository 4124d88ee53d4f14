"""`cxrtl doctor`: asks the driver and every node (`facts`), and has the answers judged (`checks`)."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cxrtl import rundir, storage
from cxrtl.config import Experiment, expand
from cxrtl.errors import ConfigError, CxrtlError, PlanError
from cxrtl.learn import lineage, weights
from cxrtl.orchestrate import checks, cluster
from cxrtl.orchestrate.checks import Check
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.facts import Inspector, gather
from cxrtl.orchestrate.upload import upload_size

ANSWER_WITHIN = 60.0  # seconds, of an actor on a node, its start included, and of the driver's own storage
ROUND_TRIPS = 7  # of which the quickest tells the clocks' difference
AT_ONCE = 4  # questions to a node: what asks a mount that hangs keeps none of the others waiting
T = TypeVar("T")
Mark = Callable[[Path, str], "Future[tuple[str, str, str]]"]  # `Inspector.mark`
Forget = Callable[[Path], "Future[None]"]  # `Inspector.forget`


def examine(experiment: Experiment | None, home: Path, address: str | None, verbose: bool = False) -> list[Check]:
    """Every check, in the order in which to read them. Where no cluster answers, those that need none."""
    out = []
    try:
        with cluster.connect(address, verbose) as nodes:
            for check in _cluster(nodes, experiment, home):
                out.append(check)  # one by one: what was found before a fault is told with it
    except (PlanError, ray.exceptions.RayError) as error:
        advice = "see that it runs, that --address is its own, and that RAY_AUTH_MODE and the token are the same there"
        out += [Check("cluster", "fail", _first_line(error), advice), checks.vulnerable([gather("driver")])]
    if experiment:
        out.append(starts(experiment, home))
    sends = (Path("jobs") / "run.py").exists()
    return [*out, checks.upload(upload_size(Path.cwd()) if sends else None)]


def _cluster(nodes: Sequence[Node], experiment: Experiment | None, home: Path) -> Iterator[Check]:
    from ray._private import worker  # Ray's public way to this gives it to who calls `ray.init` alone

    ours: Any = worker._global_node
    dashboard = str(ours.webui_url or "")
    names = [node.name for node in nodes]
    labels = [
        name if names.count(name) == 1 else f"{name}/{node.id[:6]}" for name, node in zip(names, nodes, strict=True)
    ]
    actor: Any = ray.remote(Inspector)
    share = {"num_cpus": 0, "max_concurrency": AT_ONCE}
    pins = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
    asked = {
        label: actor.options(scheduling_strategy=pin, **share).remote() for label, pin in zip(labels, pins, strict=True)
    }
    told, silent = _answered({label: each.facts.remote(label, dashboard).future() for label, each in asked.items()})
    offered = dict(zip(labels, (node.gpus for node in nodes), strict=True))
    facts = [gather("driver"), *(replace(each, gpus_offered=offered[label]) for label, each in told.items())]
    yield _answers(nodes, silent)
    yield from (*checks.versions(facts), checks.cuda(facts), checks.processor(facts))
    there = {label: each for label, each in asked.items() if label in told}
    marks = {label: _mark(each) for label, each in there.items()}
    forget = {label: _forget(each) for label, each in there.items()}
    yield checks.storage(home, round_trip(home, marks, forget))
    if experiment and experiment.data.path:
        yield _images(experiment.data.path, there)
    yield _clocks(there)
    yield from (checks.dashboard(facts), checks.token(facts, sorted(set(names))), checks.vulnerable(facts))


def _answered(asked: Mapping[str, Future[T]]) -> tuple[dict[str, T], dict[str, str]]:
    """The answers by node, all within the same `ANSWER_WITHIN`; and of nodes that gave none, why."""
    wait(asked.values(), ANSWER_WITHIN)
    answers, faults = {}, {}
    for label, future in asked.items():
        try:
            answers[label] = future.result(timeout=0)
        except TimeoutError:
            faults[label] = f"no answer within {ANSWER_WITHIN:g} s"
        except ray.exceptions.RayError as error:
            faults[label] = _first_line(error)
    return answers, faults


def _apart(work: Callable[..., T], *words: Any) -> Future[T]:
    """Done in a thread that nobody has to wait for: storage that hangs keeps it for ever."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(*words))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _first_line(error: Exception) -> str:
    """Ray's errors of a remote process end with what happened there; others begin with it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, ray.exceptions.RayError) else 0].strip()


def _answers(nodes: Sequence[Node], silent: Mapping[str, str]) -> Check:
    text = f"{len(nodes)} node(s), {sum(n.cpus for n in nodes):g} CPUs, {sum(n.gpus for n in nodes):g} GPUs"
    if not silent:
        return Check("cluster", "ok", text)
    faults = "; ".join(f"{label}: {fault}" for label, fault in silent.items())
    advice = "install cxrtl there, or send it along as a job; look at the node's own Ray logs"
    return Check("cluster", "fail", f"{text}; no answer from {faults}", advice)


def _mark(inspector: Any) -> Mark:
    return lambda folder, name: inspector.mark.remote(folder, name).future()


def _forget(inspector: Any) -> Forget:
    return lambda folder: inspector.forget.remote(folder).future()


def _images(given: str, inspectors: Mapping[str, Any]) -> Check:
    try:
        path = expand(given)
    except ConfigError as error:
        return Check("images", "fail", str(error))
    seen, blind = _answered({label: each.sees.remote(path).future() for label, each in inspectors.items()})
    return checks.images(path, blind | {label: "" if yes else "it is not there" for label, yes in seen.items()})


def _clocks(inspectors: Mapping[str, Any]) -> Check:
    offsets, silent = {}, {}
    for label, inspector in inspectors.items():
        try:
            offsets[label] = checks.offset(_samples(inspector))
        except ray.exceptions.RayError as error:
            silent[label] = _first_line(error)
    return checks.clock(offsets, silent)


def _samples(inspector: Any) -> list[tuple[float, float, float]]:
    out = []
    for _ in range(ROUND_TRIPS):
        sent = time.time()
        theirs = ray.get(inspector.now.remote(), timeout=ANSWER_WITHIN)
        out.append((sent, theirs, time.time()))
    return out


def round_trip(home: Path, ask: Mapping[str, Mark], forget: Mapping[str, Forget] | None = None) -> dict[str, str]:
    """By node, what went wrong on the way of a marker file from the driver to the node and of another back, "" where
    nothing did. `ask`, `forget`: those methods of each `Inspector`. Nothing is left but where storage hangs."""
    folder, mine = home / f".doctor-{secrets.token_hex(6)}", secrets.token_hex(16)
    begun, hangs = _answered({"driver": _apart(_begin, folder, mine)})
    if hangs:
        return hangs
    try:
        if begun["driver"]:
            return begun
        names = {node: f"node-{place}" for place, node in enumerate(ask)}
        told, silent = _answered({node: call(folder, names[node]) for node, call in ask.items()})
        looked = {node: _apart(_compare, folder / names[node], mine, *answer) for node, answer in told.items()}
        found, lost = _answered(looked)
        faults = found | {node: f"what it wrote cannot be read by the driver ({why})" for node, why in lost.items()}
        return faults | {node: f"it gave no answer ({why})" for node, why in silent.items()}
    finally:
        _answered({"driver": _apart(_end, folder)})
        _answered({node: call(folder) for node, call in (forget or {}).items()})


def _begin(folder: Path, mine: str) -> str:
    try:
        folder.mkdir(parents=True)
        rundir.write_bytes(folder / "driver", mine.encode())
    except OSError as error:
        return f"it cannot be written to ({error.strerror})"
    return ""


def _compare(path: Path, mine: str, read: str, written: str, fault: str) -> str:
    """`read`, `written` and `fault`: what the node says that it read of the driver's marker, and wrote to `path`."""
    if fault:
        return fault
    if read != mine:
        return "another file is at the place of the driver's: this is other storage"
    try:
        storage.fetch(path)
        back = path.read_text(encoding="ascii")
    except OSError as error:
        return f"what it wrote cannot be read by the driver ({error.strerror})"
    return "" if back == written else "what it wrote reads back as something else"


def _end(folder: Path) -> None:
    with suppress(OSError):  # it has failed before, then
        storage.remove(folder)


def starts(experiment: Experiment, home: Path) -> Check:
    """The weights that arms start from. They are read and verified here and travel through Ray's object store."""
    texts: dict[str, str] = {}
    faults, seen = {}, set()
    try:
        stages = lineage.sources(experiment, home / "runs")
    except CxrtlError as error:
        return Check("weights", "fail", str(error), "finish the stage, or name another")
    for recipe in experiment.recipes:
        key = recipe.train.init, recipe.train.init_sha256, recipe.train.backbone
        if key in seen:
            continue
        seen.add(key)
        try:
            found = weights.find(recipe.train, stage=stages.get(recipe.name))
        except CxrtlError as error:
            faults[str(error)] = recipe.name
        else:
            texts |= {found.sha256: f"{found.file} (sha256 {found.sha256[:12]}…)"} if found else {}
    if faults:
        text = "\n".join(f"arm {arm}: {fault}" for fault, arm in faults.items())
        return Check("weights", "fail", text, "cxrtl run --download fetches ImageNet's")
    if not texts:
        return Check("weights", "ok", "every arm starts from scratch")
    found_ = ", ".join(texts.values())
    return Check("weights", "ok", f"{found_}: here and as recorded; nodes need no copy, Ray takes them along")
