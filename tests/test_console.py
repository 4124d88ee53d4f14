"""What a person and a program are told of a prepared set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrtl.console import Screen
from cxrtl.records import FlowStep, Prepared

FLOW = (
    FlowStep("images listed", 0, 20, 9),
    FlowStep("view not stated", 0, 20, 9),
    FlowStep("neither [a] nor b", 7, 13, 6),
    FlowStep("unusable: the file is damaged", 1, 12, 6),
)
PREPARED = Prepared(Path("/home/x"), ("a", "b"), 32, 12, True, "0" * 64, {"undecodable": 1}, {"a": 6, "b": 6}, FLOW)


def test_every_exclusion_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().prepared(PREPARED)
    assert capsys.readouterr().out.splitlines() == [
        "12 images (6 a, 6 b), patients known",
        "  left out: neither [a] nor b, 7 images, 3 patients",
        "  left out: unusable: the file is damaged, 1 image",
        "/home/x",
    ]
    Screen(as_json=True).prepared(PREPARED)
    told = json.loads(capsys.readouterr().out)
    assert told["flow"][2] == {"step": "neither [a] nor b", "removed": 7, "left": 13, "patients": 6}
