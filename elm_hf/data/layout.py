"""The layout of a dataset: its configurations and splits, the columns of their tables, and the names of its files."""

from datasets import Array2D, Features, List, Value

from elm_hf.modeling.ecg_leads import LEADS


# Configurations: the table of ECGs, the split of the dataset's authors, and `fold1`, `fold2`, ...
RECORDS = "records"
OFFICIAL = "official"
SPLITS = ("train", "validation", "test")

# Files beside the tables.
BUILD_REPORT_NAME = "build_report.json"
PICTURE_NAME = "ecg.png"

_TEXT = Value("string")
MESSAGES = List({"role": _TEXT, "content": List({"type": _TEXT, "text": _TEXT})})

# A conversation as a builder lists it.
LISTED_FEATURES = {
    "conversation_id": _TEXT,
    "recording_ids": List(_TEXT),
    "recording_sources": List(_TEXT),
    "messages": MESSAGES,
    "question_type": _TEXT,
    "attribute_type": _TEXT,
    "template_id": Value("int32"),
    "question": _TEXT,
    "answer": List(_TEXT),
    "stratum": _TEXT,
    "split": _TEXT,
}
# How a published conversation names its ECGs, in place of the columns by which they were found.
ECG_FEATURES = {
    "conversation_id": _TEXT,
    "ecg_index": List(Value("int64")),
    "record_ids": List(_TEXT),
    "patient_ids": List(_TEXT),
}
REFERENCES = ["conversation_id", "recording_sources", "recording_ids"]

# Columns that conversations are matched by.
RECORD_KEYS = ["record_id", "recording_id", "patient_id", "source", "segment", "sampling_rate", "missing_leads"]
# What is published without signals and texts; `num_samples` is added, since builds of another length have the same ids.
RECORD_IDS = ["record_id", "recording_id", "patient_id", "source", "segment", "start_s", "sampling_rate"]
CONVERSATION_IDS = list(ECG_FEATURES)


def record_features(seconds: float, sampling_rate: int) -> Features:
    """
    The columns of the `records` table.

    Args:
        seconds: length of a record.
        sampling_rate: in Hz.

    Raises:
        ValueError: length and rate do not make whole samples.
    """
    samples = seconds * sampling_rate
    if seconds <= 0 or samples < 1 or samples % 1:  # NaN and infinity have a remainder, NaN
        raise ValueError(f"{seconds} s at {sampling_rate} Hz are not whole samples")
    return Features(
        {
            "record_id": _TEXT,
            "recording_id": _TEXT,
            "patient_id": _TEXT,
            "source": _TEXT,
            "segment": Value("int32"),
            "start_s": Value("float32"),
            "ecg": Array2D((len(LEADS), round(samples)), "int16"),
            "sampling_rate": Value("int32"),
            "age": Value("int32"),
            "sex": _TEXT,
            "report": _TEXT,
            "labels": List(_TEXT),
            "missing_leads": List(_TEXT),
        }
    )


def fold_config(fold: int | str) -> str:
    """Name of a fold's configuration: `fold1` for 1 or `"1"`, `official` for `"official"`."""
    return f"fold{fold}" if str(fold).isdecimal() else str(fold)


def parquet_name(split: str, number: int, of: int) -> str:
    """Name of a Parquet file as `datasets` writes it, such as `train-00000-of-00002.parquet`."""
    return f"{split}-{number:05d}-of-{of:05d}.parquet"
