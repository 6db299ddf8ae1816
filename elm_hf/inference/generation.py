"""Loading a checkpoint and letting it answer conversations in batches."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import PROCESSOR_NAME, find_adapter_config_file, logging

from elm_hf.utils.hub import check_name


logger = logging.get_logger(__name__)


def load_checkpoint(
    path_or_repo: str | PathLike, trust_remote_code: bool = False, dtype: str = "auto", device: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Loads an ELM (a full checkpoint or a LoRA adapter) and its processor, ready to answer.

    Args:
        path_or_repo: folder or repository.
        trust_remote_code: run the code inside the checkpoint instead of elm-hf's own. Where elm-hf's classes have been
            imported before, transformers prefers them.
        dtype: precision of the weights; `"auto"` is the checkpoint's.
        device: where to put the model; a GPU if there is one.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is not an ELM, has no processor, or is damaged: a file cannot be read, or weights are missing.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = str(path_or_repo)
    check_name(name)
    if not trust_remote_code:
        import elm_hf.modeling.modeling_elm  # they register themselves with the Auto classes
        import elm_hf.modeling.processing_elm  # noqa: F401

    options = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    is_adapter = find_adapter_config_file(name) is not None
    if not is_adapter:
        _check_is_elm(name)
    if Path(name).is_dir() and not (Path(name) / PROCESSOR_NAME).is_file():
        raise ValueError(
            f"{name}: no processor beside the model ({PROCESSOR_NAME}); save that of the checkpoint it was made from there "
            "(processor.save_pretrained)"
        )
    try:
        model = _load_adapter(name, options) if is_adapter else _load_model(name, options)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (ValueError, SafetensorError, StrictDataclassError) as error:
        raise ValueError(f"{name}: cannot be loaded as an ELM ({error})") from error
    if model.device.type != torch.device(device).type:  # quantised weights are where they belong, and may not be moved
        model = model.to(device)
    return model.eval(), processor


def _check_is_elm(name: str):
    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        raise OSError(f"{name}: {error}") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "elm":
        found = "without a model_type" if model_type is None else f'of type "{model_type}"'
        raise ValueError(f'{name}: a checkpoint {found}, not an ELM ("elm").')


def _load_adapter(name: str, options: dict) -> PreTrainedModel:
    from peft import AutoPeftModelForCausalLM, PeftConfig

    base = PeftConfig.from_pretrained(name).base_model_name_or_path
    try:
        check_name(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: an adapter whose base is not there ({error}); where the base has moved to, "
            f"`elm-hf merge {name} OUTPUT --base FOLDER` makes a full checkpoint of both"
        ) from error
    return AutoPeftModelForCausalLM.from_pretrained(name, **options)


def _load_model(name: str, options: dict) -> PreTrainedModel:
    """The model; transformers would put random weights in the place of those that the checkpoint lacks."""
    model, found = AutoModelForCausalLM.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    lacking = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if lacking:
        raise ValueError(f"{len(lacking)} weights are missing or of another shape, such as {lacking[0]}")
    return model


@dataclass
class Answer:
    """
    What a model said.

    Attributes:
        text: its words, without special tokens.
        num_tokens: how many tokens it wrote, the end of the turn not counted.
        finished: whether it ended its turn, rather than being cut at the longest length allowed.
    """

    text: str
    num_tokens: int
    finished: bool


def answer(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Sequence[list[dict]], max_new_tokens: int = 64
) -> list[str]:
    """The words of [`generate_answers`]."""
    return [one.text for one in generate_answers(model, processor, conversations, max_new_tokens)]


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Sequence[list[dict]], max_new_tokens: int = 64
) -> list[Answer]:
    """
    The model's greedy answers to a batch of conversations, each ending with a user's turn.

    What conversations about the same ECGs have in common (the system's words and the ECGs as a rule) goes through the
    encoder and the LLM once: see [`PromptBatch`].

    Args:
        model: the ELM.
        processor: its processor.
        conversations: message lists whose ECG items hold their ECGs.
        max_new_tokens: longest answer.

    Raises:
        ValueError: an ECG does not fit the model, a conversation is too long for it, the chat template refuses one, or the
            model computes NaN.
    """
    batch = PromptBatch(model, processor, conversations, max_new_tokens)
    inputs = batch.inputs() | {"past_key_values": batch.shared_cache()}
    inputs["logits_processor"] = LogitsProcessorList([_RefuseNan(model)])
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    ends = model.generation_config.eos_token_id
    ends = torch.tensor([] if ends is None else ends, dtype=torch.long).flatten()
    answers = []
    for tokens in output[:, batch.input_ids.shape[1] :].cpu():
        at_end = torch.isin(tokens, ends).nonzero()
        number = len(tokens) if len(at_end) == 0 else int(at_end[0])
        text = processor.decode(tokens[:number], skip_special_tokens=True).strip()
        answers.append(Answer(text, number, finished=len(at_end) > 0))
    return answers


class _RefuseNan(LogitsProcessor):
    """Greedy decoding would take NaN for the most probable token, and answer."""

    def __init__(self, model: PreTrainedModel):
        self._model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.isnan().any():
            raise ValueError(
                f"{self._model.name_or_path} computes NaN: its training has diverged, or its numbers are too large for "
                f"{self._model.dtype}"
            )
        return scores


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Sequence[list[dict]]
) -> np.ndarray:
    """
    How probable the model finds the last answer of each conversation, given all that precedes it.

    Args:
        model: the ELM.
        processor: its processor.
        conversations: message lists that end with an assistant's turn, whose ECG items hold their ECGs.

    Returns:
        `(conversations,)` float64: natural logarithm of the probability of the answer's words and the end of its turn.

    Raises:
        ValueError: an ECG does not fit the model, or the chat template refuses a conversation.
    """
    batch = PromptBatch(model, processor, conversations, answered=True)
    inputs, cache = batch.inputs(), batch.shared_cache()
    past = 0 if cache is None else batch.prefix_length
    position_ids = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    inputs |= {"input_ids": batch.input_ids[:, past:], "position_ids": position_ids[:, past:]}
    number = batch.input_ids.shape[1] - batch.first_answer_position
    logits = model(**inputs, past_key_values=cache, use_cache=cache is not None, logits_to_keep=number + 1).logits
    tokens = batch.input_ids[:, -number:]
    scores = logits[:, :-1].float().log_softmax(dim=-1).gather(2, tokens[:, :, None])[:, :, 0]
    return (scores.double() * batch.answer_mask[:, -number:]).sum(dim=1).cpu().numpy()


class PromptBatch:
    """
    Conversations as the model reads them, with what they share at the front, so that it is computed once.

    Conversations about the same ECGs form a group. Its *prefix* is what their tokens have in common from the start: as a
    rule the system's words, the ECGs and the first words of the user. The key-value cache of each group's prefix is
    computed once and copied for each conversation; positions are laid out as

        | padding, prefix | padding, the rest |

    Where nothing is shared, or the LLM's cache cannot be (recurrent layers, or a sliding window shorter than the
    conversations, which would count the padding), there is no prefix, and the batch is an ordinary one, padded on the left.

    Args:
        model: the ELM.
        processor: its processor.
        conversations: message lists whose ECG items hold their ECGs.
        max_new_tokens: positions that will be generated.
        answered: the conversations end with an answer, which is to be scored and never part of a prefix.

    Attributes:
        input_ids, attention_mask, answer_mask: `(conversations, length)`; the last one marks the last answer's tokens.
        prefix_length: positions before the rest, 0 without a prefix.
        first_answer_position: where the first token of any last answer stands.

    Raises:
        ValueError: an ECG does not fit the model, a conversation is too long for it, or the chat template refuses one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        conversations: Sequence[list[dict]],
        max_new_tokens: int = 0,
        answered: bool = False,
    ):
        self._model, self._processor = model, processor
        encoded = self._encode(conversations, answered)
        real = encoded["attention_mask"] == 1
        sequences = [ids[mask] for ids, mask in zip(encoded["input_ids"], real)]
        self._ecgs = {name: encoded[name] for name in ("ecg_values", "ecg_lead_mask") if name in encoded}
        self._ecg_rows = self._rows_of_ecgs(sequences)
        answers = [np.zeros(len(ids), dtype=bool) for ids in sequences]
        if answered:
            answers = [_last_run(mask[keep]) for mask, keep in zip(encoded["assistant_masks"], real)]
        limits = [int(mask.argmax()) if answered else len(mask) for mask in answers]
        longest = max(map(len, sequences)) + max_new_tokens
        _check_length(model, longest, max_new_tokens)
        self._groups = self._group(sequences)
        self._shared = np.zeros(len(sequences), dtype=int)
        if len(set(self._groups)) < len(sequences) and _can_share_cache(model, 2 * longest):
            self._shared = self._shared_lengths(sequences, limits)
        self._lay_out(sequences, answers)

    def inputs(self) -> dict[str, torch.Tensor | None]:
        """What `generate` takes beside the cache: the tokens of all positions, and the ECGs that are in no prefix."""
        rows = [
            row
            for rows, ids, shared in zip(self._ecg_rows, self._sequences, self._shared)
            for row in rows[self._num_ecgs(ids[:shared]) :]
        ]
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask} | self._take_ecgs(rows)

    def shared_cache(self) -> DynamicCache | None:
        """The keys and values of every conversation's prefix, each computed once; None without a prefix."""
        if self.prefix_length == 0:
            return None
        groups, firsts, number_of = np.unique(self._groups, return_index=True, return_inverse=True)
        ecg_rows = [
            row
            for first in firsts
            for row in self._ecg_rows[first][: self._num_ecgs(self._sequences[first][: self._shared[first]])]
        ]
        firsts = torch.from_numpy(firsts).to(self.input_ids.device)
        attention_mask = self.attention_mask[firsts, : self.prefix_length]
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        self._model(
            input_ids=self.input_ids[firsts, : self.prefix_length],
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **self._take_ecgs(ecg_rows),
        )
        cache.batch_select_indices(torch.from_numpy(number_of).to(self.input_ids.device))
        return cache

    def _encode(self, conversations: Sequence[list[dict]], answered: bool) -> dict[str, np.ndarray]:
        try:
            return self._processor.apply_chat_template(
                conversations,
                add_generation_prompt=not answered,
                tokenize=True,
                return_dict=True,
                return_tensors="np",
                return_assistant_tokens_mask=answered,
            )
        except TemplateError as error:
            raise ValueError(f"{self._model.name_or_path}: its chat template refuses: {error}") from error

    def _num_ecgs(self, ids: np.ndarray) -> int:
        """How many ECGs enter through `ecg_values` in these tokens."""
        if not self._ecgs:
            return 0
        return int((ids == self._processor.ecg_token_id).sum()) // self._processor.num_ecg_tokens

    def _rows_of_ecgs(self, sequences: list[np.ndarray]) -> list[list[int]]:
        """For each conversation the rows of its ECGs in `ecg_values`; equal ECGs are one row."""
        if not self._ecgs:
            return [[] for _ in sequences]
        seen, rows = {}, []
        for one in zip(*self._ecgs.values()):
            rows.append(seen.setdefault(b"".join(part.tobytes() for part in one), len(rows)))
        remaining = iter(rows)
        return [[next(remaining) for _ in range(self._num_ecgs(ids))] for ids in sequences]

    def _take_ecgs(self, rows: list[int]) -> dict[str, torch.Tensor]:
        if not rows:
            return {}
        return {name: torch.from_numpy(ecgs[rows]).to(self._model.device) for name, ecgs in self._ecgs.items()}

    def _group(self, sequences: list[np.ndarray]) -> list[int]:
        """Numbers that are equal for conversations about the same ECGs."""
        numbers, groups = {}, []
        for ids, rows in zip(sequences, self._ecg_rows):
            key = (*rows, ids[self._processor.is_ecg_token(ids)].tobytes())
            groups.append(numbers.setdefault(key, len(numbers)))
        return groups

    def _shared_lengths(self, sequences: list[np.ndarray], limits: list[int]) -> np.ndarray:
        """How many tokens of each conversation are its group's prefix; at least one token is always left."""
        members = defaultdict(list)
        for index, group in enumerate(self._groups):
            members[group].append(index)
        shared = np.zeros(len(sequences), dtype=int)
        for rows in members.values():
            first, limit = sequences[rows[0]], min(limits[row] for row in rows) - 1
            same = np.logical_and.reduce([sequences[row][:limit] == first[:limit] for row in rows])
            shared[rows] = limit if same.all() else int(same.argmin())
        # A conversation alone shares nothing, but its prefix need not be longer than what the others share.
        alone = np.array([len(members[group]) == 1 for group in self._groups])
        shared[alone] = np.minimum(shared[alone], shared[~alone].max())
        return np.array([self._whole_ecgs(ids, length) for ids, length in zip(sequences, shared)])

    def _whole_ecgs(self, ids: np.ndarray, length: int) -> int:
        """`length`, or less if it would cut an ECG in two."""
        if not self._ecgs:
            return int(length)
        positions = np.flatnonzero(ids[:length] == self._processor.ecg_token_id)
        over = len(positions) % self._processor.num_ecg_tokens
        return int(positions[-over]) if over else int(length)

    def _lay_out(self, sequences: list[np.ndarray], answers: list[np.ndarray]):
        """Pads prefixes and rests, each on the left."""
        self._sequences = sequences
        self.prefix_length = int(self._shared.max())
        length = self.prefix_length + max(len(ids) - shared for ids, shared in zip(sequences, self._shared))
        shape = (len(sequences), length)
        input_ids = np.zeros(shape, dtype=np.int64)
        attention_mask, answer_mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, (ids, is_answer, shared) in enumerate(zip(sequences, answers, self._shared)):
            rest = slice(length - len(ids) + shared, length)
            prefix = slice(self.prefix_length - shared, self.prefix_length)
            # Padding with a word of the prompt, lest a repetition penalty sees a token that is not there.
            input_ids[row] = ids[~self._processor.is_ecg_token(ids)][0]
            input_ids[row, prefix], input_ids[row, rest] = ids[:shared], ids[shared:]
            attention_mask[row, prefix] = attention_mask[row, rest] = 1
            answer_mask[row, rest] = is_answer[shared:]
        self.first_answer_position = int(answer_mask.any(axis=0).argmax())
        self.input_ids, self.attention_mask, self.answer_mask = (
            torch.from_numpy(array).to(self._model.device) for array in (input_ids, attention_mask, answer_mask)
        )


def _check_length(model: PreTrainedModel, longest: int, max_new_tokens: int):
    """Refuses what has no position; with rotary positions, whose number is not bounded, there is a warning."""
    config = model.config.get_text_config(decoder=True).to_dict()
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if positions is None or longest <= positions:
        return
    found = (
        f"{model.name_or_path} reads {positions} tokens, and a conversation has {longest - max_new_tokens}, its answer up to "
        f"{max_new_tokens}"
    )
    if "rope_parameters" not in config:
        raise ValueError(f"{found}; leave the conversation out, or allow for shorter answers")
    logger.warning_once(f"{found}: what it answers there may be worse than elsewhere")


def _can_share_cache(model: PreTrainedModel, longest: int) -> bool:
    """Whether the LLM's cache is keys and values of every position, none of them out of a sliding window's sight."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return False
    return all(layer.sliding_window > longest for layer in cache.layers if layer.is_sliding)


def _last_run(mask: np.ndarray) -> np.ndarray:
    """The last unbroken run of a mask `(length,)`: the last answer's tokens of all answers'."""
    mask = mask.astype(bool)
    after_gap = np.cumsum(~mask[::-1])[::-1]  # gaps from here to the end
    return mask & (after_gap == after_gap[mask][-1])


def prompt_of(messages: Iterable[dict]) -> list[dict]:
    """A conversation up to its last user's turn: what the model sees before it gives the last answer."""
    prompt = list(messages)
    while prompt and prompt[-1]["role"] == "assistant":
        prompt.pop()
    return prompt
