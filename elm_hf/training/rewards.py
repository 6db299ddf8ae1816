"""
Rewards of sampled answers. Each takes what TRL's trainers pass and gives a number for every answer; the trainer adds them up
with their weights.
"""

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import message_text, text_message
from elm_hf.ecg.claim_checks import measure_for_claims
from elm_hf.ecg.claim_scores import judge_text
from elm_hf.inference.generation import log_likelihoods
from elm_hf.training.reward_data import with_ecgs
from elm_hf.utils.exact_match import is_exact_match


# Reasoning and answer, both with words and neither with further marks.
_FORMAT = re.compile(r"\s*<think>(?P<reasoning>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_MARK = re.compile(r"</?(think|answer)>")
# Largest reward for having read the ECG, in nats.
MAX_PERCEPTION = 1.0


def exact_match(completions: Sequence[list[dict]], truth: Sequence[list[str]], **kwargs) -> list[float]:
    """
    1 for an answer that names the true items and no others, in any order and case, otherwise 0 (Oh et al. 2023, ECG-QA).

    An answer that names everything is wrong. Reasoning does not count: see [`~elm_hf.utils.exact_match.final_answer`].

    Args:
        completions: the sampled answers, each as a message.
        truth: the true items of each question.
        kwargs: what else the trainer passes.
    """
    return [float(is_exact_match(_text(answer), items)) for answer, items in zip(completions, truth)]


def answer_format(completions: Sequence[list[dict]], **kwargs) -> list[float]:
    """
    1 for `<think>...</think><answer>...</answer>` with words in both and nothing else, otherwise 0 (DeepSeek-AI 2025,
    DeepSeek-R1, section 2.2.2). Several answers in one, of which one may be right, have not this format.

    Args:
        completions: the sampled answers, each as a message.
        kwargs: what else the trainer passes.
    """
    return [float(_has_format(_text(answer))) for answer in completions]


def measured_claims(
    completions: Sequence[list[dict]],
    ecgs: Sequence[Sequence[np.ndarray]],
    sampling_rate: Sequence[float],
    **kwargs,
) -> list[float]:
    """
    What an answer says of rate, rhythm, intervals, axis, ST and T, compared with what is measured in the ECG: from -1 to 1,
    see [`~elm_hf.ecg.claim_scores.score_of`]. Reasoning counts as well. An answer without claims earns 0, and so does an
    answer about several ECGs or none, since it does not say which one is meant.

    Args:
        completions: the sampled answers, each as a message.
        ecgs: ECGs of each question, each `(12, samples)` in mV.
        sampling_rate: in Hz.
        kwargs: what else the trainer passes.
    """
    measured: dict[tuple, dict[str, float]] = {}  # each ECG once, although several answers are sampled
    rewards = []
    for answer, shown, rate in zip(completions, ecgs, sampling_rate):
        if len(shown) != 1:
            rewards.append(0.0)
            continue
        ecg = np.asarray(shown[0])
        key = (ecg.tobytes(), ecg.shape, float(rate))
        if key not in measured:
            measured[key] = measure_for_claims(ecg, rate)
        rewards.append(judge_text(_text(answer), measured[key]).score)
    return rewards


class Perception:
    """
    How much more probable the ECG makes a right answer: its log-probability with the ECG minus that with the ECG of another
    patient whose true answer is another one, in nats, between -`MAX_PERCEPTION` and `MAX_PERCEPTION`.

    A right answer that the question alone suggests is as probable with either ECG and earns nothing. Wrong answers earn
    nothing, either, so that answers which merely differ from ECG to ECG are not rewarded. Nor do answers to questions without
    ECGs, or with more of them than any question about another patient has.

    The model is the one in training, set by the trainer's program.

    Args:
        processor: the ELM's processor.
        batch_size: number of answers whose probability is computed at once.
    """

    __name__ = "perception"

    def __init__(self, processor: ProcessorMixin, batch_size: int):
        self.processor = processor
        self.batch_size = batch_size
        self.model: PreTrainedModel | None = None

    def __call__(
        self,
        prompts: Sequence[list[dict]],
        completions: Sequence[list[dict]],
        truth: Sequence[list[str]],
        ecgs: Sequence[Sequence[np.ndarray]],
        control_ecgs: Sequence[Sequence[np.ndarray]],
        sampling_rate: Sequence[float],
        **kwargs,
    ) -> list[float]:
        """
        Args:
            prompts: the questions, as messages with places for ECGs.
            completions: the sampled answers, each as a message.
            truth: the true items of each question.
            ecgs: ECGs of each question, each `(12, samples)` in mV.
            control_ecgs: as many ECGs of another patient, or none.
            sampling_rate: in Hz.
            kwargs: what else the trainer passes.
        """
        right = exact_match(completions, truth)
        rows = [row for row, is_right in enumerate(right) if is_right and len(control_ecgs[row])]
        rewards = [0.0] * len(completions)
        was_training = self.model.training
        self.model.eval()
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            answered = [[*prompts[row], text_message("assistant", _text(completions[row]))] for row in batch]
            with_own, with_other = (
                self._log_likelihoods(answered, [shown[row] for row in batch], [sampling_rate[row] for row in batch])
                for shown in (ecgs, control_ecgs)
            )
            for row, difference in zip(batch, with_own - with_other):
                rewards[row] = float(np.clip(difference, -MAX_PERCEPTION, MAX_PERCEPTION))
        self.model.train(was_training)
        return rewards

    def _log_likelihoods(self, answered: list[list[dict]], ecgs: list, rates: list[float]) -> np.ndarray:
        """Log-probability of the last answer of each conversation with these ECGs, `(conversations,)`."""
        conversations = [
            with_ecgs(self.processor, messages, list(those), rate)
            for messages, those, rate in zip(answered, ecgs, rates)
        ]
        return log_likelihoods(self.model, self.processor, conversations)


def _text(answer: list[dict]) -> str:
    return message_text(answer[0])


def _has_format(text: str) -> bool:
    found = _FORMAT.fullmatch(text)
    parts = [] if found is None else [found["reasoning"], found["answer"]]
    return bool(parts) and all(part.strip() and not _MARK.search(part) for part in parts)
