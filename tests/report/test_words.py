"""How numbers are said, at the edges."""

from __future__ import annotations

from typing import Any

import pytest

from cxrtl.report import numbers, words
from cxrtl.report.pipes import escape
from cxrtl.report.shape import PublishedRow, Value, Verdict


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "not recorded"), (8.94, "8.9 s"), (442.2, "442 s"), (840, "14 min"), (6840, "1 h 54 min")],
)
def test_duration(seconds: float | None, said: str) -> None:
    assert numbers.duration(seconds) == said


def test_undefined_is_said() -> None:
    nothing = Value(value=None, low=None, high=None, method=None)
    assert (numbers.share(None), numbers.area(None), numbers.seconds(None)) == ("undefined", "undefined", "–")
    assert numbers.bounds("auc", nothing) == ""
    assert numbers.bounds("auc", Value(value=0.5, low=None, high=None, method=None)) == "no interval"
    assert numbers.p_value(None) == "not tested"


def test_signs_and_p_values() -> None:
    assert (numbers.signed(-0.0123), numbers.signed(0.0004), numbers.signed(-0.0004)) == ("−0.012", "0.000", "0.000")
    assert numbers.signed(-0.0123, 1, 100) == "−1.2"
    assert (numbers.p_value(0.0004), numbers.p_value(0.0154)) == ("< 0.001", "0.015")


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "said", "between"),
    [
        ("dice", -0.00093, -0.00176, -0.00021, "−0.0009", "−0.0018 to −0.0002"),
        ("auc", 0.0312, -0.002, 0.0644, "+0.031", "−0.002 to +0.064"),
        ("fold_auc", 0.2, -0.4, 0.8, "+0.200", "−0.400 to +0.800"),
        ("accuracy", 0.01234, 0.0119, 0.0128, "+1.234", "+1.190 to +1.280"),
        ("hausdorff95", -3.21, -5.0, -1.4, "−3.2", "−5.0 to −1.4"),
        ("wilcoxon", -0.00042, None, None, "−0.00042", "no interval"),
        ("auc", 1e-17, None, None, "0.000", "no interval"),
        ("auc", None, None, None, "undefined", "no interval"),
    ],
)
def test_differences_show_two_digits_of_their_intervals_width(
    name: str, value: float | None, low: float | None, high: float | None, said: str, between: str
) -> None:
    found = Value(value=value, low=low, high=high, method=None)
    assert (numbers.gain(name, found), numbers.gain_bounds(name, found)) == (said, between)


def test_verdicts() -> None:
    values = {"accuracy": 0.881, "sensitivity": None}
    against = [Verdict(arm="a", metrics={"accuracy": "above", "sensitivity": None})]
    row = PublishedRow(study="s", iterations=250, metrics=values, seconds=None, against=against)
    assert words.verdict(row, "a", "accuracy") == "outside, above"
    assert words.verdict(row, "a", "sensitivity") == ""
    assert words.verdict(row, "b", "accuracy") == "no interval of this length"


def test_methods_name_the_measures_of_all_but_the_most_frequent() -> None:
    def value(method: str | None) -> Value:
        return Value(value=0.5, low=None, high=None, method=method)

    given = {"accuracy": "Wilson", "auc": "DeLong", "npv": None, "ppv": "Wilson", "f1": "Wilson (Jaccard)"}
    metrics = {name: value(method) for name, method in given.items()}
    row: Any = {"metrics": metrics}
    assert words.methods(row) == "Wilson; AUC: DeLong; F1: Wilson (Jaccard)"
    assert words.methods({**row, "metrics": {"auc": value(None)}}) == "no method"


def test_markdown_escape() -> None:
    assert escape("a|b\n<b>*x*</b>") == r"a\|b &lt;b&gt;\*x\*&lt;/b&gt;"
