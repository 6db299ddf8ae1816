"""One recording is read alike by every path: dataset, `ask`, processor, feature extractor, image processor, README."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import wfdb
from test_recordings import smooth_ecg
from transformers import AutoProcessor

from elm_hf.ecg.find_files import find_ecg_files
from elm_hf.ecg.recording import read_recording, segments
from elm_hf.inference.ask import ecg_from_file
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor, MissingLeadsWarning
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor


RATE = 500
NAN = np.nan


def filled(lead: int, start: float, end: float, value: float):
    """A change of a recording: a value in a lead from `start` to `end` in seconds."""

    def change(ecg: np.ndarray, rate: float) -> None:
        ecg[lead, round(start * rate) : round(end * rate)] = value

    return change


def several(*changes):
    def change(ecg: np.ndarray, rate: float) -> None:
        for one in changes:
            one(ecg, rate)

    return change


# Changes of a recording of 12 s of which 10 s are read, and the leads that are then missing.
TABLE = {
    "as recorded": (several(), ""),
    "one invalid sample": (filled(6, 3, 3.002, NAN), ""),
    "a gap of 0.1 s": (filled(6, 3, 3.1, NAN), ""),
    "a gap of 0.1 s at the start": (filled(6, 0, 0.1, NAN), ""),
    "a gap of 0.1 s at the end of the segment": (filled(6, 9.9, 10, NAN), ""),
    "a gap of 0.102 s": (filled(6, 3, 3.102, NAN), "V1"),
    "a gap of 1 s": (filled(7, 3, 4, NAN), "V2"),
    "a gap of 1 s behind the segment": (filled(7, 10.5, 11.5, NAN), ""),
    "a gap across the end of the segment": (filled(7, 9.95, 10.5, NAN), ""),
    "a long gap across the end of the segment": (filled(7, 9.8, 10.5, NAN), "V2"),
    "many short gaps": (several(*(filled(8, at, at + 0.05, NAN) for at in range(10))), ""),
    "gaps in several leads": (several(filled(6, 1, 2, NAN), filled(11, 5, 6, NAN)), "V1 V6"),
    "a gap in all leads": (filled(slice(None), 4, 4.05, NAN), ""),
    "a flat lead": (filled(9, 0, 12, 0), "V4"),
    "a flat lead that is not zero": (filled(9, 0, 12, 0.25), "V4"),
    "a lead that is flat in the segment": (filled(9, 0, 10.2, 0.1), "V4"),
    "a lead that is flat behind the segment": (filled(9, 10.2, 12, 0.1), ""),
    "a flat lead with an invalid sample": (several(filled(9, 0, 12, 0), filled(9, 3, 3.01, NAN)), "V4"),
    "an invalid lead": (filled(10, 0, 12, NAN), "V5"),
    "an invalid limb lead": (filled(3, 0, 12, NAN), "aVR"),
    "a spike": (filled(6, 5, 5.002, 33), ""),
    "a negative spike": (filled(6, 5, 5.002, -40), ""),
    "a spike of 0.2 s": (filled(6, 5, 5.2, 33), "V1"),
    "a spike behind the segment": (filled(6, 11, 11.2, 33), ""),
    "a spike in a flat lead": (several(filled(6, 0, 12, 0), filled(6, 5, 5.02, 33)), "V1"),
    "spike and gap": (several(filled(6, 5, 5.04, 33), filled(6, 5.04, 5.08, NAN)), ""),
    "spike and gap that are long together": (several(filled(6, 5, 5.07, 33), filled(6, 5.07, 5.14, NAN)), "V1"),
    "two leads left": (filled(slice(2, 12), 0, 12, NAN), "III aVR aVL aVF V1 V2 V3 V4 V5 V6"),
    "no lead": (filled(slice(None), 0, 12, 0), None),
    "no valid sample": (filled(slice(None), 0, 12, NAN), None),
    "no lead in the segment": (filled(slice(None), 0, 10.1, 0), None),
}


def recording(name: str, rate: float = RATE) -> np.ndarray:
    ecg = smooth_ecg(12, rate)
    TABLE[name][0](ecg, rate)
    return ecg


def write(folder: Path, ecg: np.ndarray, names=LEADS, rate: float = RATE) -> Path:
    """A WFDB record in microvolt with 32 bits, so that spikes fit; NaN is invalid."""
    digital = np.where(np.isnan(ecg), -(2**31), np.rint(np.nan_to_num(ecg) * 1000)).astype(np.int64)
    gains = {"adc_gain": [1000.0] * len(ecg), "baseline": [0] * len(ecg)}
    wfdb.wrsamp("made", rate, units=["mV"] * len(ecg), sig_name=list(names), d_signal=digital.T, fmt=["32"] * len(ecg),
                write_dir=str(folder), **gains)  # fmt: skip
    return folder / "made"


@pytest.fixture(scope="module")
def pictures() -> EcgImageProcessor:
    return EcgImageProcessor(num_samples=2500, sampling_rate=250, representation="stacked_signal")


def by_dataset(path: Path, rate: int = 250) -> tuple[np.ndarray, np.ndarray]:
    """The first segment in a table of records, as a model reads it: values `(12, samples)` and present leads."""
    segment = segments(read_recording(path), 10, rate)[0]
    if segment.index > 0:
        raise ValueError("the segment at 0 is missing")
    ecg = segment.ecg / 1000
    ecg[np.isin(LEADS, segment.missing_leads)] = np.nan
    read = EcgFeatureExtractor(rate, 10 * rate, normalization="none")(ecg, rate)
    return read["ecg_values"][0], read["ecg_lead_mask"][0]


@pytest.mark.parametrize("rate", [500, 250])
@pytest.mark.parametrize("name", TABLE)
def test_all_paths_give_the_same_values(name, rate, tmp_path, pictures):
    path, missing = write(tmp_path, recording(name, rate), rate=rate), TABLE[name][1]
    ecg = np.where(np.isnan(recording(name, rate)), np.nan, np.rint(recording(name, rate) * 1000) / 1000)
    extractor = EcgFeatureExtractor(250, 2500, normalization="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingLeadsWarning)
        if missing is None:
            for read in (
                lambda: by_dataset(path),
                lambda: extractor(str(path)),
                lambda: extractor(ecg, rate),
                lambda: extractor(ecg_from_file(*find_ecg_files([path])[0]).given),
                lambda: pictures(str(path)),
                lambda: pictures(ecg, rate),
            ):
                with pytest.raises(
                    ValueError, match="none of the leads can be used|every lead is missing|at 0 is missing"
                ):
                    read()
            return
        expected, present = by_dataset(path)
        shuffled = np.random.default_rng(0).permutation(12)
        read = {
            "path": extractor(str(path)),
            "array": extractor(ecg, rate),
            "array by name": extractor(ecg[shuffled], rate, [LEADS[row] for row in shuffled]),
            "ask": extractor(ecg_from_file(*find_ecg_files([path])[0]).given),
            "image": pictures.feature_extractor(str(path)),
            "image of an array": pictures.feature_extractor(ecg, rate),
        }
        drawn = pictures(str(path))["pixel_values"], pictures(ecg, rate)["pixel_values"]
    assert [lead for lead, is_present in zip(LEADS, present) if not is_present] == missing.split()
    for how, found in read.items():
        assert found["ecg_lead_mask"][0].tolist() == present.tolist(), how
        assert np.abs(found["ecg_values"][0] - expected).max() < 0.0006, how  # the table has whole microvolt
    assert np.array_equal(*drawn)


def test_other_signals_are_dropped_by_all_paths(tmp_path):
    names = ["vx", *LEADS, "RESP", "vz"]
    ecg = np.vstack([smooth_ecg(12)[:1], smooth_ecg(12), smooth_ecg(12)[:2]])
    path = write(tmp_path, ecg, names)
    expected, present = by_dataset(path)
    extractor = EcgFeatureExtractor(250, 2500, normalization="none")
    with pytest.warns(MissingLeadsWarning, match="not among the twelve leads are not read: vx, RESP, vz"):
        read = [extractor(str(path)), extractor(np.rint(ecg * 1000) / 1000, 500, names)]
    assert present.all()
    for found in read:
        assert found["ecg_lead_mask"].all() and np.abs(found["ecg_values"][0] - expected).max() < 0.0006


@pytest.mark.parametrize("crop", ["start", "center"])
def test_the_part_that_is_read_decides(crop, tmp_path):
    """A gap from 0 to 0.5 s is outside the 10 s in the centre of 12 s."""
    ecg = smooth_ecg(12)
    ecg[6, :250] = np.nan
    extractor = EcgFeatureExtractor(250, 2500, normalization="none", crop=crop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingLeadsWarning)
        for given, rate in ((str(write(tmp_path, ecg)), None), (ecg, 500)):
            assert extractor(given, rate)["ecg_lead_mask"][0, 6] == (crop == "center")


def test_missing_leads_are_said_with_their_causes(tmp_path):
    ecg = smooth_ecg(12)
    ecg[6, 1000:1500] = np.nan
    ecg[7] = 0
    path = write(tmp_path, ecg[:11], LEADS[:11])
    extractor = EcgFeatureExtractor(250, 2500)
    with pytest.warns(MissingLeadsWarning, match=r"V1 \(a gap of 1 s\), V2 \(flat\), V6 \(no valid sample\)"):
        extractor(str(path))
    with pytest.warns(MissingLeadsWarning, match=r"ECG 2 of 2: missing leads: V1 \(a gap of 1 s\), V2 \(flat\)$"):
        extractor([smooth_ecg(12)[:11], ecg[:11]], 500, LEADS[:11])


def test_a_lead_that_was_left_out_of_an_array_is_not_said():
    ecg = smooth_ecg(12)
    ecg[7] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = EcgFeatureExtractor(250, 2500)(ecg[:10], 500, LEADS[:10])["ecg_lead_mask"][0]
    assert [lead for lead, present in zip(LEADS, mask) if not present] == ["V2", "V5", "V6"]


def test_gaps_that_were_filled_are_counted(tmp_path):
    ecg = smooth_ecg(12)
    ecg[3, 100:110] = ecg[3, 300:330] = ecg[8, 50:60] = np.nan
    ecg[9, 100:300] = np.nan
    assert segments(read_recording(write(tmp_path, ecg)), 10)[0].num_filled == 3


def test_the_snippet_of_the_quickstart_honours_missing_leads(tiny_elm):
    page = Path(__file__).parents[1].joinpath("docs", "quickstart.md").read_text()
    lines = re.search(r"^ecg = np\.array.*?\n(?=question)", page, re.MULTILINE | re.DOTALL)[0]
    stored = {"ecg": np.full((12, 500), 300, np.int16), "missing_leads": ["aVR", "V6"]}
    names = {"np": np, "records": [stored], "processor": AutoProcessor.from_pretrained(tiny_elm)}
    exec(lines, names)
    assert np.isnan(names["ecg"]).all(axis=1).tolist() == [lead in ("aVR", "V6") for lead in LEADS]
    assert np.nanmax(names["ecg"]) == 0.3
