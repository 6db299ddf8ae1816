"""Measure the ECGs of files."""

import numpy as np

from elm_hf.ecg.claim_checks import UNITS, check_text, measure_for_claims
from elm_hf.ecg.find_files import EcgFile
from elm_hf.ecg.normal_ranges import describe_features, feature_text
from elm_hf.ecg.recording import RecordingError
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_measurements import GENERAL_FEATURES, NOISE_FEATURES, measure_ecg


def measure_file(file: EcgFile, sex: str | None = None, age: float | None = None, claims: str | None = None) -> dict:
    """
    Measure the ECG of a file.

    Args:
        file: the file, see [`~elm_hf.ecg.find_files.find_ecg_files`].
        sex, age: of the patient, for normal ranges, see [`~elm_hf.ecg.normal_ranges.describe_features`].
        claims: a text about the ECG, whose claims are checked.

    Returns:
        The name of the `file`, its `seconds` and `missing_leads`, its `measurements`, of which those that are not
        possible are None, the findings `outside_normal_range` by place, both as `text`, and what the `device` measured
        and stated. `notes` say what a table was found to mean. With a text, `claims` has a row for each of its claims: the
        `words` that make it, the `claim` in short, the `verdict`, what was `measured`, with which `tolerance`, in which `unit`,
        and the `reason` why it is not checkable.

    Raises:
        RecordingError: the file cannot be read, or has no lead with a signal.
    """
    recording = file.read()
    if len(recording.missing_leads) == len(LEADS):
        raise RecordingError("no usable lead", f"{file.path}: every lead is missing or flat")
    features = measure_ecg(recording.ecg, recording.sampling_rate)
    outside = describe_features(features, sex, age)
    checked = {} if claims is None else {"claims": _checked(claims, recording.ecg, recording.sampling_rate, sex, age)}
    return {
        "file": file.name,
        "seconds": round(recording.ecg.shape[1] / recording.sampling_rate, 3),
        "missing_leads": list(recording.missing_leads),
        "measurements": {name: round(value, 4) if np.isfinite(value) else None for name, value in features.items()},
        "outside_normal_range": {place: found for place, found in outside.items() if found},
        "text": feature_text(features, sex, age),
        "device": recording.device_report,
        "notes": list(recording.notes),
        **checked,
    }


def _checked(text: str, ecg: np.ndarray, sampling_rate: float, sex: str | None, age: float | None) -> list[dict]:
    rows = []
    for check in check_text(text, measure_for_claims(ecg, sampling_rate), sex, age):
        is_measured = check.measured is not None and np.isfinite(check.measured)
        rows.append(
            {
                "words": " ".join(text[check.claim.start : check.claim.end].split()),
                "claim": str(check.claim),
                "verdict": check.verdict,
                "measured": round(check.measured, 3) if is_measured else None,
                "tolerance": check.tolerance,
                "unit": UNITS[check.claim.quantity],
                "reason": check.reason,
            }
        )
    return rows


def measurement_text(measured: dict) -> str:
    """Return the result of `measure_file` as lines for reading."""
    lines = [f"{measured['file']} ({measured['seconds']:g} s)", *_sentences(measured["text"])]
    levels = [(lead, measured["measurements"][f"st_mv_{lead}"]) for lead in LEADS]
    levels = [f"{lead} {level:+.2f}" for lead, level in levels if level is not None]
    if levels:
        lines.insert(2, f"ST at the J point in mV: {', '.join(levels)}.")
    if measured["missing_leads"]:
        lines.append(f"Missing leads: {', '.join(measured['missing_leads'])}.")
    said = [f"{name} {value}" for name, value in measured["device"].items() if isinstance(value, int | float)]
    said += [statement for name, value in measured["device"].items() if isinstance(value, list) for statement in value]
    if said:
        lines.append(f"In the file: {'; '.join(said)}.")
    if "claims" in measured:
        lines += [_claim_line(claim) for claim in measured["claims"]] or [
            "The text makes no claim that can be measured."
        ]
    return "\n    ".join(lines)


def _claim_line(claim: dict) -> str:
    """One claim with its verdict, such as `false: "PR 240 ms" (pr=240): measured 152 ms, tolerance 20 ms`."""
    line = f'{claim["verdict"]}: "{claim["words"]}" ({claim["claim"]})'
    parts = [claim["reason"]] * bool(claim["reason"])
    for name in ("measured", "tolerance"):
        if claim[name] is not None:
            parts.append(f"{name} {claim[name]:g} {claim['unit']}".rstrip())
    return f"{line}: {', '.join(parts)}" if parts else line


def _sentences(text: str) -> list[str]:
    measurements, separator, findings = text.partition(" Outside the normal range: ")
    return [measurements, f"Outside the normal range: {findings}"] if separator else [text]


def measurement_row(measured: dict) -> dict:
    """Return the result of `measure_file` as a row of a table."""
    findings = [
        finding if place == "general" else f"{place}: {finding}"
        for place, found in measured["outside_normal_range"].items()
        for finding in found
    ]
    values = measured["measurements"]
    device = {
        name: " / ".join(value) if isinstance(value, list) else value for name, value in measured["device"].items()
    }
    return {
        "file": measured["file"],
        "seconds": measured["seconds"],
        "missing_leads": " ".join(measured["missing_leads"]),
        **{name: values[name] for name in GENERAL_FEATURES},
        **{f"st_mv_{lead}": values[f"st_mv_{lead}"] for lead in LEADS},
        **{name: values[name] for name in NOISE_FEATURES},
        "outside_normal_range": "; ".join(findings),
        **device,
    }
