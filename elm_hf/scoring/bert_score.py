"""BERTScore of free-text answers (Zhang et al. 2020): the tokens of two texts compared by an encoder's vectors of them."""

from collections.abc import Iterable
from importlib.metadata import version
from math import ceil

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch.nn.functional import normalize
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from elm_hf.utils.hub import check_name
from elm_hf.utils.reports import public_name
from elm_hf.utils.weights import fingerprint_of_weights


# The layers that the authors chose for the two RoBERTa models, by number of layers. For other encoders they chose one at
# about three quarters of the depth: 9 for BERT base, 18 for BERT large, 5 for DistilBERT.
ROBERTA_LAYERS = {12: 10, 24: 17}
PROBE = "Sinus rhythm with left axis deviation, otherwise normal ECG."
# Sums in batches of different lengths differ in the seventh decimal; identical texts are to score exactly 1.
DECIMALS = 6

Pair = tuple[str, str]


class BertScorer:
    """
    F1 of BERTScore with an encoder of the transformers library.

    Each token of the prediction is matched with the token of the truth whose vector has the largest cosine with its own
    (precision, the mean of these cosines), and each token of the truth with one of the prediction (recall). As in the
    authors' code, tokens are not weighted by frequency, scores are not rescaled with a baseline, and the tokens that the
    tokenizer adds at the ends may be matched but do not count in the mean.

    Args:
        name: folder or Hub name of the encoder, with its tokenizer.
        device: device to compute on; the encoder is moved there when it is first used.
        batch_size: number of pairs in a batch.
        quiet: no progress bar.

    Attributes:
        summary: `model`, `layer` (whose output is compared; 0 is the embeddings), `layers`, `weights` (fingerprint),
            `transformers` (version), and for the last call of `scores` the number of `pairs` and of texts that were `cut`
            because they are too long for the encoder.

    Raises:
        ValueError: there is no such model, or it is not a text encoder with a tokenizer.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu", batch_size: int = 32, quiet: bool = False):
        try:
            check_name(name, needs_owner=False)
            self._model, self._tokenizer = _load(name)
        except (ValueError, OSError, SafetensorError, StrictDataclassError) as error:
            raise ValueError(
                f"{name}: not a model for BERTScore; --bert-score takes the folder or Hub name of an encoder with its "
                f"tokenizer, such as roberta-large ({error})"
            ) from error
        config = self._model.config
        layers = config.num_hidden_layers
        own = ROBERTA_LAYERS if config.model_type == "roberta" else {}
        # RoBERTa counts positions from 2; a tokenizer that was saved without a longest length has 10^30.
        self._longest = min(self._tokenizer.model_max_length, config.max_position_embeddings - 2)
        self._device, self._batch_size, self._quiet = device, batch_size, quiet
        self.summary = {
            "model": public_name(name),
            "layer": own.get(layers, ceil(0.75 * layers)),
            "layers": layers,
            "weights": fingerprint_of_weights(self._model.state_dict(), sampled=True),
            "transformers": version("transformers"),
        }

    def scores(self, pairs: Iterable[Pair]) -> dict[Pair, float]:
        """F1, 0 to 1, of each distinct pair of prediction and truth; 0 where one of them is empty."""
        distinct = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        found = dict.fromkeys(distinct, 0.0)
        to_compare = [pair for pair in distinct if all(text.strip() for text in pair)]
        self.summary |= {"pairs": len(distinct), "cut": 0}
        self._model.to(self._device)
        starts = range(0, len(to_compare), self._batch_size)
        for start in tqdm(starts, "BERTScore", unit="batch", disable=self._quiet or None):
            batch = to_compare[start : start + self._batch_size]
            found |= zip(batch, self._f1(batch))
        return found

    @torch.inference_mode()
    def _f1(self, pairs: list[Pair]) -> list[float]:
        (predicted, mine, counted), (true, theirs, true_counted) = (self._encode(texts) for texts in zip(*pairs))
        cosines = predicted @ true.transpose(1, 2)  # (pairs, tokens of the prediction, tokens of the truth)
        cosines = cosines.masked_fill(~(mine[:, :, None] & theirs[:, None]), -1)
        precision = _mean(cosines.amax(dim=2), counted)
        recall = _mean(cosines.amax(dim=1), true_counted)
        # Cosines below 0 have no harmonic mean; such texts have nothing in common.
        f1 = torch.where((precision > 0) & (recall > 0), 2 * precision * recall / (precision + recall), 0)
        return [round(value, DECIMALS) for value in f1.double().clamp(max=1).tolist()]

    def _encode(self, texts: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unit vectors `(texts, tokens, size)`, a mask of those that are tokens, and a mask of those that count in the mean."""
        encoded = self._tokenize(texts)
        self.summary["cut"] += sum(bool(encoding.overflowing) for encoding in encoded.encodings)
        own = ~encoded.pop("special_tokens_mask").bool().to(self._device)
        inputs = encoded.to(self._device)
        hidden = self._model(**inputs, output_hidden_states=True).hidden_states[self.summary["layer"]]
        is_token = inputs["attention_mask"].bool()
        return normalize(hidden, dim=-1), is_token, is_token & own

    def _tokenize(self, texts: tuple[str, ...]) -> BatchEncoding:
        # Some tokenizers have another token for a word at the start of a text than after a space.
        return self._tokenizer(
            [f" {text.strip()}" for text in texts],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self._longest,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )


def _mean(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean of each row where `counted`; 0 where nothing counts, as for a text of unknown characters."""
    return (values * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder and its tokenizer. Missing weights are refused, since transformers replaces them by random ones."""
    model, found = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    lacking = sorted(key for key in found["missing_keys"] if "pooler" not in key)
    if lacking:
        raise ValueError(f"{len(lacking)} weights are missing, such as {lacking[0]}")
    for key in found["missing_keys"]:  # the pooler is not used, but random weights would change the fingerprint
        model.get_parameter(key).data.zero_()
    if model.config.is_encoder_decoder or "max_position_embeddings" not in model.config.to_dict():
        raise ValueError(f"a {model.config.model_type} model is not an encoder with numbered positions")
    tokenizer = AutoTokenizer.from_pretrained(name)
    ids = tokenizer(PROBE)["input_ids"]
    if tokenizer.pad_token_id is None or set(ids) <= set(tokenizer.all_special_ids):
        raise ValueError("the folder of the model has no tokenizer with a vocabulary")
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(f"its tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}")
    return model.eval(), tokenizer
