"""What a model at an endpoint reads in the place of an ECG: its picture, or its measurements in words."""

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np

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
            items = [
                item
                for message in messages
                if not isinstance(message["content"], str)
                for item in message["content"]
                if item["type"] == "ecg"
            ]
            ecgs = [(_with_gaps(item["ecg"], item["keep_flat"]), item["sampling_rate"]) for item in items]
            if self._kind == "picture":
                contents = [_picture_item(*one) for one in ecgs]
            else:
                titles = ["ECG"] if len(ecgs) == 1 else [f"ECG {number + 1}" for number in range(len(ecgs))]
                contents = [
                    {"type": "text", "text": measurements_text(*one, title)} for one, title in zip(ecgs, titles)
                ]
            self._kept = names, contents
        return self._kept[1]


def _joined(items: list[dict]) -> str | list[dict]:
    """Text alone as a string, which every endpoint reads."""
    if all(item["type"] == "text" for item in items):
        return "\n".join(item["text"] for item in items)
    return items


def _with_gaps(ecg: np.ndarray, keep_flat: bool) -> np.ndarray:
    """The ECG with NaN in flat leads, as models read it: a flat lead is an absent one."""
    ecg = np.array(ecg, dtype=np.float32)
    if not keep_flat:
        ecg[[is_flat(lead) for lead in ecg]] = np.nan
    return ecg


def _picture_item(ecg: np.ndarray, sampling_rate: float) -> dict:
    file = BytesIO()
    plot_ecg(ecg, sampling_rate, pixels_per_mm=PIXELS_PER_MM).save(file, "PNG")
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
        f"{words} {features[f'{name}_{lead}']:.{digits}f}"
        for name, (words, digits) in LEAD_VALUES.items()
        if np.isfinite(features[f"{name}_{lead}"])
    ]
    return f"{lead}: {', '.join(values)}" if values else ""
