"""Identifiers planted in file names, table cells and DICOM tags reach nothing that a whole run writes or prints."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.data.helpers import CANARY, save
from tests.data.test_dicom import encoded, radiograph
from tests.orchestrate.helpers import cxrtl

EXPERIMENT = """
name = "planted"
[data]
source = "table"
path = "{table}"
image_size = 32
keep_columns = ["sex"]
subgroups = ["site"]
attributes = ["view", "year"]
max_skipped = 0.2
[folds]
k = 2
[train]
backbone = "squeezenet1_1"
init = "scratch"
budgets = [2]
batch_size = 4
"""


@pytest.mark.slow
def test_planted_identifiers_stay_where_they_were(tmp_path: Path) -> None:
    rows = []
    tags = dict.fromkeys(("PatientName", "PatientID", "InstitutionName", "AccessionNumber", "ViewPosition"), CANARY)
    for number in range(24):  # one of them a radiograph, one a damaged radiograph
        name = f"images/{CANARY}-{number}.png"
        save(tmp_path / "set" / name, number, number // 2 % 2 == 1, number // 2)
        if number in (0, 3):
            (tmp_path / "set" / name).write_bytes(encoded(radiograph(**tags))[: -1 if number == 3 else None])
        whose = {"patient_id": f"{CANARY}/{number // 2}", "study_id": f"{CANARY}-{number}", "name": CANARY}
        known = {"label": "sick" if number // 2 % 2 else "well", "sex": "FM"[number % 2], "site": "ab"[number % 2]}
        rows.append({"image": name, **known, **whose})
    pd.DataFrame(rows).to_csv(tmp_path / "set/labels.csv", index=False)
    (tmp_path / "planted.toml").write_text(EXPERIMENT.format(table=tmp_path / "set/labels.csv"))
    home = tmp_path / "home"
    said = [cxrtl("run", tmp_path / "planted.toml", "--home", home, "--verbose")]
    said.append(cxrtl("audit", home / "runs/planted"))
    said.append(cxrtl("status", home / "runs/planted"))
    said.append(cxrtl("run", tmp_path / "planted.toml", "--home", home, "--set", "data.max_skipped=0"))
    assert [done.returncode for done in said] == [0, 0, 0, 2], said[0].stdout + said[0].stderr
    assert CANARY not in "".join(done.stdout + done.stderr for done in said)
    files = [path for path in home.rglob("*") if path.is_file() and path.parent.name != "private"]
    assert len(files) > 20 and (home / "runs/planted/report.html") in files
    assert [path.name for path in files if CANARY.encode() in path.read_bytes() or CANARY in path.name] == []
    logs = [path for path in Path("/tmp/ray").glob("session_2*/logs/*") if path.is_file()]
    fresh = [path for path in logs if path.stat().st_mtime >= (tmp_path / "planted.toml").stat().st_mtime]
    assert fresh and [path.name for path in fresh if CANARY.encode() in path.read_bytes()] == []
