"""Answering questions like those of ECG-QA: one at a time, in plain batches, and in batches that share each ECG.

python benchmarks/generation.py
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from elm_hf.inference.generation import generate_answers
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.modeling.configuration_ecg_resnet import EcgResNetConfig
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_ecg_resnet import EcgResNetModel
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm import ElmProcessor


NUM_ECGS, NUM_QUESTIONS, ECG_TOKENS, BATCH, NEW, ROUNDS = 16, 256, 100, 32, 6, 1
SYSTEM = "You are a cardiologist. You are shown a 12-lead ECG of ten seconds and answer questions about it. " * 4
SUBJECTS = (
    "atrial fibrillation",
    "a long PR interval",
    "left axis deviation",
    "ST elevation in V2",
    "a wide QRS complex",
)
WORDINGS = ("Does this ECG show {}?", "Is there {} in this ECG?", "Which of {} and sinus rhythm does this ECG show?")


def compose() -> tuple[ElmForCausalLM, ElmProcessor]:
    """A ResNet-18 and a Llama with random weights, 7 million parameters, large enough for answers to differ."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([SYSTEM, *WORDINGS, *SUBJECTS], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>")
    processor = ElmProcessor(EcgFeatureExtractor(num_samples=2500), wrapped, num_ecg_tokens=ECG_TOKENS)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=0,
        initializer_range=0.1,
    )
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        EcgResNetModel(EcgResNetConfig()),
        AutoModelForCausalLM.from_config(config),
        ecg_token_id=processor.ecg_token_id,
        num_samples=2500,
        projector_type="linear",
        num_ecg_tokens=ECG_TOKENS,
    )
    return model.eval(), processor


def conversations() -> list[list[dict]]:
    rng = np.random.default_rng(0)
    ecgs = rng.normal(0, 0.3, (NUM_ECGS, 12, 2500)).astype(np.float32)
    chats = []
    for number in range(NUM_QUESTIONS):
        ecg = {"type": "ecg", "ecg": ecgs[number * NUM_ECGS // NUM_QUESTIONS], "sampling_rate": 250}
        question = rng.choice(WORDINGS).format(rng.choice(SUBJECTS))
        content = [ecg, {"type": "text", "text": f"{question} Answer {number % NUM_ECGS}."}]
        chats.append([{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}])
    return chats


@torch.inference_mode()
def plain(model: ElmForCausalLM, processor: ElmProcessor, chats: list, size: int) -> list[str]:
    answers = []
    for start in range(0, len(chats), size):
        inputs = processor.apply_chat_template(
            chats[start : start + size],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        output = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return answers


def shared(model: ElmForCausalLM, processor: ElmProcessor, chats: list) -> list[str]:
    return [
        answer.text
        for start in range(0, len(chats), BATCH)
        for answer in generate_answers(model, processor, chats[start : start + BATCH], NEW)
    ]


def seconds(ask: Callable[[], list[str]]) -> tuple[float, list[str]]:
    start = time.perf_counter()
    answers = ask()
    return time.perf_counter() - start, answers


def main() -> None:
    model, processor = compose()
    chats = conversations()
    ways = {
        "one at a time": lambda: plain(model, processor, chats, 1),
        f"batches of {BATCH}": lambda: plain(model, processor, chats, BATCH),
        f"batches of {BATCH}, shared": lambda: shared(model, processor, chats),
    }
    plain(model, processor, chats[:2], 1)
    times, answers = {name: [] for name in ways}, {}
    for _ in range(ROUNDS):  # all take turns, so that a busy machine slows all
        for name, ask in ways.items():
            took, answers[name] = seconds(ask)
            times[name].append(took)
    first = next(iter(ways))
    print(
        f"{model.num_parameters() / 1e6:.0f} million parameters, {NUM_QUESTIONS} questions about {NUM_ECGS} ECGs, "
        f"{NEW} new tokens, {len(set(answers[first]))} different answers, "
        f"{PromptBatch(model, processor, chats[:BATCH]).prefix_length} shared positions, {torch.get_num_threads()} threads, median of {ROUNDS}"
    )
    for name in ways:
        ratio = median(one / other for one, other in zip(times[first], times[name]))
        same = sum(one == other for one, other in zip(answers[first], answers[name]))
        print(f"{name:24} {median(times[name]):7.1f} s {ratio:5.1f}x, {same} of {NUM_QUESTIONS} answers are the same")


if __name__ == "__main__":
    main()
