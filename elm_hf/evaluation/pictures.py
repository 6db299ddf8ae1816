"""Pictures of ECGs for the report of an evaluation: examples of answers, and the leads and times that they depend on."""

from pathlib import Path

import numpy as np
from PIL import Image

from elm_hf.ecg.plot import plot_ecg
from elm_hf.scoring.predictions import EcgsOf
from elm_hf.scoring.scores import SUMMED, Questions, answer_values
from elm_hf.utils.reports import METRIC_OF_KIND


NUM_EXAMPLES = 2  # of each kind
MOST_OCCLUSIONS = 4
PIXELS_PER_MM = 4
FULL_COLOR = (
    0.1  # the answer becomes about a tenth less probable; smaller effects stay pale, even where none is larger
)
NOT_OF_QUESTIONS = ("leads", "windows_s", "sampling_rate")  # arrays of occlusion.npz that hold for all questions


def draw_examples(folder: Path, questions: Questions, ecgs_of: EcgsOf, seed: int = 0) -> list[dict]:
    """
    Draws the ECGs of the questions with the best and the worst answers, and of random ones.

    Args:
        folder: folder for the PNG files.
        questions: with answers under the condition `ecg`.
        ecgs_of: gives the ECGs of a question by its id.
        seed: random seed for the choice among equally good answers.

    Returns:
        For each example its `kind` (best, worst, random), `question_id`, `question`, `truth`, `prediction`, `score` and
        `pictures`, the names of the files.
    """
    examples = []
    for kind, row, score in choose_examples(questions, seed):
        question = questions.table.iloc[row]
        prediction = questions.answers["ecg"][row]
        ecgs, sampling_rate = ecgs_of(question.name)
        names = []
        for number, ecg in enumerate(ecgs):
            names.append(f"example_{len(examples)}{f'_{number}' if len(ecgs) > 1 else ''}.png")
            title = question["record_ids"][number]
            caption = f"{question['question']}\npredicted: {prediction or '(empty)'}\ntrue: {question['truth']}"
            picture = plot_ecg(ecg, sampling_rate, title=title, caption=caption, pixels_per_mm=PIXELS_PER_MM)
            picture.save(folder / names[-1])
        words = {"question": question["question"], "truth": question["truth"], "prediction": prediction}
        examples.append({"kind": kind, "question_id": question.name, **words, "score": score, "pictures": names})
    return examples


def choose_examples(questions: Questions, seed: int = 0) -> list[tuple[str, int, float]]:
    """Kind of example, row of the question, and score of its answer; no question twice, ties broken at random."""
    table = questions.table
    answered = zip(questions.answers["ecg"], table["answer"], table["truth"], table["kind"])
    scores = np.array(
        [
            answer_values(prediction, tuple(items), truth, kind)[SUMMED.index(METRIC_OF_KIND[kind])]
            for prediction, items, truth, kind in answered
        ]
    )
    with_ecg = np.flatnonzero(table["record_ids"].map(len) > 0)
    shuffled = np.random.default_rng(seed).permutation(with_ecg)
    ranked = shuffled[np.argsort(-scores[shuffled], kind="stable")]
    chosen = {int(row): "best" for row in ranked[:NUM_EXAMPLES]}
    for kind, order in (("worst", ranked[::-1]), ("random", shuffled)):
        rest = [int(row) for row in order if int(row) not in chosen]
        chosen |= dict.fromkeys(rest[:NUM_EXAMPLES], kind)
    return [(kind, row, float(scores[row])) for row, kind in chosen.items()]


def draw_occlusions(file: Path, folder: Path) -> list[str]:
    """
    Draws `occlusion.npz`: the darker the paper of a lead, the less probable the answer becomes when the lead is hidden; the
    rhythm strip shows the same for each stretch of time in all leads.

    Args:
        file: as `save_occlusions` writes it.
        folder: folder for the PNG files.

    Returns:
        Names of the files, for the four questions whose answers depend most on the ECG. Attention is drawn as well, where
        the file has it.
    """
    with np.load(file) as arrays:
        found = dict(arrays)
    strongest = np.nanmax(np.c_[found["lead_effect"], found["window_effect"]], axis=1)
    sampling_rate = float(found["sampling_rate"])
    names = []
    for number, row in enumerate(np.argsort(-strongest, kind="stable")[:MOST_OCCLUSIONS]):
        one = {name: values[row] for name, values in found.items() if name not in NOT_OF_QUESTIONS}
        pictures = {"occlusion": occlusion_picture(one, found["windows_s"], sampling_rate)}
        if "attention" in one:
            pictures["attention"] = attention_picture(one, sampling_rate)
        for kind, picture in pictures.items():
            names.append(f"{kind}_{number}.png")
            picture.save(folder / names[-1])
    return names


def occlusion_picture(one: dict, windows_s: np.ndarray, sampling_rate: float) -> Image.Image:
    """
    Args:
        one: `ecg (12, samples)`, `lead_effect (12,)`, `window_effect (windows,)`, `record_id`, `question`, `prediction`.
        windows_s: `(windows, 2)`, start and end of each stretch.
        sampling_rate: in Hz.
    """
    effects = [np.nan_to_num(one[name]).clip(0) for name in ("lead_effect", "window_effect")]
    scales = [max(effect.max(), FULL_COLOR) for effect in effects]
    leads, windows = (effect / scale for effect, scale in zip(effects, scales))
    times = np.arange(one["ecg"].shape[1]) / sampling_rate
    window = np.searchsorted(windows_s[:, 0], times + 0.5 / sampling_rate) - 1
    most = [f"{effect.max():.2f} (full colour: {scale:.2f})" for effect, scale in zip(effects, scales)]
    caption = (
        f"{one['question']}\nanswer: {one['prediction']}\n"
        "Coloured: what speaks for the answer. Hiding a lead lowers the log-probability of the answer by up to "
        f"{most[0]}, hiding half a second of all leads (strip) by up to {most[1]}."
    )
    return plot_ecg(
        one["ecg"],
        sampling_rate,
        title=str(one["record_id"]),
        caption=caption,
        pixels_per_mm=PIXELS_PER_MM,
        heat=np.repeat(leads[:, None], len(times), axis=1),
        rhythm_heat=windows[window],
    )


def attention_picture(one: dict, sampling_rate: float) -> Image.Image:
    """
    Args:
        one: as for `occlusion_picture`, with `attention (12, samples)`.
        sampling_rate: in Hz.
    """
    heat = one["attention"] / max(np.percentile(one["attention"], 99.5), 1e-12)  # a few samples outshine all others
    caption = (
        f"{one['question']}\nanswer: {one['prediction']}\n"
        "Coloured: how much attention the answer pays to each sample's token, mean of layers and heads."
    )
    title = str(one["record_id"])
    return plot_ecg(
        one["ecg"], sampling_rate, title=title, caption=caption, pixels_per_mm=PIXELS_PER_MM, heat=heat.clip(0, 1)
    )
