"""Small trees with the file names, columns and quirks of MIMIC-CXR-JPG, CheXpert and NIH ChestX-ray14."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.data.helpers import save

MIMIC_FINDINGS = [
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture"),
    *("Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia"),
    *("Pneumothorax", "Support Devices"),
]
MEANING = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "left lateral"}
# subject, study, split, chexpert's and negbio's (No Finding, Pleural Effusion), images as name: ViewPosition
MIMIC_STUDIES = [
    # both see an effusion; frontal and lateral
    (10000032, 50414267, "train", ("", "1.0"), ("", "1.0"), {"a1": "PA", "a2": "LATERAL"}),
    # the same patient later: nothing found, on two frontal images
    (10000032, 53189527, "train", ("1.0", ""), ("1.0", ""), {"b1": "AP", "b2": "PA"}),
    # the programs differ
    (10000764, 57375967, "validate", ("", "1.0"), ("", "-1.0"), {"c1": "AP"}),
    # one finds nothing where the other sees an effusion
    (10001217, 52067803, "train", ("1.0", ""), ("", "1.0"), {"j1": "PA"}),
    # both are uncertain
    (10000898, 50771383, "train", ("", "-1.0"), ("", "-1.0"), {"d1": "PA"}),
    # both deny an effusion, and something else was found
    (10000935, 50578979, "train", ("", "0.0"), ("", "0.0"), {"e1": "AP"}),
    # all blank
    (10000980, 50985099, "train", ("", ""), ("", ""), {"f1": "PA"}),
    # ViewPosition blank, told by the meaning; blank as the meaning is; a lateral under its other name
    (11000011, 51029426, "test", ("", "1.0"), ("", "1.0"), {"g1": "", "g2": "", "g3": "LL"}),
    # labelled by one program alone
    (11000183, 51967845, "train", ("1.0", ""), None, {"h1": "AP"}),
    # nothing found; one image is not on the disk, one a decubitus view
    (11000416, 51379284, "train", ("1.0", ""), ("1.0", ""), {"i1": "PA", "gone": "PA", "i2": "AP LLD"}),
]


def mimic(root: Path, suffix: str = "csv.gz") -> Path:
    """Images are called after `MIMIC_STUDIES`; `gone` has no file, and `e1` is a .dcm that is no DICOM at all."""
    metadata = [
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
    ]
    split, chexpert, negbio = (
        ["dicom_id,study_id,subject_id,split"],
        *([_header("subject_id,study_id")] for _ in "12"),
    )
    for number, (subject, study, part, first, second, images) in enumerate(MIMIC_STUDIES):
        for name, view in images.items():
            meaning = "antero-posterior" if name == "g1" else MEANING.get(view, "")
            when = "3056,2544,21800506,213014.531"
            metadata.append(f"{name},{subject},{study},CHEST (PA AND LAT),{view},{when},CHEST,{meaning},Erect")
            split.append(f"{name},{study},{subject},{part}")
            place = root / f"files/p{str(subject)[:2]}/p{subject}/s{study}"
            if name == "e1":
                place.mkdir(parents=True)
                (place / "e1.dcm").write_bytes(b"not read by the source")
            elif name != "gone":
                save(place / f"{name}.jpg", number)
        chexpert.append(_row(subject, study, *first))
        if second:
            negbio.append(_row(subject, study, *second))
    for name, lines in (("metadata", metadata), ("split", split), ("chexpert", chexpert), ("negbio", negbio)):
        text = ("\n".join(lines) + "\n").encode()
        path = root / f"mimic-cxr-2.0.0-{name}.{suffix}"
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    return root


def _header(keys: str) -> str:
    return ",".join([keys, *MIMIC_FINDINGS])


def _row(subject: int, study: int, none: str, effusion: str) -> str:
    values = {"No Finding": none, "Pleural Effusion": effusion}
    return ",".join([str(subject), str(study), *(values.get(name, "") for name in MIMIC_FINDINGS)])


CHEXPERT_FINDINGS = [
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
]
# table, path below the set, sex, age, side, projection, No Finding, Pleural Effusion; all other findings are blank in
# train.csv, while valid.csv, which people labelled, states each
CHEXPERT_IMAGES = [
    ("train", "patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP", "1.0", ""),
    ("train", "patient00002/study2/view1_frontal.jpg", "Female", 87, "Frontal", "AP", "", "-1.0"),
    ("train", "patient00002/study1/view1_frontal.jpg", "Female", 83, "Frontal", "PA", "", "1.0"),
    ("train", "patient00002/study1/view2_lateral.jpg", "Female", 83, "Lateral", "", "", "1.0"),
    ("train", "patient00003/study1/view1_frontal.jpg", "Male", 41, "Frontal", "LL", "", "1.0"),
    ("train", "patient00004/study1/view1_frontal.jpg", "Unknown", 0, "Frontal", "PA", "", "0.0"),
    ("train", "patient00005/study1/view1_frontal.jpg", "Male", 90, "Frontal", "PA", "", ""),
    ("train", "patient00005/study1/gone.jpg", "Male", 90, "Frontal", "PA", "1.0", "0.0"),
    ("train", "patient00006/study1/view1_frontal.jpg", "Female", 55, "Frontal", "AP", "", "1.0"),
    ("train", "patient00006/study1/view2_frontal.jpg", "Female", 55, "Frontal", "RL", "", "1.0"),
    ("valid", "patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "AP", "0.0", "1.0"),
    ("valid", "patient64542/study1/view1_frontal.jpg", "Male", 70, "Frontal", "PA", "1.0", "0.0"),
]


def chexpert(root: Path, prefix: str = "CheXpert-v1.0-small") -> Path:
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS])
    tables = {"train": [header], "valid": [header]}
    for number, (table, path, sex, age, side, projection, none, effusion) in enumerate(CHEXPERT_IMAGES):
        values = {"No Finding": none, "Pleural Effusion": effusion}
        labels = [values.get(name, "" if table == "train" else "0.0") for name in CHEXPERT_FINDINGS]
        tables[table].append(",".join([f"{prefix}/{table}/{path}", sex, str(age), side, projection, *labels]))
        if "gone" not in path:
            save(root / table / path, number)
    for table, lines in tables.items():
        (root / f"{table}.csv").write_text("\n".join(lines) + "\n")
    return root


# the first edition's header, whose brackets hold a comma and which ends in one
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH_ROWS = [
    "00000001_000.png,Effusion|Mass,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,Effusion,1,1,059Y,M,AP,2682,2749,0.143,0.143,",
    "00000002_000.png,No Finding,0,2,414,F,PA,2500,2048,0.171,0.171,",
    "00000003_000.png,Pleural_Thickening,0,3,81,F,PA,2500,2048,0.171,0.171,",
    "00000004_000.png,No Finding,0,4,72,F,AP,2500,2048,0.171,0.171,",
    "00000005_000.png,No Finding,0,5,72,F,PA,2500,2048,0.171,0.171,",
]


def nih(root: Path) -> Path:
    """Images in several folders, as handed out; the last is not on the disk."""
    for number, row in enumerate(NIH_ROWS[:-1]):
        save(root / f"images_{number % 2 + 1:03d}/images" / row.split(",")[0], number)
    (root / "Data_Entry_2017.csv").write_text("\n".join([NIH_HEADER, *NIH_ROWS]) + "\n")
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000002_000.png\n")
    (root / "test_list.txt").write_text("00000003_000.png\n00000004_000.png\n00000005_000.png")
    (root / "BBox_List_2017.csv").write_text("not read")
    return root
