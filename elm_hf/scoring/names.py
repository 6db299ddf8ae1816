"""Names in an evaluation: its conditions, its kinds of answers, and the files in its folder."""

from collections.abc import Iterable


# What stands in the place of the ECGs (see `SignalAblation`), and the baselines that see neither ECG nor model.
CONDITIONS = ("ecg", "zeros", "noise", "shuffled", "none")
# Not asked by default: it needs age and sex in the records.
DEMOGRAPHICS = "demographics"
# Only for models that read the signal and its picture: one of them is left out, or is another patient's. For each, what
# is in the place of the signal and of the picture.
MODALITY_CONDITIONS = {
    "picture_only": (None, "ecg"),
    "other_signal": ("shuffled", "ecg"),
    "signal_only": ("ecg", None),
    "other_picture": ("ecg", "shuffled"),
}
# Only for models that read measured values: these are left out, or they or the ECG are another patient's. For each, what is in
# the place of the ECG and of its measured values.
MEASUREMENT_CONDITIONS = {
    "no_measurements": ("ecg", None),
    "other_measurements": ("ecg", "shuffled"),
    "measurements_only": ("shuffled", "ecg"),
}
# Under these a part of the true ECG is left, so that they are no controls.
PART_CONDITIONS = MODALITY_CONDITIONS | MEASUREMENT_CONDITIONS
ALL_CONDITIONS = (*CONDITIONS, DEMOGRAPHICS, *PART_CONDITIONS)
BLIND = "blind"
# The baseline that knows the question, age and sex.
AGE_AND_SEX = "age_and_sex"
# Baselines are no answers of the model.
BASELINES = (BLIND, AGE_AND_SEX)
# The true answers as a condition, for figures that they do not define: their claims are checked, too.
TRUE_ANSWERS = "true_answers"
CONDITION_NAMES = {
    "ecg": "with ECG",
    "zeros": "ECG zeroed",
    "noise": "noise",
    "shuffled": "another patient's",
    "none": "no ECG",
    DEMOGRAPHICS: "age and sex only",
    "picture_only": "picture only",
    "other_signal": "another patient's signal",
    "signal_only": "signal only",
    "other_picture": "another patient's picture",
    "no_measurements": "no measured values",
    "other_measurements": "another patient's measured values",
    "measurements_only": "own measured values, another patient's ECG",
    BLIND: "blind majority",
    AGE_AND_SEX: "age and sex, fitted",
    TRUE_ANSWERS: "true answers",
}


def read_by(condition: str) -> str:
    """What a model does that can be asked under one of `PART_CONDITIONS`."""
    return "read the signal of an ECG and its picture" if condition in MODALITY_CONDITIONS else "read measured values"


def controls_of(conditions: Iterable[str]) -> list[str]:
    """The conditions of these under which the model answers without the true ECG."""
    no_controls = {"ecg", *PART_CONDITIONS, *BASELINES, TRUE_ANSWERS}
    return [name for name in conditions if name not in no_controls]


# Kinds of answers; the metric of each is in `elm_hf.utils.reports`, with the name of `report.json`.
KIND_NAMES = {"short": "short answers", "text": "free text"}

# Files in the folder of an evaluation. A training checkpoint has a `run.json`, too, with the settings of its run.
IDENTITY_NAME = "run.json"
PREDICTIONS_NAME = "predictions.parquet"
REPORT_TEXT_NAME = "report.md"
FIGURES_NAME = "figures"
OCCLUSION_NAME = "occlusion.npz"
LEAKAGE_NAME = "leakage.json"
LEAKAGE_TEXT_NAME = "leakage.md"
DEGRADATION_STEPS_NAME = "picture_degradation_steps.png"  # among the figures
JUDGEMENTS_NAME = "judgements.jsonl"
REQUESTS_NAME = "requests.jsonl"  # to an endpoint that is evaluated
OWN_HISTORY_NAME = "own_history"  # a folder

# Files of the counterfactual probe, in its own folder or in that of an evaluation.
PROBE_NAME = "probe.json"
PROBE_TEXT_NAME = "probe.md"
PROBE_ANSWERS_NAME = "probe.parquet"

# Files in the folder of a zero-shot classification.
ZERO_SHOT_NAME = "zero_shot.json"
ZERO_SHOT_TEXT_NAME = "zero_shot.md"

# The probabilities in the folder of a classifier's evaluation; its report has the names of that of an ELM.
PROBABILITIES_NAME = "probabilities.parquet"
