"""Where a model with an ECG-Byte tokenizer looks: attention of its answer to ECG tokens, mapped back on the signal."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from elm_hf.data.messages import fill_ecgs
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.processing_elm_symbol import ElmSymbolProcessor


@torch.inference_mode()
def ecg_attention(
    model: PreTrainedModel,
    processor: ElmSymbolProcessor,
    messages: Sequence[dict],
    ecg: np.ndarray,
    sampling_rate: float,
    answer: str,
) -> np.ndarray:
    """
    The attention that an answer pays to each sample of an ECG: the mean over layers, heads and the answer's tokens (each
    seen from the position that predicts it); a token's share is divided evenly among the samples that it stands for.

    Attention says where information was taken from, not that it mattered (Jain & Wallace 2019): see [`occlude`] for that.

    Args:
        model, processor: an ELM whose ECGs are tokens of its vocabulary (representation "symbol").
        messages: a conversation that ends with a question, with one `{"type": "ecg"}` item.
        ecg: `(12, samples)` in mV.
        sampling_rate: in Hz.
        answer: the text that was answered.

    Returns:
        `(12, samples)`, not negative; leads that the model does not read, and samples past its length, are 0.
    """
    answered = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    inputs = processor.apply_chat_template(
        [fill_ecgs(answered, [ecg], sampling_rate)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    ).to(model.device)
    predicts = inputs.pop("assistant_masks")[0].roll(-1).bool()
    is_ecg = torch.from_numpy(processor.is_ecg_token(inputs["input_ids"][0].cpu().numpy()))
    implementation = model.config.get_text_config(decoder=True)._attn_implementation
    model.set_attn_implementation("eager")  # the others do not say where they looked
    try:
        attentions = model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(implementation)
    of_layers = [layer[0].float().mean(dim=0)[predicts].mean(dim=0) for layer in attentions]
    of_tokens = torch.stack(of_layers).mean(dim=0).cpu()[is_ecg].numpy()
    return _on_samples(processor, of_tokens, ecg, sampling_rate)


def _on_samples(
    processor: ElmSymbolProcessor, of_tokens: np.ndarray, ecg: np.ndarray, sampling_rate: float
) -> np.ndarray:
    """Shares `(tokens,)` of the tokens in a conversation, on the samples `(12, samples)` of the ECG as it was given."""
    extractor = processor.feature_extractor
    values = extractor([ecg], sampling_rate=sampling_rate, lead_names=[list(LEADS)])["ecg_values"]
    tokens = processor.ecg_tokenizer.encode_ecg(np.asarray(values))[0]
    shares = np.zeros(len(tokens))
    shares[processor.kept_tokens(tokens)] = of_tokens
    read = np.zeros((len(processor.leads), extractor.num_samples))
    spans = processor.ecg_tokenizer.token_spans(tokens, len(processor.leads))
    of_token = np.bincount(spans[:, 0], spans[:, 3] - spans[:, 2], len(tokens))
    for token, lead, start, end in spans:
        read[lead, start:end] = shares[token] / of_token[token]
    place = np.floor(np.arange(ecg.shape[1]) * extractor.sampling_rate / sampling_rate).astype(int)
    on_signal = np.zeros(ecg.shape)
    inside = place < extractor.num_samples
    for row, lead in enumerate(processor.leads):
        on_signal[LEADS.index(lead), inside] = read[row, place[inside]]
    return on_signal
