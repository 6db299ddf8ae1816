"""Training compared with alternatives: plain data loading, fixed-length padding, no packing, and the LLM itself.

python benchmarks/training.py
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.training.collator import ElmDataCollator
from elm_hf.training.packing import IGNORE_INDEX, pack_by_ecg
from elm_hf.training.tokenization import tokenize_conversations


LLM = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
QUESTIONS, PREFIX, SUFFIX, ECG_TOKENS, FIXED_LENGTH = 24, 251, 31, 50, 1024
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(title: str, works: dict[str, Callable[[], object]], number: dict[str, int], unit: str) -> None:
    """Times the works in turns, so that a busy machine slows all, and prints the ratio of each to the last."""
    for work in works.values():
        work()
    rounds = [[seconds(work) / number[name] for name, work in works.items()] for _ in range(ROUNDS)]
    print(f"\n{title}: median of {ROUNDS} rounds, {torch.get_num_threads()} threads")
    for column, name in enumerate(works):
        times = [row[column] for row in rounds]
        ratio = median(row[-1] / row[column] for row in rounds)
        print(f"{name:52} {median(times) * 1000:10.3f} ms per {unit}   {ratio:6.2f} x")


def reference_row(folder: Path, name: str, question: str, answer: str, tokenizer, num_ecg_tokens: int) -> dict:
    """A sample as a script without a data library reads it: one `.npy` file, and a prompt joined from strings."""
    ecg = np.load(folder / f"{name}.npy").astype(np.float32)
    lowest, highest = ecg.min(), ecg.max()
    ecg = (ecg - lowest) / (highest - lowest + 1e-6)
    before = f"<|im_start|>user\n{'<|ecg|>' * num_ecg_tokens}{question}<|im_end|>\n<|im_start|>assistant\n"
    prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
    reply = tokenizer(f"{answer}<|im_end|>\n", add_special_tokens=False)["input_ids"]
    return {"ecg": torch.from_numpy(ecg), "ids": prompt + reply, "labels": [IGNORE_INDEX] * len(prompt) + reply}


def reference_batch(rows: list[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    length = max(len(row["ids"]) for row in rows)
    missing = [length - len(row["ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([row["ids"] + [pad_token_id] * more for row, more in zip(rows, missing)]),
        "labels": torch.tensor([row["labels"] + [IGNORE_INDEX] * more for row, more in zip(rows, missing)]),
        "attention_mask": torch.tensor([[1] * len(row["ids"]) + [0] * more for row, more in zip(rows, missing)]),
        "ecg_values": torch.stack([row["ecg"] for row in rows]),
    }


def benchmark_data_path(folder: Path, processor) -> None:
    dataset = load_elm_dataset(folder / "data")
    collator = ElmDataCollator(processor)
    tokenized = tokenize_conversations(dataset, collator.tokenize)
    packs = pack_by_ecg(tokenized, QUESTIONS)
    single = [row for row in range(len(dataset)) if len(dataset[row]["ecg_index"]) == 1][:512]
    order = np.random.default_rng(0).permutation(single).tolist()
    (folder / "npy").mkdir()
    texts = {}
    for row in order:
        sample = dataset[row]
        np.save(folder / "npy" / f"{row}.npy", np.array(sample["ecgs"][0], np.float64))
        user, assistant = sample["messages"]
        texts[row] = (user["content"][-1]["text"], assistant["content"][0]["text"])
    tokenizer = processor.tokenizer

    def reference():
        for start in range(0, len(order), 16):
            rows = [
                reference_row(folder / "npy", str(row), *texts[row], tokenizer, processor.num_ecg_tokens)
                for row in order[start : start + 16]
            ]
            reference_batch(rows, tokenizer.pad_token_id)

    def ours(rows):
        for start in range(0, len(order), 16):
            collator(rows.__getitems__(order[start : start + 16]))

    num_packs = 32
    packed = sum(len(pack["conversations"]) for pack in packs.__getitems__(list(range(num_packs))))
    works = {
        "tokenized once, packed by ECG": lambda: collator(packs.__getitems__(list(range(num_packs)))),
        "tokenized once": lambda: ours(tokenized),
        "tokenized when read": lambda: ours(dataset),
        "one .npy file and a prompt of strings": reference,
    }
    number = dict.fromkeys(works, len(order)) | {"tokenized once, packed by ECG": packed}
    compare("Data path, 12 x 2500 samples", works, number, "conversation")


def conversations(model: ElmForCausalLM) -> list[dict]:
    """Tokenized questions about one ECG behind a system prompt, as long as those of ECG-QA."""
    rng = np.random.default_rng(0)
    words = model.config.ecg_token_id
    prefix = rng.integers(words, size=PREFIX)
    prefix[100 : 100 + ECG_TOKENS] = words
    ecg = rng.normal(0, 0.3, (12, 2500)).astype(np.float32)
    rows = []
    for _ in range(QUESTIONS):
        ids = np.concatenate([prefix, rng.integers(words, size=SUFFIX)])
        labels = np.full(len(ids), IGNORE_INDEX)
        labels[-5:] = ids[-5:]
        rows.append({"input_ids": ids, "labels": labels, "ecgs": [ecg], "sampling_rate": 250})
    return rows


def benchmark_steps(model: ElmForCausalLM, processor) -> None:
    rows = conversations(model)
    collator = ElmDataCollator(processor)
    packed, unpacked = collator([{"conversations": rows}]), collator(rows)
    flat = ElmDataCollator(processor, padding_free=True)(rows[:4])
    length = unpacked["input_ids"].shape[1]
    fixed = {
        name: torch.nn.functional.pad(values, (0, FIXED_LENGTH - length), value=fill)
        for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORE_INDEX))
        for values in [unpacked[name][:4]]
    } | {"ecg_values": unpacked["ecg_values"][:4]}
    four = {name: values[:4] for name, values in unpacked.items()}

    def step(batch: dict, **more):
        def run():
            model.zero_grad()
            model(**batch, **more, use_cache=False).loss.backward()

        return run

    difference = abs(model(**packed).loss.item() - model(**unpacked).loss.item())
    print(f"\nLoss of the packed batch differs by {difference:.1e} from that of separate conversations.")
    works = {"packed by ECG (--pack_by_ecg)": step(packed), "unpadded, unpacked": step(unpacked)}
    title = f"Step: {QUESTIONS} questions behind {PREFIX} positions, {length} positions each"
    compare(title, works, dict.fromkeys(works, QUESTIONS), "conversation")

    works = {
        "packed by ECG (--pack_by_ecg)": step(packed),
        "padded to the longest": step(four),
        "in one row (--padding_free, sdpa mask)": step(flat),
        f"padded to {FIXED_LENGTH}": step(fixed),
    }
    number = dict.fromkeys(works, 4) | {"packed by ECG (--pack_by_ecg)": QUESTIONS}
    compare(f"Step: batch of 4 conversations of {length} positions", works, number, "conversation")

    def bare_llm():
        model.zero_grad()
        hidden = model.model.language_model(four["input_ids"], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden)
        loss = model.loss_function(logits=logits, labels=four["labels"], vocab_size=logits.shape[-1])
        loss.backward()

    works = {"ELM, patch connector": step(four), "its LLM": bare_llm}
    compare("Step: 4 conversations, no padding", works, dict.fromkeys(works, 4), "conversation")


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_dataset("simulated_qa", folder / "data", seconds=10, num_recordings=100)
        (folder / "elm.json").write_text(json.dumps({"text_config": LLM}))
        model = create_elm(
            folder / "elm",
            config=folder / "elm.json",
            tokenizer_dataset=str(folder / "data"),
            vocab_size=1000,
            num_ecg_tokens=ECG_TOKENS,
        )
        _, processor = load_checkpoint(folder / "elm")
        benchmark_data_path(folder, processor)
    benchmark_steps(model.train(), processor)


if __name__ == "__main__":
    main()
