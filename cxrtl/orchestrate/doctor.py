"""`cxrtl doctor`: asks the driver and every node (`facts`), and has the answers judged (`checks`)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cxrtl import rundir, storage
from cxrtl.config import Experiment, expand
from cxrtl.errors import CxrtlError, PlanError
from cxrtl.learn import lineage, weights
from cxrtl.orchestrate import checks, cluster
from cxrtl.orchestrate.checks import Check
from cxrtl.orchestrate.cluster import Node
from cxrtl.orchestrate.facts import Inspector, gather
from cxrtl.orchestrate.upload import upload_size

ANSWER_WITHIN = 60.0  # seconds, of an actor on a node, its start included
ROUND_TRIPS = 7  # of which the quickest tells the clocks' difference
Mark = Callable[[Path, str], tuple[str, str, str]]  # `Inspector.mark`


def examine(experiment: Experiment | None, home: Path, address: str | None, verbose: bool = False) -> list[Check]:
    """Every check, in the order in which to read them. Where no cluster answers, those that need none."""
    out = []
    try:
        with cluster.connect(address, verbose) as nodes:
            out += _cluster(nodes, experiment, home)
    except (PlanError, ray.exceptions.RayError) as error:
        advice = "see that it runs, that --address is its own, and that RAY_AUTH_MODE and the token are the same there"
        out += [Check("cluster", "fail", _first_line(error), advice), checks.vulnerable([gather("driver")])]
    if experiment:
        out.append(starts(experiment, home))
    sends = (Path("jobs") / "run.py").exists()
    return [*out, checks.upload(upload_size(Path.cwd()) if sends else None)]


def _cluster(nodes: Sequence[Node], experiment: Experiment | None, home: Path) -> list[Check]:
    from ray._private import worker  # Ray's public way to this gives it to who calls `ray.init` alone

    ours: Any = worker._global_node
    dashboard = str(ours.webui_url or "")
    names = [node.name for node in nodes]
    labels = [
        name if names.count(name) == 1 else f"{name}/{node.id[:6]}" for name, node in zip(names, nodes, strict=True)
    ]
    actor: Any = ray.remote(num_cpus=0)(Inspector)
    pins = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
    inspectors = [actor.options(scheduling_strategy=pin).remote() for pin in pins]
    asked = [each.facts.remote(label, dashboard) for each, label in zip(inspectors, labels, strict=True)]
    facts, answered, silent = [gather("driver")], {}, {}
    for node, label, inspector, answer in zip(nodes, labels, inspectors, asked, strict=True):
        try:
            facts.append(replace(ray.get(answer, timeout=ANSWER_WITHIN), gpus_offered=node.gpus))
            answered[label] = inspector
        except ray.exceptions.RayError as error:
            silent[label] = _first_line(error)
    out = [_answers(nodes, silent), *checks.versions(facts), checks.cuda(facts), checks.processor(facts)]
    out.append(checks.storage(home, round_trip(home, {label: _mark(each) for label, each in answered.items()})))
    if experiment and experiment.data.path:
        path = expand(experiment.data.path)
        out.append(checks.images(path, {label: ray.get(each.sees.remote(path)) for label, each in answered.items()}))
    out.append(checks.clock({label: checks.offset(_samples(each)) for label, each in answered.items()}))
    return [*out, checks.dashboard(facts), checks.token(facts, sorted(set(names))), checks.vulnerable(facts)]


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
    return lambda folder, name: ray.get(inspector.mark.remote(folder, name), timeout=ANSWER_WITHIN)


def _samples(inspector: Any) -> list[tuple[float, float, float]]:
    out = []
    for _ in range(ROUND_TRIPS):
        sent = time.time()
        theirs = ray.get(inspector.now.remote())
        out.append((sent, theirs, time.time()))
    return out


def round_trip(home: Path, ask: Mapping[str, Mark]) -> dict[str, str]:
    """By node, what went wrong on the way of a marker file from the driver to the node and of another back, "" where
    nothing did. `ask`: `Inspector.mark` of each. Nothing is left behind."""
    folder, mine = home / f".doctor-{secrets.token_hex(6)}", secrets.token_hex(16)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        return {"driver": f"it cannot be written to ({error.strerror})"}
    try:
        rundir.write_bytes(folder / "driver", mine.encode())
        calls = enumerate(ask.items())
        return {node: _there_and_back(folder, f"node-{place}", mine, call) for place, (node, call) in calls}
    except OSError as error:
        return {"driver": f"it cannot be written to ({error.strerror})"}
    finally:
        with suppress(OSError):  # it has failed before, then
            storage.remove(folder)


def _there_and_back(folder: Path, name: str, mine: str, call: Mark) -> str:
    try:
        read, written, fault = call(folder, name)
    except ray.exceptions.RayError as error:
        return f"it gave no answer ({_first_line(error)})"
    if fault:
        return fault
    if read != mine:
        return "another file is at the place of the driver's: this is other storage"
    try:
        storage.fetch(folder / name)
        back = (folder / name).read_text(encoding="ascii")
    except OSError as error:
        return f"what it wrote cannot be read by the driver ({error.strerror})"
    return "" if back == written else "what it wrote reads back as something else"


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
