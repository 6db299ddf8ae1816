"""ECG-Byte: ECGs as letters and tokens, compared with a plain Python implementation and with published counts."""

import json
import math
import os
import pickle
import re
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import wfdb
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from warm_python import run_python

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.checkpoints.ecg_byte import read_ecg_byte_pickle, recover_merges, train_ecg_byte_tokenizer
from elm_hf.checkpoints.ecg_byte_voltage import find_qrs, measure_voltage, sokolow_lyon
from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.seen_patients import hash_patients, read_stages
from elm_hf.data.tables import load_records
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.tokenization_ecg_byte import EcgByteTokenizer


LETTERS = "abcdefghijklmnopqrstuvwxyz"
NUM_MERGES = 150


# The method in plain Python: letters, training and both encodings.


def letters_of(ecg: np.ndarray, low: float, high: float) -> str:
    """The letters of an ECG, computed sample by sample."""
    text = ""
    for value in np.asarray(ecg, dtype=np.float64).ravel():
        scaled = min(max((value - low) / (high - low + 1e-6), 0.0), 1.0)
        text += LETTERS[min(math.floor(26 * scaled), 25)]
    return text


def join_pair(tokens: list[str], left: str, right: str) -> list[str]:
    joined, index = [], 0
    while index < len(tokens):
        if tokens[index : index + 2] == [left, right]:
            joined.append(left + right)
            index += 2
        else:
            joined.append(tokens[index])
            index += 1
    return joined


def train_bpe(text: str, num_merges: int) -> list[tuple[str, str]]:
    """Merge the most frequent pair of the text `num_merges` times."""
    tokens, merges = list(text), []
    for _ in range(num_merges):
        counts = Counter(zip(tokens, tokens[1:]))
        pair = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(pair)
        tokens = join_pair(tokens, *pair)
    return merges


def in_merge_order(text: str, merges: list[tuple[str, str]]) -> list[str]:
    tokens = list(text)
    for left, right in merges:
        tokens = join_pair(tokens, left, right)
    return tokens


def by_longest_match(text: str, vocabulary: set[str]) -> list[str]:
    """Take the longest token at each position, found with a trie."""
    trie: dict = {}
    for token in vocabulary:
        node = trie
        for letter in token:
            node = node.setdefault(letter, {})
        node["end"] = True
    tokens, start = [], 0
    while start < len(text):
        node, end = trie, start
        for index in range(start, len(text)):
            node = node.get(text[index])
            if node is None:
                break
            if "end" in node:
                end = index + 1
        tokens.append(text[start:end])
        start = end
    return tokens


def write_pickle(path: Path, merges: list[tuple[str, str]]) -> dict[str, int]:
    """Write a file in the published format; returns the ids."""
    strings = [chr(byte) if byte < 128 else f"<{byte}>" for byte in range(256)] + [a + b for a, b in merges]
    published = [(list((a + b).encode()), 256 + number) for number, (a, b) in enumerate(merges)]
    path.write_bytes(pickle.dumps((dict(enumerate(strings)), published)))
    return {token: index for index, token in enumerate(strings)}


def levels(text: str) -> np.ndarray:
    """The ECG of a text, one lead per word, for a range of 0 to 26 mV."""
    return np.array([[LETTERS.index(letter) + 0.5 for letter in lead] for lead in text.split()])


def letter_tokenizer(*merges: tuple[str, str], **options) -> EcgByteTokenizer:
    vocab = {token: index for index, token in enumerate([*LETTERS, *(a + b for a, b in merges)])}
    return EcgByteTokenizer(vocab, list(merges), **{"value_range": (0, 26)} | options)


@pytest.fixture(scope="module")
def smooth_ecgs() -> np.ndarray:
    """Four 12-lead ECGs of 150 samples in mV with correlated neighbouring samples."""
    steps = np.random.default_rng(1).normal(0, 0.05, (4, 12, 150))
    return np.cumsum(steps, axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def published(smooth_ecgs, tmp_path_factory) -> tuple[Path, list[tuple[str, str]], dict[str, int]]:
    """A file in the published format, its merges and its ids."""
    text = "".join(letters_of(ecg, ecg.min(), ecg.max()) for ecg in smooth_ecgs)
    merges = train_bpe(text, NUM_MERGES)
    path = tmp_path_factory.mktemp("published") / "tokenizer.pkl"
    return path, merges, write_pickle(path, merges)


@pytest.fixture(scope="module")
def records_without_v6(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A dataset of three ECGs around 1 mV with missing V6 (stored as zeros), and the other leads in mV."""
    ecgs = np.random.default_rng(0).integers(900, 1100, (3, 12, 120)).astype(np.int16)
    ecgs[:, 11] = 0
    features = datasets.Features(
        ecg=datasets.Array2D((12, 120), "int16"),
        missing_leads=datasets.List(datasets.Value("string")),
        sampling_rate=datasets.Value("int32"),
        source=datasets.Value("string"),
        patient_id=datasets.Value("string"),
    )
    rows = {"ecg": list(ecgs), "missing_leads": [["V6"]] * 3, "sampling_rate": [250] * 3}
    rows |= {"source": ["noise"] * 3, "patient_id": ["1", "2", "3"]}
    folder = tmp_path_factory.mktemp("records") / "without_v6"
    (folder / "records").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "records" / "train.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: records\n  data_files:\n  - split: train\n    path: "
        "records/train.parquet\n---\n"
    )
    return folder, ecgs[:, :11].astype(np.float32) / 1000


@pytest.fixture(scope="module")
def trained(simulated_dataset, tmp_path_factory) -> tuple[Path, dict]:
    """A tokenizer trained on 30 of 200 records on one thread, and its training report."""
    folder = tmp_path_factory.mktemp("trained") / "ecg_byte"
    before, os.environ["TOKENIZERS_PARALLELISM"] = os.environ.get("TOKENIZERS_PARALLELISM"), "false"
    report = train_ecg_byte_tokenizer(simulated_dataset, 300, folder, num_records=30, scale="published")
    os.environ.pop("TOKENIZERS_PARALLELISM")
    if before is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = before
    return folder, report


# Letters


def test_letters_of_a_fixed_range():
    tokenizer = letter_tokenizer(value_range=(-1, 1))
    ecg = np.array([[-1, -0.97, 0, 0.01, 1], [-5, -0.90, 0.96, 0.99, 3]])
    assert tokenizer.ecg_to_symbols(ecg) == "aamnz abzzz"


def test_letters_of_each_ecgs_own_range():
    tokenizer = letter_tokenizer(value_range=None, lead_words=False)
    assert tokenizer.ecg_to_symbols(np.array([[10, 12, 11], [10.08, 10.07, 11.99]])) == "azmbaz"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_letters_equal_the_formula(smooth_ecgs, dtype):
    ecg = smooth_ecgs[0].astype(dtype)
    tokenizer = letter_tokenizer(value_range=(-0.3, 0.4))
    assert tokenizer.ecg_to_symbols(ecg).replace(" ", "") == letters_of(ecg, -0.3, 0.4)


def test_a_flat_ecg_has_the_lowest_letter_of_its_own_range():
    assert letter_tokenizer(value_range=None).ecg_to_symbols(np.ones((2, 3))) == "aaa aaa"


def test_a_flat_ecg_is_decoded():
    tokenizer = letter_tokenizer(value_range=None)
    decoded = tokenizer.decode_ecg(tokenizer.encode_ecg(np.full((2, 3), 0.7)), 2, (0.7, 0.7))
    np.testing.assert_allclose(decoded, np.full((2, 3), 0.7), atol=1e-6)


def test_samples_outside_the_range_are_counted_and_reported_once(caplog):
    tokenizer = letter_tokenizer(value_range=(-1, 1))
    ecg = np.array([[-2, 0, 1.5, 0.5]])
    tokenizer.encode_ecg([ecg, ecg])
    assert tokenizer.num_clipped_samples == 4
    assert [record.getMessage()[:23] for record in caplog.records] == ["2 of an ECG's 4 samples"]


# Encoding


def test_tokens_do_not_extend_into_the_next_lead():
    tokenizer = letter_tokenizer(("a", "a"), ("aa", "aa"))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode_ecg(levels("aaa aaa")))
    assert tokens == ["aa", "a", "aa", "a"]


def test_tokens_span_leads_if_the_ecg_is_a_single_string():
    tokenizer = letter_tokenizer(("a", "a"), ("aa", "aa"), lead_words=False)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode_ecg(levels("aaa aaa"))) == ["aaaa", "aa"]


def test_longest_match_and_merge_order_give_different_tokens():
    merges = [("b", "c"), ("a", "b")]
    greedy, ordered = (letter_tokenizer(*merges, encoding=name) for name in ("longest_match", "merge_order"))
    assert greedy.convert_ids_to_tokens(greedy.encode_ecg(levels("abc"))) == ["ab", "c"]
    assert ordered.convert_ids_to_tokens(ordered.encode_ecg(levels("abc"))) == ["a", "bc"]


def test_a_batch_has_the_ids_of_separate_ecgs(trained, smooth_ecgs):
    tokenizer = EcgByteTokenizer.from_pretrained(trained[0])
    alone = [tokenizer.encode_ecg(ecg) for ecg in smooth_ecgs]
    assert tokenizer.encode_ecg(smooth_ecgs) == alone
    assert tokenizer.encode_ecg(list(smooth_ecgs)) == alone


def test_truncation_does_not_cut_ecgs(smooth_ecgs):
    tokenizer = letter_tokenizer()
    assert len(tokenizer("abcd", truncation=True, max_length=2)["input_ids"]) == 2
    assert len(tokenizer.encode_ecg(smooth_ecgs[0])) == 12 * 150


# Decoding


def test_a_waveform_is_decoded_to_half_a_level(trained, smooth_ecgs):
    tokenizer = EcgByteTokenizer.from_pretrained(trained[0])
    low, high = tokenizer.value_range
    ecg = np.clip(smooth_ecgs[0], low, high)
    decoded = tokenizer.decode_ecg(tokenizer.encode_ecg(ecg))
    assert decoded.shape == ecg.shape and decoded.dtype == np.float32
    assert np.abs(decoded - ecg).max() <= (high - low) / 52 + 1e-5


def test_every_decoded_sample_is_the_middle_of_its_level():
    tokenizer = letter_tokenizer(("a", "z"), value_range=None)
    ids = tokenizer.convert_tokens_to_ids(["az", "b", "c"])
    np.testing.assert_allclose(tokenizer.decode_ecg(ids, 2, (-13, 13)), [[-12.5, 12.5], [-11.5, -10.5]], atol=1e-5)


def test_decoding_with_a_range_per_ecg_requires_the_range():
    with pytest.raises(ValueError, match="give its minimum and maximum"):
        letter_tokenizer(value_range=None).decode_ecg([0, 1], num_leads=1)


@pytest.mark.parametrize("ids", [[0, 26], [0, -1], [65, 97]])
def test_ids_without_samples_are_refused(ids):
    with pytest.raises(ValueError, match=rf"Token {ids[1] if ids[0] == 0 else 65} at position"):
        letter_tokenizer().decode_ecg(ids, num_leads=1)


def test_an_incomplete_lead_is_refused():
    with pytest.raises(ValueError, match="5 samples, which are not 2 leads"):
        letter_tokenizer().decode_ecg([0] * 5, num_leads=2)


def test_token_spans_give_the_lead_and_the_samples_of_each_token():
    tokenizer = letter_tokenizer(("a", "a"), ("b", "a"), lead_words=False)
    ids = tokenizer.encode_ecg(levels("aaab abbb"))
    assert tokenizer.convert_ids_to_tokens(ids) == ["aa", "a", "ba", "b", "b", "b"]
    assert tokenizer.token_spans(ids, num_leads=2).tolist() == [
        [0, 0, 0, 2],
        [1, 0, 2, 3],
        [2, 0, 3, 4],  # covers samples of both leads
        [2, 1, 0, 1],
        [3, 1, 1, 2],
        [4, 1, 2, 3],
        [5, 1, 3, 4],
    ]


# Saving and loading


def test_the_tokenizers_library_gives_the_same_ids(trained, smooth_ecgs, tmp_path):
    for encoding in ("longest_match", "merge_order"):
        tokenizer = EcgByteTokenizer.from_pretrained(trained[0], encoding=encoding)
        tokenizer.save_pretrained(tmp_path / encoding)
        plain = Tokenizer.from_file(str(tmp_path / encoding / "tokenizer.json"))
        text = tokenizer.ecg_to_symbols(smooth_ecgs[0])
        assert plain.encode(text).ids == tokenizer.encode_ecg(smooth_ecgs[0]) == tokenizer(text)["input_ids"]
        assert plain.decode(plain.encode(text).ids) == text.replace(" ", "")


def test_a_saved_tokenizer_keeps_its_settings_and_ids(published, smooth_ecgs, tmp_path):
    tokenizer = EcgByteTokenizer.from_pretrained(
        save(read_ecg_byte_pickle(published[0]), tmp_path / "first"), value_range=(-0.5, 0.5), encoding="merge_order"
    )
    again = EcgByteTokenizer.from_pretrained(save(tokenizer, tmp_path / "second"))
    assert (again.value_range, again.encoding, again.lead_words) == ((-0.5, 0.5), "merge_order", False)
    assert again.encode_ecg(smooth_ecgs) == tokenizer.encode_ecg(smooth_ecgs)
    assert again.get_vocab() == tokenizer.get_vocab()


def save(tokenizer: EcgByteTokenizer, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


def test_it_loads_in_a_fresh_process_without_elm_hf(trained, smooth_ecgs, tmp_path):
    np.save(tmp_path / "ecg.npy", smooth_ecgs[0])
    code = (
        "import sys, json, numpy as np; sys.modules['elm_hf'] = None\n"
        "from transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(trained[0])!r}, trust_remote_code=True)\n"
        "print(json.dumps(tokenizer.encode_ecg(np.load('ecg.npy'))))"
    )
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = run_python(["-c", code], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = EcgByteTokenizer.from_pretrained(trained[0]).encode_ecg(smooth_ecgs[0])
    assert json.loads(done.stdout) == expected


# Training


def test_a_trained_vocabulary_has_consecutive_ids_and_letters_only(trained):
    tokenizer = EcgByteTokenizer.from_pretrained(trained[0])
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokens[:26] == list(LETTERS) and len(tokens) == 26 + 300
    assert all(re.fullmatch("[a-z]{2,}", token) for token in tokens[26:])


def test_tokens_of_a_trained_vocabulary_equal_those_of_the_plain_method(trained, simulated_dataset):
    ecg = np.array(load_records(simulated_dataset)[0]["ecg"], dtype=np.float32) / 1000
    greedy, ordered = (
        EcgByteTokenizer.from_pretrained(trained[0], encoding=name) for name in ("longest_match", "merge_order")
    )
    merges = [tuple(pair) for pair in json.loads((trained[0] / "tokenizer.json").read_text())["model"]["merges"]]
    leads = [letters_of(lead, *greedy.value_range) for lead in ecg]
    vocabulary = set(LETTERS) | {a + b for a, b in merges}
    expected = [token for lead in leads for token in by_longest_match(lead, vocabulary)]
    assert greedy.convert_ids_to_tokens(greedy.encode_ecg(ecg)) == expected
    expected = [token for lead in leads for token in in_merge_order(lead, merges)]
    assert ordered.convert_ids_to_tokens(ordered.encode_ecg(ecg)) == expected


def test_the_first_merge_joins_the_most_frequent_pair_of_the_leads(records_without_v6, tmp_path):
    folder, ecgs = records_without_v6
    report = train_ecg_byte_tokenizer(folder, 1, tmp_path / "one", scale="published")
    texts = [letters_of(lead, *report["value_range"]) for ecg in ecgs for lead in ecg]
    pairs = Counter(pair for text in texts for pair in zip(text, text[1:]))
    tokenizer = EcgByteTokenizer.from_pretrained(tmp_path / "one")
    assert tuple(tokenizer.convert_ids_to_tokens(26)) == pairs.most_common(1)[0][0]


def test_the_command_gives_the_same_vocabulary_on_four_threads(trained, simulated_dataset, tmp_path):
    command = [Path(sys.executable).with_name("elm-hf"), "train-tokenizer", simulated_dataset, "--merges", "300"]
    command += ["--scale", "published", "--num-records", "30", "--output", tmp_path / "ecg_byte", "--quiet"]
    environment = os.environ | {"RAYON_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "true"}
    done = run_python(command, environment)
    assert done.returncode == 0, done.stderr
    assert "300 merges from 30 records" in done.stdout and "170 records not used in training" in done.stdout
    for name in ("tokenizer.json", "tokenizer_config.json", "README.md"):
        assert (tmp_path / "ecg_byte" / name).read_bytes() == (trained[0] / name).read_bytes()


def test_a_fold_has_the_tokenizer_trained_on_its_training_patients(simulated_dataset, tmp_path):
    training = load_elm_dataset(simulated_dataset, fold=1, split="train")["patient_ids"]
    training = {patient for patients in training for patient in patients}
    owners = load_records(simulated_dataset)["patient_id"]
    report = train_ecg_byte_tokenizer(simulated_dataset, 1, tmp_path / "fold1", num_records=1000, fold=1)
    assert report["num_records"] == sum(owner in training for owner in owners) < len(owners)
    assert "from the training patients of fold 1 |" in (tmp_path / "fold1" / "README.md").read_text()
    (stage,) = read_stages(tmp_path / "fold1")
    assert str(stage) == "tokenizer training on simulated, fold 1"
    assert stage.patients.tolist() == hash_patients([f"simulated_qa/{patient}" for patient in training]).tolist()


def test_patients_whose_ecgs_were_not_drawn_for_the_tokenizer_are_not_seen(simulated_dataset, tmp_path):
    train_ecg_byte_tokenizer(simulated_dataset, 1, tmp_path / "one", num_records=1)
    (stage,) = read_stages(tmp_path / "one")
    owners = {f"simulated_qa/{patient}" for patient in load_records(simulated_dataset)["patient_id"]}
    assert len(stage.patients) == 1 < len(owners) and stage.patients[0] in hash_patients(owners)
    assert str(stage) == "tokenizer training on simulated"


def test_the_range_ignores_missing_leads(records_without_v6, tmp_path):
    folder, ecgs = records_without_v6
    report = train_ecg_byte_tokenizer(folder, 5, tmp_path / "tokenizer", scale="published")
    present = np.sort(ecgs.ravel())
    place = 0.01 * (len(present) - 1)  # position of the first percentile, between two values
    first = np.interp(place, np.arange(len(present)), present)
    last = np.interp(len(present) - 1 - place, np.arange(len(present)), present)
    assert report["value_range"] == pytest.approx((first - 0.5, last + 0.5), abs=1e-3)


def test_the_figures_of_the_card_are_measured_on_other_records(trained):
    folder, report = trained
    assert report["num_measured"] == 170 and not report["measured_on_training"]
    card = (folder / "README.md").read_text()
    assert "Measured on 170 records not used in training" in card
    assert f"| {report['compression']:.2f} samples per token |" in card
    assert f"| {report['rmse_uv']:.1f} µV |" in card and f"| {report['max_uv']:.0f} µV |" in card


def test_compression_and_error_equal_those_of_the_plain_method(records_without_v6, tmp_path):
    folder, ecgs = records_without_v6
    report = train_ecg_byte_tokenizer(folder, 20, tmp_path / "tokenizer", scale="published")
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    low, high = report["value_range"]
    texts = [letters_of(lead, low, high) for ecg in ecgs for lead in ecg]
    num_tokens = sum(len(plain.encode(text).ids) for text in texts)
    middles = [[low + (LETTERS.index(letter) + 0.5) * (high - low) / 26 for letter in text] for text in texts]
    errors = 1000 * (np.array(middles) - ecgs.reshape(33, 120))
    assert report["measured_on_training"] and report["num_measured"] == 3
    assert report["compression"] == pytest.approx(errors.size / num_tokens)
    assert report["rmse_uv"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
    assert report["max_uv"] == pytest.approx(np.abs(errors).max(), rel=1e-4)
    assert "**that were also used in training**" in (tmp_path / "tokenizer" / "README.md").read_text()


def test_clipped_samples_are_reported(trained):
    """At most 1 % of the samples are outside the range at each end."""
    folder, report = trained
    assert 0 < report["clipped"] < 0.02
    assert f"| samples clipped | {100 * report['clipped']:.3f} % |" in (folder / "README.md").read_text()


def test_companded_levels_widen_with_the_amplitude():
    tokenizer = letter_tokenizer(value_range=(-5, 5), companding=0.35)
    # the 27 edges: equally spaced in asinh(x / 0.35), whose inverse is 0.35 sinh
    end = math.log(5 / 0.35 + math.sqrt((5 / 0.35) ** 2 + 1))
    edges = [0.35 * (math.exp(u) - math.exp(-u)) / 2 for u in (end * (number / 13 - 1) for number in range(27))]
    np.testing.assert_allclose(tokenizer.level_widths(), np.diff(edges), rtol=1e-5)
    assert 0.09 < tokenizer.level_widths().min() < 0.1 and tokenizer.level_widths().max() > 1
    inside = np.array([[low + share * (high - low) for share in (0.01, 0.5, 0.99)] for low, high in pairwise(edges)])
    assert tokenizer.ecg_to_symbols(inside) == " ".join(3 * letter for letter in LETTERS)
    decoded = tokenizer.decode_ecg(tokenizer.encode_ecg(inside), num_leads=26)
    assert ((edges[:-1] < decoded.T) & (edges[1:] > decoded.T)).all()
    assert tokenizer.ecg_to_symbols(np.array([[-9.0, 9.0]])) == "az" and tokenizer.num_clipped_samples == 2


def test_a_companded_tokenizer_is_saved_and_loaded(simulated_dataset, tmp_path):
    folder = tmp_path / "companded"
    report = train_ecg_byte_tokenizer(simulated_dataset, 50, folder, num_records=20)
    tokenizer = EcgByteTokenizer.from_pretrained(folder)
    assert (tokenizer.value_range, tokenizer.companding) == ((-5, 5), 0.35)
    assert report["clipped"] == report["qrs_clipped"] == 0
    card = (folder / "README.md").read_text()
    assert f"| error at QRS peaks, median | {report['peak_error_uv']:.0f} µV |" in card
    assert "| width of a letter | 91 µV near 0 mV to " in card


@pytest.mark.parametrize(
    "options, message",
    [
        ({"value_range": None, "companding": 0.3}, "`companding` needs a `value_range`"),
        ({"value_range": (-5, 5), "companding": 0}, "`companding` is 0 mV; expected a positive amplitude"),
    ],
)
def test_companding_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        letter_tokenizer(**options)


def beats_of(height: float, depth: float, st: float) -> np.ndarray:
    """An ECG of 10 s at 250 Hz: R of `height` in V5, S of `depth` in V1 and an ST level of `st` mV in all leads."""
    ecg = np.zeros((12, 2500))
    time = np.arange(-150, 150) / 250
    qrs = np.exp(-((time / 0.012) ** 2))
    for start in range(150, 2250, 250):
        ecg[:, start : start + 300] += st * ((time > 0.06) & (time < 0.3)) + 0.3 * qrs
        ecg[LEADS.index("V1"), start : start + 300] -= (depth + 0.3) * qrs
        ecg[LEADS.index("V5"), start : start + 300] += (height - 0.3) * qrs
    return ecg.astype(np.float32)


def test_the_published_scale_loses_high_voltage_and_the_companded_one_keeps_it():
    ecg = beats_of(2.6, 1.9, 0.12)
    assert sokolow_lyon(ecg, find_qrs(ecg, 250), 250) == pytest.approx(4.5, abs=0.02)
    published = measure_voltage(letter_tokenizer(value_range=(-1.2, 1.3)), [ecg], 250)
    companded = measure_voltage(letter_tokenizer(value_range=(-5, 5), companding=0.35), [ecg], 250)
    assert published["num_qrs"] == companded["num_qrs"] == 9
    assert (published["qrs_clipped"], published["num_tall"], published["tall_kept"]) == (1, 1, 0)
    assert (companded["qrs_clipped"], companded["num_tall"], companded["tall_kept"]) == (0, 1, 1)
    # by hand: 0.12 mV is in the second level above 0 (0.091 to 0.189 mV), whose centre is 0.35 sinh(1.5 u)
    u = math.asinh(5 / 0.35) / 13
    assert companded["st_error_uv"] == pytest.approx(1000 * abs(0.35 * math.sinh(1.5 * u) - 0.12), abs=0.5)


def test_too_many_merges_are_refused_and_write_nothing(simulated_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"1 records give only \d+ of 1000000 merges"):
        train_ecg_byte_tokenizer(simulated_dataset, 1_000_000, tmp_path / "out", num_records=1)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(trained, simulated_dataset):
    with pytest.raises(FileExistsError, match="is not empty"):
        train_ecg_byte_tokenizer(simulated_dataset, 20, trained[0])


# Published files


def test_merge_pairs_are_recovered_from_whole_strings(published):
    _, merges, _ = published
    assert recover_merges([a + b for a, b in merges]) == merges


@pytest.mark.parametrize("encoding", ["longest_match", "merge_order"])
def test_an_imported_tokenizer_has_the_published_ids(published, smooth_ecgs, encoding, tmp_path):
    path, merges, ids = published
    convert_checkpoint("ecg_byte", path, tmp_path / "converted")
    tokenizer = EcgByteTokenizer.from_pretrained(tmp_path / "converted", encoding=encoding)
    assert len(tokenizer) == 256 + NUM_MERGES
    for ecg in smooth_ecgs:
        text = letters_of(ecg, ecg.min(), ecg.max())
        if encoding == "longest_match":
            tokens = by_longest_match(text, {a + b for a, b in merges} | set(LETTERS))
        else:
            tokens = in_merge_order(text, merges)
        assert tokenizer.encode_ecg(ecg) == [ids[token] for token in tokens]


# Token counts of the published tokenizer_1000_25 for 12 x 2500 samples, by longest match and in merge order
PUBLISHED_COUNTS = {6000: (2792, 2859), 6001: (2919, 3001), 6002: (1543, 1602)}
PUBLISHED_COUNTS |= {6003: (3759, 3819), 6004: (2350, 2362), 6005: (3841, 3951)}


def test_a_published_file_gives_the_published_counts_on_real_ecgs(shared_data, tmp_path):
    convert_checkpoint("ecg_byte", shared_data / "ecg_byte/ecg_byte_tokenizer_1000_25.pkl", tmp_path / "converted")
    greedy = AutoTokenizer.from_pretrained(tmp_path / "converted", trust_remote_code=True)
    ordered = EcgByteTokenizer.from_pretrained(tmp_path / "converted", encoding="merge_order")
    names = [str(shared_data / f"ptb_xl/records500/06000/{number:05d}_hr") for number in PUBLISHED_COUNTS]
    ecgs = [wfdb.rdrecord(name).p_signal[:5000:2].T for name in names]
    counts = zip(map(len, greedy.encode_ecg(ecgs)), map(len, ordered.encode_ecg(ecgs)))
    assert list(counts) == list(PUBLISHED_COUNTS.values())
    decoded = greedy.decode_ecg(greedy.encode_ecg(ecgs[0]), value_range=(ecgs[0].min(), ecgs[0].max()))
    assert np.abs(decoded - ecgs[0]).max() <= np.ptp(ecgs[0]) / 52 + 1e-5


class Malicious:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_imports_is_refused_and_not_executed(tmp_path):
    path, trace = tmp_path / "tokenizer.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps(({0: "a"}, [Malicious(f"touch {trace}")])))
    with pytest.raises(ValueError, match=r"refused, nothing was executed: it wants to import (posix|nt)\.system"):
        convert_checkpoint("ecg_byte", path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]
    pickle.loads(path.read_bytes())  # shows that the command would run
    assert trace.exists()


def rewritten(path: Path, change) -> Path:
    vocab, merges = pickle.loads(path.read_bytes())
    changed = path.with_name("changed.pkl")
    changed.write_bytes(pickle.dumps(change(vocab, merges)))
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vocab, merges: vocab, "it holds dict; expected a tuple"),
        (lambda vocab, merges: (vocab, merges[:3] + merges[4:]), "merge 3 has the id 260; expected 259"),
        (lambda vocab, merges: (vocab, [([65, 66], 256)]), r"merge 0 has the symbols \[65, 66\]"),
        (lambda vocab, merges: (vocab, [(7, 256)]), r"merge \(7, 256\)"),
        (lambda vocab, merges: (vocab | {300: "xyz"}, merges), "has 'xyz' as id 300"),
        (lambda vocab, merges: (vocab | {9999: "xyz"}, merges), "has more than 406 ids"),
        (
            lambda vocab, merges: ({i: s for i, s in vocab.items() if i < 256} | {256: "abc"}, [([97, 98, 99], 256)]),
            r"merge 0 gives 'abc', which the merges before it split into 3 tokens \(a, b, c\); expected two",
        ),
    ],
)
def test_a_pickle_of_something_else_is_refused(published, change, message):
    with pytest.raises(ValueError, match=message):
        read_ecg_byte_pickle(rewritten(published[0], change))


def test_a_damaged_pickle_is_refused(published, tmp_path):
    damaged = tmp_path / "damaged.pkl"
    damaged.write_bytes(published[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged.pkl: "):
        read_ecg_byte_pickle(damaged)


def nested(kind: bytes, depth: int) -> bytes:
    return b"\x80\x04" + kind * depth + {b"]": b"a", b")": b"\x85"}[kind] * (depth - 1) + b"."


# Small files that take very long, or very much memory, when they are built, compared or written as text.
BOMBS = {
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a list twice in a list, 60 times": b"\x80\x02]q\x00"
    + b"".join(b"](h%ch%ceq%c" % (place, place, place + 1) for place in range(60))
    + b".",
    "a tuple twice in a tuple, 60 times": b"\x80\x02)q\x00"
    + b"".join(b"h%ch%c\x86q%c" % (place, place, place + 1) for place in range(60))
    + b".",
    "the memo's last place": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "the memo's last place as text": b"I1\np9223372036854775807\n.",
    "lists 100,000 deep": nested(b"]", 100_000),
    "a frame of 2 ** 62 bytes": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"K\x01.",
    "a string of 2 ** 62 bytes": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"a.",
    "a number of 100,000 bytes": b"\x80\x02\x8b" + (100_000).to_bytes(4, "little") + b"\x7f" * 100_000 + b".",
    "a number of 10,000 digits": b"L" + b"9" * 10_000 + b"L\n.",
    "copies of the last object": b"\x80\x02]" + b"2" * 1000 + b".",
    "no stack": b"\x80\x02a.",
    "no mark": b"\x80\x02e.",
    "a mark that is remembered": b"\x80\x02(q\x00.",
    "a dictionary with a list as a key": b"\x80\x02}](K\x01es.",
    "a set": b"\x80\x04\x8f.",
    "an import as text": b"cposix\nsystem\n(Vtrue\ntR.",
    "an extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_would_grow_is_refused_before_it_is_built(bomb, tmp_path):
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(BOMBS[bomb])
    start = time.monotonic()
    with pytest.raises(ValueError, match="tokenizer.pkl: "):
        read_ecg_byte_pickle(path)
    assert time.monotonic() - start < 5


def test_a_vocabulary_of_strange_values_is_refused_in_one_line(tmp_path):
    strings = dict(enumerate([chr(byte) if byte < 128 else f"<{byte}>" for byte in range(256)]))
    path = tmp_path / "tokenizer.pkl"
    for values in ([97.0, 98], [[97], 98], [None], [True], ["a"], [97] * 6000):
        path.write_bytes(pickle.dumps((strings | {256: "ab"}, [(values, 256)])))
        with pytest.raises(ValueError, match="not an ECG-Byte tokenizer: "):
            read_ecg_byte_pickle(path)


# Invalid input


def test_the_tokenizer_of_a_text_model_is_refused(tmp_path):
    tiny_tokenizer("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vocabulary of 400 tokens has tokens such as .*letters a ... z"):
        EcgByteTokenizer.from_pretrained(tmp_path)


def test_a_vocabulary_without_a_letter_is_refused():
    with pytest.raises(ValueError, match="no token for z"):
        EcgByteTokenizer({letter: index for index, letter in enumerate(LETTERS[:-1])}, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"encoding": "greedy"}, '"greedy"; expected longest_match or merge_order'), ({"value_range": (1, 1)}, "1 to 1")],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        letter_tokenizer(**options)


@pytest.mark.parametrize(
    ("ecg", "message"),
    [
        (np.array([[0.1, 0.2], [np.nan, 0.3]]), "ECG 2 of 2: 1 samples are NaN or infinite, .* sample 0 of lead 2"),
        (np.array([[0.1, np.inf]]), "ECG 2 of 2: 1 samples are NaN or infinite, .* sample 1 of lead 1"),
        (np.zeros(5), r"ECG 2 of 2: expected the shape \(leads, samples\), got \(5,\)"),
        (np.zeros((12, 0)), r"ECG 2 of 2: .* got \(12, 0\)"),
        (np.zeros((12, 5), dtype=np.int16), "ECG 2 of 2: .* got int16. Divide integer microvolt by 1000"),
    ],
)
def test_invalid_ecgs_are_refused(ecg, message):
    with pytest.raises(ValueError, match=message):
        letter_tokenizer().encode_ecg([np.ones((12, 5)), ecg])
