"""Which stretch of each beat an answer of the probe hangs on (P, QRS, ST-T, TP), and whether that is where the finding is."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from elm_hf.counterfactuals.probe_plan import SWEEP, SWEEPS, Trial, another_shape
from elm_hf.counterfactuals.probe_questions import AV_BLOCK, ELEVATIONS, LEFT_AXIS, RIGHT_AXIS, ProbeQuestion
from elm_hf.counterfactuals.probe_shares import mean_entry, share_entry, share_text
from elm_hf.ecg.beat_stretches import STRETCHES, exchange_stretch
from elm_hf.ecg.counterfactuals import Heart
from elm_hf.ecg.simulated_findings import CONDUCTION_DELAY, HYPERTROPHY, LEFT_BLOCK, PROLONGED_QT, RIGHT_BLOCK


STRETCH = "stretch"
# Where each finding is. The rate and atrial fibrillation are in more than one stretch.
WHERE = {AV_BLOCK: "P", PROLONGED_QT: "ST-T"} | dict.fromkeys(ELEVATIONS.values(), "ST-T")
WHERE |= dict.fromkeys((CONDUCTION_DELAY, LEFT_BLOCK, RIGHT_BLOCK, HYPERTROPHY, LEFT_AXIS, RIGHT_AXIS), "QRS")
_SWEPT = {sweep.finding: sweep for sweep in SWEEPS}


def clearest_value(finding: str) -> float:
    """The value of the sweep of a finding that is furthest beyond its limit."""
    sweep = _SWEPT[finding]
    return sweep.values[-1] if sweep.is_above else sweep.values[0]


def stretch_plan(hearts: Sequence[Heart], seconds: float) -> Iterator[Trial]:
    """
    Hearts with a finding, in each of whose beats one stretch is that of a heart without it, of another patient's shape.

    Args:
        hearts: of [`~elm_hf.ecg.counterfactuals.draw_hearts`] with `ALL_CHANGES`.
        seconds: length of the ECGs.
    """
    for patient, heart in enumerate(hearts):
        without = heart.with_findings(**another_shape(hearts[patient - 1]))
        for finding, where in WHERE.items():
            with_it = heart.with_findings(**_SWEPT[finding].change(clearest_value(finding)))
            for stretch in STRETCHES:
                ecg = partial(exchange_stretch, with_it, without, stretch, seconds)
                yield Trial(STRETCH, stretch, finding, patient, stretch != where, ecg)


def stretch_results(
    answered: pd.DataFrame, questions: Mapping[str, Sequence[ProbeQuestion]], seed: int
) -> dict | None:
    """
    How much less probable each stretch makes it to say that the finding is there when it is exchanged.

    Args:
        answered: the answers to questions that the model answers, of [`~elm_hf.counterfactuals.probe.ask_probe`].
        questions: of each finding.
        seed: random seed of the intervals.

    Returns:
        `agreement`: the share of the answers that find what is there of which the stretch with the largest fall is that of
        the finding. `cases`: for each finding and question the stretch of the finding (`where`), the `agreement`, the mean
        `falls` by stretch, and `gone`, the shares of the answers that no longer find it. None if nothing was asked.
    """
    cases, agrees, patients = [], [], []
    for finding, where in WHERE.items():
        clear = answered[(answered["part"] == SWEEP) & (answered["finding"] == finding)]
        clear = clear[clear["value"] == clearest_value(finding)]
        changed = answered[(answered["part"] == STRETCH) & (answered["finding"] == finding)]
        for question in questions[finding]:
            before, after = (rows[rows["question"] == question.text] for rows in (clear, changed))
            if before.empty or after.empty:
                continue
            case, found = _case(before.set_index("patient"), after, where, seed)
            cases.append({"finding": finding, "question": question.text, "where": where} | case)
            agrees += found.to_list()
            patients += found.index.to_list()
    return {"agreement": share_entry(agrees, patients, seed), "cases": cases} if cases else None


def _case(before: pd.DataFrame, after: pd.DataFrame, where: str, seed: int) -> tuple[dict, pd.Series]:
    """The figures of a question, and for each patient in whom the finding is found whether it is where the fall is largest."""
    probability = after.pivot(index="patient", columns="name", values="probability")[list(STRETCHES)]
    says = after.pivot(index="patient", columns="name", values="says").astype(bool)
    falls = -probability.sub(before["probability"], axis=0)
    found = before.index[before["says"].astype(bool)]
    # An answer of which no exchange makes the finding less probable does not hang on any stretch.
    agrees = (falls.idxmax(axis=1) == where) & (falls[where] > 0)
    agrees = agrees.loc[found]
    case = {
        "agreement": share_entry(agrees, found.to_list(), seed),
        "falls": {name: mean_entry(falls[name].to_numpy()) for name in STRETCHES},
        "gone": {name: share_entry(~says.loc[found, name], found.to_list(), seed) for name in STRETCHES},
    }
    return case, agrees


def stretch_sentence(stretches: dict | None) -> list[str]:
    """How often answers hang on the stretch of the finding, as a list of no or one sentence."""
    if stretches is None or stretches["agreement"]["share"] is None:
        return []
    agreement = stretches["agreement"]
    return [
        f"Of {agreement['answers']} answers that find what is there, {share_text(agreement)} hang on the stretch of the beat "
        f"(P, QRS, ST-T or TP) in which it is; {1 / len(STRETCHES):.2f} would by chance."
    ]


def fall_cells(case: dict) -> list[str]:
    """The mean falls of a case by stretch, in bold where the finding is."""
    cells = []
    for name in STRETCHES:
        fall = case["falls"][name]
        ends = "" if fall["low"] is None else f" [{_signed(fall['low'])}, {_signed(fall['high'])}]"
        text = _signed(fall["mean"]) + ends
        cells.append(f"**{text}**" if name == case["where"] else text)
    return cells


def _signed(value: float) -> str:
    """Two decimals, and no minus before zero."""
    return f"{np.round(value, 2) + 0.0:.2f}"
