# Copyright 2026 The elm-hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The model card (`README.md`) of an ECG-language model, which travels with it: every way to save or push writes it."""

import os
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData


TAGS = ["ecg", "electrocardiogram", "ecg-language-model", "elm-hf"]
# Says in the card of a processor that there is no model beside it. The model's card replaces such a card.
WITHOUT_MODEL = "There is no model in this repository yet."
# The heading of the cards that transformers and PEFT write where there is none.
EMPTY_CARD = "# Model Card for Model ID"

CARD_TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

An ECG-language model that reads electrocardiograms and answers questions about them. For research, not for clinical use.

```python
from transformers import AutoModelForCausalLM, AutoProcessor

repo = "{{ repo }}"
{% if is_adapter -%}
# a LoRA adapter: needs peft, which loads the base model ({{ base_model }})
{% endif -%}
model = AutoModelForCausalLM.from_pretrained(repo, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)

# `ecg`: an array ({{ num_leads or 12 }} leads, samples) in millivolt, or the path of a WFDB record (then without `sampling_rate`)
question = {"type": "text", "text": "What is the rhythm?"}
messages = [{"role": "user", "content": [{"type": "ecg", "ecg": ecg, "sampling_rate": 500}, question]}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
{% if not is_adapter %}
The same with a pipeline, which also takes a list of conversations and `batch_size`:

```python
from transformers import pipeline

pipe = pipeline("any-to-any", model=repo, trust_remote_code=True)
print(pipe(text=messages, max_new_tokens=64, return_full_text=False)[0]["generated_text"])
```
{% endif %}
## Intended use and limits

This model is for research on models that read ECGs: to reproduce, compare and improve them. It is not a medical device. Do
not use its answers to diagnose, treat or reassure anybody: they can be wrong while sounding fluent and confident.

- The model was trained on the patients, devices and wording of its training data. How it performs on others is unknown
  unless reported below.
- A model may answer from the question alone. Only a score that drops without the ECG shows that the model reads the ECG.
- ECGs have 12 leads in millivolt, and leads are identified by name. A flat, clipped or noise-like signal gives a
  warning, and a recording that is too short is refused; other poor signals are not noticed.

## Model

| | |
|---|---|
{% if llm -%}
| ECG | {{ representation }} of {{ num_leads }} leads, {{ num_samples }} samples |
| encoder | {{ encoder }} |
{% if encoder_license -%}
| licence of the encoder's weights | `{{ encoder_license }}` |
{% endif -%}
{% if encoder_pretraining_data -%}
| datasets that the encoder was trained on before | {{ encoder_pretraining_data | join(", ") }} |
{% endif -%}
| projector | {{ projector }} |
| LLM | {{ llm }} |
| parameters | {{ "{:,}".format(num_parameters) }}{% if trained_here %}, of which {{ "{:,}".format(num_trained) }} were trained: {{ trained }}{% endif %} |
{% endif -%}
{% if base_model -%}
| started from | {{ base_model }} |
{% endif -%}
{% if trained_here -%}
| data | {{ datasets | join(", ") }}, fold {{ fold }}, training split |
| training | {% if method and method != "sft" %}{{ method.upper() }}, {% endif %}{{ steps }} steps of {{ batch_size }} {{ "batches of up to %d positions" % tokens_per_batch if tokens_per_batch else "sampled answers" if method in ("grpo", "rloo") else "pairs" if method == "dpo" else "answers" if method == "kto" else "conversations" }}, {{ "Muon, " if muon }}learning rate {{ learning_rate }}{{ " (encoder: %s)" % encoder_learning_rate if encoder_learning_rate }} ({{ schedule }}), seed {{ seed }} |
| last training loss | {{ loss }} |
{% if ecg_condition and ecg_condition != "signal" -%}
| **ECGs in training** | **{{ ecg_condition }}: the model has not seen the ECGs that its training questions are about** |
{% endif -%}
{% endif %}
{%- if not llm and not is_adapter %}
{{ without_model }}
{% elif not trained_here %}
There is no record of the training.
{% endif %}
## Evaluation
{% for evaluation in evaluations %}
{{ evaluation.place }}. Each column is a condition: what the model was given in place of the ECG. Brackets are 95 % confidence
intervals over patients.

| question type | answers | metric |{% for condition in evaluation.conditions %} {{ condition }} |{% endfor %}
|---|---|---|{% for condition in evaluation.conditions %}---|{% endfor %}
{% for row in evaluation.rows -%}
| {{ row.group }} | {{ row.answers }} | {{ row.metric }} |{% for score in row.scores %} {{ score }} |{% endfor %}
{% endfor %}
{%- for sentence in evaluation.reliance %}
{{ sentence }}
{% endfor -%}
{% else %}
This model has not been evaluated. `elm-hf evaluate` measures how well it answers questions about the fold's test patients,
and whether it reads the ECG.
{% endfor %}
Made with elm-hf{% if version %} {{ version }}{% endif %}{% if trained_here %}, transformers {{ transformers_version }}, TRL {{ trl_version }}{% endif %}.
"""


def parts_of(config) -> dict:
    r"""
    What a card says about the parts of a model.

    Args:
        config ([`ElmConfig`]):
            Configuration of the model.

    Returns:
        `dict`: Variables of `CARD_TEMPLATE`, as JSON values.
    """
    encoder = {} if config.encoder_config is None else config.encoder_config.to_dict()
    parts = [config.text_config, config.encoder_config, config.picture_encoder_config]
    of_picture = f" and {config.picture_encoder_config.model_type}" if config.reads_both else ""
    return {
        "representation": ("signal and picture" if config.reads_both else config.representation)
        + (f" and {len(config.measurements)} measured values" if config.measurements else ""),
        "num_leads": config.num_leads,
        "num_samples": config.num_samples,
        "encoder": encoder.get("model_type", "none") + of_picture,
        "encoder_license": encoder.get("license"),
        "encoder_pretraining_data": encoder.get("pretraining_data") or [],
        "projector": (config.projector_type or "none")
        + (f" and {config.picture_projector_type}" if config.reads_both else ""),
        "llm": config.text_config.model_type,
        "license": config.license,
        "license_name": config.license_name,
        "license_link": config.license_link,
        "repositories": [part.name_or_path for part in parts if part is not None and is_repository(part.name_or_path)],
    }


def is_repository(name: str | None) -> bool:
    r"""
    Whether a name can be that of a repository on the Hub: `owner/name`, and not a folder here.

    Args:
        name (`str`, *optional*):
            The name, as it was given to `from_pretrained`.
    """
    if not name or name.count("/") != 1 or name.startswith((".", "/", "~")) or "\\" in name:
        return False
    return not name.endswith("/") and not os.path.isdir(name)


def build_card(name: str, facts: dict, **metadata) -> ModelCard:
    r"""
    Fills the template of the card.

    Args:
        name (`str`):
            Repository or folder that the usage example loads.
        facts (`dict`):
            Variables of `CARD_TEMPLATE`, with those of [`parts_of`].
        metadata:
            Fields of the card's [`ModelCardData`] in addition to or instead of those that follow from `facts`.
    """
    repositories = facts.get("repositories") or []
    encoder_license = facts.get("encoder_license") or ""
    fields = {
        "library_name": "transformers",
        "pipeline_tag": "any-to-any",
        "base_model": repositories or None,
        "base_model_relation": None if not repositories else "merge" if len(repositories) > 1 else "finetune",
        "license": facts.get("license"),
        "license_name": facts.get("license_name"),
        "license_link": facts.get("license_link"),
        "tags": TAGS,
        "model_name": name.split("/")[-1],
    }
    if "-nc" in encoder_license:  # weights that may not be used commercially pass that on to the model with them
        fields |= {"license": encoder_license, "license_name": None, "license_link": None}
    return ModelCard.from_template(
        ModelCardData(**fields | metadata),
        template_str=CARD_TEMPLATE,
        name=name.split("/")[-1],
        repo=name,
        without_model=WITHOUT_MODEL,
        **facts,
    )


class ElmCardMixin:
    """
    Writes the card beside a model or processor that is saved or pushed. A card that somebody has written is kept.

    A subclass has `card_facts`, and is before the class whose `save_pretrained` it extends.
    """

    # Whether the card is that of a model, which replaces the card of a processor alone.
    has_model_card = False

    def card_facts(self) -> dict:
        """Variables of `CARD_TEMPLATE`."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        r"""
        As in transformers, with the card.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder of the checkpoint.
            args, kwargs:
                Further arguments, as in transformers.
        """
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if Path(save_directory).is_dir() and kwargs.get("is_main_process", True):
            self._write_card(Path(save_directory), Path(save_directory).name, replace_empty=False)
        return saved

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args, **kwargs):
        """`push_to_hub` has just written an empty card into the folder, unless the repository has one."""
        self._write_card(Path(working_dir), repo_id, replace_empty=True)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _write_card(self, folder: Path, name: str, *, replace_empty: bool):
        readme = folder / "README.md"
        if readme.is_file():
            text = readme.read_text(encoding="utf-8")
            is_empty = replace_empty and EMPTY_CARD in text and "library_name: peft" not in text
            if not (is_empty or (self.has_model_card and WITHOUT_MODEL in text)):
                return
        build_card(name, {"is_adapter": False, "trained_here": False} | self.card_facts()).save(readme)


__all__ = ["ElmCardMixin", "build_card", "is_repository", "parts_of"]
