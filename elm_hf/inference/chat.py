"""A conversation about ECGs: questions one after the other, with the model loaded once."""

from collections.abc import Sequence

from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.inference.ask import AskedEcg, Questions, ask


class Chat:
    """
    A conversation about ECGs, in which the model reads the earlier questions and answers with each question.

    Args:
        model, processor: of a checkpoint.
        ecgs: the ECGs, which stand before the first question.
        max_new_tokens: longest answer, in tokens.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, ecgs: Sequence[AskedEcg], max_new_tokens: int = 64
    ):
        self.model, self.processor, self.ecgs = model, processor, list(ecgs)
        self.max_new_tokens = max_new_tokens
        self.messages: list[dict] = []

    def ask(self, question: str) -> str:
        """
        Ask the next question and return the answer.

        Raises:
            ValueError: the model cannot answer. The question is then not part of the conversation.
        """
        ecgs = [] if self.messages else [{"type": "ecg"}] * len(self.ecgs)
        prompt = [*self.messages, {"role": "user", "content": [*ecgs, {"type": "text", "text": question}]}]
        questions = [Questions(self.ecgs, [prompt], [None])]
        answer = ask(self.model, self.processor, questions, self.max_new_tokens)[0][0]["answer"]
        self.messages = [*prompt, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return answer

    def clear(self) -> None:
        """Forget the questions and answers so far."""
        self.messages = []
