"""The steps of a reasoning, asked behind the model's own answers to the earlier steps instead of the true ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import text_message
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.report_folder import ReportFolder
from elm_hf.inference.generation import Answer
from elm_hf.scoring.names import OWN_HISTORY_NAME
from elm_hf.scoring.predictions import Key, prediction_table


class OwnHistory:
    """
    A [`SignalAblation`] whose conversations hold what the model said in the place of the true answers.

    Args:
        ablation: what stands in the place of the ECGs.
    """

    def __init__(self, ablation: SignalAblation):
        self._ablation = ablation
        self._said: dict[tuple[int, str], list[str]] = defaultdict(list)

    def add(self, row: int, condition: str, text: str) -> None:
        """Adds the model's next answer, with its reasoning, in a conversation under a condition."""
        self._said[row, condition].append(text)

    def names(self, row: int, condition: str, number: int, question_id: str | None = None) -> tuple[str, ...]:
        """As of [`SignalAblation`]."""
        return self._ablation.names(row, condition, number, question_id)

    def ecgs(self, row: int, condition: str, number: int, question_id: str | None = None) -> list[np.ndarray]:
        """As of [`SignalAblation`]."""
        return self._ablation.ecgs(row, condition, number, question_id)

    def messages(self, row: int, condition: str, messages: Sequence[dict]) -> list[dict]:
        """As of [`SignalAblation`], with the model's own answers."""
        said = iter(self._said[row, condition])
        own = [
            text_message("assistant", next(said)) if message["role"] == "assistant" else message
            for message in messages
        ]
        return self._ablation.messages(row, condition, own)


def ask_with_own_history(
    rows: Dataset,
    questions: pd.DataFrame,
    ablation: SignalAblation,
    conditions: Sequence[str],
    with_true_history: Mapping[Key, Answer],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    folder: Path,
    identity: dict,
    state: PartialState,
    quiet: bool = False,
    **settings,
) -> pd.DataFrame:
    """
    Asks the questions turn after turn, each behind the model's own answers. The processes share the questions.

    Where the model has said, word for word, what is true, the prompt is that of the true history, and its answer is taken
    over: a model that is never wrong is asked nothing again.

    Args:
        rows, questions, ablation, conditions: as for [`Asker`].
        with_true_history: the answers behind the true turns.
        model, processor: of a checkpoint.
        folder: of the evaluation; the answers are kept in the folder `own_history` in it.
        identity: of the evaluation.
        state: of the processes.
        quiet: no progress bar.
        settings: further arguments of [`Asker`].

    Returns:
        The table of predictions.
    """
    with state.main_process_first():
        its_folder = ReportFolder(folder / OWN_HISTORY_NAME, identity | {"history": "own"})
    history, answers = OwnHistory(ablation), {}
    wrong: set[tuple[int, str]] = set()  # conversations whose history is not the true one
    for _, asked in questions.groupby("turn"):
        pairs = [(one, condition) for one in asked.itertuples() for condition in conditions]
        same = {
            (one.question_id, condition): with_true_history[one.question_id, condition]
            for one, condition in pairs
            if (one.row, condition) not in wrong
        }
        asker = Asker(rows, asked, history, conditions, **settings, left_out=same.keys())
        answers |= same | asker.ask_all(model, processor, its_folder, state, quiet)
        for one, condition in pairs:
            said = answers[one.question_id, condition].text
            history.add(one.row, condition, said)
            if said != one.messages_answer:
                wrong.add((one.row, condition))
    table = prediction_table(questions, answers, conditions)
    if state.is_main_process:
        its_folder.finish(table)
    return table
