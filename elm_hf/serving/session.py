"""What happens when a visitor of the demo opens an ECG, asks and rates: without a web page, so that it can be tested."""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from elm_hf.ecg.normal_ranges import ADULT_AGE, describe_features, measured_values
from elm_hf.ecg.plot import plot_ecg
from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.evaluation.occlusion import occlude
from elm_hf.evaluation.pictures import occlusion_picture
from elm_hf.inference.ask import AskedEcg
from elm_hf.inference.chat import Chat
from elm_hf.modeling.ecg_leads import SAMPLING_RATE, flat_leads
from elm_hf.modeling.ecg_measurements import measure_ecg
from elm_hf.serving.feedback import Conversation, Turn
from elm_hf.serving.uploads import check_usable, quality_of, read_upload, window_of


EXAMPLE_RHYTHMS = ("sinus rhythm", "sinus tachycardia", "atrial fibrillation", "atrial flutter")
PIXELS_PER_MM = 8
LONGEST_MEASURED_S = 60


class Session:
    """
    A visit: an ECG, and what was said about it and about ECGs before it.

    Attributes:
        ecg: the ECG; None before one is opened.
        window: the part of it that the model reads.
        chat, blind: the dialogue about the ECG, and the same questions without it.
        conversations: all conversations of the visit; the last one is going on.
    """

    def __init__(self):
        self.ecg: AskedEcg | None = None
        self.window: AskedEcg | None = None
        self.chat: Chat | None = None
        self.blind: Chat | None = None
        self.conversations: list[Conversation] = []

    @property
    def turns(self) -> list[Turn]:
        """The questions and answers of the conversation that is going on."""
        return self.conversations[-1].turns if self.conversations else []

    def dialogue(self, with_ecg: bool) -> list[dict]:
        """The questions with the answers with or without the ECG, as messages."""
        said = []
        for turn in self.turns:
            said.append({"role": "user", "content": turn.question})
            answer, sure = (turn.answer, turn.confidence) if with_ecg else (turn.blind, turn.blind_confidence)
            said.append({"role": "assistant", "content": (answer or "…") + (f"\n\n*{sure}*" if sure else "")})
        return said


class DemoModel:
    """
    A model that visitors of the demo ask.

    Args:
        model, processor: of a checkpoint.
        max_new_tokens: longest answer, in tokens.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, max_new_tokens: int = 64):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens

    @property
    def seconds(self) -> float:
        """The length of an ECG that the model reads."""
        return self.processor.ecg_reader.num_samples / self.processor.ecg_reader.sampling_rate

    def open_files(
        self,
        session: Session,
        files: Mapping[str, bytes],
        sampling_rate: float | None = None,
        units: str | None = None,
    ) -> None:
        """
        Open the ECG of uploaded files. Nothing is open if they cannot be read.

        Raises:
            ValueError: the files are no ECG that can be read, or it has no lead with a signal.
        """
        session.ecg = None
        self.open(session, read_upload(files, sampling_rate, units))

    def open(self, session: Session, ecg: AskedEcg) -> None:
        """
        Open an ECG, with a new conversation.

        Raises:
            ValueError: the ECG has no lead with a signal.
        """
        session.ecg = None
        check_usable(ecg)
        session.ecg, session.window = ecg, window_of(ecg, self.processor)
        session.chat = Chat(self.model, self.processor, [ecg], self.max_new_tokens)
        session.blind = Chat(self.model, self.processor, [], self.max_new_tokens)
        session.conversations.append(Conversation(session.window))

    def start_again(self, session: Session) -> None:
        """Begin a new conversation about the same ECG."""
        if session.ecg is not None:
            self.open(session, session.ecg)

    def ask(self, session: Session, question: str) -> Iterator[Turn]:
        """
        Ask the next question, first with the ECG, then without it. The turn is returned again and again while the
        answers grow.

        Raises:
            ValueError: no ECG is open, the question is empty, or the model cannot answer.
        """
        question = question.strip()
        if session.ecg is None:
            raise ValueError("no ECG is open; upload a file or choose an example first")
        if not question:
            raise ValueError("the question is empty")
        turn, turns = Turn(question), session.turns
        turns.append(turn)
        try:
            for turn.answer in session.chat.stream(question):
                yield turn
            for turn.blind in session.blind.stream(question):
                yield turn
            turn.confidence, turn.blind_confidence = (
                "" if found is None else found.words()
                for found in (session.chat.confidence(), session.blind.confidence())
            )
            yield turn
        except BaseException:  # also if the visitor leaves in between
            turns.remove(turn)
            session.chat.messages = session.chat.messages[: 2 * len(turns)]
            session.blind.messages = session.blind.messages[: 2 * len(turns)]
            raise

    def what_speaks_for_the_answer(self, session: Session) -> Image.Image:
        """
        Draw which leads and times the last answer depends on, see [`~elm_hf.evaluation.occlusion.occlude`].

        Raises:
            ValueError: there is no answer yet, or it is empty.
        """
        if not session.turns or not session.turns[-1].answer:
            raise ValueError("there is no answer yet; ask a question first")
        turn, window = session.turns[-1], session.window
        prompt = _without_signals(session.chat.messages[:-1])
        effects = occlude(self.model, self.processor, prompt, window.ecg, window.sampling_rate, turn.answer)
        words = {"question": turn.question, "prediction": turn.answer, "record_id": window.name}
        return occlusion_picture(effects | words | {"ecg": window.ecg}, effects["windows_s"], window.sampling_rate)

    def doubts(self, ecg: AskedEcg) -> list[str]:
        """Sentences about what makes answers about an ECG doubtful, and about what its file was found to mean."""
        found = quality_of(ecg, self.processor)
        sentences = [f"note: {note}" for note in ecg.notes]
        if found["problems"]:
            sentences.append(f"doubtful signal: {found['problems']}")
        if found["missing_leads"]:
            sentences.append(f"missing leads: {found['missing_leads']}")
        length = ecg.ecg.shape[1] / ecg.sampling_rate
        if unread := ecg.unread(self.processor):
            sentences.append(unread)
        elif length < self.seconds - 1 / ecg.sampling_rate:
            sentences.append(f"{length:.1f} s long, shorter than the {self.seconds:g} s that the model reads")
        return sentences


def simulated_examples(seconds: float = 10.0) -> dict[str, AskedEcg]:
    """Simulated ECGs by name, one for each of `EXAMPLE_RHYTHMS`: they belong to nobody and can be shown to anyone."""
    rng, examples = np.random.default_rng(0), {}
    while len(examples) < len(EXAMPLE_RHYTHMS):
        findings = draw_findings(rng)
        name = f"simulated: {findings.rhythm}"
        if findings.rhythm in EXAMPLE_RHYTHMS and name not in examples:
            ecg = simulate_ecg(findings, rng, seconds).astype(np.float32)
            examples[name] = AskedEcg(name, ecg, SAMPLING_RATE)
    return {f"simulated: {rhythm}": examples[f"simulated: {rhythm}"] for rhythm in EXAMPLE_RHYTHMS}


def measured_markdown(ecg: AskedEcg, sex: str | None = None, age: float | None = None) -> str:
    """The measurements of an ECG as a table, and what is outside the normal range, in Markdown."""
    signal = ecg.ecg[:, : round(LONGEST_MEASURED_S * ecg.sampling_rate)].copy()
    signal[flat_leads(signal)] = np.nan
    features = measure_ecg(signal, ecg.sampling_rate)
    values = measured_values(features)
    if not values:
        return "Nothing can be measured in this ECG."
    lines = ["| measured | |", "|---|---|", *(f"| {words} | {value} |" for words, value in values.items()), ""]
    if age is not None and age < ADULT_AGE:
        return "\n".join([*lines, "Normal ranges are for adults."])
    outside = {place: found for place, found in describe_features(features, sex, age).items() if found}
    lines.append("**Outside the normal range**" if outside else "Nothing is outside the normal range.")
    lines += ["", *(f"- {_place(place)}: {', '.join(found)}" for place, found in outside.items())]
    return "\n".join(lines)


def paper_html(ecg: AskedEcg) -> str:
    """The ECG on ECG paper, as HTML that contains the picture."""
    return picture_html(plot_ecg(ecg.ecg, ecg.sampling_rate, title=ecg.name, pixels_per_mm=PIXELS_PER_MM), ecg.name)


def picture_html(picture: Image.Image, name: str) -> str:
    """A picture as HTML, in a frame that scrolls."""
    content = io.BytesIO()
    picture.quantize(64).save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    alternative = html.escape(f"ECG {name} on ECG paper", quote=True)
    return f'<div class="ecg-frame"><img alt="{alternative}" src="data:image/png;base64,{data}"></div>'


def _place(place: str) -> str:
    return "in general" if place == "general" else f"lead {place}"


def _without_signals(messages: Sequence[dict]) -> list[dict]:
    """Messages whose ECG items are empty, as [`occlude`] fills them."""
    return [
        message | {"content": [{"type": "ecg"} if item["type"] == "ecg" else item for item in message["content"]]}
        for message in messages
    ]
