"""
Tasks and a model for the LM Evaluation Harness (lm-eval), by which others run the questions of a dataset:

    elm-hf lm-eval run --model elm-hf --model_args pretrained=my-elm --batch_size 32 \
        --tasks elm_hf --metadata '{"dataset": "user/ecg-qa-ptbxl-250-2500", "fold": "1"}'

There is a task for each condition (`elm_hf_ecg`, `elm_hf_zeros`, ...), and for models that see one with drawn ECGs
(`elm_hf_picture_ecg`, ...). Exact match is that of `elm-hf evaluate`.
"""

import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import torch
from datasets import Dataset
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from PIL import Image
from tqdm import tqdm
from transformers.utils import logging

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.messages import fill_ecgs, message_text
from elm_hf.data.seen_patients import overlap, read_stages
from elm_hf.evaluation.asker import Asker
from elm_hf.evaluation.what_is_asked import Asked, what_is_asked
from elm_hf.modeling.chat_rendering import ecg_items
from elm_hf.other_models.endpoint_inputs import draw_item, filled_items
from elm_hf.scoring.scores import Questions
from elm_hf.utils.exact_match import final_answer, is_exact_match


logger = logging.get_logger(__name__)

TASKS_FOLDER = str(files(__package__) / "lm_eval_tasks")
INSTRUCTION = "Answer with the answer alone: yes or no, or the findings, separated by commas."


def load_questions(
    dataset: str | None = None,
    condition: str = "ecg",
    fold: int | str = 1,
    split: str = "test",
    limit: int | None = None,
    records: str | None = None,
    seed: int = 0,
    **_,
) -> dict[str, Dataset]:
    """
    The documents of a task: the questions of a split that have a true answer.

    Args:
        dataset: folder or Hub name of an elm-hf dataset, which `--metadata` of lm-eval gives.
        condition: what stands in the place of the ECGs (see [`SignalAblation`]).
        fold, split, limit, records, seed: see [`evaluate`].

    Raises:
        ValueError: there is no dataset.
    """
    if dataset is None:
        raise ValueError('name the dataset: --metadata \'{"dataset": "data/ecg_qa", "fold": "1"}\'')
    source = json.dumps([str(dataset), str(fold), split, limit, records, seed, condition])
    questions = _asked(source).questions
    table = Questions(questions.assign(condition=condition, prediction="", finished=True)).table
    known = questions[questions["question_id"].isin(table.index)]
    documents = known[["question_id", "row", "position", "question"]].assign(
        source=source,
        answer=table["answer"].tolist(),
        truth=table["truth"].tolist(),
        kind=table["kind"].tolist(),
    )
    return {"test": Dataset.from_pandas(documents, preserve_index=False)}


@lru_cache(maxsize=8)
def _asked(source: str) -> Asked:
    dataset, fold, split, limit, records, seed, condition = json.loads(source)
    conditions = tuple(dict.fromkeys(("ecg", condition)))
    return what_is_asked(dataset, fold, split, limit, records, conditions, seed, None)


def _messages_of(document: dict) -> list[dict]:
    """The messages up to a question, with places for the ECGs of the task's condition."""
    asked, condition = _asked(document["source"]), json.loads(document["source"])[-1]
    row = asked.rows.with_format(None)[document["row"]]
    return asked.ablation.messages(document["row"], condition, row["messages"][: document["position"]])


def prompt_text(document: dict) -> str:
    """The words of a conversation, without its ECGs."""
    return _flat(_messages_of(document), "")


def prompt_with_pictures(document: dict) -> str:
    """The words of a conversation, with `<image>` in the place of each ECG."""
    return f"{INSTRUCTION}\n{_flat(_messages_of(document), '<image>')}"


def _flat(messages: list[dict], place: str) -> str:
    """The text of messages; that of several with their roles."""
    texts = [f"{place * len(ecg_items([message]))}{message_text(message)}" for message in messages]
    if len(texts) == 1:
        return texts[0]
    return "\n".join(f"{message['role']}: {text}" for message, text in zip(messages, texts))


def pictures(document: dict) -> list[Image.Image]:
    """The ECGs of a conversation, drawn as by [`plot_ecg`]."""
    asked, condition = _asked(document["source"]), json.loads(document["source"])[-1]
    messages, number = _messages_of(document), document["row"]
    ecgs = asked.ablation.ecgs(number, condition, len(ecg_items(messages)), document["question_id"])
    sampling_rate = asked.rows[number]["sampling_rate"]
    return [draw_item(item) for item in filled_items(fill_ecgs(messages, ecgs, sampling_rate, condition == "zeros"))]


def score(document: dict, results: list[str]) -> dict[str, float]:
    """The main metric of an answer, as in `elm-hf evaluate`: exact match of short answers, ROUGE-L of free text."""
    if document["kind"] == "short":
        return {"exact_match": float(is_exact_match(results[0], document["answer"]))}
    from elm_hf.scoring.text_metrics import rouge_l

    return {"rouge_l": rouge_l(final_answer(results[0]), document["truth"])}


@register_model("elm-hf")
class ElmLM(LM):
    """
    An ELM for the tasks of this module.

    Args:
        pretrained: folder or repository of an ELM or of an adapter.
        batch_size: number of prompts in a batch.
        device: of the model; the CPU where there is no accelerator.
    """

    def __init__(self, pretrained: str, batch_size: int | str = 32, device: str | None = None, **_):
        super().__init__()
        has_accelerator = torch.accelerator.is_available()
        self._device = torch.device((device or torch.accelerator.current_accelerator()) if has_accelerator else "cpu")
        self._model, self._processor = load_checkpoint(pretrained, device=str(self._device))
        self._pretrained, self._stages = pretrained, read_stages(pretrained)
        self._batch_size = int(batch_size)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers. As in `elm-hf evaluate`, equal prompts are asked once, and those about the same ECGs together."""
        foreign = next((one for one in requests if "source" not in one.doc), None)
        if foreign is not None:
            raise ValueError(f"elm-hf answers the tasks elm_hf_ecg, elm_hf_zeros, ..., not {foreign.task_name}")
        places = [(one.doc["source"], int(one.args[1]["max_gen_toks"]), one.doc["question_id"]) for one in requests]
        answers = {}
        for source, limit in sorted({place[:2] for place in places}):
            asked, condition = _asked(source), json.loads(source)[-1]
            if sentence := overlap(self._stages, asked.patients).sentence:
                logger.warning("%s: %s", self._pretrained, sentence)
            asker = Asker(asked.rows, asked.questions, asked.ablation, (condition,), limit, self._batch_size)
            wanted = {place[2]: asker.same_as[place[2], condition] for place in places if place[:2] == (source, limit)}
            found, keys = {}, set(wanted.values())
            for batch in tqdm(asker.batches, f"asking, {condition}", disable=disable_tqdm or None, unit="batch"):
                prompts = [prompt for prompt in batch if prompt.key in keys]
                found |= dict(asker.ask(self._model, self._processor, prompts)) if prompts else {}
            answers |= {(source, limit, question): found[key].text for question, key in wanted.items()}
        return [answers[place] for place in places]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not for the tasks of this module, which ask for answers."""
        raise NotImplementedError("elm-hf writes answers (generate_until) and rates no continuations")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not for the tasks of this module, which ask for answers."""
        raise NotImplementedError("elm-hf writes answers (generate_until) and rates no texts")


def run(arguments: Sequence[str]) -> None:
    """Runs the command of lm-eval with these arguments. It finds the tasks and the model of this module."""
    has_tasks = arguments[:1] in (["run"], ["validate"]) and "--include_path" not in arguments
    sys.argv = ["lm-eval", *arguments, *(["--include_path", TASKS_FOLDER] if has_tasks else [])]
    cli_evaluate()
