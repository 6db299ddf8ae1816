"""A conversation about ECGs: questions one after the other, with the model loaded once."""

from collections.abc import Sequence

from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.inference.ask import AskedEcg, Questions, ask
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS


class Chat:
    """
    A conversation about ECGs, in which the model reads the earlier questions and answers with each question.

    Args:
        model, processor: of a checkpoint.
        ecgs: the ECGs, which stand before the first question.
        max_new_tokens, max_reasoning_tokens: longest answer and longest reasoning before it, in tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        ecgs: Sequence[AskedEcg],
        max_new_tokens: int = 64,
        max_reasoning_tokens: int = MAX_REASONING_TOKENS,
    ):
        self.model, self.processor, self.ecgs = model, processor, list(ecgs)
        self.limits = max_new_tokens, max_reasoning_tokens
        self.messages: list[dict] = []

    def ask(self, question: str) -> str:
        """
        Ask the next question and return the answer, without its reasoning. Of an earlier answer, the model reads what its
        chat template writes.

        Raises:
            ValueError: the model cannot answer. The question is then not part of the conversation.
        """
        ecgs = [] if self.messages else [{"type": "ecg"}] * len(self.ecgs)
        prompt = [*self.messages, {"role": "user", "content": [*ecgs, {"type": "text", "text": question}]}]
        questions = [Questions(self.ecgs, [prompt], [None])]
        answer = ask(self.model, self.processor, questions, *self.limits)[0][0]
        self.messages = [*prompt, {"role": "assistant", "content": [{"type": "text", "text": answer["text"]}]}]
        return answer["answer"]

    def clear(self) -> None:
        """Forget the questions and answers so far."""
        self.messages = []
