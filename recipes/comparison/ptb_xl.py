"""
Compares ways of giving an ECG to an LLM on PTB-XL (Wagner et al. 2020). Each is trained for the same number of processor
seconds on one CPU thread, with the same questions and the same new LLM of 2 million parameters, and is asked the same
questions of fold 10.

    python recipes/comparison/ptb_xl.py --dataset data/ptb_xl_qa --seconds 360 --seeds 0 1 2 [ARM ...]
    python recipes/comparison/ptb_xl.py --smoke     # tiny models and simulated ECGs, to check that everything runs

recipes/ptb_xl/run.sh builds the dataset. Arms (default: all; the others are compared with the first one):
    encoder      an ecg_se_resnet that learns the labels for half of the seconds, then the projector and the LLM
    patch, conv  no encoder, only a projector
    image        a small vision transformer, trained with the rest, reads the drawn ECG
    ecg_byte     ECG-Byte (Han et al. 2024): symbols of a tokenizer that is trained beforehand, on training patients

The number of steps follows from the rate in two short runs, of which the second takes a tenth of the seconds, measured once for
each arm; the table has the processor seconds that the steps really took. Evaluation, and drawing up the tokenizer,
do not count. An interrupted comparison continues. All arms are trained with the first seed before the next one, and the
table has the seeds that all arms have.
"""

import argparse
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path


# One thread; before torch is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from elm_hf.cli import app  # noqa: E402
from elm_hf.comparison.runs import book_of_runs, difference_of_runs  # noqa: E402
from elm_hf.scoring.markdown import markdown_table, score_cell  # noqa: E402
from elm_hf.scoring.names import CONDITION_NAMES  # noqa: E402
from elm_hf.scoring.reliance import reliance_sentence, signal_reliance  # noqa: E402
from elm_hf.scoring.scores import SUMMED, ScoreBook  # noqa: E402
from elm_hf.training.cost_file import COSTS_NAME, read_costs  # noqa: E402
from elm_hf.utils.errors import errors_in_one_line  # noqa: E402
from elm_hf.utils.reports import REPORT_NAME, read_report  # noqa: E402


RECIPES = Path(__file__).resolve().parents[1]
ARMS = ("encoder", "patch", "conv", "image", "ecg_byte")
# Of 10 s: 16 tokens of the encoder, patches of 0.2 s, 64 stretches of a picture that has 16 x 16 patches.
TOKENS = {"encoder": 16, "patch": 50, "conv": 50, "image": 64}
VISION = {
    "model_type": "vit",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "image_size": 448,
    "patch_size": 28,
}
TINY_VISION = VISION | {"hidden_size": 32, "num_hidden_layers": 1, "image_size": 64, "patch_size": 16}
# Of most ECGs of PTB-XL these are all tokens (9.5 samples per token).
MERGES, MOST_ECG_TOKENS = 4000, 1536
NUM_TOKENIZER_RECORDS = 300
BATCH_SIZE, ENCODER_BATCH_SIZE = 8, 64  # packs of up to 16 questions about an ECG; ECGs
SHORT_RUN = 2  # steps of the first of two short runs
SPENT = "processor_seconds"  # of `costs.json`
CONDITIONS = ("ecg", "shuffled", "none")
READS = {True: "yes", False: "no", None: "not settled"}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.table:
        return print_table(options.output, options.arms, options.seeds)
    if options.smoke and not options.dataset.exists():
        elm_hf("prepare simulated_qa --num-recordings 40 --seconds 4 --sampling-rate 100 --output", options.dataset)
    for seed in options.seeds:
        for arm in options.arms:
            Run(options, arm, seed).finish()
    print_table(options.output, options.arms, options.seeds)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM")
    parser.add_argument("--dataset", type=Path, default=Path("data/ptb_xl_qa"))
    parser.add_argument("--seconds", type=float, default=360, help="Processor seconds of training of each arm.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=500, help="Number of questions.")
    parser.add_argument("--output", type=Path, default=Path("outputs/comparison_ptb_xl"))
    parser.add_argument("--smoke", action="store_true", help="Tiny models and simulated ECGs.")
    parser.add_argument("--table", action="store_true", help="Only print the table of what is finished.")
    options = parser.parse_args(arguments)
    options.arms = options.arms or list(ARMS)
    if unknown := sorted(set(options.arms) - set(ARMS)):
        parser.error(f"unknown arm {', '.join(unknown)}; there are {', '.join(ARMS)}")
    options.fold, options.duration = "official", 10
    options.elm, options.encoder_config, options.vision = RECIPES / "ptb_xl/small.json", None, VISION
    options.merges, options.most_ecg_tokens, options.vocab_size = MERGES, MOST_ECG_TOKENS, 768
    options.short_run = SHORT_RUN
    if options.smoke:
        options.dataset, options.fold, options.duration = options.output / "data", "1", 4
        options.elm, options.vision = RECIPES / "ptb_xl/smoke/elm.json", TINY_VISION
        options.encoder_config = RECIPES / "ptb_xl/smoke/encoder.json"
        options.merges, options.most_ecg_tokens, options.vocab_size = 100, 64, 500
        options.limit, options.seconds, options.short_run = 12, 0.2, 1
    return options


class Run:
    """The training and evaluation of an arm with a seed. Steps whose output exists are not repeated."""

    def __init__(self, options: argparse.Namespace, arm: str, seed: int):
        self.options, self.arm, self.seed = options, arm, seed
        self.folder = folder_of(options.output, arm, seed)
        self.data = ["--dataset", options.dataset, "--fold", options.fold]

    def finish(self) -> None:
        seconds = self.options.seconds
        if self.arm == "encoder":
            seconds /= 2
            self._train(self.folder / "encoder", seconds, self._pretrain)
        if not (self.folder / "elm").exists():
            self._create()
        self._train(self.folder / "trained", seconds, self._finetune)
        if not has_report(self.folder):
            asked = [word for name in CONDITIONS for word in ("--condition", name)]
            asked += ["--limit", self.options.limit, "--occlusions", 0, "--output", self.folder / "report", "--quiet"]
            elm_hf("evaluate", self.folder / "trained", *self.data, *asked)

    def _train(self, output: Path, seconds: float, train: Callable[[Path, int], None]) -> None:
        """Trains for as many steps as take so many processor seconds, the start of the training included."""
        if (output / COSTS_NAME).exists():
            return
        first = self._costs_of_short_run(output.name, self.options.short_run, train)
        # The second short run takes a tenth of the seconds, or five times as many steps as the first.
        a_tenth = round(first["steps"] * seconds / 10 / first[SPENT])
        second = self._costs_of_short_run(output.name, max(5 * first["steps"], a_tenth), train)
        a_step = max((second[SPENT] - first[SPENT]) / (second["steps"] - first["steps"]), 0.01)
        train(output, max(1, first["steps"] + round((seconds - first[SPENT]) / a_step)))

    def _costs_of_short_run(self, name: str, steps: int, train: Callable[[Path, int], None]) -> dict:
        output = self.folder.parent / f"{name}_{steps}_steps"
        if not (output / COSTS_NAME).exists():
            train(output, steps)
        return read_costs(output)

    def _pretrain(self, output: Path, steps: int) -> None:
        words = ["--per_device_train_batch_size", ENCODER_BATCH_SIZE, "--eval_strategy", "no"]
        words += ["--load_best_model_at_end", "false"]
        if self.options.encoder_config is not None:
            words += ["--encoder_config", self.options.encoder_config]
        elm_hf("pretrain --config", RECIPES / "ptb_xl/small_encoder.yaml", *words, *self._of_training(output, steps))

    def _finetune(self, output: Path, steps: int) -> None:
        trained = {"image": ["encoder", "projector", "llm"], "ecg_byte": ["llm"]}.get(self.arm, ["projector", "llm"])
        words = ["--model_name_or_path", self.folder / "elm", "--trainable", *trained]
        words += ["--per_device_train_batch_size", BATCH_SIZE, "--warmup_steps", 0.1]
        elm_hf("train --config", RECIPES / "ptb_xl/small.yaml", *words, *self._of_training(output, steps))

    def _of_training(self, output: Path, steps: int) -> list:
        schedule = ["--max_steps", steps, "--save_strategy", "no", "--disable_tqdm", "true"]
        return [*self.data, "--output_dir", output, "--seed", self.seed, *schedule]

    def _create(self) -> None:
        options, arm = self.options, self.arm
        config = json.loads(options.elm.read_text(encoding="utf-8"))
        for name in ("num_ecg_tokens", "projector_type"):
            config.pop(name, None)
        words = ["--tokenizer-dataset", options.dataset, "--tokenizer-fold", options.fold]
        words += ["--vocab-size", options.vocab_size, "--seed", self.seed]
        if arm in TOKENS:
            words += ["--num-ecg-tokens", TOKENS[arm]]
        if arm == "encoder":
            words += ["--encoder", self.folder / "encoder"]
        else:
            words += ["--seconds", options.duration]
        if arm == "image":
            words += ["--representation", "image"]
            config["encoder_config"] = options.vision
        if arm in ("patch", "conv"):
            words += ["--projector", arm, "--sampling-rate", 100]
        if arm == "ecg_byte":
            tokenizer = self.folder.parent / "tokenizer"
            if not tokenizer.exists():
                size = ["--merges", options.merges, "--num-records", NUM_TOKENIZER_RECORDS]
                elm_hf(
                    "train-tokenizer --quiet", options.dataset, *size, "--fold", options.fold, "--output", tokenizer
                )
            words += ["--representation", "symbol", "--ecg-tokenizer", tokenizer, "--sampling-rate", 100]
            words += ["--max-ecg-tokens", options.most_ecg_tokens]
        file = self.folder / "elm.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        elm_hf("create", self.folder / "elm", "--config", file, *words)


def folder_of(output: Path, arm: str, seed: int) -> Path:
    return output / arm / f"seed_{seed}"


def elm_hf(command: str, *words: object) -> None:
    """Runs a command of elm-hf in this process, which saves the time for its start, and prints it."""
    words = [*command.split(), *map(str, words)]
    print(f"\n$ elm-hf {shlex.join(words)}", flush=True)
    app(words, standalone_mode=False)


def print_table(output: Path, arms: list[str], seeds: list[int]) -> None:
    """Prints the table of the seeds that all arms have, and what it says of each arm."""
    finished = [seed for seed in seeds if all(has_report(folder_of(output, arm, seed)) for arm in arms)]
    if not finished:
        raise ValueError(f"{output}: no seed is finished for all of {', '.join(arms)}; name fewer arms, or continue")
    runs = {arm: [folder_of(output, arm, seed) for seed in finished] for arm in arms}
    books = {arm: book_of_runs([run / "report" for run in runs[arm]]) for arm in arms}
    first = books[arms[0]]
    rows = np.flatnonzero(first.questions.table["kind"] == "short")
    reliances = {arm: signal_reliance(book, rows) for arm, book in books.items()}
    table = []
    for arm, book in books.items():
        scores = {name: found["exact_match"] for name, found in book.group(rows)["conditions"].items()}
        found = difference_of_runs(first, book, rows, "exact_match")
        difference = f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
        cells = [arm, *costs_of(runs[arm]), score_cell(scores["ecg"]), scores_of_runs(book, rows)]
        cells += [score_cell(scores[name], False) for name in CONDITIONS[1:]]
        cells += [score_cell(reliances[arm]), READS[reliances[arm]["reads_ecg"]]]
        table.append([*cells, "—" if book is first else difference])
    head = ["arm", "parameters", "processor seconds", "steps", "ECGs", "exact match", "each seed"]
    head += [CONDITION_NAMES[name] for name in CONDITIONS[1:]]
    head += ["reliance on the signal", "reads the ECG", f"minus {arms[0]}"]
    one = read_report(runs[arms[0]][0] / "report")
    blind = one["scores"]["all"]["conditions"]["blind"]["exact_match"]
    print(
        f"\nSeeds {', '.join(map(str, finished))}; {one['questions']} questions about {one['patients']} patients of "
        f"{one['run']['dataset']}, fold {one['run']['fold']}; in brackets 95 % intervals over patients and seeds. Most "
        f"frequent answer to each template: {blind['score']:.3f}.\n"
    )
    print(markdown_table(head, table) + "\n")
    for arm, reliance in reliances.items():
        print(f"- {arm}: {reliance_sentence(reliance)}")


def has_report(run: Path) -> bool:
    return (run / "report" / REPORT_NAME).exists()


def scores_of_runs(book: ScoreBook, rows: np.ndarray) -> str:
    """Exact match with the ECG of each seed."""
    right = book.values["ecg"][rows, SUMMED.index("exact_match")]
    by_run = pd.Series(right).groupby(book.questions.table["run"].to_numpy()[rows]).mean()
    return " ".join(f"{score:.3f}" for score in by_run)


def costs_of(runs: list[Path]) -> list[str]:
    """Parameters, and for a seed on average the seconds, the steps and the number of ECGs in them; of the encoder first."""
    phases = [name for name in ("encoder", "trained") if (runs[0] / name / COSTS_NAME).exists()]
    costs = {name: [read_costs(run / name) for run in runs] for name in phases}
    seconds = sum(one[SPENT] for name in phases for one in costs[name]) / len(runs)
    steps = {name: round(np.mean([one["steps"] for one in costs[name]])) for name in phases}
    sizes = {"encoder": ENCODER_BATCH_SIZE, "trained": BATCH_SIZE}
    ecgs = {name: steps[name] * sizes[name] for name in phases}
    parameters = read_report(runs[0] / "report")["run"]["parameters"]
    in_words = [" + ".join(f"{numbers[name]:,}" for name in phases) for numbers in (steps, ecgs)]
    return [f"{parameters / 1e6:.1f} M", f"{seconds:.0f}", *in_words]


if __name__ == "__main__":
    with errors_in_one_line("ptb_xl.py"):
        main()
