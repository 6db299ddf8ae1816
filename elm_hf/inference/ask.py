"""Asking a checkpoint about ECGs: of files, or held-out ECGs of a dataset with their questions and true answers."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.ecg_table import EcgTable
from elm_hf.data.layout import RECORDS
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.messages import fill_ecgs, message_text, prompt_of
from elm_hf.data.patients import record_patients, split_of_patients
from elm_hf.data.tables import config_names, load_records
from elm_hf.ecg.files import ARRAY_SUFFIXES
from elm_hf.ecg.find_files import EcgFile
from elm_hf.ecg.recording import RecordingError
from elm_hf.inference.confidence import NOT_SURE, Confidence, ConfidenceOptions, confidences
from elm_hf.inference.generation import answer
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_pictures import EcgPicture, as_picture
from elm_hf.modeling.ecg_quality import signal_quality
from elm_hf.modeling.ecg_segments import described
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning
from elm_hf.utils.exact_match import final_answer, reasoning_of


@dataclass
class AskedEcg:
    """
    An ECG that is asked about.

    Attributes:
        name: name of the record.
        ecg: `(12, samples)` in mV, NaN where invalid; None for a picture.
        sampling_rate: in Hz; None for a picture.
        path: the file, None for an array or an ECG of a dataset.
        notes: what a table was found to mean, see [`~elm_hf.ecg.recording.Recording`].
        picture: a scan or photograph in the place of a signal.
    """

    name: str
    ecg: np.ndarray | None
    sampling_rate: float | None
    path: Path | None = None
    notes: tuple[str, ...] = ()
    picture: EcgPicture | None = None

    def missing_leads(self, processor: ProcessorMixin) -> str:
        """
        The leads that are missing in what a model reads of the ECG, with the causes, such as `"V1 (flat)"`; empty if
        there are none. What a picture shows is not known.
        """
        if self.picture is not None:
            return ""
        reader = processor.ecg_reader
        segment = reader.read(self.given, self.sampling_rate, LEADS)
        return described(reader.leads, segment.causes)

    def unread(self, processor: ProcessorMixin) -> str:
        """How much of a longer ECG a model reads, such as `"the model reads 10 s of 60.0 s"`; empty if it reads all of it."""
        if self.picture is not None:
            return ""
        reader = processor.ecg_reader
        seconds, length = reader.num_samples / reader.sampling_rate, self.ecg.shape[1] / self.sampling_rate
        is_longer = length > seconds + 1 / self.sampling_rate
        return f"the model reads {seconds:g} s of {length:.1f} s" if is_longer else ""

    def problems(self) -> str:
        """
        What in the ECG makes answers about it doubtful, with its name: see [`~ecg_quality.signal_quality`], or
        [`EcgPicture`] for a picture.
        """
        is_picture = self.picture is not None
        found = self.picture.problems() if is_picture else signal_quality(self.ecg, self.sampling_rate)
        return f"{self.name}: {'; '.join(found)}" if found else ""

    @property
    def given(self) -> np.ndarray | str | EcgPicture:
        """What the model's processor reads: the record itself, so that it is read in the same way everywhere."""
        if self.picture is not None:
            return self.picture
        return self.ecg if self.path is None else str(self.path)


@dataclass
class Questions:
    """
    Questions about the same ECGs.

    Attributes:
        ecgs: the ECGs.
        prompts: conversations that end with a question, each with one `{"type": "ecg"}` item for every ECG.
        truths: the true answer to each question, None where it is not known.
    """

    ecgs: list[AskedEcg]
    prompts: list[list[dict]]
    truths: list[str | None]

    @property
    def name(self) -> str:
        """The names of the ECGs."""
        return ", ".join(ecg.name for ecg in self.ecgs)

    def conversations(self) -> list[list[dict]]:
        """The prompts with their ECGs."""
        ecgs, rates = [ecg.given for ecg in self.ecgs], [ecg.sampling_rate for ecg in self.ecgs]
        return [fill_ecgs(prompt, ecgs, rates) for prompt in self.prompts]

    def problems(self) -> list[str]:
        """What makes answers doubtful, for each ECG with such a problem."""
        return list(filter(None, (ecg.problems() for ecg in self.ecgs)))

    def missing_leads(self, processor: ProcessorMixin) -> str:
        """The leads that are missing in what a model reads, of several ECGs with their names."""
        found = [(ecg.name, ecg.missing_leads(processor)) for ecg in self.ecgs]
        if len(found) == 1:
            return found[0][1]
        return "; ".join(f"{name}: {missing}" for name, missing in found if missing)

    def unread(self, processor: ProcessorMixin) -> list[str]:
        """How much a model reads of each ECG that is longer than what it reads, with its name."""
        found = [(ecg.name, ecg.unread(processor)) for ecg in self.ecgs]
        return [f"{name}: {unread}" for name, unread in found if unread]


def ecg_from_file(file: EcgFile) -> AskedEcg:
    """
    Read the ECG of a file: a recording, or a scan or photograph.

    Raises:
        RecordingError: the file is missing, unreadable or no ECG.
    """
    picture = as_picture(file.path)
    if picture is not None:
        try:
            picture.problems()  # reads the file
        except (ValueError, OSError) as error:
            raise RecordingError("unreadable file", str(error)) from error
        return AskedEcg(file.path.name, None, None, file.path, picture=picture)
    recording = file.read(as_recorded=True)
    read_again = None if file.path.suffix.lower() in ARRAY_SUFFIXES else file.path
    return AskedEcg(file.path.name, recording.ecg, recording.sampling_rate, read_again, recording.notes)


def questions_about(ecgs: Sequence[AskedEcg], questions: Sequence[str]) -> Questions:
    """
    Questions about ECGs, each asked on its own about all of them.

    Raises:
        ValueError: a question is empty.
    """
    if not all(question.strip() for question in questions):
        raise ValueError("a question is empty")
    items = [{"type": "ecg"}] * len(ecgs)
    prompts = [[{"role": "user", "content": [*items, {"type": "text", "text": question}]}] for question in questions]
    return Questions(list(ecgs), prompts, [None] * len(prompts))


def questions_of_dataset(
    dataset: str | PathLike, fold: int | str, split: str, record_id: str | None, number: int
) -> Questions:
    """
    An ECG of a split and up to `number` questions of the split about it alone, of different types if possible.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold, split: where to look; the `"test"` split of a fold is held out.
        record_id: the ECG; by default the first one of the split with `number` questions, or with most questions.
        number: largest number of questions, at least 1.

    Raises:
        FileNotFoundError: there is no such dataset.
        ValueError: the split has no questions about that ECG.
    """
    rows = load_elm_dataset(dataset, fold=fold, split=split)
    rows_of: dict[str, list[int]] = {}
    for index, record_ids in enumerate(rows["record_ids"]):
        if len(record_ids) == 1:
            rows_of.setdefault(record_ids[0], []).append(index)
    if not rows_of:
        raise ValueError(f"{dataset}: {split} of fold {fold} has no questions about a single ECG")
    if record_id is None:
        record_id = max(rows_of, key=lambda name: min(len(rows_of[name]), number))
    if record_id not in rows_of:
        raise ValueError(
            f'{dataset}: {split} of fold {fold} has no questions about an ECG "{record_id}" (record_id); it has about '
            f'"{min(rows_of)}" and {len(rows_of) - 1} others'
        )
    about_it = [rows[index] for index in rows_of[record_id]]
    chosen = _of_different_types(about_it)[:number]
    prompts = [prompt_of(row["messages"]) for row in chosen]
    truths = [
        final_answer(" ".join(message_text(message) for message in row["messages"][len(prompt) :]))
        for row, prompt in zip(chosen, prompts)
    ]
    return Questions([AskedEcg(record_id, chosen[0]["ecgs"][0], chosen[0]["sampling_rate"])], prompts, truths)


def ecg_of_dataset(dataset: str | PathLike, fold: int | str, split: str, record_id: str | None = None) -> AskedEcg:
    """
    An ECG of a dataset, which may have no conversations.

    Args:
        dataset: folder or Hub name of an elm-hf dataset.
        fold, split: where to look if there is no `record_id`. They do not matter for a dataset without folds.
        record_id: the ECG; by default the first one of the split's patients.

    Raises:
        FileNotFoundError: there is no such dataset.
        ValueError: the dataset has no such fold, split or record.
    """
    records = load_records(dataset)
    names = records.select_columns("record_id")[:]["record_id"]
    if record_id is not None:
        rows = [row for row, name in enumerate(names) if name == record_id]
    elif any(name != RECORDS for name in config_names(dataset)):
        split_of = split_of_patients(dataset, fold)
        rows = [row for row, owner in enumerate(record_patients(records).to_pylist()) if split_of.get(owner) == split]
    else:
        rows = range(len(names))
    if not len(rows):
        found = (
            f'no record "{record_id}" (record_id); it has' if record_id else f"{split} of fold {fold} has no records;"
        )
        raise ValueError(f'{dataset}: {found} "{names[0]}" and {len(names) - 1} others')
    return AskedEcg(names[rows[0]], EcgTable(records)[rows[0]], records[rows[0]]["sampling_rate"])


def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: Sequence[Questions],
    max_new_tokens: int = 64,
    max_reasoning_tokens: int = MAX_REASONING_TOKENS,
    sure: ConfidenceOptions | None = None,
) -> list[list[dict]]:
    """
    The questions with the model's answers and, where known, the true answers.

    Args:
        model, processor: of a checkpoint.
        questions: questions about ECGs, which are asked in one batch.
        max_new_tokens: longest answer, in tokens.
        max_reasoning_tokens: longest reasoning before it, in tokens, of models that are asked for it.
        sure: also find how sure the model is.

    Returns:
        A list of `question`, `answer`, `reasoning` (empty if there is none), `text` (both, as the model wrote them) and
        `truth` for each element of `questions`; with `sure` also `confidence` (a [`Confidence`], None for an empty answer), and
        an `answer` that is `NOT_SURE` where it is below `abstain_below`.

    Raises:
        ValueError: an ECG does not fit the model.
    """
    with answering(", ".join(one.name for one in questions), model), warnings.catch_warnings():
        # See `Questions.missing_leads` and `Questions.problems`.
        warnings.filterwarnings("ignore", category=SignalQualityWarning)
        conversations = [conversation for one in questions for conversation in one.conversations()]
        texts = answer(model, processor, conversations, max_new_tokens, max_reasoning_tokens)
        parts = list(map(_parts, texts))
        if sure is not None:
            found = confidences(model, processor, conversations, texts, sure.candidates)
            parts = [_with_confidence(part, one, sure.abstain_below) for part, one in zip(parts, found)]
    remaining = iter(parts)
    return [
        [
            {"question": message_text(prompt[-1])} | next(remaining) | {"truth": truth}
            for prompt, truth in zip(one.prompts, one.truths)
        ]
        for one in questions
    ]


def _with_confidence(part: dict, confidence: Confidence | None, abstain_below: float | None) -> dict:
    """The parts of an answer with its confidence, and without the answer if that is too low."""
    part = part | {"confidence": confidence}
    if abstain_below is not None and (confidence is None or confidence.probability < abstain_below):
        part |= {"answer": NOT_SURE}
    return part


def _parts(text: str) -> dict[str, str]:
    """What a model wrote, with and without its reasoning."""
    return {"answer": final_answer(text), "reasoning": reasoning_of(text), "text": text}


@contextmanager
def answering(names: str, model: PreTrainedModel) -> Iterator[None]:
    """Turn errors of a model that cannot answer into a ValueError with the names of the ECGs."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{names}: {error}") from error
    except (TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"{names}: {model.name_or_path} cannot answer ({type(error).__name__}: {cause})") from error


def _of_different_types(rows: list[dict]) -> list[dict]:
    """The first row of each question type, then the others."""
    seen, first, others = set(), [], []
    for row in rows:
        (others if row.get("question_type") in seen else first).append(row)
        seen.add(row.get("question_type"))
    return first + others
