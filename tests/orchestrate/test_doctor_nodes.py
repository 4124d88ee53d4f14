"""The doctor at a real cluster of two nodes, one of which then sees a storage that hangs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from cxrtl.cli import app, main
from cxrtl.config import parse
from cxrtl.orchestrate import doctor, facts


@pytest.mark.slow
def test_a_cluster_of_two_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not ray.is_initialized(), "another test left its Ray behind"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "dashboard_host": "127.0.0.1"})
    try:
        lame = cluster.add_node(num_cpus=2).node_id
        words = ["doctor", "--address", cluster.address, "--home", str(tmp_path / "home"), "--json"]
        code = app(words, standalone_mode=False)
        found = {check["name"]: check for check in json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]}
        open_ = any(not node["NodeManagerAddress"].startswith("127.") for node in cluster.global_state.node_table())
        assert [name for name in found if found[name]["state"] == "fail"] == ["token authentication"] * open_
        assert code == int(open_)  # no token is asked for here
        assert "2 node(s), 3 CPUs" in found["cluster"]["found"] and "2 node(s)" in found["storage"]["found"]
        assert {found[name]["state"] for name in ("cluster", "python", "ray", "torch", "storage", "clocks")} == {"ok"}
        assert list((tmp_path / "home").iterdir()) == []
        with pytest.raises(SystemExit) as ended:  # the images of this experiment are nowhere
            path = tmp_path / "x.toml"
            path.write_text('name = "x"\n[data]\nsource = "folder"\npath = "/nowhere"\n[train]\ninit = "scratch"\n')
            main([*words[:1], str(path), *words[1:]])
        assert ended.value.code == 1
        found = {check["name"]: check for check in json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]}
        assert found["images"]["state"] == "fail" and found["weights"]["state"] == "ok"

        class Lame(facts.Inspector):
            """On one of the nodes, what storage says never comes."""

            def mark(self, folder: Path, name: str) -> tuple[str, str, str]:
                self._wait()
                return super().mark(folder, name)

            def sees(self, path: Path) -> bool:
                self._wait()
                return super().sees(path)

            def _wait(self) -> None:
                if ray.get_runtime_context().get_node_id() == lame:
                    time.sleep(3600)

        monkeypatch.setattr(doctor, "Inspector", Lame)
        monkeypatch.setattr(doctor, "ANSWER_WITHIN", 12)  # enough for two actors to start
        folder = parse({"name": "x", "data": {"source": "folder", "path": str(tmp_path)}, "train": {"init": "scratch"}})
        kept = {check.name: check for check in doctor.examine(folder, tmp_path / "home", cluster.address)}
        for name in ("storage", "images"):
            assert kept[name].state == "fail" and kept[name].found.count("no answer within 12 s") == 1, kept[name]
        assert kept["clocks"].state == "ok" and "dashboard" in kept
    finally:
        ray.shutdown()
        cluster.shutdown()
