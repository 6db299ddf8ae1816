"""The web demo: an ECG on paper, its measurements, questions with and without the ECG, and ratings. Needs elm-hf[demo]."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.ecg.files import NO_RATE
from elm_hf.ecg.find_files import find_ecg_files
from elm_hf.ecg.recording import RecordingError
from elm_hf.inference.ask import AskedEcg, ecg_from_file
from elm_hf.modeling.chat_rendering import END_OF_REASONING
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning
from elm_hf.serving.feedback import export_feedback
from elm_hf.serving.session import (
    DemoModel,
    Session,
    measured_markdown,
    paper_html,
    picture_html,
    simulated_examples,
)
from elm_hf.utils.errors import one_line
from elm_hf.utils.exact_match import START_OF_REASONING


QUESTIONS = ("What is the rhythm?", "Is this ECG normal?", "Which conduction disorders does this ECG show?")
MAX_UPLOAD = "20mb"
KEPT_S = 3600  # how long the page keeps uploaded and exported files
UNITS = ("as in the file", "mV", "uV", "V")
DETAILS = "Not in the file: rate, units, age, sex"
MEASURED_NOTE = "Measured by a program, not by the model."
STYLE = """
.ecg-frame {overflow: auto; max-height: 75vh; border: 1px solid #ddd;}
.ecg-frame img {width: 100%; max-width: none; display: block;}
"""
ZOOM = (
    "(zoom) => { document.querySelectorAll('#paper .ecg-frame img').forEach((one) => one.style.width = zoom + '%'); }"
)
INTRODUCTION = """
# {name}
An ECG-language model. **For research only, not for clinical use.** Answers may be wrong, however sure they sound. Uploaded
files are read on the server that runs this page and deleted at once; do not upload ECGs that you may not share with it.
"""


def load_demo(
    checkpoint: str, examples: Path | None = None, max_new_tokens: int = 64, trust_remote_code: bool = False
) -> tuple[DemoModel, dict[str, AskedEcg]]:
    """
    Load what the demo shows.

    Args:
        checkpoint: folder or repository of the model.
        examples: folder with ECGs to choose from. By default they are simulated.
        max_new_tokens: longest answer, in tokens.
        trust_remote_code: run the checkpoint's own code instead of elm-hf's.

    Raises:
        FileNotFoundError, OSError, ValueError: as for [`~elm_hf.checkpoints.load.load_checkpoint`], or no example can be
            read.
    """
    shown = {} if examples is None else _read_examples(examples)
    model = DemoModel(*load_checkpoint(checkpoint, trust_remote_code=trust_remote_code), max_new_tokens)
    return model, shown or simulated_examples(max(model.seconds, 2.0))


def _read_examples(folder: Path) -> dict[str, AskedEcg]:
    found = {}
    for files in find_ecg_files([folder]):
        try:
            found[files[0].place] = ecg_from_file(files[0])
        except RecordingError as error:
            warnings.warn(f"example left out: {one_line(error)}", stacklevel=2)
    if not found:
        raise ValueError(f"{folder}: no example can be read")
    return found


def launch_demo(
    checkpoint: str,
    examples: str | Path | None = None,
    questions: Sequence[str] = QUESTIONS,
    max_new_tokens: int = 64,
    host: str | None = None,
    port: int | None = None,
    trust_remote_code: bool = False,
    wait: bool = True,
):
    """
    Start the demo.

    Args:
        checkpoint, examples, max_new_tokens, trust_remote_code: see [`load_demo`].
        questions: questions to choose from.
        host, port: where the page is served. By default Gradio decides: this machine only, from port 7860 on.
        wait: whether to serve until the program is stopped; otherwise the page is returned.

    Raises:
        ImportError: Gradio is not installed.
    """
    _import_gradio()
    folder = None if examples is None else Path(examples)
    page = build_page(
        *load_demo(checkpoint, folder, max_new_tokens, trust_remote_code), questions, Path(checkpoint).name
    )
    # Problems of an ECG are shown on the page.
    warnings.filterwarnings("ignore", category=SignalQualityWarning)
    page.queue(max_size=32).launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=MAX_UPLOAD,
        css=STYLE,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
    )
    if wait:
        print(f"The demo is at {page.local_url} (Ctrl+C ends it)", flush=True)
        page.block_thread()
    return page


def _import_gradio():
    try:
        import gradio
    except ImportError as error:
        raise ImportError("the demo needs Gradio: pip install 'elm-hf[demo]'") from error
    return gradio


def build_page(model: DemoModel, examples: dict[str, AskedEcg], questions: Sequence[str], name: str):
    """
    Build the page.

    Args:
        model: the model.
        examples: ECGs to choose from, by name.
        questions: questions to choose from.
        name: name of the model, for the title.
    """
    gr = _import_gradio()
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S), fill_width=True) as page:
        parts = SimpleNamespace(session=gr.State(Session))
        gr.Markdown(INTRODUCTION.format(name=name))
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                _add_ecgs_to_open(gr, parts, list(examples))
            with gr.Column(scale=3):
                parts.paper = gr.HTML(elem_id="paper", padding=False)
                parts.zoom = gr.Slider(100, 400, value=100, step=10, label="Zoom in %", elem_id="zoom")
        _add_dialogues(gr, parts, questions)
        with gr.Accordion("Ratings", open=False, elem_id="ratings"):
            _add_ratings(gr, parts)
        _connect(gr, parts, Events(model, examples))
    return page


def _add_ecgs_to_open(gr, parts: SimpleNamespace, examples: list[str]) -> None:
    """Where a visitor uploads an ECG or chooses an example, and what is known of it."""
    parts.upload = gr.File(
        label="Your ECG (WFDB: .hea and .dat together)", file_count="multiple", height=150, elem_id="upload"
    )
    with gr.Accordion(DETAILS, open=False):
        parts.hertz = gr.Number(label="Sampling rate in Hz", value=None, minimum=0)
        parts.units = gr.Dropdown(UNITS, value=UNITS[0], label="Units")
        parts.age = gr.Number(label="Age in years", value=None, minimum=0)
        parts.sex = gr.Radio(["unknown", "female", "male"], value="unknown", label="Sex (for normal ranges)")
    parts.chosen = gr.Dropdown(examples, value=None, label="Or an example", elem_id="examples")
    parts.about = gr.Markdown("Upload an ECG or choose an example.", elem_id="about")
    parts.measured = gr.Markdown(elem_id="measured")


def _add_dialogues(gr, parts: SimpleNamespace, questions: Sequence[str]) -> None:
    """The question, and the answers with and without the ECG."""
    placeholder = questions[0] if questions else ""
    parts.question = gr.Textbox(label="Question", placeholder=placeholder, elem_id="question")
    with gr.Row():
        parts.ask = gr.Button("Ask", variant="primary", elem_id="ask")
        parts.suggested = [gr.Button(one, size="sm") for one in questions]
    parts.status = gr.Markdown(elem_id="status")
    with gr.Row():
        parts.said = _chatbot("Answers with the ECG", "said")
        parts.blind = _chatbot("The same questions without the ECG", "blind")
    with gr.Row():
        parts.explain = gr.Button("What in the ECG speaks for the last answer?", elem_id="explain")
        parts.again = gr.Button("New conversation", elem_id="again")
    parts.explanation = gr.HTML(elem_id="explanation", padding=False)


def _add_ratings(gr, parts: SimpleNamespace) -> None:
    """A better answer, and the export of all ratings."""
    gr.Markdown(
        "The thumbs beside the answers rate them. A better answer, or a good and a bad answer to the same "
        "question, is a pair from which a model can learn (`elm-hf train dpo`). The export contains your ECG."
    )
    parts.better = gr.Textbox(label="A better answer to the last question", elem_id="better")
    with gr.Row():
        parts.save = gr.Button("Save the better answer", elem_id="save")
        parts.export = gr.Button("Export the ratings", elem_id="export")
    parts.exported = gr.File(label="Ratings", interactive=False, elem_id="exported")


def _connect(gr, parts: SimpleNamespace, events: "Events") -> None:
    """What happens when a visitor acts. The model does one thing at a time."""
    one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1}
    session, status, said, blind = parts.session, parts.status, parts.said, parts.blind
    person = [parts.sex, parts.age]

    opened = [session, parts.paper, parts.measured, parts.about, said, blind, parts.explanation, parts.zoom, status]
    of_files = [session, parts.upload, parts.hertz, parts.units, *person]
    parts.upload.upload(events.open_files, of_files, [*opened, parts.upload], **one_at_a_time)
    parts.chosen.input(events.open_example, [session, parts.chosen, *person], opened, **one_at_a_time)
    gr.on([parts.sex.change, parts.age.change], events.measure, [session, *person], [parts.measured])
    parts.zoom.change(None, [parts.zoom], None, js=ZOOM)

    asked = [said, blind, status, parts.question]
    asking = [parts.ask.click, parts.question.submit]
    gr.on(asking, events.ask, [session, parts.question], asked, **one_at_a_time)
    for button in parts.suggested:
        button.click(events.ask, [session, button], asked, **one_at_a_time)
    clearing, cleared = [parts.again.click, said.clear, blind.clear], [said, blind, parts.explanation, status]
    gr.on(clearing, events.start_again, [session], cleared, **one_at_a_time)
    parts.explain.click(events.explain, [session], [parts.explanation, status], **one_at_a_time)

    # Gradio passes the rating to a parameter with this annotation.
    def rate(session, data: gr.LikeData):
        return events.rate(session, data)

    def rate_blind(session, data: gr.LikeData):
        return events.rate_blind(session, data)

    said.like(rate, [session], [status])
    blind.like(rate_blind, [session], [status])
    parts.save.click(events.save_better, [session, parts.better], [parts.better, status])
    parts.export.click(events.export, [session], [parts.exported, status])


class Events:
    """
    What the page does when a visitor acts. Each function returns the new values of the page's parts.

    Args:
        model: the model.
        examples: ECGs to choose from, by name.
    """

    def __init__(self, model: DemoModel, examples: dict[str, AskedEcg]):
        self.model, self.examples = model, examples

    def open_files(self, session: Session, paths, rate, units, sex, age) -> tuple:
        """Opens uploaded files and deletes them."""
        files = {}
        try:
            for path in map(Path, paths or []):
                files[path.name] = path.read_bytes()
                path.unlink()
            given = (rate or None), (None if units == UNITS[0] else units)
            self.model.open_files(session, files, *given)
        except (ValueError, OSError) as error:
            hint = f"; fill it in under “{DETAILS}”, and upload the file again" if NO_RATE in str(error) else ""
            return *_nothing_open(session, ValueError(f"{error}{hint}")), None
        return *self._opened(session, sex, age), None

    def open_example(self, session: Session, name, sex, age) -> tuple:
        """Opens an example."""
        try:
            if name not in self.examples:
                raise ValueError("choose an example")
            self.model.open(session, self.examples[name])
        except ValueError as error:
            return _nothing_open(session, error)
        return self._opened(session, sex, age)

    def _opened(self, session: Session, sex, age) -> tuple:
        doubts = self.model.doubts(session.ecg)
        about = "\n".join([f"Opened {_plain(session.ecg.name)}.", "", *(f"- {_plain(doubt)}" for doubt in doubts)])
        return session, paper_html(session.ecg), self.measure(session, sex, age), about, [], [], "", 100, ""

    def measure(self, session: Session, sex, age) -> str:
        """Measures the ECG again, with other normal ranges."""
        if session.ecg is None:
            return ""
        text = measured_markdown(session.ecg, sex if sex in ("female", "male") else None, age)
        return f"{text}\n\n{MEASURED_NOTE}"

    def ask(self, session: Session, question: str) -> Iterator[tuple]:
        """Asks, and shows both answers while they grow."""
        as_typed = _import_gradio().skip()  # the visitor may be writing the next question
        try:
            for number, _ in enumerate(self.model.ask(session, question or "")):
                yield session.dialogue(True), session.dialogue(False), "Answering …", "" if number == 0 else as_typed
            yield session.dialogue(True), session.dialogue(False), "", as_typed
        except ValueError as error:
            yield session.dialogue(True), session.dialogue(False), _error(error), question

    def start_again(self, session: Session) -> tuple:
        """Forgets the questions so far."""
        self.model.start_again(session)
        return [], [], "", ""

    def explain(self, session: Session) -> tuple:
        """Shows what speaks for the last answer."""
        try:
            return picture_html(self.model.what_speaks_for_the_answer(session), "with occlusion"), ""
        except ValueError as error:
            return "", _error(error)

    def rate(self, session: Session, data) -> str:
        """Keeps the rating of an answer with the ECG."""
        return _keep_rating(session, data, "good")

    def rate_blind(self, session: Session, data) -> str:
        """Keeps the rating of an answer without the ECG."""
        return _keep_rating(session, data, "blind_good")

    def save_better(self, session: Session, better: str) -> tuple:
        """Keeps the visitor's own answer to the last question."""
        if not session.turns or not (better or "").strip():
            return better, _error(ValueError("write the better answer to a question that was asked"))
        session.turns[-1].better = better.strip()
        return "", f"Saved the better answer to “{_plain(session.turns[-1].question)}”."

    def export(self, session: Session) -> tuple:
        """Packs all ratings of the visit."""
        try:
            content = export_feedback(session.conversations, self.model.seconds)
        except ValueError as error:
            return None, _error(error)
        path = Path(tempfile.mkdtemp(prefix="ratings-")) / "ratings.zip"
        path.write_bytes(content)
        return str(path), "Exported."


def _chatbot(label: str, name: str):
    """A dialogue whose answers can be rated."""
    return _import_gradio().Chatbot(
        label=label,
        height=320,
        feedback_options=("Like", "Dislike"),
        buttons=["copy"],
        reasoning_tags=[(START_OF_REASONING, END_OF_REASONING)],
        elem_id=name,
    )


def _keep_rating(session: Session, data, which: str) -> str:
    place = data.index if isinstance(data.index, int) else data.index[0]
    if not 0 <= place // 2 < len(session.turns):
        return ""
    turn = session.turns[place // 2]
    good = {True: True, False: False, "Like": True, "Dislike": False}.get(data.liked)
    setattr(turn, which, good)
    words = {True: "good", False: "bad", None: "not rated"}[good]
    return f"Rated as {words}: “{_plain(turn.answer if which == 'good' else turn.blind)}”."


def _nothing_open(session: Session, error: Exception) -> tuple:
    session.ecg = None
    return session, "", "", _error(error), [], [], "", 100, ""


def _error(error: Exception) -> str:
    return f"⚠️ {_plain(one_line(error))}"


def _plain(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|$~" else letter for letter in text)
