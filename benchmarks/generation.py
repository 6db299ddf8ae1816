"""Answering questions like those of ECG-QA: one at a time, in plain batches, and in batches that share each ECG.

python benchmarks/generation.py                          # a small LLM, on the CPU
python benchmarks/generation.py --gpu --batch 128        # an LLM with the sizes of Qwen 2.5-1.5B and random weights
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from elm_hf.inference.generation import answers_to, generate_answers
from elm_hf.inference.prefetch import prepared_ahead
from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.modeling.configuration_ecg_resnet import EcgResNetConfig
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_ecg_resnet import EcgResNetModel
from elm_hf.modeling.modeling_elm import ElmForCausalLM
from elm_hf.modeling.processing_elm import ElmProcessor


NUM_ECGS, ECG_TOKENS, NEW = 16, 100, 6
SYSTEM = "You are a cardiologist. You are shown a 12-lead ECG of ten seconds and answer questions about it. " * 4
SUBJECTS = (
    "atrial fibrillation",
    "a long PR interval",
    "left axis deviation",
    "ST elevation in V2",
    "a wide QRS complex",
)
WORDINGS = ("Does this ECG show {}?", "Is there {} in this ECG?", "Which of {} and sinus rhythm does this ECG show?")


SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2000}
LARGE = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
LARGE |= {"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936}


def compose(device: str) -> tuple[ElmForCausalLM, ElmProcessor]:
    """A ResNet-18 and a Llama with random weights, large enough for answers to differ."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([SYSTEM, *WORDINGS, *SUBJECTS], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>")
    processor = ElmProcessor(EcgFeatureExtractor(num_samples=2500), wrapped, num_ecg_tokens=ECG_TOKENS)
    sizes = SMALL if device == "cpu" else LARGE
    config = AutoConfig.for_model("llama", eos_token_id=0, initializer_range=0.1, **sizes)
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    model = ElmForCausalLM.from_encoder_llm_pretrained(
        EcgResNetModel(EcgResNetConfig()),
        llm,
        ecg_token_id=processor.ecg_token_id,
        num_samples=2500,
        projector_type="linear",
        num_ecg_tokens=ECG_TOKENS,
    )
    return model.eval().to(device), processor


def conversations(number: int) -> list[list[dict]]:
    rng = np.random.default_rng(0)
    ecgs = rng.normal(0, 0.3, (NUM_ECGS, 12, 2500)).astype(np.float32)
    chats = []
    for question_number in range(number):
        ecg = {"type": "ecg", "ecg": ecgs[question_number * NUM_ECGS // number], "sampling_rate": 250}
        question = rng.choice(WORDINGS).format(rng.choice(SUBJECTS))
        content = [ecg, {"type": "text", "text": f"{question} Answer {question_number % NUM_ECGS}."}]
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
        ).to(model.device)
        output = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return answers


def batches_of(chats: list, size: int) -> list[list]:
    return [chats[start : start + size] for start in range(0, len(chats), size)]


def shared(model: ElmForCausalLM, processor: ElmProcessor, chats: list, size: int) -> list[str]:
    answers = [generate_answers(model, processor, batch, NEW) for batch in batches_of(chats, size)]
    return [one.text for batch in answers for one in batch]


def shared_ahead(model: ElmForCausalLM, processor: ElmProcessor, chats: list, size: int) -> list[str]:
    """As an evaluation does: the next batch is prepared while the model answers."""
    ahead = prepared_ahead(lambda batch: PromptBatch(model, processor, batch, NEW), batches_of(chats, size))
    answers = [answers_to(prompts, model, processor, NEW) for _, prompts in ahead]
    return [one.text for batch in answers for one in batch]


def prepared_only(model: ElmForCausalLM, processor: ElmProcessor, chats: list, size: int) -> None:
    """The part of `shared` that runs on the CPU."""
    for batch in batches_of(chats, size):
        PromptBatch(model, processor, batch, NEW)


def seconds(ask: Callable[[], list[str] | None]) -> tuple[float, list[str] | None]:
    start = time.perf_counter()
    answers = ask()
    return time.perf_counter() - start, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="Answer with a large LLM on the GPU.")
    parser.add_argument("--batch", type=int, default=32, help="Number of questions in a batch.")
    parser.add_argument("--questions", type=int, default=256, help="Number of questions.")
    parser.add_argument("--rounds", type=int, default=1, help="Number of times that each way answers all questions.")
    options = parser.parse_args()
    model, processor = compose("cuda" if options.gpu else "cpu")
    chats, size = conversations(options.questions), options.batch
    ways = {
        "one at a time": lambda: plain(model, processor, chats, 1),
        f"batches of {size}": lambda: plain(model, processor, chats, size),
        f"batches of {size}, shared": lambda: shared(model, processor, chats, size),
        "the same, prepared ahead": lambda: shared_ahead(model, processor, chats, size),
    }
    for way in (plain, shared):
        way(model, processor, chats[:2], 2)
    times, answers = {name: [] for name in ways}, {}
    for _ in range(options.rounds):  # all take turns, so that a busy machine slows all
        for name, ask in ways.items():
            took, answers[name] = seconds(ask)
            times[name].append(took)
    first, *_, before, ahead = ways
    print(
        f"{model.num_parameters() / 1e6:.0f} million parameters, {len(chats)} questions about {NUM_ECGS} ECGs, "
        f"{NEW} new tokens, {len(set(answers[first]))} different answers, "
        f"{PromptBatch(model, processor, chats[:size]).prefix_length} shared positions, {torch.get_num_threads()} "
        f"threads, median of {options.rounds}"
    )
    for name in ways:
        ratio = median(one / other for one, other in zip(times[first], times[name]))
        same = sum(one == other for one, other in zip(answers[first], answers[name]))
        print(f"{name:26} {median(times[name]):7.1f} s {ratio:5.1f}x, {same} of {len(chats)} answers are the same")
    took, _ = seconds(lambda: prepared_only(model, processor, chats, size))
    print(
        f"Preparing takes {took:.1f} s of them. Prepared ahead: {median(times[before]) / median(times[ahead]):.2f}x the "
        f"speed, the same answers: {answers[ahead] == answers[before]}"
    )


if __name__ == "__main__":
    main()
