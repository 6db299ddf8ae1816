"""What a model at an endpoint reads in the place of an ECG: its picture, or its measurements in words."""

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from elm_hf.ecg.normal_ranges import measured_values
from elm_hf.ecg.plot import plot_ecg
from elm_hf.modeling.ecg_leads import LEADS, is_flat
from elm_hf.modeling.ecg_measurements import measure_ecg


INPUTS = ("picture", "measurements")
PIXELS_PER_MM = 6
# Features of a lead in words, with their number of decimals. ST is at the J point.
LEAD_VALUES = {
    "p_mv": ("P", 2),
    "q_ms": ("Q width in ms", 0),
    "q_mv": ("Q", 2),
    "r_mv": ("R", 2),
    "s_mv": ("S", 2),
    "st_mv": ("ST", 2),
    "t_mv": ("T", 2),
}


class EcgContents:
    """
    Content items that stand for the ECGs of a conversation. Those of the last ECGs are kept, since prompts about the same
    ECGs come together.

    Args:
        kind: one of `INPUTS`. `"picture"`: a PNG file, drawn as by [`plot_ecg`]; `"measurements"`: the values of
            [`measure_ecg`], without findings that follow from them.

    Raises:
        ValueError: there is no such input.
    """

    def __init__(self, kind: str):
        if kind not in INPUTS:
            raise ValueError(f'an ECG is sent as {" or ".join(INPUTS)} (--endpoint-input), not as "{kind}"')
        self._kind = kind
        self._kept: tuple[tuple[str, ...], list[dict]] = ((), [])

    def messages(self, messages: Sequence[dict], names: tuple[str, ...], system_prompt: str | None) -> list[dict]:
        """
        A conversation for a chat endpoint.

        Args:
            messages: with the items of [`fill_ecgs`].
            names: of their ECGs; equal names stand for equal ECGs.
            system_prompt: opens a conversation without a system message; None for none.
        """
        ecgs = iter(self._contents(messages, names))
        sent = []
        if system_prompt is not None and (not messages or messages[0]["role"] != "system"):
            sent.append({"role": "system", "content": system_prompt})
        for message in messages:
            content = message["content"]
            if not isinstance(content, str):
                content = _joined(
                    [
                        next(ecgs) if item["type"] == "ecg" else {"type": "text", "text": item["text"]}
                        for item in content
                    ]
                )
            sent.append({"role": message["role"], "content": content})
        return sent

    def _contents(self, messages: Sequence[dict], names: tuple[str, ...]) -> list[dict]:
        if self._kept[0] != names:
            items = filled_items(messages)
            if self._kind == "picture":
                contents = [_picture_content(item) for item in items]
            else:
                titles = ["ECG"] if len(items) == 1 else [f"ECG {number + 1}" for number in range(len(items))]
                contents = [
                    {"type": "text", "text": measurements_text(_with_gaps(item), item["sampling_rate"], title)}
                    for item, title in zip(items, titles)
                ]
            self._kept = names, contents
        return self._kept[1]


def _joined(items: list[dict]) -> str | list[dict]:
    """Text alone as a string, which every endpoint reads."""
    if all(item["type"] == "text" for item in items):
        return "\n".join(item["text"] for item in items)
    return items


def filled_items(messages: Sequence[dict]) -> list[dict]:
    """The ECG items of messages that [`fill_ecgs`] has filled."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [item for content in contents for item in content if item["type"] == "ecg"]


def draw_item(item: dict) -> Image.Image:
    """The picture of an ECG item."""
    return plot_ecg(_with_gaps(item), item["sampling_rate"], pixels_per_mm=PIXELS_PER_MM)


def _with_gaps(item: dict) -> np.ndarray:
    """The ECG with NaN in flat leads, as models read it: a flat lead is an absent one."""
    ecg = np.array(item["ecg"], dtype=np.float32)
    if not item["keep_flat"]:
        ecg[[is_flat(lead) for lead in ecg]] = np.nan
    return ecg


def _picture_content(item: dict) -> dict:
    file = BytesIO()
    draw_item(item).save(file, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


def measurements_text(ecg: np.ndarray, sampling_rate: float, title: str = "ECG") -> str:
    """
    The measurements of an ECG as text, those of the whole ECG and those of each lead.

    Args:
        ecg: array `(12, samples)` in mV, NaN where invalid.
        sampling_rate: sampling rate in Hz.
        title: what the ECG is called.
    """
    features = measure_ecg(ecg, sampling_rate)
    found = [f"{words} {value}" for words, value in measured_values(features).items()]
    found += [
        f"{words} {features[name]:.{digits}f}{unit}"
        for name, (words, digits, unit) in {
            "rr_variation": ("variation of RR intervals", 2, ""),
            "longest_rr_s": ("longest RR interval", 2, " s"),
            "premature_beats": ("premature beats", 0, ""),
        }.items()
        if np.isfinite(features[name])
    ]
    head = f"{title}, {ecg.shape[1] / sampling_rate:g} s, measured: {', '.join(found) or 'nothing can be measured'}."
    lines = [_lead_line(lead, features) for lead in LEADS]
    return "\n".join([head, *([_EXPLANATION] * any(lines)), *filter(None, lines)])


_EXPLANATION = "Leads: amplitudes in mV, ST at the J point, T negative where inverted."


def _lead_line(lead: str, features: dict[str, float]) -> str:
    values = [
        f"{words} {round(features[f'{name}_{lead}'], digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.00"
        for name, (words, digits) in LEAD_VALUES.items()
        if np.isfinite(features[f"{name}_{lead}"])
    ]
    return f"{lead}: {', '.join(values)}" if values else ""
