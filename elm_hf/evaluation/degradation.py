"""Pictures with the artefacts of scans in the place of drawn ones: answers, scores and signal reliance step by step."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.ecg.scan_artifacts import scan_like
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_pictures import EcgPicture
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor
from elm_hf.scoring.intervals import LEAST_PATIENTS, NUM_RESAMPLES, Support
from elm_hf.scoring.names import DEGRADATION_STEPS_NAME, DEMOGRAPHICS, FIGURES_NAME, PART_CONDITIONS
from elm_hf.scoring.predictions import prediction_table
from elm_hf.scoring.reliance import paired_differences, signal_reliance
from elm_hf.scoring.scores import SHARES, SUMMED, Questions, ScoreBook
from elm_hf.utils.reports import METRIC_OF_KIND


# Severity of each step after the drawn pictures themselves, see `scan_like`.
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
# Conditions without a picture, which are the same at all steps.
WITHOUT_PICTURE = ("none", DEMOGRAPHICS)


def check_reads_drawn_ecgs(model: PreTrainedModel, checkpoint: str) -> None:
    """
    Refuses a model that does not read drawn ECGs.

    Raises:
        ValueError: it reads something else.
    """
    found = model.config.representation
    if found != "image":
        raise ValueError(
            f'picture degradation is for models of drawn ECGs (representation "image"), and {checkpoint} reads {found!r}'
        )


class DegradedPictures:
    """
    What stands in the place of a conversation's ECGs, as pictures with the artefacts of scans.

    An ECG has the same artefacts in all questions, and stronger ones at a higher severity.

    Args:
        ablation: what stands in the place of the ECGs.
        rows: the conversations.
        image_processor: draws the ECGs.
        severity: see [`scan_like`].
        seed: random seed for the artefacts.
    """

    def __init__(
        self,
        ablation: SignalAblation,
        rows: Dataset,
        image_processor: EcgImageProcessor,
        severity: float,
        seed: int = 0,
    ):
        self._ablation, self._image_processor = ablation, image_processor
        self._severity, self._seed = severity, seed
        self._sampling_rate = rows[0]["sampling_rate"]

    def names(self, row: int, condition: str, number: int, question_id: str | None = None) -> tuple[str, ...]:
        """As of [`SignalAblation`]."""
        return self._ablation.names(row, condition, number, question_id)

    def messages(self, row: int, condition: str, messages: Sequence[dict]) -> list[dict]:
        """As of [`SignalAblation`]."""
        return self._ablation.messages(row, condition, messages)

    def ecgs(self, row: int, condition: str, number: int, question_id: str | None = None) -> list[EcgPicture]:
        """The pictures that are put in the places of the first ECGs of a conversation."""
        ecgs = self._ablation.ecgs(row, condition, number, question_id)
        names = self.names(row, condition, number, question_id)
        return [self._picture(ecg, name, condition in ("zeros", "noise")) for ecg, name in zip(ecgs, names)]

    def _picture(self, ecg: np.ndarray, name: str, keep_flat: bool) -> EcgPicture:
        processor, rate = self._image_processor, self._sampling_rate
        keep_flat = keep_flat or all(processor.feature_extractor.read(ecg, rate, LEADS).causes)
        (drawn,) = processor.draw([ecg], rate, list(LEADS), keep_flat=keep_flat)
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        return EcgPicture(scan_like(drawn, self._severity, rng))


def ask_about_degraded(
    rows: Dataset,
    questions: pd.DataFrame,
    ablation: SignalAblation,
    conditions: Sequence[str],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    folder: Path,
    identity: dict,
    state: PartialState,
    quiet: bool = False,
    *,
    batch_size: int,
    max_new_tokens: int | Mapping[str, int],
    temperature: float | None = None,
    seed: int = 0,
    max_reasoning_tokens: int = MAX_REASONING_TOKENS,
) -> dict[float, pd.DataFrame]:
    """
    Asks all questions about pictures of each severity. The processes share the questions.

    Args:
        rows, questions, ablation, conditions, max_new_tokens, batch_size, temperature, seed, max_reasoning_tokens: as for
            [`Asker`].
        model, processor: of a checkpoint.
        folder: of the evaluation; each step has a folder in it, with its answers.
        identity: of the evaluation.
        state: of the processes.
        quiet: no progress bar.

    Returns:
        The table of predictions of each severity, under the conditions with pictures.
    """
    # A scan has no measured values that could be exchanged.
    conditions = [name for name in conditions if name not in (*WITHOUT_PICTURE, *PART_CONDITIONS)]
    settings = (conditions, max_new_tokens, batch_size, temperature, seed, max_reasoning_tokens)
    tables = {}
    for step, severity in enumerate(SEVERITIES, 1):
        pictures = DegradedPictures(ablation, rows, processor.image_processor, severity, seed)
        asker = Asker(rows, questions, pictures, *settings)
        with state.main_process_first():
            its_folder = ReportFolder(folder / f"scan_{step}", identity | {"severity": severity})
        answers = asker.ask_all(model, processor, its_folder, state, quiet)
        tables[severity] = prediction_table(questions, answers, conditions)
        if state.is_main_process:
            its_folder.finish(tables[severity])
    return tables


def degradation_steps(predictions: pd.DataFrame, degraded: Mapping[float, pd.DataFrame], seed: int = 0) -> list[dict]:
    """
    Scores and signal reliance at each step.

    Args:
        predictions: about the drawn pictures, under all conditions.
        degraded: about pictures of each severity, of [`ask_about_degraded`].
        seed: random seed of the bootstrap.

    Returns:
        For each step, the drawn pictures first, its `severity` and `kinds`: for each kind of answers `score` (with its
        interval, under the condition `ecg`), `reliance` (see [`signal_reliance`]), and `change`, the score minus that of
        the drawn pictures, with its interval.
    """
    same = predictions[predictions["condition"].isin(WITHOUT_PICTURE)]
    tables = {0.0: predictions} | {severity: pd.concat([table, same]) for severity, table in degraded.items()}
    books = {severity: ScoreBook(Questions(table), NUM_RESAMPLES, seed) for severity, table in tables.items()}
    drawn, steps = books[0.0], []
    for severity, book in books.items():
        kinds = {}
        for kind, metric in METRIC_OF_KIND.items():
            rows = np.flatnonzero(book.questions.table["kind"] == kind)
            if not len(rows):
                continue
            score = book.group(rows)["conditions"]["ecg"][metric]
            change = None if severity == 0 else _change(book, drawn, rows, metric)
            kinds[kind] = {"score": score, "reliance": signal_reliance(book, rows), "change": change}
        steps.append({"severity": severity, "kinds": kinds})
    return steps


def _change(book: ScoreBook, drawn: ScoreBook, rows: np.ndarray, metric: str) -> dict:
    """The score of a step minus that of the drawn pictures; no interval, as for signal reliance, with few patients."""
    column = SUMMED.index(metric)
    changes = book.values["ecg"][rows, column] - drawn.values["ecg"][rows, column]
    entry = {"score": float(changes.mean()), "low": None, "high": None}
    support = Support(book.bootstrap.least(rows), len(rows), metric in SHARES)
    if support.patients < LEAST_PATIENTS:
        entry["note"] = f"less than {LEAST_PATIENTS} patients or answers: no interval"
    else:
        (difference,) = paired_differences(changes[:, None], rows, book, support)
        entry["low"], entry["high"] = difference.interval()
    return entry


def draw_steps(ecg: np.ndarray, sampling_rate: float, image_processor: EcgImageProcessor, folder: Path) -> None:
    """
    Draws an ECG with the artefacts of each step.

    Args:
        ecg: `(12, samples)` in mV.
        sampling_rate: in Hz.
        image_processor: draws it.
        folder: of the evaluation. The pictures are written side by side, among its figures.
    """
    (drawn,) = image_processor.draw([ecg], sampling_rate, list(LEADS), keep_flat=True)
    steps = [scan_like(drawn, severity, np.random.default_rng(0)) for severity in (0.0, *SEVERITIES)]
    file = folder / FIGURES_NAME / DEGRADATION_STEPS_NAME
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(steps, axis=1)).save(file)
