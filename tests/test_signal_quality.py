"""What is no ECG, or not the whole one: found in signals, warned of where models answer, and clear errors about arrays."""

import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import wfdb
from test_modeling_elm import encode, user
from test_processing_elm import ecg_item, tiny_processor

from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_quality import signal_quality
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor, MissingLeadsWarning, SignalQualityWarning


def simulated(seed: int = 0, seconds: float = 10, sampling_rate: int = 250) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return simulate_ecg(draw_findings(rng), rng, seconds, sampling_rate)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.3, shape).astype(np.float32)


def changed(rows, values) -> np.ndarray:
    ecg = simulated()
    ecg[rows] = values(ecg[rows])
    return ecg


PROBLEMS = {
    "no problem": (simulated, []),
    "absent leads": (lambda: changed(slice(6, 12), lambda leads: leads * np.nan), []),
    "all zero": (lambda: simulated() * 0, ["flat: all leads"]),
    "flat leads": (lambda: changed([7, 9], lambda leads: leads * 0 + 0.5), ["flat: V2, V4"]),
    "flat from 3 s on": (
        lambda: changed(9, lambda lead: np.where(np.arange(2500) < 750, lead, 0.0)),
        ["flat for 7 s: V4"],
    ),
    "clipped": (lambda: changed(slice(6, 8), lambda leads: np.clip(leads, -0.2, 0.2)), ["clipped: V1, V2"]),
    "white noise": (lambda: noise(12, 2500), ["like white noise: all leads"]),
    "white noise in a chest lead": (lambda: changed(10, lambda lead: noise(2500)), ["like white noise: V5"]),
    "white noise in a limb lead": (lambda: changed(2, lambda lead: noise(2500)), ["the limb leads disagree: III is"]),
    "exchanged leads": (lambda: simulated()[[1, 0, *range(2, 12)]], ["the limb leads disagree: III is not II - I"]),
    "volt": (lambda: simulated() / 1000, ["the leads span 0.00"]),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_named(name):
    make, expected = PROBLEMS[name]
    found = signal_quality(make(), 250)
    assert len(found) == len(expected) and all(one.startswith(text) for one, text in zip(found, expected)), found


def test_white_noise_is_found_at_every_rate():
    assert signal_quality(noise(1, 200), 100, ["V1"]) == ["like white noise: V1"]
    assert signal_quality(noise(2, 5000), 500, ["I", "V1"]) == ["like white noise: all leads"]


def test_simulated_and_real_ecgs_have_no_problems(real_ecgs):
    ecgs = {f"simulated {seed}": (simulated(seed), 250) for seed in range(20)} | real_ecgs
    found = {name: signal_quality(ecg, rate) for name, (ecg, rate) in ecgs.items()}
    doubtful = {name: problems for name, problems in found.items() if problems}
    assert doubtful == {"JS20004": ["flat: V2, V4, V6"], "JS20008": ["flat: V2, V4, V6"], "49990063": ["flat: V6"]}


@pytest.mark.parametrize("name", ["all zero", "clipped", "white noise", "exchanged leads"])
def test_a_doubtful_ecg_is_answered_with_one_warning(name):
    ecg, problem = PROBLEMS[name][0](), PROBLEMS[name][1][0].split(":")[0]
    problem = "all leads are flat" if name == "all zero" else problem
    question = user("What is the rhythm?", ecg)
    with pytest.warns(SignalQualityWarning) as said:
        inputs = encode(tiny_processor(), [[question], [question, {"role": "assistant", "content": "a"}, question]])
    assert [str(one.message).startswith(f"ECG 1 of 3: {problem}") for one in said] == [True]
    assert inputs["ecg_values"].isfinite().all() and inputs["ecg_lead_mask"].all()


def test_zeros_on_purpose_and_training_are_not_warned_of():
    processor, ecg = tiny_processor(), noise(12, 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(processor, [{"role": "user", "content": [ecg_item(ecg * 0, keep_flat=True)]}])
        processor.prepare_ecgs([ecg], [250], None)


def test_the_part_that_is_read_is_judged():
    ecg = simulated()
    ecg[:, 500:] = noise(12, 2000)
    prepare = EcgFeatureExtractor(num_samples=500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(ecg, 250, judge_signal=True)
    with pytest.warns(SignalQualityWarning, match="like white noise: all leads"):
        EcgFeatureExtractor(num_samples=500, crop="center")(ecg, 250, judge_signal=True)


# What an item of a message may hold


@pytest.fixture
def record(tmp_path) -> str:
    """A WFDB record of 15 signals: the twelve leads and three right-sided ones."""
    ecg = np.vstack([simulated(), simulated()[6:9]])
    names = [*LEADS, "V3R", "V4R", "V5R"]
    wfdb.wrsamp("made", 250, ["mV"] * 15, names, ecg.T.astype(float), fmt=["16"] * 15, write_dir=str(tmp_path))
    return str(tmp_path / "made")


@pytest.fixture
def address(tmp_path):
    """The address of a server of the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def values(item: dict) -> np.ndarray:
    item = {"type": "ecg"} | item
    return encode(tiny_processor(), [{"role": "user", "content": [item]}])["ecg_values"].numpy()


def test_an_ecg_is_given_by_path_and_by_address(record, address):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingLeadsWarning)  # the other signals
        expected = values({"ecg": record})
        for item in (
            {"path": record, "ecg": None, "url": None},
            {"url": f"{address}/made"},
            {"url": f"{address}/made.hea"},
            {"ecg": f"{address}/made.dat"},
        ):
            assert np.array_equal(values(item), expected)
    with pytest.raises(ValueError, match=f"{address}/none.hea: cannot be downloaded .*404"):
        values({"url": f"{address}/none"})
    with pytest.raises(ValueError, match='needs one of "ecg", "path", "url" and "image", got path, url'):
        values({"path": record, "url": address})


def test_a_header_from_the_web_names_files_beside_it_only(record, address, tmp_path):
    header = (tmp_path / "made.hea").read_text()
    (tmp_path / "made.hea").write_text(header.replace("made.dat", "../made.dat"))
    with pytest.raises(ValueError, match=f'{address}/made: .*"../made.dat"'):
        values({"url": f"{address}/made"})


def test_arrays_of_8_and_15_leads_are_placed_by_name():
    ecg = simulated()
    eight = ["I", "II", *LEADS[6:]]
    found = values(ecg_item(ecg[[0, 1, *range(6, 12)]], lead_names=eight))[0]
    assert np.array_equal(found[[0, 1, *range(6, 12)]], ecg[[0, 1, *range(6, 12)], :500]) and not found[2:6].any()
    fifteen = np.vstack([ecg, ecg[6:9]])
    assert np.array_equal(values(ecg_item(fifteen, lead_names=[*LEADS, "VX", "VY", "VZ"]))[0], ecg[:, :500])


ARRAYS = {
    "8 unnamed leads": (
        lambda ecg: ecg_item(ecg[:8]),
        "8 leads without names, but the model has 12 .* Name the leads with `lead_names`",
    ),
    "transposed": (
        lambda ecg: ecg_item(ecg.T),
        r"shape \(2500, 12\) seems to be \(samples, leads\), expected \(leads, samples\). Transpose it",
    ),
    "transposed with names": (lambda ecg: ecg_item(ecg.T, lead_names=list(LEADS)), "Transpose it"),
    "other names": (lambda ecg: ecg_item(ecg, lead_names=["I", "II"]), "2 `lead_names` for an array of 12 leads"),
    "microvolt": (lambda ecg: ecg_item(ecg * 1000), "its leads span .* mV, ECGs 0.2 to 5. Divide microvolt by 1000"),
    "whole microvolt": (
        lambda ecg: ecg_item((ecg * 1000).astype(np.int16)),
        "expected millivolt as floating-point numbers, got int16. Divide integer microvolt by 1000",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_no_ecg_in_millivolt_is_named(name):
    make, message = ARRAYS[name]
    with pytest.raises(ValueError, match=f"^ECG 1 of 1: .*{message}"):
        values(make(simulated()))
