"""What visitors of the demo think of answers, as a folder from which `elm-hf train dpo` can learn."""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from elm_hf.data.preferences import Preference
from elm_hf.inference.ask import AskedEcg


README = """\
ECGs, conversations and ratings from elm-hf demo. The file preferences.jsonl has {pairs} pairs of answers.

    elm-hf prepare ecgfolder --source THIS_FOLDER --output feedback --seconds {seconds:g} --num-folds 0
    elm-hf train dpo --model_name_or_path CHECKPOINT --dataset feedback --fold official \\
        --preferences THIS_FOLDER/preferences.jsonl --output_dir preferred

The folder contains the signals of the ECGs. Share it only if you may share these.
"""


@dataclass
class Turn:
    """
    A question of a conversation with the model's answers.

    Attributes:
        question: the question.
        answer: the answer with the ECG.
        blind: the answer without the ECG.
        good, blind_good: the visitor's ratings of both; None without one.
        better: an answer that the visitor wrote; empty without one.
        confidence, blind_confidence: how sure the model is of both answers, in words; empty if it is not known.
    """

    question: str
    answer: str = ""
    blind: str = ""
    good: bool | None = None
    blind_good: bool | None = None
    better: str = ""
    confidence: str = ""
    blind_confidence: str = ""

    def pair(self) -> tuple[str, str] | None:
        """
        The better and the worse answer: the visitor's own and the model's, or the two of the model if one of them is
        rated good and the other bad. None if the ratings do not say which is better.
        """
        answer, blind = self.answer or "(empty)", self.blind or "(empty)"
        if self.better:
            found = self.better, answer
        elif (self.good, self.blind_good) == (True, False):
            found = answer, blind
        elif (self.good, self.blind_good) == (False, True):
            found = blind, answer
        else:
            return None
        return found if found[0].strip() != found[1].strip() else None


@dataclass
class Conversation:
    """
    A conversation about an ECG.

    Attributes:
        ecg: what the model read of the ECG, see [`~elm_hf.serving.uploads.window_of`].
        turns: its questions and answers.
    """

    ecg: AskedEcg
    turns: list[Turn] = field(default_factory=list)


def export_feedback(conversations: Sequence[Conversation], seconds: float) -> bytes:
    """
    Pack rated conversations into a zip file: `ecgs/` with an array in mV for each ECG, `metadata.jsonl` as
    `elm-hf prepare ecgfolder` reads it, `preferences.jsonl` for `elm-hf train dpo`, `ratings.jsonl` with every rating,
    and a README with both commands.

    Args:
        conversations: the conversations. Those without a rating are left out.
        seconds: length that the model reads. Shorter ECGs make no record of a dataset, and thus no pair.

    Raises:
        ValueError: nothing is rated.
    """
    rated = [one for one in conversations if any(_is_rated(turn) for turn in one.turns)]
    if not rated:
        raise ValueError("nothing is rated yet; use the thumbs beside the answers, or write a better answer")
    arrays, rows, pairs, ratings = {}, [], [], []
    for number, one in enumerate(rated):
        array = _npy(one.ecg.ecg)
        digest = hashlib.sha256(array).hexdigest()[:16]
        arrays[f"ecgs/{digest}.npy"] = array
        rows.append(_row(one, digest))
        is_long_enough = one.ecg.ecg.shape[1] / one.ecg.sampling_rate > seconds - 1 / one.ecg.sampling_rate
        # How `ecgfolder` names the conversation of this row about the first segment of its ECG.
        name = f"ecgfolder-{number}-0"
        for place, turn in enumerate(one.turns):
            if _is_rated(turn):
                ratings.append({"conversation_id": name, "turn": place, **vars(turn)})
            if turn.pair() is not None and is_long_enough:
                pairs.append(vars(Preference(name, place, *turn.pair())))
    files = arrays | {
        "metadata.jsonl": _lines(rows),
        "preferences.jsonl": _lines(pairs),
        "ratings.jsonl": _lines(ratings),
        "README.txt": README.format(pairs=len(pairs), seconds=seconds).encode(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _is_rated(turn: Turn) -> bool:
    return bool(turn.better) or turn.good is not None or turn.blind_good is not None


def _row(one: Conversation, digest: str) -> dict:
    """The row of `metadata.jsonl`: the conversation as the model saw it."""
    messages = []
    for place, turn in enumerate(one.turns):
        ecg = [] if place else [{"type": "ecg"}]
        messages.append({"role": "user", "content": [*ecg, {"type": "text", "text": turn.question}]})
        text = turn.answer or "(empty)"
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
    return {
        "file_name": f"ecgs/{digest}.npy",
        "sampling_rate": one.ecg.sampling_rate,
        "patient_id": digest,
        "split": "train",
        "messages": messages,
    }


def _npy(ecg: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, ecg.astype(np.float32))
    return content.getvalue()


def _lines(rows: Sequence[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
