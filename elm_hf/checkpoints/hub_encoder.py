"""Encoders of the Hub that were not made for elm-hf, as part of an ELM: how they read a signal, and their code."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files

from elm_hf import modeling
from elm_hf.checkpoints.load import load_pretrained
from elm_hf.modeling.configuration_hub_encoder import HubEncoderConfig
from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor
from elm_hf.modeling.modeling_hub_encoder import HubEncoderModel
from elm_hf.utils.hub import check_name, licence_of


# Value of a millivolt in each unit.
PER_MILLIVOLT = {"mV": 1.0, "uV": 1000.0, "V": 0.001}
LAYOUTS = ("leads_first", "samples_first", "flat", "single_lead")


@dataclass(frozen=True)
class HubEncoder:
    """
    A pre-trained encoder of the Hub, and how it reads a signal.

    Args:
        name: folder or repository.
        trust_remote_code: run the encoder's own code.
        sampling_rate: sampling rate in Hz. Defaults to that of its own feature extractor.
        layout: shape of the signal, one of `LAYOUTS` ([`HubEncoderConfig`]).
        units: units of the signal: `"mV"`, `"uV"` or `"V"`.
        input_name: argument of its `forward` that takes the signal. Defaults to the model's main input, or the first.

    Raises:
        ValueError: the layout or the units are unknown.
    """

    name: str
    trust_remote_code: bool = False
    sampling_rate: int | None = None
    layout: str | None = None
    units: str | None = None
    input_name: str | None = None

    def __post_init__(self):
        if self.layout not in (None, *LAYOUTS):
            raise ValueError(f"--encoder-layout is {self.layout}; expected {', '.join(LAYOUTS)}.")
        if self.units not in (None, *PER_MILLIVOLT):
            raise ValueError(f"--encoder-units is {self.units}; expected {', '.join(PER_MILLIVOLT)}.")

    @property
    def is_described(self) -> bool:
        """Whether anything but the name is given."""
        given = (self.sampling_rate, self.layout, self.units, self.input_name)
        return self.trust_remote_code or any(one is not None for one in given)

    def load(
        self,
        dtype: str,
        seconds: float | None,
        normalization: str | None,
        leads: Sequence[str] | None,
    ) -> tuple[HubEncoderModel, EcgFeatureExtractor]:
        """
        Loads the encoder, and its feature extractor.

        Args:
            dtype, seconds, normalization, leads: as for [`create_elm`].

        Raises:
            OSError: there is no such checkpoint.
            ValueError: its sampling rate is not known, or it returns no `last_hidden_state` of such signals.
        """
        check_name(self.name)
        options = {"trust_remote_code": self.trust_remote_code}
        config = load_pretrained(AutoConfig, self.name, **options)
        encoder = load_pretrained(AutoModel, self.name, config=config, dtype=dtype, **options)
        if not type(encoder).__module__.startswith("transformers."):
            _check_names_of_code(self.name, encoder)
            _register(type(encoder))
        # The code is saved beside that of the ELM, and the name of the repository once.
        config.auto_map = {name: path.split("--")[-1] for name, path in getattr(config, "auto_map", {}).items()}
        encoder.config.name_or_path = ""
        reader = self._feature_extractor(seconds, normalization, leads)
        return self._wrap(encoder.eval(), reader), reader

    def _feature_extractor(
        self, seconds: float | None, normalization: str | None, leads: Sequence[str] | None
    ) -> EcgFeatureExtractor:
        """Its own feature extractor if it is one for ECGs; otherwise ours, with the settings of its own."""
        try:
            settings, _ = FeatureExtractionMixin.get_feature_extractor_dict(self.name)
        except OSError:
            settings = {}
        if {"leads", "num_samples", "normalization"} <= settings.keys():
            own = load_pretrained(AutoFeatureExtractor, self.name, trust_remote_code=self.trust_remote_code)
            if isinstance(own, EcgFeatureExtractor):
                settings = own.to_dict()
        rate = self.sampling_rate or settings.get("sampling_rate")
        if rate is None:
            raise ValueError(
                f"--encoder {self.name}: its sampling rate is not known (no sampling_rate in a preprocessor_config.json); give "
                "--encoder-rate in Hz."
            )
        length = round((seconds or 10) * rate)
        if seconds is None and rate == settings.get("sampling_rate"):
            length = settings.get("num_samples") or length
        by_itself = "z_score" if settings.get("do_normalize") else "millivolt"
        chosen = {"normalization": normalization or settings.get("normalization") or by_itself}
        if leads or settings.get("leads"):
            chosen["leads"] = leads or settings["leads"]
        return EcgFeatureExtractor(rate, length, **chosen)

    @torch.no_grad()
    def _wrap(self, encoder: PreTrainedModel, reader: EcgFeatureExtractor) -> HubEncoderModel:
        parameters = inspect.signature(encoder.forward).parameters
        input_name = self.input_name or (
            encoder.main_input_name if encoder.main_input_name in parameters else next(iter(parameters))
        )
        shape = (len(reader.leads), reader.num_samples)
        config = HubEncoderConfig(
            encoder_config=encoder.config,
            input_name=input_name,
            layout=self.layout or "leads_first",
            units_per_millivolt=PER_MILLIVOLT[self.units or "mV"],
            num_leads=shape[0],
            num_samples=shape[1],
            license=licence_of(self.name).get("license"),
        )
        config.name_or_path = self.name
        with torch.device("meta"):
            model = HubEncoderModel(config)
        model.encoder = encoder
        model.config.dtype = encoder.dtype
        try:
            outputs = model(torch.zeros(1, *shape, device=encoder.device))
        except Exception as error:  # whatever code of a stranger raises
            raise ValueError(
                f"--encoder {self.name}: does not read a signal of {shape[0]} leads and {shape[1]} samples as {config.layout} in "
                f"`{input_name}` ({type(error).__name__}: {' '.join(str(error).split())[:200]}); see --encoder-layout, "
                "--encoder-input, --encoder-rate, --seconds and --leads."
            ) from error
        model.config.hidden_size = outputs.last_hidden_state.shape[-1]
        return model.eval()


def _check_names_of_code(name: str, encoder: PreTrainedModel) -> None:
    """Refuses an encoder with a file of code of the same name as one of ours, beside which it is saved."""
    module = Path(inspect.getfile(type(encoder)))
    files = {module.name, *(Path(path).name for path in get_relative_import_files(module))}
    ours = {path.name for path in Path(modeling.__path__[0]).glob("*.py")}
    if files & ours:
        raise ValueError(
            f"--encoder {name}: its code has the files {', '.join(sorted(files & ours))}, which are those of elm-hf; "
            "rename them in the repository."
        )


def allow_encoder_code(name: str, revision: str | None = None, trust_remote_code: bool = False) -> None:
    """
    Registers the code of an ELM's encoder that is not elm-hf's, before the ELM is loaded with elm-hf's classes.

    Args:
        name: folder or repository of the ELM.
        revision: branch, tag or commit.
        trust_remote_code: whether this code may be run.

    Raises:
        ValueError: the encoder has code of its own and it may not be run, or it has none and this option would have no
            effect.
    """
    config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    encoder = config.get("encoder_config") or {}
    inner = encoder.get("encoder_config") or {} if encoder.get("model_type") == HubEncoderConfig.model_type else {}
    path = (inner.get("auto_map") or {}).get("AutoModel")
    if path is None:
        if trust_remote_code:
            raise ValueError(
                "--trust_remote_code has no effect on this ELM: training loads elm-hf's own classes, and only an encoder of the "
                "Hub with code of its own needs it."
            )
        return
    if not trust_remote_code:
        raise ValueError(
            f'{name}: its encoder (model_type="{inner.get("model_type")}") has code of its own; add --trust_remote_code to run '
            "it."
        )
    _register(get_class_from_dynamic_module(path, name, revision=revision))


def _register(encoder_class: type[PreTrainedModel]) -> None:
    """Makes the Auto classes find an encoder with code of its own."""
    AutoConfig.register(encoder_class.config_class.model_type, encoder_class.config_class, exist_ok=True)
    AutoModel.register(encoder_class.config_class, encoder_class, exist_ok=True)
