"""A conversation about ECGs: questions one after the other, with the model loaded once."""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Thread

from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.data.messages import message_text
from elm_hf.inference.ask import AskedEcg, Questions, answering, ask
from elm_hf.inference.confidence import Confidence, confidences
from elm_hf.inference.generation import generate_answers
from elm_hf.inference.reasoning import MAX_REASONING_TOKENS


class Chat:
    """
    A conversation about ECGs, in which the model reads the earlier questions and answers with each question.

    Args:
        model, processor: of a checkpoint.
        ecgs: the ECGs, which stand before the first question. Without any, the model answers from the text alone.
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
        asked = self._asked(question)
        answer = ask(self.model, self.processor, [asked], *self.limits)[0][0]
        self._remember(asked, answer["text"])
        return answer["answer"]

    def stream(self, question: str) -> Iterator[str]:
        """
        Ask the next question and return the answer so far, with its reasoning, again and again while it grows.

        Raises:
            ValueError: the model cannot answer. The question is then not part of the conversation.
        """
        asked, arrived = self._asked(question), SimpleQueue()

        def watch(texts: list[str]) -> None:
            arrived.put((texts[0], None))

        def generate():
            try:
                with answering(asked.name or "without an ECG", self.model):
                    about = self.model, self.processor, asked.conversations()
                    (answer,) = generate_answers(*about, self.limits[0], None, self.limits[1], watch)
                arrived.put((answer.text, True))
            except Exception as error:  # raised again by the thread that reads the answer
                arrived.put((error, False))

        Thread(target=generate, daemon=True).start()
        is_whole = None
        while is_whole is None:
            text, is_whole = arrived.get()
            if is_whole is False:
                raise text
            yield text
        self._remember(asked, text)

    def confidence(self) -> Confidence | None:
        """
        How sure the model is of its last answer, see [`~elm_hf.inference.confidence.confidences`]; None if there is no answer
        or it is empty.

        Raises:
            ValueError: the model cannot read the conversation.
        """
        if not self.messages:
            return None
        asked = Questions(self.ecgs, [self.messages[:-1]], [None])
        with answering(asked.name or "without an ECG", self.model):
            about = self.model, self.processor, asked.conversations()
            return confidences(*about, [message_text(self.messages[-1])])[0]

    def _asked(self, question: str) -> Questions:
        ecgs = [] if self.messages else [{"type": "ecg"}] * len(self.ecgs)
        prompt = [*self.messages, {"role": "user", "content": [*ecgs, {"type": "text", "text": question}]}]
        return Questions(self.ecgs, [prompt], [None])

    def _remember(self, asked: Questions, text: str) -> None:
        said = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        self.messages = [*asked.prompts[0], said]

    def clear(self) -> None:
        """Forget the questions and answers so far."""
        self.messages = []
