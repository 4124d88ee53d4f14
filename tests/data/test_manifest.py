import gzip
import re
from pathlib import Path

import pandas as pd
import pytest

from cxrtl.config import Data
from cxrtl.data import manifest
from cxrtl.data.sources.common import resolve_classes
from cxrtl.errors import ManifestError
from cxrtl.records import MANIFEST_COLUMNS
from tests.data.helpers import CANARY, labelled, table_config

KEY = b"k" * 32


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def folder(root: Path, **changes: object) -> Data:
    return Data.model_validate({"source": "folder", "path": str(root), **changes})


def table(root: Path, frame: pd.DataFrame, name: str = "labels.csv") -> Data:
    if name.endswith(".parquet"):
        frame.to_parquet(root / name)
    else:
        frame.to_csv(root / name, index=False)
    return table_config(root / name)


FRAME = pd.DataFrame(
    {"image": ["b.png", "./a.png", "c.png"], "label": ["no", "yes", "no"], "patient_id": ["0012", "12", "0012"]}
)


def data(**changes: object) -> Data:
    return Data.model_validate({"source": "folder", "path": "x", **changes})


class TestClasses:
    def test_last_in_the_alphabet_is_positive_unless_told(self) -> None:
        assert resolve_classes(["b", "a", "b"], data()) == ("a", "b")
        assert resolve_classes(["b", "a"], data(positive="a")) == ("b", "a")
        assert resolve_classes(["b", "a"], data(classes=("b", "a"))) == ("b", "a")

    @pytest.mark.parametrize("labels", [["a"], ["a", "b", "c"]])
    def test_not_two_classes(self, labels: list[str]) -> None:
        with pytest.raises(ManifestError, match=re.escape(f"there are {len(labels)} classes, and there must be 2: ")):
            resolve_classes(labels, data())

    def test_several_classes_in_the_order_asked_for(self) -> None:
        assert resolve_classes("cab", data(task="multiclass")) == ("a", "b", "c")
        assert resolve_classes("cab", data(task="multiclass", classes=("b", "c", "a"))) == ("b", "c", "a")
        with pytest.raises(ManifestError, match=r"data\.classes names \['d'\], of which there is no image"):
            resolve_classes("ab", data(task="multiclass", classes=("a", "d")))
        with pytest.raises(ManifestError, match="there are 1 classes, and there must be more"):
            resolve_classes("aa", data(task="multiclass"))

    def test_a_column_of_identifiers_is_not_quoted(self) -> None:
        with pytest.raises(ManifestError) as caught:
            resolve_classes([f"{CANARY}{number}" for number in range(30)], data())
        assert CANARY not in str(caught.value)

    def test_a_cell_out_of_place_is_not_quoted(self) -> None:
        with pytest.raises(ManifestError, match=r"classes of 3, 3, 1, 1 image\(s\)") as caught:
            resolve_classes([*["well", "sick"] * 3, CANARY, f"\0{CANARY}"], data())
        assert CANARY not in str(caught.value)

    def test_unknown_positive(self) -> None:
        with pytest.raises(ManifestError, match=r"data\.positive = 'x' is none of the classes of 2, 2 image"):
            resolve_classes("abab", data(positive="x"))


class TestFolder:
    def test_every_visible_file_is_listed_in_order(self, tmp_path: Path) -> None:
        write(tmp_path, "sick/z.png", "sick/deep/a.txt", "well/b.jpg", ".hidden/x.png", "well/.hidden", "well/.d/x.png")
        found = manifest.build(folder(tmp_path), KEY)
        assert found.classes == ("sick", "well")
        names = [Path(path).relative_to(tmp_path.resolve()).as_posix() for path in found.frame["path"]]
        assert names == ["sick/deep/a.txt", "sick/z.png", "well/b.jpg"]
        assert list(found.frame["label"]) == ["sick", "sick", "well"]
        assert set(found.frame["patient_id"]) == {""}

    def test_ids_do_not_depend_on_the_place(self, tmp_path: Path) -> None:
        for place in ("one", "two"):
            write(tmp_path / place, "a/1.png", "b/2.png")
        one, two = (manifest.build(folder(tmp_path / place), KEY).frame for place in ("one", "two"))
        assert list(one["image_id"]) == list(two["image_id"])

    def test_patient_from_the_file_name(self, tmp_path: Path) -> None:
        write(tmp_path, "a/p1-1.png", "a/p1-2.png", "b/p2-1.png")
        frame = manifest.build(folder(tmp_path, patient_pattern=r"^(p\d+)-"), KEY).frame
        assert frame["patient_id"].tolist() == [manifest.keyed_id("pat", name, KEY) for name in ("p1", "p1", "p2")]

    def test_names_without_a_patient_are_counted_and_not_quoted(self, tmp_path: Path) -> None:
        write(tmp_path, "a/p1.png", f"b/{CANARY}.png")
        with pytest.raises(ManifestError, match="in 1 of 2 file names") as caught:
            manifest.build(folder(tmp_path, patient_pattern=r"^(p\d+)"), KEY)
        assert CANARY not in str(caught.value)
        assert manifest.keyed_id("img", f"b/{CANARY}.png", KEY) in str(caught.value)

    def test_link_out_of_the_folder_is_refused_for_that_file_alone(self, tmp_path: Path) -> None:
        write(tmp_path, "set/a/1.png", "set/b/2.png", "secret.png")
        (tmp_path / "set/a/link.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / "set/a/inner.png").symlink_to(tmp_path / "set/a/1.png")
        paths = manifest.build(folder(tmp_path / "set"), KEY).frame["path"].tolist()
        assert [path.startswith("refused:outside_root:") for path in paths] == [False, False, True, False]

    def test_linked_folder_stops(self, tmp_path: Path) -> None:
        write(tmp_path, "set/a/1.png", "set/b/2.png", "other/3.png")
        (tmp_path / "set/b/more").symlink_to(tmp_path / "other")
        with pytest.raises(ManifestError, match=r"1 folder\(s\) below data.path are links"):
            manifest.build(folder(tmp_path / "set"), KEY)

    def test_file_beside_the_classes_and_empty_class_stop(self, tmp_path: Path) -> None:
        write(tmp_path, "a/1.png", "b/2.png", "loose.png")
        with pytest.raises(ManifestError, match=r"1 file\(s\) lie beside the class folders"):
            manifest.build(folder(tmp_path), KEY)
        (tmp_path / "loose.png").unlink()
        (tmp_path / "c").mkdir()
        with pytest.raises(ManifestError, match="1 of the 3 class folders"):
            manifest.build(folder(tmp_path), KEY)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="is no folder"):
            manifest.build(folder(tmp_path / "absent"), KEY)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ManifestError, match="not one image"):
            manifest.build(folder(tmp_path / "empty"), KEY)

    def test_classes_that_are_not_named_are_left_out_and_counted(self, tmp_path: Path) -> None:
        write(tmp_path, "a/1.png", "b/2.png", "b/3.png", "c/4.png")
        made = manifest.build(folder(tmp_path, task="multiclass", classes=("c", "a")), KEY)
        assert made.task == "multiclass" and made.classes == ("c", "a")
        assert made.frame["label"].tolist() == ["a", "c"]
        assert (made.flow[-1].removed, made.flow[-1].left) == (2, 2)


class TestTable:
    @pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz", "labels.parquet"])
    def test_order_text_and_classes(self, tmp_path: Path, name: str) -> None:
        found = manifest.build(table(tmp_path, FRAME, name), KEY)
        assert found.classes == ("no", "yes")
        assert [Path(path).name for path in found.frame["path"]] == ["b.png", "a.png", "c.png"]
        first, second, third = found.frame["patient_id"]
        assert first == third != second == manifest.keyed_id("pat", "12", KEY)

    def test_numbers_of_parquet_are_the_same_patients_as_in_csv(self, tmp_path: Path) -> None:
        numbers = FRAME.assign(patient_id=[7, 8, 7])
        floats = FRAME.assign(patient_id=[7.0, 8.0, 7.0])
        sets = [
            manifest.build(table(tmp_path, frame, name), KEY).frame["patient_id"].tolist()
            for frame, name in ((numbers, "n.parquet"), (floats, "f.parquet"), (numbers, "n.csv"))
        ]
        assert sets[0] == sets[1] == sets[2]

    def test_patients_of_other_sets_may_have_the_same_numbers(self, tmp_path: Path) -> None:
        """They count as the same people, unless the sets are said to number people each in their own way."""
        both = [table(tmp_path, FRAME), table(tmp_path, FRAME, "labels.parquet")]
        ours = [data.model_copy(update={"id_namespace": "ours"}) for data in both]
        one, same, mine, mine_too = (manifest.build(data, KEY).frame for data in (*both, *ours))
        ids = ["image_id", "patient_id"]
        assert one[ids].equals(same[ids]) and mine[ids].equals(mine_too[ids])
        assert not set(one["patient_id"]) & set(mine["patient_id"]) and not set(one["image_id"]) & set(mine["image_id"])
        with pytest.raises(ValueError, match=r"data\.id_namespace has no meaning"):
            Data(source="phantom", id_namespace="ours")

    def test_study_repeats_from_patient_to_patient(self, tmp_path: Path) -> None:
        frame = FRAME.assign(study_id=["1", "1", ""])
        studies = manifest.build(table(tmp_path, frame), KEY).frame["study_id"].tolist()
        assert studies[0] != studies[1] and studies[0].startswith("std-") and studies[2] == ""

    def test_further_columns_go_along_if_asked(self, tmp_path: Path) -> None:
        frame = FRAME.assign(age=[1, 2, 3], name=[CANARY] * 3, view=["PA", None, "AP"])
        from_csv = manifest.build(table(tmp_path, frame), KEY).frame
        assert list(from_csv) == list(MANIFEST_COLUMNS)
        kept = {"keep_columns": ("age", "view")}
        from_csv = manifest.build(table(tmp_path, frame).model_copy(update=kept), KEY).frame
        assert from_csv["age"].tolist() == ["1", "2", "3"] and "name" not in from_csv
        from_parquet = manifest.build(table(tmp_path, frame, "l.parquet").model_copy(update=kept), KEY).frame
        assert from_parquet["age"].tolist() == [1, 2, 3] and from_parquet["view"].tolist() == ["PA", "", "AP"]

    @pytest.mark.parametrize(
        ("column", "message"), [("patient_id", "keeps as hashes"), ("fold", "or uses"), ("none", "lacks the column")]
    )
    def test_columns_that_cannot_go_along(self, tmp_path: Path, column: str, message: str) -> None:
        data = table(tmp_path, FRAME.assign(fold=1)).model_copy(update={"keep_columns": (column,)})
        with pytest.raises(ManifestError, match=message):
            manifest.build(data, KEY)

    def test_own_column_names(self, tmp_path: Path) -> None:
        frame = FRAME.rename(columns={"image": "Image Index", "label": "Finding", "patient_id": "Patient ID"})
        data = table(tmp_path, frame).model_copy(
            update={"image_column": "Image Index", "label_column": "Finding", "patient_column": "Patient ID"}
        )
        found = manifest.build(data, KEY).frame
        assert found["patient_id"].nunique() == 2 and "Patient ID" not in found

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"label": ["no", "", "yes"]}, "column 'label' is blank in 1 of 3 rows"),
            ({"image": ["a", " ", "b"]}, "column 'image' is blank in 1 of 3 rows"),
            ({"patient_id": ["1", "", "2"]}, "the patient is unknown for 1 of 3 images"),
            ({"image": ["/etc/a", "b", "../c"]}, r"holds 2 path\(s\) that are absolute or lead out"),
            ({"image": ["a/../../b", "b", "c"]}, r"holds 1 path\(s\)"),
            ({"image": ["a.png", "./a.png", "b.png"]}, r"1 image\(s\) are listed more than once"),
            ({"label": ["x", "y", "z"]}, r"there are 3 classes.*classes of 1, 1, 1 image"),
        ],
    )
    def test_faults(self, tmp_path: Path, changes: dict[str, list[str]], message: str) -> None:
        with pytest.raises(ManifestError, match=message):
            manifest.build(table(tmp_path, FRAME.assign(**changes)), KEY)

    def test_missing_column_is_named_and_no_other(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match=r"lacks the column\(s\) \['label'\] among its 2"):
            manifest.build(table(tmp_path, FRAME.drop(columns="label")), KEY)

    @pytest.mark.parametrize("setting", ["patient_column", "study_column"])
    def test_what_is_named_must_be_there(self, tmp_path: Path, setting: str) -> None:
        """A slip of the pen would lose the grouping."""
        table(tmp_path, FRAME.drop(columns="patient_id"))
        assert len(manifest.build(table_config(tmp_path / "labels.csv"), KEY).frame) == 3
        with pytest.raises(ManifestError, match=r"lacks the column\(s\) \['patient'\] among its 2"):
            manifest.build(table_config(tmp_path / "labels.csv", **{setting: "patient"}), KEY)

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("l.csv", b"", "it is empty"),
            ("l.csv", b"image,label\na,\xff\n", "it is not UTF-8 text"),
            ("l.csv", f"image,label\n{CANARY},no,1,2\n".encode(), "not all have as many cells"),
            ("l.csv", f"image,label\na,no\n{CANARY},no,1,2\n".encode(), "not all have as many cells"),
            ("l.csv", f"image,patient_id,label\na,p,no\n{CANARY},p\n".encode(), "not all have as many cells"),
            ("l.csv", f"image,label\na,no\n{CANARY}".encode(), "not all have as many cells"),
            ("l.csv", b"image,label,label\na,no,yes\nb,yes,no\n", "two of its columns have the same name"),
            ("l.csv", b"image,label, image\na,no,c\nb,yes,d\n", "two of its columns have the same name"),
            ("l.csv.gz", b"no gzip", "."),
            ("l.csv.gz", gzip.compress(b"image,label\na,b\n" * 99, mtime=0)[:-20], "."),
            ("l.parquet", b"no parquet", "it is damaged"),
            ("l.xlsx", b"", r"is no \.csv"),
        ],
    )
    def test_damaged_table(self, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ManifestError, match=reason) as caught:
            manifest.build(table_config(tmp_path / name), KEY)
        assert CANARY not in str(caught.value)

    def test_byte_order_mark_is_no_part_of_the_first_column(self, tmp_path: Path) -> None:
        (tmp_path / "l.csv").write_text("image,label\na,x\nb,y\n", encoding="utf-8-sig")
        assert len(manifest.build(table_config(tmp_path / "l.csv"), KEY).frame) == 2

    def test_findings_of_several_columns(self, tmp_path: Path) -> None:
        frame = FRAME.assign(Mass=["1", "0", ""], Edema=["0", "1.0", ""])
        data = table(tmp_path, frame).model_copy(update={"task": "multilabel", "label_columns": ("Edema", "Mass")})
        made = manifest.build(data, KEY)
        assert made.classes == ("Edema", "Mass") and made.frame["label"].tolist() == ["", ""]
        assert made.frame[["label_Mass", "label_Edema"]].to_numpy().tolist() == [[1, 0], [0, 1]]
        assert (made.flow[-1].step, made.flow[-1].removed) == ("no finding stated", 1)
        data = table(tmp_path, frame.assign(Mass=["1", "-1", CANARY])).model_copy(update=data.model_dump(mode="python"))
        with pytest.raises(ManifestError, match=r"'Mass' holds 2 value\(s\) that are none of 1, 0 and blank"):
            manifest.build(data, KEY)

    def test_finding_that_is_never_absent_is_refused(self, tmp_path: Path) -> None:
        changes = {"task": "multilabel", "label_columns": ("Mass",)}
        data = table(tmp_path, FRAME.assign(Mass=["1", "1", ""])).model_copy(update=changes)
        with pytest.raises(ManifestError, match="'Mass' is stated present in 2 images and absent in 0"):
            manifest.build(data, KEY)

    def test_nothing_in_the_clear_but_paths(self, tmp_path: Path) -> None:
        frame = manifest.build(table_config(labelled(tmp_path)), KEY).frame
        assert CANARY not in frame.drop(columns="path").to_csv()
