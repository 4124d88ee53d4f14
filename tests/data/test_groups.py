from __future__ import annotations

from cxrtl.data.groups import together


def test_rows_are_linked_by_any_column_and_by_way_of_others() -> None:
    first, second = ["a", "b", "", "b", "", "e", ""], ["x", "y", "x", "z", "z", "a", ""]
    assert together(first, second).tolist() == [0, 1, 0, 1, 1, 0, 2]  # 5 has the a of 0, if in another column


def test_nothing_known_leaves_each_alone() -> None:
    assert together(["", "", ""]).tolist() == [0, 1, 2]
    assert together([]).tolist() == []
