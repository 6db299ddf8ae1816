"""How sure a model is of its answers to the questions of a split: their probabilities among the answers of each question."""

import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow.parquet as pq
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.evaluation.answer_sets import AnswerSets
from elm_hf.evaluation.asker import Asker, Prompt, naming_questions
from elm_hf.evaluation.report_folder import LineFiles, ReportFolder
from elm_hf.inference.answer_sets import answer_groups
from elm_hf.inference.confidence import confidence_of, conversation_with
from elm_hf.inference.generation import Answer, score_answers
from elm_hf.inference.prefetch import prepared_ahead
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning
from elm_hf.scoring.names import PREDICTIONS_NAME
from elm_hf.scoring.predictions import CONFIDENCE_COLUMNS, Key
from elm_hf.scoring.scores import scored_questions
from elm_hf.utils.exact_match import final_answer, reasoning_of


# Natural logarithm of the probability of a text and its number of tokens, both with the end of the turn.
Scored = tuple[float, int]


def saved_confidences(folder: ReportFolder) -> dict[Key, tuple] | None:
    """`CONFIDENCE_COLUMNS` of a finished evaluation; None if they were not found or if it is not finished."""
    file = folder.path / PREDICTIONS_NAME
    if not file.exists() or not set(CONFIDENCE_COLUMNS) <= set(pq.read_schema(file).names):
        return None
    rows = pd.read_parquet(file, columns=["question_id", "condition", *CONFIDENCE_COLUMNS])
    rows = rows[rows["answer_set"].notna()]
    found = {
        tuple(row[:2]): tuple(None if pd.isna(one) else one for one in row[2:]) for row in rows.to_numpy().tolist()
    }
    return found or None


@dataclass(frozen=True)
class _Wanted:
    """An answer whose confidence is wanted: its texts and those of the other answers, and how these are known."""

    groups: list[list[str]]
    answer_set: str
    has_reasoning: bool

    @property
    def texts(self) -> list[str]:
        return [text for group in self.groups for text in group]

    def row(self, scored: Mapping[str, Scored]) -> tuple:
        """`CONFIDENCE_COLUMNS`."""
        scores, tokens = zip(*(scored[text] for text in self.texts))
        found = confidence_of(self.groups, scores, None if self.has_reasoning else tokens)
        return found.probability, found.length_normalised, self.answer_set


def find_confidences(
    asker: Asker,
    questions: pd.DataFrame,
    answers: Mapping[Key, Answer],
    training_rows: pd.DataFrame | None,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    folder: ReportFolder,
    state: PartialState,
    quiet: bool = False,
) -> dict[Key, tuple]:
    """
    How sure the model is of each short answer, under each condition, see [`~elm_hf.inference.confidence.confidence_of`].

    Every answer of a question's set is scored once for every prompt. The processes share the prompts; what was scored before
    an interruption is in `confidences-*.jsonl`.

    Args:
        asker, answers: of the evaluation.
        questions: of [`~elm_hf.evaluation.questions.list_questions`].
        training_rows: see [`AnswerSets`].
        model, processor: of the checkpoint.
        folder: of the evaluation.
        state: of the processes.
        quiet: no progress bar.

    Returns:
        `CONFIDENCE_COLUMNS` of each answer that is scored: probability, the same from mean log-probabilities of tokens (None
        where no set is known), and how the set is known. Answers to questions for free text and empty answers are not, nor
        are answers with reasoning where no set is known.
    """
    wanted = _wanted(asker, questions, answers, training_rows)
    texts_of: dict[Key, dict[str, None]] = defaultdict(dict)
    for key, one in wanted.items():
        texts_of[asker.same_as[key]] |= dict.fromkeys(one.texts)
    lines = LineFiles(folder.path, "confidences")
    known = {(line["question_id"], line["condition"]): line["scored"] for line in lines.read()}
    state.wait_for_everyone()  # all have read before one writes
    lines.cut_unfinished_line(state.process_index)

    def is_known(prompt: Prompt) -> bool:
        return set(texts_of.get(prompt.key, ())) <= set(known.get(prompt.key, ()))

    batches = [batch for batch in asker.batches if not all(map(is_known, batch))]
    mine = batches[state.process_index :: state.num_processes]
    found = []

    def prepare(batch: list[Prompt]) -> PromptBatch | None:
        return _answered(asker, batch, texts_of, answers, model, processor)

    disable = quiet or None if state.is_main_process else True
    with (
        tqdm(total=sum(map(len, mine)), desc="confidence", unit="prompt", disable=disable) as progress,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", category=SignalQualityWarning)  # as when they were asked
        for batch, prepared in prepared_ahead(prepare, mine):
            scored = iter(())
            if prepared is not None:
                scored = zip(*(those.tolist() for those in score_answers(prepared, model, asker.batch_size)))
            new = [(prompt.key, {text: next(scored) for text in texts_of.get(prompt.key, ())}) for prompt in batch]
            lines.append(
                state.process_index,
                [{"question_id": key[0], "condition": key[1], "scored": pairs} for key, pairs in new],
            )
            found += new
            progress.update(len(batch))
    known |= dict(gather_object(found))
    return {key: one.row(known[asker.same_as[key]]) for key, one in wanted.items()}


def delete_unfinished(folder: ReportFolder) -> None:
    """Deletes what was kept for an interruption, once the predictions are written."""
    LineFiles(folder.path, "confidences").delete()


def _wanted(
    asker: Asker, questions: pd.DataFrame, answers: Mapping[Key, Answer], training_rows: pd.DataFrame | None
) -> dict[Key, _Wanted]:
    scored = scored_questions(questions)
    short = set(scored["question_id"][scored["kind"] == "short"])
    set_of = dict(zip(questions["question_id"], AnswerSets(training_rows).of_questions(questions)))
    wanted = {}
    for name, condition in asker.same_as:
        if name not in short:
            continue
        text = answers[name, condition].text
        answer, has_reasoning = final_answer(text), bool(reasoning_of(text))
        answer_set, candidates = set_of[name]
        if answer and not (has_reasoning and not candidates):
            wanted[name, condition] = _Wanted(answer_groups(answer, candidates), answer_set, has_reasoning)
    return wanted


def _answered(
    asker: Asker,
    batch: list[Prompt],
    texts_of: Mapping[Key, Mapping[str, None]],
    answers: Mapping[Key, Answer],
    model: PreTrainedModel,
    processor: ProcessorMixin,
) -> PromptBatch | None:
    """The prompts of a batch with each of the answers that are scored; None if there are none."""
    read: dict[tuple, list] = {}  # each ECG once
    conversations = []
    for prompt in batch:
        if texts := texts_of.get(prompt.key):
            conversation = asker.conversation(prompt, read)
            conversations += [conversation_with(conversation, answers[prompt.key].text, text) for text in texts]
    with naming_questions(batch):
        return PromptBatch(model, processor, conversations, answered=True) if conversations else None
