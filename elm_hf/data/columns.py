"""The columns of the tables of a dataset: records, listed conversations, and published conversations."""

from datasets import Array2D, Features, List, Value

from elm_hf.modeling.ecg_leads import LEADS


_TEXT = Value("string")


MESSAGES = List({"role": _TEXT, "content": List({"type": _TEXT, "text": _TEXT})})


# Columns of the conversations that a builder lists.
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


# Columns that refer to the ECGs of a published conversation. They replace the columns `REFERENCES` of the builder.
ECG_FEATURES = {
    "conversation_id": _TEXT,
    "ecg_index": List(Value("int64")),
    "record_ids": List(_TEXT),
    "patient_ids": List(_TEXT),
}


REFERENCES = ["conversation_id", "recording_sources", "recording_ids"]


# Columns of the records that are used to match conversations with records and to assign patients to folds.
RECORD_KEYS = [
    *("record_id", "recording_id", "patient_id", "source", "segment", "sampling_rate"),
    *("labels", "missing_leads"),
]


# Columns of the patients. `test_fold` is the number of the fold whose test set a patient is in, and `validation_fold`
# that of the fold whose validation set the patient is in, or null.
PATIENT_FEATURES = {
    "source": _TEXT,
    "patient_id": _TEXT,
    "test_fold": Value("int32"),
    "validation_fold": Value("int32"),
}


# Columns of the records in a dataset published without signals and texts. `num_samples` is added to these, because
# builds with another record length have the same ids.
RECORD_IDS = ["record_id", "recording_id", "patient_id", "source", "segment", "start_s", "sampling_rate"]


CONVERSATION_IDS = list(ECG_FEATURES)


def record_features(seconds: float, sampling_rate: int) -> Features:
    """
    Return the columns of the `records` table.

    Args:
        seconds: length of a record in seconds.
        sampling_rate: sampling rate in Hz.

    Raises:
        ValueError: `seconds * sampling_rate` is not a whole number of samples.
    """
    samples = seconds * sampling_rate
    if seconds <= 0 or samples < 1 or samples % 1:  # the remainder of NaN and infinity is NaN, which is true
        raise ValueError(f"{seconds} s at {sampling_rate} Hz is not a whole number of samples")
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
