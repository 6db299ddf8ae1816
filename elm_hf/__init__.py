"""ECG-language models for the Hugging Face libraries. Names are imported when they are first used."""

from importlib import import_module
from importlib.metadata import version


__version__ = version("elm-hf")

_MODULES = {
    "ElmConfig": "elm_hf.modeling.configuration_elm",
    "EcgResNetConfig": "elm_hf.modeling.configuration_ecg_resnet",
    "ElmModel": "elm_hf.modeling.modeling_elm",
    "ElmForCausalLM": "elm_hf.modeling.modeling_elm",
    "EcgResNetModel": "elm_hf.modeling.modeling_ecg_resnet",
    "EcgResNetForSequenceClassification": "elm_hf.modeling.modeling_ecg_resnet",
    "EcgFeatureExtractor": "elm_hf.modeling.feature_extraction_elm",
    "ElmProcessor": "elm_hf.modeling.processing_elm",
    "ElmDataCollator": "elm_hf.collator",
    "LEADS": "elm_hf.modeling.ecg_utils",
    "create_elm": "elm_hf.create",
    "evaluate": "elm_hf.evaluation",
    "load_checkpoint": "elm_hf.generation",
    "load_elm_dataset": "elm_hf.data",
    "load_records": "elm_hf.data",
    "plot_ecg": "elm_hf.plot",
    "prepare_dataset": "elm_hf.prepare",
    "read_recording": "elm_hf.recordings",
    "simulate_ecg": "elm_hf.simulate",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
