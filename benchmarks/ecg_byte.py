"""ECG-Byte on one thread: letters, both encodings and training, compared with plain Python implementations.

python benchmarks/ecg_byte.py
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace


os.environ["RAYON_NUM_THREADS"] = "1"  # before `tokenizers` starts its threads

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from elm_hf.ecg.simulated_findings import draw_findings
from elm_hf.ecg.simulation import simulate_ecg
from elm_hf.modeling.tokenization_ecg_byte import SYMBOLS, EcgByteTokenizer


NUM_ECGS, NUM_MERGES = 500, 3500  # training on many ECGs
NUM_FEWER, MORE_MERGES = 40, 5000  # comparisons of training and of encoding
REPEATS = 3
VALUE_RANGE = (-1.5, 1.5)


def vectorized_letters(ecg: np.ndarray) -> str:
    """Letters of an ECG, sample by sample with `np.vectorize`."""
    low, high = VALUE_RANGE
    scaled = np.clip((ecg - low) / (high - low + 1e-6), 0, 1)
    return "".join(np.vectorize(lambda value: SYMBOLS[min(int(26 * value), 25)])(scaled).ravel())


def rebuilt_trie(text: str, tokens: Iterable[str]) -> list[str]:
    """Longest match in plain Python, with a trie that is built for each ECG."""
    trie: dict = {}
    for token in tokens:
        node = trie
        for letter in token:
            node = node.setdefault(letter, {})
        node[""] = token
    found, start = [], 0
    while start < len(text):
        node, longest = trie, ""
        for place in range(start, len(text)):
            node = node.get(text[place])
            if node is None:
                break
            longest = node.get("", longest)
        found.append(longest)
        start += len(longest)
    return found


def train(texts: list[str], num_merges: int) -> Tokenizer:
    """Trains byte-pair encoding on words separated by spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=26 + num_merges, initial_alphabet=list(SYMBOLS), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def milliseconds(function: Callable, *arguments, repeats: int = REPEATS) -> float:
    """Processor time, which does not depend on other programs; best of several rounds."""
    rounds = []
    for _ in range(repeats):
        start = time.process_time()
        function(*arguments)
        rounds.append(time.process_time() - start)
    return 1000 * min(rounds)


def compare_letters(ecgs: list[np.ndarray], alphabet: EcgByteTokenizer) -> None:
    ours = milliseconds(lambda: [alphabet.ecg_to_symbols(ecg) for ecg in ecgs]) / len(ecgs)
    plain = milliseconds(vectorized_letters, ecgs[0])
    assert alphabet.ecg_to_symbols(ecgs[0]).replace(" ", "") == vectorized_letters(ecgs[0])
    print(f"letters        {ours:7.3f} ms/ECG; np.vectorize {plain:.1f} ms: ratio {plain / ours:.0f}")


def compare_training(texts: list[str]) -> None:
    many = milliseconds(train, texts, NUM_MERGES, repeats=1) / 1000
    leads = milliseconds(train, texts[:NUM_FEWER], NUM_MERGES, repeats=1) / 1000
    strings = [text.replace(" ", "") for text in texts[:NUM_FEWER]]
    whole = milliseconds(train, strings, NUM_MERGES, repeats=1) / 1000
    print(f"training       {many:7.1f} s for {len(texts)} ECGs, {NUM_MERGES} merges, leads as words")
    print(f"               {leads:7.1f} s for {NUM_FEWER}; ECGs as words {whole:.1f} s: ratio {whole / leads:.1f}")


def compare_encodings(ecgs: list[np.ndarray], texts: list[str]) -> None:
    model = json.loads(train(texts, MORE_MERGES).to_str())["model"]
    strings = [text.replace(" ", "") for text in texts]
    plain = milliseconds(lambda: [rebuilt_trie(string, model["vocab"]) for string in strings]) / len(ecgs)
    for encoding in ("longest_match", "merge_order"):
        tokenizer = EcgByteTokenizer(model["vocab"], model["merges"], value_range=VALUE_RANGE, encoding=encoding)
        ours = milliseconds(tokenizer.encode_ecg, ecgs) / len(ecgs)
        tokens = np.mean([len(ids) for ids in tokenizer.encode_ecg(ecgs)])
        print(
            f"{encoding:14} {ours:7.3f} ms/ECG in a batch, {MORE_MERGES} merges, {ecgs[0].size / tokens:.1f} samples per "
            f"token; Python with a trie per ECG {plain:.1f} ms: ratio {plain / ours:.1f}"
        )


def main() -> None:
    rng = np.random.default_rng(0)
    findings = [replace(draw_findings(rng), noise="none") for _ in range(NUM_ECGS)]
    ecgs = [np.clip(simulate_ecg(one, rng), *VALUE_RANGE) for one in findings]
    alphabet = EcgByteTokenizer({letter: number for number, letter in enumerate(SYMBOLS)}, [], value_range=VALUE_RANGE)
    texts = [alphabet.ecg_to_symbols(ecg) for ecg in ecgs]
    print(f"simulated quiet ECGs of {ecgs[0].shape[0]} x {ecgs[0].shape[1]} samples, processor time on one thread")
    compare_letters(ecgs[:NUM_FEWER], alphabet)
    compare_training(texts)
    compare_encodings(ecgs[:NUM_FEWER], texts[:NUM_FEWER])


if __name__ == "__main__":
    main()
