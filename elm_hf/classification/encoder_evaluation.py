"""Evaluation of ECG encoders on the labels of held-out patients: as a classifier, or with linear probes."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from transformers.utils import logging

from elm_hf.checkpoints.encoder import encoder_type
from elm_hf.classification.encoder_outputs import EncoderOutputs
from elm_hf.classification.encoder_records import LabelledRecords
from elm_hf.classification.encoder_report import encoder_markdown
from elm_hf.classification.encoder_scores import task_scores
from elm_hf.classification.linear_probe import best_probes, rows_of_share
from elm_hf.classification.measured_features import MeasuredFeatures
from elm_hf.data.label_tasks import (
    LabelTasks,
    are_statements,
    label_tasks,
    scores_of_statements,
    tasks_of_classes,
)
from elm_hf.data.seen_patients import check_evaluated_patients
from elm_hf.evaluation.report_folder import check_results, write_identity
from elm_hf.scoring.intervals import PatientBootstrap
from elm_hf.scoring.names import PROBABILITIES_NAME, REPORT_TEXT_NAME
from elm_hf.utils.encoder_origin import known_sources, known_sources_message
from elm_hf.utils.reports import REPORT_NAME, REPORT_SCHEMA, public_run
from elm_hf.utils.weights import fingerprint_of_weights


logger = logging.get_logger(__name__)

LABEL_SHARES = (0.01, 0.1, 1.0)
# Types of encoders that cannot read an ECG that lacks a lead.
NEED_ALL_LEADS = ("merl", "mlae", "mtae")


def evaluate_encoder(
    checkpoint: str | PathLike,
    dataset: str | PathLike,
    fold: int | str = 1,
    split: str = "test",
    *,
    output: str | PathLike | None = None,
    linear_probe: bool = False,
    label_shares: Sequence[float] = LABEL_SHARES,
    measurements: Sequence[str] | None = None,
    window_seconds: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    quiet: bool = False,
    allow_seen_patients: bool = False,
) -> dict:
    """
    Macro AUROC of an encoder on the labels of a split's records: of the classifier that it was trained with, or of logistic
    regressions on its frozen output, fitted on shares of the training patients.

    The tasks are those that the encoder or, for a linear probe, the training records define (see [`label_tasks`]): the six
    tasks of Strodthoff et al. (2020) for PTB-XL. The encoder reads each record as its feature extractor says.

    Args:
        checkpoint: folder or repository of an ECG encoder; for `linear_probe` any, otherwise one trained on labels
            (`elm-hf pretrain --target labels`).
        dataset: folder or Hub name of an elm-hf dataset whose records have labels.
        fold: 1 to 5 or `"official"`.
        split: split that is scored, usually `"test"`.
        output: folder for `report.json`, `report.md` and, of a classifier, `probabilities.parquet`; nothing is written by
            default.
        linear_probe: fit logistic regressions on the `pooler_output` of the frozen encoder, one for each class. The
            strength of their L2 penalty is chosen for each task by the macro AUROC on the validation patients.
        label_shares: shares of the training patients to fit on, drawn at random; a smaller one is a part of a larger one.
        measurements: measured values that the linear probes read beside the encoder's output (see [`MeasuredFeatures`]), named
            as in [`scaled_measurements`]. They are of the whole record, whatever part of it the encoder reads.
        window_seconds: length of the windows that a classifier reads one by one; their probabilities are averaged, as in
            Strodthoff et al. (2020). Default: it reads each ECG at once.
        batch_size: number of ECGs that the encoder reads at once.
        seed: random seed for drawing patients and for resampling.
        quiet: no progress bar.
        allow_seen_patients: continue if the encoder was trained on some of the patients; the report says so.

    Returns:
        The report (docs/classification.md has its schema).

    Raises:
        FileNotFoundError: there is no such checkpoint or dataset.
        ValueError: the checkpoint is not an ECG encoder, has no classifier of this dataset's labels, or was trained on some
            of the patients; or an `output` that holds another evaluation.
    """
    started = time.monotonic()
    model_type = encoder_type(str(checkpoint))
    _check_shares(label_shares)
    if linear_probe and window_seconds is not None:
        raise ValueError("--window-seconds is for classifiers; --linear-probe fits to the output for the whole ECG")
    if measurements is not None and not linear_probe:
        raise ValueError("--measurements are features of linear probes; add --linear-probe")
    measure = None if measurements is None else MeasuredFeatures(measurements, quiet)
    identity = {"schema": REPORT_SCHEMA, "checkpoint": str(checkpoint), "dataset": str(dataset), "fold": str(fold)}
    identity |= {"split": split, "way": "linear_probe" if linear_probe else "classifier", "seed": seed}
    identity["label_shares"] = sorted(label_shares) if linear_probe else None
    identity |= {"window_seconds": window_seconds, "measurements": measure and measure.names}
    if output is not None:
        check_results(Path(output), REPORT_NAME, identity)
    records = LabelledRecords(dataset, fold, complete_only=model_type in NEED_ALL_LEADS)
    rows = records.rows(split)
    patients = records.patients[rows]
    seen = check_evaluated_patients(checkpoint, set(patients), allow_seen_patients)
    encoder = EncoderOutputs(checkpoint, not linear_probe, batch_size, quiet, window_seconds)
    known = known_sources(encoder.model.config, records.sources)
    if known:
        logger.warning(f"{checkpoint}: {known_sources_message(known)}")

    bootstrap = PatientBootstrap([(patient,) for patient in patients], seed=seed)
    logits = None
    if linear_probe:
        features = _ProbeFeatures(encoder, measure, records)
        results = _probe_results(features, records, rows, identity["label_shares"], bootstrap, seed)
    else:
        logits, tasks = _classified(encoder, checkpoint, records, rows)
        scored = task_scores(logits, tasks.targets(records.labels_of(rows)), tasks, bootstrap)
        results = [{"classes": encoder.model.config.num_labels, "window_seconds": window_seconds, "tasks": scored}]
    facts = {
        "weights": fingerprint_of_weights(encoder.model.state_dict(), sampled=True),
        "encoder": model_type,
        "parameters": encoder.model.num_parameters(),
        "left_out": {"lacks a lead": records.left_out},
        "seconds": round(time.monotonic() - started, 1),
        "seen_patients": seen,
        "encoder_trained_on": known,
        "dataset_on_hub": not Path(dataset).is_dir(),
        "versions": {name: version(name) for name in ("elm-hf", "torch", "transformers", "datasets")},
    }
    report = {
        "run": public_run(identity) | facts,
        "ecgs": len(rows),
        "patients": bootstrap.num_patients,
        "results": results,
    }
    if output is not None:
        _write(Path(output), report)
        write_identity(Path(output), REPORT_NAME, identity)
        if logits is not None:
            columns = {"record_id": [records.record_ids[row] for row in rows], "patient": patients}
            columns |= dict(zip(tasks.classes, (1 / (1 + np.exp(-logits))).T))
            pd.DataFrame(columns).to_parquet(Path(output) / PROBABILITIES_NAME)
    return report


def _check_shares(shares: Sequence[float]) -> None:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(
            f"--label-shares: expected shares above 0 and up to 1, such as 0.01,0.1,1; got {', '.join(map(str, shares))}"
        )


def _classified(
    encoder: EncoderOutputs, checkpoint: str | PathLike, records: LabelledRecords, rows: np.ndarray
) -> tuple[np.ndarray, LabelTasks]:
    """The logits `(rows, classes)` of a classifier, and its tasks."""
    id2label = encoder.model.config.id2label
    classes = [id2label[number] for number in range(len(id2label))]
    tasks = tasks_of_classes(classes)
    if not tasks.targets(records.labels_of(rows)).any():
        found = sorted({label for row in rows for label in records.labels[row]})
        raise ValueError(
            f"{checkpoint}: classifies {', '.join(classes[:3])}, ...; none of its {len(classes)} classes is a "
            f"label of these records ({', '.join(found[:3])}, ...); measure the frozen encoder with --linear-probe"
        )
    logits = encoder(records, rows, "ECGs")
    return scores_of_statements(classes, logits) if are_statements(classes) else logits, tasks


@dataclass(frozen=True)
class _ProbeFeatures:
    """What linear probes read of records: the encoder's output, and measured values if there are any."""

    encoder: EncoderOutputs
    measure: MeasuredFeatures | None
    records: LabelledRecords

    def __call__(self, rows: np.ndarray, what: str) -> np.ndarray:
        encoded = self.encoder(self.records, rows, what)
        return encoded if self.measure is None else np.hstack([encoded, self.measure(self.records, rows, what)])


def _probe_results(
    features_of: _ProbeFeatures,
    records: LabelledRecords,
    rows: np.ndarray,
    shares: Sequence[float],
    bootstrap: PatientBootstrap,
    seed: int,
) -> list[dict]:
    """The scores of the linear probes of each share on some records. `shares` ascend."""
    training, validation = records.rows("train"), records.rows("validation")
    tasks = label_tasks(records.labels_of(training))
    targets, answers, to_choose = (tasks.targets(records.labels_of(those)) for those in (rows, training, validation))
    chosen = [rows_of_share(records.patients[training], share, seed) for share in shares]
    encoded = features_of(training[chosen[-1]], "training")
    features = np.full((len(training), encoded.shape[1]), np.nan, np.float32)
    features[chosen[-1]] = encoded
    of_validation, tested = features_of(validation, "validation"), features_of(rows, "tested")
    measured = 0 if features_of.measure is None else len(features_of.measure.names)
    results = []
    for share, those in zip(shares, chosen):
        found = best_probes(
            features[those], answers[those], of_validation, to_choose, tasks, features_of.encoder.device
        )
        of_tasks = {}
        for task, one in found.items():
            alone = replace(tasks, tasks={task: tasks.tasks[task]})
            of_tasks |= task_scores(one.probe(tested), targets, alone, bootstrap)
            of_tasks[task] |= {"strength": one.strength, "validation_auroc": one.auroc}
        results.append(
            {
                "label_share": share,
                "measured_values": measured,
                "training_patients": len(set(records.patients[training[those]])),
                "training_ecgs": len(those),
                "unlearned_classes": int((answers[those].sum(axis=0) == 0).sum()),
                "tasks": of_tasks,
            }
        )
    return results


def _write(folder: Path, report: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / REPORT_TEXT_NAME).write_text(encoder_markdown(report), encoding="utf-8")
