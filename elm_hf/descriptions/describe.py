"""Descriptions of ECGs in words: the patient, the report in English, and the features outside their normal range."""

from collections import Counter
from os import PathLike
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value

from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.tables import load_records
from elm_hf.descriptions.ptb_xl_plus import read_12sl_features
from elm_hf.ecg.normal_ranges import describe_features
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.utils.files import read_table
from elm_hf.utils.languages import ENGLISH, language_of
from elm_hf.utils.translations import read_translations


REPORTS = ("english", "original")
_SIZE_UNITS = {"height": "cm", "weight": "kg"}  # in PTB-XL
_TEXT = Value("string")
FEATURES = Features(
    {
        "record_id": _TEXT,
        "age": Value("int32"),
        "sex": _TEXT,
        "height_cm": Value("float32"),
        "weight_kg": Value("float32"),
        "report": _TEXT,
        "language": _TEXT,  # of the original report
        "translator": _TEXT,  # null where it was not translated
        "features_from": _TEXT,
        "general": List(_TEXT),
        "leads": List(List(_TEXT)),  # in the order of LEADS
    }
)


def describe_records(
    dataset: str | PathLike,
    output: str | PathLike,
    ptb_xl: str | PathLike | None = None,
    ptb_xl_plus: str | PathLike | None = None,
    translations: str | PathLike | None = None,
    reports: str | None = None,
    num_proc: int = 1,
) -> dict:
    """
    Writes a table of descriptions with a row for each record that has a report (Yang et al. 2024, ECG-LM).

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        output: Parquet file to write.
        ptb_xl: folder of PTB-XL, whose `ptbxl_database.csv` contains heights and weights.
        ptb_xl_plus: folder of PTB-XL+, whose 12SL features are used. ECGs that are not in it are measured.
        translations: CSV written by `elm-hf translate`, or by hand with the same columns.
        reports: what to do with reports that are neither in English nor among the translations: `"english"` omits
            their records, `"original"` keeps the original text. Required if there are such reports and no
            translations; with translations the default is `"english"`.
        num_proc: number of processes that measure ECGs.

    Returns:
        Numbers of records: `records` (described), `left_out` (omitted, by reason), `translated` (with a translated
        report) and `features` (described, by source of the features).

    Raises:
        ValueError: reports are not in English and neither `translations` nor `reports` is given, or no record can be
            described.
        FileNotFoundError: a source does not exist.
    """
    if reports is not None and reports not in REPORTS:
        raise ValueError(f"--reports is {reports!r}; expected {' or '.join(REPORTS)}")
    if Path(output).suffix != ".parquet":
        raise ValueError(f"{output}: descriptions are written as Parquet; choose a name that ends in .parquet")
    sizes = {} if ptb_xl is None else _sizes(Path(ptb_xl))
    known = {} if ptb_xl_plus is None else read_12sl_features(ptb_xl_plus)
    records = load_records(dataset)
    columns = records.select_columns(["record_id", "recording_id", "source", "age", "sex", "report"]).to_pandas()
    texts, left_out = _english(list(columns["report"]), translations, reports)
    rows = [row for row, text in enumerate(texts) if text is not None]
    if not rows:
        raise ValueError(f"{dataset}: none of the {len(texts)} records can be described ({dict(left_out)})")
    is_ptb_xl = columns["source"] == "ptb_xl"
    from_table = {
        row: known[name] for row, name in enumerate(columns["recording_id"]) if is_ptb_xl[row] and name in known
    }
    measured = _measure(records, [row for row in rows if row not in from_table], num_proc)
    described = []
    for row in rows:
        person = columns.iloc[row]
        size = sizes.get(person["recording_id"], {}) if is_ptb_xl[row] else {}
        described.append(
            {"record_id": person["record_id"], "age": _or_none(person["age"]), "sex": person["sex"]}
            | {"height_cm": None, "weight_kg": None}
            | size
            | texts[row]
            | _findings(from_table.get(row) or measured[row], person["sex"], _or_none(person["age"]))
            | {"features_from": "12SL" if row in from_table else "measure_ecg"}
        )
    table = Dataset.from_list(described, features=FEATURES)
    unfinished = Path(f"{output}.unfinished")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(unfinished)
    unfinished.rename(output)
    return {
        "records": len(rows),
        "left_out": dict(left_out),
        "translated": sum(one["translator"] is not None for one in described),
        "features": dict(Counter(one["features_from"] for one in described)),
    }


def _english(
    reports: list[str | None], translations: str | PathLike | None, choice: str | None
) -> tuple[list[dict | None], Counter]:
    """For each record the report, its original language and its translator; None if the record is omitted."""
    translated = {} if translations is None else read_translations(translations)
    left_out, texts = Counter(), []
    for report in reports:
        report = (report or "").strip()
        language = translated[report]["language"] if report in translated else language_of(report)
        found = {"report": report, "language": language, "translator": None}
        if not report:
            left_out["no report"] += 1
            found = None
        elif report in translated:
            found |= {"report": translated[report]["translation"].strip()}
            found |= {"translator": translated[report]["translator"]}
        elif language != ENGLISH and choice != "original":
            left_out["not in English" if translations is None else "no translation"] += 1
            found = None
        texts.append(found)
    foreign = left_out["not in English"]
    if foreign and choice is None:
        raise ValueError(
            f"{foreign} of {len(reports)} reports are not in English: translate them (elm-hf translate, then "
            "--translations), or choose --reports english to omit them or --reports original to keep them"
        )
    return texts, left_out


def _sizes(folder: Path) -> dict[str, dict[str, float]]:
    """The known heights and weights in PTB-XL's table."""
    path = folder / "ptbxl_database.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected the folder of PTB-XL (--ptb-xl)")
    return {
        row["ecg_id"]: {f"{name}_{unit}": float(row[name]) for name, unit in _SIZE_UNITS.items() if row[name]}
        for row in read_table(path, ["ecg_id", *_SIZE_UNITS])
    }


def _findings(features: dict[str, float], sex: str | None, age: int | None) -> dict:
    described = describe_features(features, sex, age)
    return {"general": described["general"], "leads": [described[lead] for lead in LEADS]}


def _or_none(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def _measure(records: Dataset, rows: list[int], num_proc: int) -> dict[int, dict[str, float]]:
    if not rows:
        return {}
    measure = _Measure(EcgTable(records), records[0]["sampling_rate"])
    processes = num_proc if num_proc > 1 else None
    measured = Dataset.from_dict({"row": rows}).map(measure, num_proc=processes, desc="measuring")
    return dict(zip(rows, measured["features"][:]))


class _Measure:
    """Adds the features of an ECG to its row number. A class, so that it can be pickled for other processes."""

    def __init__(self, ecgs: EcgTable, sampling_rate: int):
        self.ecgs, self.sampling_rate = ecgs, sampling_rate

    def __call__(self, row: dict) -> dict:
        return {"features": measure_ecg(self.ecgs[row["row"]], self.sampling_rate)}
