"""ECG-language models in vLLM: encoder and projector as they are, vLLM's own class of the LLM. Needs vLLM."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn
from transformers import BatchFeature
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ModalityDataItems, MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.renderers import TokenizeParams
from vllm.sequence import IntermediateTensors

from elm_hf.serving.vllm_prompts import MODALITY, check_ecgs_are_given, checked_ecgs, example_ecg
from elm_hf.serving.vllm_weights import TOWER_PREFIXES, EcgTower, llm_prefixes


class PreparedEcgs(ModalityDataItems[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]):
    """ECGs of a prompt as the encoder reads them. They pass vLLM's processing unchanged."""

    def __init__(self, ecgs: list[dict[str, torch.Tensor]]):
        super().__init__(ecgs, MODALITY)

    def get_count(self) -> int:
        return len(self.data)

    def get(self, index: int) -> dict[str, torch.Tensor]:
        return self.data[index]

    def get_processor_data(self) -> Mapping[str, object]:
        return {}

    def get_passthrough_data(self) -> Mapping[str, object]:
        return {name: torch.stack([ecg[name] for ecg in self.data]) for name in self.data[0]}


class EcgDataParser(MultiModalDataParser):
    """
    vLLM's parser with the modality `"ecg"`.

    Args:
        example: an ECG as the model reads it.
        kwargs: arguments of vLLM's parser.
    """

    def __init__(self, example: dict[str, torch.Tensor], **kwargs):
        super().__init__(**kwargs)
        self.example = example

    def _get_subparsers(self):
        return {MODALITY: self._parse_ecg_data}

    def _parse_ecg_data(self, data: dict | list[dict] | None) -> PreparedEcgs | None:
        ecgs = [] if data is None else checked_ecgs(data, self.example)
        return PreparedEcgs(ecgs) if ecgs else None


@dataclass(frozen=True)
class EcgTokenizeParams(TokenizeParams):
    """vLLM's parameters of tokenization, which also refuse placeholders without their ECGs."""

    ecg_token_id: int | None = None

    def with_kwargs(self, **tokenization_kwargs) -> "EcgTokenizeParams":
        return with_check(super().with_kwargs(**tokenization_kwargs), self.ecg_token_id)

    def apply_post_tokenization(self, tokenizer, prompt):
        prompt = super().apply_post_tokenization(tokenizer, prompt)
        if "prompt_token_ids" in prompt:
            ecgs = (prompt.get("multi_modal_data") or {}).get(MODALITY) or []
            number = 1 if isinstance(ecgs, dict) else len(ecgs)
            check_ecgs_are_given(list(prompt["prompt_token_ids"]), number, self.ecg_token_id)
        return prompt


def with_check(params: TokenizeParams, ecg_token_id: int) -> EcgTokenizeParams:
    """The same parameters, with the check of the placeholders."""
    values = {field.name: getattr(params, field.name) for field in fields(TokenizeParams)}
    return EcgTokenizeParams(**values, ecg_token_id=ecg_token_id)


class ElmProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about the ECGs of a model."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {MODALITY: None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {MODALITY: self.get_hf_config().num_ecg_tokens}

    def get_data_parser(self) -> EcgDataParser:
        return EcgDataParser(example_ecg(self.get_hf_processor()))

    def get_default_tok_params(self) -> TokenizeParams:
        # The chat template has written the special tokens.
        params = super().get_default_tok_params().with_kwargs(add_special_tokens=False)
        return with_check(params, self.get_hf_config().ecg_token_id)


class ElmDummyInputsBuilder(BaseDummyInputsBuilder[ElmProcessingInfo]):
    """Inputs with which vLLM measures the memory that the model needs."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return self.info.get_hf_processor().ecg_token * mm_counts.get(MODALITY, 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options) -> dict:
        return {MODALITY: [example_ecg(self.info.get_hf_processor())] * mm_counts.get(MODALITY, 0)}


class ElmMultiModalProcessor(BaseMultiModalProcessor[ElmProcessingInfo]):
    """Repeats the placeholder of each ECG, and hands the ECGs to the model."""

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched(MODALITY) for name in hf_inputs}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        tokens = [config.ecg_token_id] * config.num_ecg_tokens
        return [PromptReplacement(modality=MODALITY, target=[config.ecg_token_id], replacement=tokens)]


@MULTIMODAL_REGISTRY.register_processor(
    ElmMultiModalProcessor, info=ElmProcessingInfo, dummy_inputs=ElmDummyInputsBuilder
)
class ElmForCausalLM(nn.Module, SupportsMultiModal, SupportsPP):
    """An ECG-language model: [`EcgTower`] and vLLM's class of the LLM."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.dtype = vllm_config.model_config.dtype
        generation = vllm_config.model_config.try_get_generation_config()
        self.ends = generation.get("eos_token_id", [])
        self.never_written = generation.get("suppress_tokens", [])  # the placeholder of ECGs
        if self.config.representation == "symbol":
            raise ValueError(
                'This model reads ECGs as tokens (representation="symbol"), which its LLM alone can do: save it with '
                "elm_hf.serving.prompt_embeddings.save_language_model, and serve that."
            )
        with self._mark_tower_model(vllm_config, MODALITY):
            self.ecg_tower = EcgTower(self.config).to(self.dtype).eval()
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=self.config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        # vLLM's own chat messages have no ECGs; prompts are made with `vllm_prompt`.
        raise ValueError(f"{modality}: make prompts with elm_hf.serving.vllm_prompts.vllm_prompt.")

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        if "ecg_values" not in kwargs:
            return []
        return tuple(self.ecg_tower.get_ecg_features(**kwargs, return_dict=True).pooler_output.to(self.dtype))

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: MultiModalEmbeddings | None = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Embeddings of tokens and ECGs. A placeholder without its ECG, which other ways into vLLM than `vllm_prompt` let
        pass, gets no numbers (NaN), so that `compute_logits` finds it.
        """
        is_unseen = input_ids == self.config.ecg_token_id
        if multimodal_embeddings is None or is_multimodal is None or len(multimodal_embeddings) == 0:
            embeddings = super().embed_input_ids(input_ids)
        else:
            embeddings = super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)
            is_unseen = is_unseen & ~is_multimodal.to(input_ids.device)
        return embeddings.masked_fill(is_unseen.unsqueeze(-1), torch.nan)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """
        Logits of the LLM without the placeholder of ECGs. A conversation with a placeholder whose ECG is missing can only
        end, with no answer.
        """
        logits = self.language_model.compute_logits(hidden_states)
        if logits is None:
            return None
        logits[:, self.never_written] = -torch.inf
        ends = torch.full_like(logits[0], -torch.inf)
        ends[self.ends] = 0
        return torch.where(hidden_states.isnan().any(-1, keepdim=True), ends, logits)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        names, tower = llm_prefixes(self.config), {}

        def of_language_model() -> Iterator[tuple[str, torch.Tensor]]:
            for name, weight in weights:
                if name.startswith(TOWER_PREFIXES):
                    tower[name.removeprefix("model.")] = weight
                    continue
                (old,) = [prefix for prefix in names if name.startswith(prefix)]
                yield f"language_model.{names[old]}{name.removeprefix(old)}", weight

        loaded = AutoWeightsLoader(self).load_weights(of_language_model())
        if not isinstance(self.ecg_tower, EcgTower):  # vLLM leaves it out on all but the first stage of a pipeline
            return loaded
        self.ecg_tower.load_state_dict(tower)
        return loaded | {f"ecg_tower.{name}" for name in self.ecg_tower.state_dict()}
