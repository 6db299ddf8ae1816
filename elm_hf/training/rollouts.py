"""Sampling answers with the ECG, and their log-probabilities with the same ECG, for TRL's trainers on rewards."""

import warnings

import torch
from trl.models import unwrap_model_for_generation

from elm_hf.inference.prompt_batch import PromptBatch
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning
from elm_hf.training.reward_data import with_ecgs


# Number of ECGs of each row of a batch, beside what the model reads of them.
NUM_ECGS = "num_ecgs"


class EcgRollouts:
    """
    Mix-in of `GRPOTrainer` and `RLOOTrainer` that carries the ECGs through sampling and log-probabilities.

    The trainers know pictures only. Here a batch of answers has the inputs of the model for the ECGs of each row,
    `(rows, most ECGs of a row, ...)`, and `num_ecgs (rows,)`, so that the trainers can shuffle and split them with the
    answers. Answers to the same prompt, and prompts about the same ECGs, share their cache ([`PromptBatch`]).
    """

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        self._rows = inputs
        with warnings.catch_warnings():
            # As in fine-tuning, ECGs of poor quality are trained on.
            warnings.filterwarnings("ignore", category=SignalQualityWarning)
            return super()._generate_and_score_completions(inputs) | self._ecgs

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict]:
        """Token ids of the prompts, and with them their ECGs."""
        read: dict[tuple, list[dict]] = {}  # each prompt once, although several answers are sampled
        conversations = []
        for row, prompt in zip(self._rows, prompts):
            key = (str(prompt), *row["ecg_index"])
            if key not in read:
                read[key] = with_ecgs(self._processor, prompt, list(row["ecgs"]), row["sampling_rate"])
            conversations.append(read[key])
        model = self.accelerator.unwrap_model(self.model)
        self._batch = PromptBatch(model, self._processor, conversations, self.max_completion_length)
        self._ecgs = _by_row([self._batch.ecgs_of(row) for row in range(len(prompts))], self.accelerator.device)
        ids, mask = self._batch.input_ids, self._batch.attention_mask.bool()
        return [row[keep].tolist() for row, keep in zip(ids, mask)], None, {}

    def _sample(self) -> list[list[int]]:
        """Token ids of an answer to each prompt, up to the end of its turn."""
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            inputs = self._batch.inputs() | {"past_key_values": self._batch.shared_cache()}
            output = model.generate(**inputs, generation_config=self.generation_config)
        answers = []
        for tokens in output[:, self._batch.input_ids.shape[1] :].tolist():
            ends = [place for place, token in enumerate(tokens) if token in self.eos_token_ids]
            answers.append(tokens[: ends[0] + 1] if ends else tokens)
        return answers

    def _compute_loss(self, model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        names = {NUM_ECGS, *self._processor.model_input_names}
        self._ecgs = {name: values for name, values in inputs.items() if name in names}
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Log-probability and entropy of each token of the answers, both `(rows, logits_to_keep)`, given the ECGs."""
        batch_size = batch_size or len(input_ids)
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        labels[:, :-logits_to_keep] = -100
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        log_probs, entropies = [], []
        for start in range(0, len(input_ids), batch_size):
            rows = slice(start, start + batch_size)
            with self.accelerator.autocast():
                output = model(
                    input_ids=input_ids[rows],
                    attention_mask=attention_mask[rows],
                    position_ids=position_ids[rows],
                    labels=labels[rows],
                    fused_lm_head=True,
                    **_flat({name: values[rows] for name, values in self._ecgs.items()}),
                )
            log_probs.append(output.log_probs[:, -logits_to_keep:])
            if compute_entropy:
                entropies.append(output.entropy[:, -logits_to_keep:])
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None


def _by_row(ecgs: list[dict[str, torch.Tensor]], device: torch.device) -> dict[str, torch.Tensor]:
    """The inputs for the ECGs of each row, filled up to the row with most ECGs, and their numbers."""
    numbers = [max((len(values) for values in row.values()), default=0) for row in ecgs]
    like = next((row for row in ecgs if row), {})
    batch = {NUM_ECGS: torch.tensor(numbers, device=device)}
    for name, values in like.items():
        batch[name] = values.new_zeros((len(ecgs), max(numbers), *values.shape[1:]), device=device)
        for row, number in enumerate(numbers):
            if number:
                batch[name][row, :number] = ecgs[row][name]
    return batch


def _flat(ecgs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model reads: all ECGs of the rows one after the other; nothing where no row has any."""
    numbers = ecgs[NUM_ECGS]
    if not numbers.any():
        return {}
    places = torch.arange(int(numbers.max()), device=numbers.device) < numbers[:, None]
    return {name: values[:, : places.shape[1]][places] for name, values in ecgs.items() if name != NUM_ECGS}
