"""The Ray instance a run uses: connecting, quieting, and what it has to offer."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.data
from ray._private import ray_constants
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.data._internal.stats import STATS_ACTOR_NAME, STATS_ACTOR_NAMESPACE

from cxrtl import interrupt
from cxrtl.errors import PlanError
from cxrtl.orchestrate import admission

ANSWER_WITHIN = 10.0  # seconds
LOOK_EVERY = 1.0  # seconds
OWN = "local"  # a Ray of our own on this machine
_DATA_ACTORS = ((STATS_ACTOR_NAME, STATS_ACTOR_NAMESPACE), 2 * ("AutoscalingCoordinator",))  # and their namespaces


@dataclass(frozen=True)
class Node:
    """What one machine offers to trials. `name`: its address, and `id` in Ray."""

    cpus: float
    gpus: float
    memory: float = 0.0  # bytes, those of Ray's object store included
    name: str = ""
    id: str = ""

    def slots(self, cpus: float, gpus: float) -> int:
        """Trials that fit at once. One that takes a fraction of a GPU has all of it on one."""
        by_cpu = int(self.cpus / cpus + 1e-9)
        if not gpus:
            return by_cpu
        return min(by_cpu, int(self.gpus) * int(1 / gpus + 1e-9) if gpus < 1 else int(self.gpus / gpus + 1e-9))


@contextmanager
def connect(address: str | None, verbose: bool, cpus: int | None = None) -> Iterator[list[Node]]:
    """Join the cluster at `address` (or `RAY_ADDRESS`), or start Ray on this machine, with as many logical `cpus` as it
    has or as are given; leave it afterwards.

    Raises:
        PlanError: no cluster answers at the address.
    """
    address = _found(address_of(address))
    _require_answer(address)
    # Tune's own tables and files, and Ray's hints, are for other uses: our display and ledger take their place.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network unless asked
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", str(int(verbose)))  # a dead process's trial starts again
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # its own would wait for the trials to end
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")  # of workers started here; see learn.memory
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # what asks for no GPU sees none, and opens none
    os.environ.setdefault("RAY_worker_niceness", "0")  # the command's own priority; Ray's choice is nearly the lowest
    if address == OWN:  # neither nodes to add, nor a dashboard to feed: a hundredth of a core each
        os.environ.setdefault("AUTOSCALER_UPDATE_INTERVAL_S", "60")
        os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
    else:
        admission.match(address)
    if not verbose:
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _to_itself() if address == OWN else nullcontext():
            ray.init(
                address=address,
                num_cpus=cpus,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                include_dashboard=None if address != OWN else False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PlanError(f"no Ray cluster answers at {address!r}: {str(error).splitlines()[0]}") from None
    lost = threading.Event()
    try:
        if address == OWN and not verbose:
            _spare_services()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = verbose
        context.use_datasource_v2 = False  # which starts 32 processes to read the last bytes of a few Parquet files
        with _while_attached(lost):
            yield nodes()
    finally:
        if not lost.is_set():  # else Ray would end this process here, before anything could be said
            ray.shutdown()


@contextmanager
def _while_attached(lost: threading.Event) -> Iterator[None]:
    """Ends the wait for a cluster whose node here is gone, and sets `lost`: Ray would wait, or end the process dumb.

    Raises:
        PlanError: in place of whatever it interrupts.
    """
    mine, over = ray.get_runtime_context().get_node_id(), threading.Event()
    (here,) = (node for node in ray.nodes() if node["NodeID"] == mine)  # type: ignore[no-untyped-call]
    raylet = here["NodeManagerAddress"], here["NodeManagerPort"]

    def watch() -> None:
        answered = False
        while not over.wait(LOOK_EVERY):
            try:
                socket.create_connection(raylet, timeout=ANSWER_WITHIN).close()
                answered = True
            except ConnectionRefusedError:
                if answered:  # nobody listens there any more
                    lost.set()
                    interrupt.main_thread()
                    return
            except OSError:  # slow, or no network for a while: Ray lives through it
                continue

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with interrupt.heeded():
        try:
            yield
        except (KeyboardInterrupt, Exception):
            if not lost.is_set():
                raise
            raise PlanError(
                "Ray's own process on this machine ended: killed, or out of memory. What is finished is kept: run the "
                "same command to go on."
            ) from None
        finally:
            over.set()
            watcher.join(LOOK_EVERY)


def address_of(given: str | None) -> str:
    """The cluster to join, or `OWN`."""
    return given or os.environ.get("RAY_ADDRESS") or OWN


@contextmanager
def _to_itself() -> Iterator[None]:
    """Out of others' reach. Ray's processes listen on the node's address, or on all there are: on Linux one that other
    machines reach, whatever `ray.init` is told. As on Windows and macOS, ours is the loopback's. There, other users are
    kept out by the token that Ray makes, once they cannot read it."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        with suppress(OSError):  # there is none, or it is not ours to change
            Path("~/.ray/auth_token").expanduser().chmod(0o600)


def _spare_services() -> None:
    """End what passes on what workers print, serves the dashboard, and asks for nodes: nobody listens, and together
    they take more than a hundredth of a core."""
    node = ray._private.worker._global_node
    if node is not None:
        node.kill_log_monitor(check_alive=False)
        node.kill_dashboard(check_alive=False)
        node.kill_monitor(check_alive=False)


def spare_data_actors() -> None:
    """End the actors that Ray Data keeps for its next dataset, which would start them again: idle, each takes a
    hundredth of a core, for as long as a run trains."""
    for name, namespace in _DATA_ACTORS:
        with suppress(ValueError):  # there is none
            ray.kill(ray.get_actor(name, namespace))


def _found(address: str) -> str:
    """Host and port of the cluster on this machine, for Ray's word `auto`."""
    if address != "auto":
        return address
    try:
        return canonicalize_bootstrap_address_or_die(address)
    except ConnectionError as error:
        raise PlanError(f"no Ray cluster answers at 'auto': {error}") from None


def _require_answer(address: str) -> None:
    """Ray itself would try for ever."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN).close()
    except OSError as error:
        raise PlanError(
            f"no Ray cluster answers at {address!r} ({error.strerror or error}). Start one with `ray start --head`, or "
            "leave --address and RAY_ADDRESS out to have Ray started here."
        ) from None


def nodes() -> list[Node]:
    """The nodes that are alive."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    names = ("CPU", "GPU", "memory", "object_store_memory")
    out = []
    for found in alive:
        cpus, gpus, heap, store = (found["Resources"].get(name, 0.0) for name in names)
        out.append(Node(cpus, gpus, heap + store, found["NodeManagerAddress"], found["NodeID"]))
    return out
