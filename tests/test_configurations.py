"""What is shipped to start clusters with, and what is written about it: two YAML files, docs/cluster.md, README."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

from cxrtl.cli import app
from tests.rayjob import RAYJOB

ROOT = Path(__file__).parents[1]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MOUNT = "/mnt/cxrtl"


def cluster_file() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return read


def blocks(name: str) -> list[str]:
    """The code blocks of a Markdown file."""
    return re.findall(r"^```\w*\n(.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


def test_cluster_file_satisfies_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster_file()))


def test_cluster_keeps_its_door_shut() -> None:
    config = cluster_file()
    head, worker = (" ".join(config[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in head
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    types = config["available_node_types"]
    assert types["gpu_worker"]["min_workers"] == 0 and config["idle_timeout_minutes"] > 0
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]  # on demand


def test_every_package_of_the_project_is_set_up_on_the_cluster() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    commands = " ".join(cluster_file()["setup_commands"])
    for requirement in wanted:
        name = requirement.split(">")[0].split("[")[0]
        assert name in commands or name == "numpy", name  # numpy comes with any of them


def test_machines_are_of_an_image_that_has_our_python() -> None:
    config = cluster_file()
    images = {each["node_config"]["ImageId"] for each in config["available_node_types"].values()}
    assert len(images) == 1 and re.fullmatch(r"ami-[0-9a-f]{17}", images.pop())  # or Ray takes its own, of 2018
    text = (ROOT / "cluster.yaml").read_text()
    assert f"--region {config['provider']['region']}" in text
    assert "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id" in text


@pytest.mark.parametrize(("version", "fits"), [("(3, 6)", False), ("(3, 12)", True), ("(3, 14)", False)])
def test_python_is_looked_at_before_anything_is_installed(tmp_path: Path, version: str, fits: bool) -> None:
    python = tmp_path / "python3"
    real = shlex.quote(sys.executable)
    python.write_text(f"""#!/bin/sh
[ "$1" = --version ] && exec echo "Python {version}"
exec {real} -c "import sys; sys.version_info = {version}; exec(sys.argv[1])" "$2"
""")
    python.chmod(0o755)
    first = cluster_file()["setup_commands"][0]
    words, env = ["bash", "-c", first], {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == fits and ("give ImageId" in done.stdout) != fits, done


def environments() -> dict[str, dict[str, str]]:
    """What Ray's processes are given, by where that stands."""
    found = {f"{kind} of cluster.yaml": cluster_file()[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker")}
    found["docs"] = next(block for block in blocks("docs/cluster.md") if "ray start --head" in block)
    given = {where: dict(re.findall(r"\b([A-Z][A-Z_]+)=(\S+)", text)) for where, text in found.items()}
    spec = yaml.safe_load((ROOT / "jobs/rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        given[container["name"]] = {item["name"]: item["value"] for item in container["env"]}
    return given


@pytest.mark.parametrize("where", environments())
def test_every_process_knows_where_things_are(where: str) -> None:
    env = environments()[where]
    wanted = {"CXRTL_HOME": MOUNT, "CXRTL_DATA": f"{MOUNT}/data", "CXRTL_KEY_FILE": f"{MOUNT}/private/id.key"}
    assert wanted.items() <= env.items()
    assert not [name for name in env if re.search("TOKEN|SECRET|PASSWORD", name)]  # those come from files and Secrets


def test_who_runs_may_write_to_the_storage() -> None:
    config = cluster_file()
    mounted = next(place for place, line in enumerate(config["setup_commands"]) if "sudo mount" in line)
    assert any(f'sudo chown "$(id -u):$(id -g)" {MOUNT}' in line for line in config["setup_commands"][mounted + 1 :])
    docs = "\n".join(blocks("docs/cluster.md"))
    assert re.search(rf"^sudo mkdir -p {MOUNT} && sudo mount .*\nsudo chown .* {MOUNT} ", docs, re.MULTILINE)


def test_no_image_holds_what_is_not_to_leave() -> None:
    """Runs, prepared sets with the way back to patients, and the like; Docker has no way to take .rayignore's word."""
    kept = [line.strip("/") for name in (".rayignore", ".gitignore") for line in (ROOT / name).read_text().split()]
    assert {f"**/{name}" for name in kept} <= set((ROOT / ".dockerignore").read_text().split())


def parses(entrypoint: str) -> dict[str, Any]:
    """The options of a command line of ours, as our own parser reads them; it raises where it cannot."""
    name, verb, *words = shlex.split(entrypoint)
    assert name == "cxrtl"
    command = COMMANDS[verb]
    if hasattr(command, "commands"):  # of several verbs
        verb, *words = words
        command = command.commands[verb]
    params: dict[str, Any] = command.make_context(verb, words).params
    return params


def test_kubernetes_job() -> None:
    raw = yaml.safe_load((ROOT / "jobs/rayjob.yaml").read_text())
    jsonschema.validate(raw, RAYJOB)
    spec, cluster = raw["spec"], raw["spec"]["rayClusterSpec"]
    assert parses(spec["entrypoint"])["home"] == Path("/mnt/cxrtl")
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    assert cluster["authOptions"]["mode"] == "token" and cluster["workerGroupSpecs"][0]["minReplicas"] == 0
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert "persistentVolumeClaim" in mounts["/mnt/cxrtl"]
        user = pod["securityContext"]
        assert (user["runAsUser"], user["fsGroup"]) == (1000, 100)  # of rayproject's images, and may write
        draining = {item["name"]: item["value"] for item in container["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
        assert 30 < int(draining) < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", ["cluster.yaml", "jobs/rayjob.yaml"])
def test_every_number_says_why(name: str) -> None:
    """In a comment of its line, or in lines of comment right above it."""
    lines = (ROOT / name).read_text().splitlines()
    for above, line in pairwise(lines):
        value, _, comment = line.partition("#")
        if re.search(r': +"?\d+\w*"?([ ,}]|$)', value):
            assert comment.strip() or above.lstrip().startswith("#"), line


def commands() -> Iterator[tuple[str, str]]:
    """Command lines with arguments in what a user reads, and where: ours, and those of Ray that send them as a job."""
    wanted = (
        rf"\bcxrtl (?:{'|'.join(COMMANDS)}) (?=\S)[^`#\n;&]+|(?:ray job submit .*)?python jobs/\w+\.py (?=\S)[^`#\n]+"
    )
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.yaml"), *ROOT.glob("jobs/**/*.*")):
        if path.suffix not in (".md", ".yaml", ".py", ".toml"):
            continue
        text = path.read_text()
        if path.suffix == ".md":  # in a sentence, a command may go on on the next line
            code = blocks(str(path))
            prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
            spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
            text = "\n".join([*spans, *(block.replace("`", "\n") for block in code)])
        for found in re.findall(wanted, text):
            yield path.name, re.split(r"\s{2,}", found)[0].strip()


@pytest.mark.parametrize(("where", "command"), sorted(set(commands())))
def test_commands_of_the_documentation_parse(where: str, command: str) -> None:
    from ray.dashboard.modules.job.cli import submit

    if command.startswith("ray job submit"):
        words = submit.make_context("submit", shlex.split(command)[3:]).params["entrypoint"]
        command = shlex.join(words)
        assert words[:1] == ("python",)
    if command.startswith("python "):
        name, *rest = shlex.split(command)[1:]
        verbs = {"jobs/run.py": ["run"], "jobs/prepare.py": ["prepare"], "jobs/verb.py": []}
        command = shlex.join(["cxrtl", *verbs[name], *rest])
    parses(command)
    assert all((ROOT / word).exists() for word in shlex.split(command) if word.startswith("jobs/"))


def test_commands_are_found() -> None:
    found = [command for _, command in commands()]
    assert len(found) > 30 and sum("python jobs/" in command for command in found) >= 5
    shown = {command.split()[1] for command in found if command.startswith("cxrtl ")}
    assert shown >= set(COMMANDS) - {"bench", "prepare", "report"}  # which need no words, or are shown as jobs


def test_upload_is_small() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert sum((ROOT / name).stat().st_size for name in listed if (ROOT / name).exists()) < 10e6
