"""ECG-language models for the Hugging Face libraries. Names are imported when they are first used."""

from importlib import import_module
from importlib.metadata import version


__version__ = version("elm-hf")

_MODULES = {
    "ElmConfig": "elm_hf.modeling.configuration_elm",
    "ElmModel": "elm_hf.modeling.modeling_elm",
    "ElmForCausalLM": "elm_hf.modeling.modeling_elm",
    "EcgResNetConfig": "elm_hf.modeling.configuration_ecg_resnet",
    "EcgResNetModel": "elm_hf.modeling.modeling_ecg_resnet",
    "EcgResNetForSequenceClassification": "elm_hf.modeling.modeling_ecg_resnet",
    "MerlConfig": "elm_hf.modeling.configuration_merl",
    "MerlModel": "elm_hf.modeling.modeling_merl",
    "MerlForPreTraining": "elm_hf.modeling.modeling_merl",
    "MlaeConfig": "elm_hf.modeling.configuration_maefe",
    "MlaeModel": "elm_hf.modeling.modeling_maefe",
    "MlaeForPreTraining": "elm_hf.modeling.modeling_maefe",
    "MtaeConfig": "elm_hf.modeling.configuration_maefe",
    "MtaeModel": "elm_hf.modeling.modeling_maefe",
    "MtaeForPreTraining": "elm_hf.modeling.modeling_maefe",
    "StMemConfig": "elm_hf.modeling.configuration_st_mem",
    "StMemModel": "elm_hf.modeling.modeling_st_mem",
    "StMemForPreTraining": "elm_hf.modeling.modeling_st_mem",
    "EcgFeatureExtractor": "elm_hf.modeling.feature_extraction_elm",
    "EcgImageProcessor": "elm_hf.modeling.image_processing_ecg",
    "EcgByteTokenizer": "elm_hf.modeling.tokenization_ecg_byte",
    "ElmProcessor": "elm_hf.modeling.processing_elm",
    "ElmSymbolProcessor": "elm_hf.modeling.processing_elm",
    "ElmVisionProcessor": "elm_hf.modeling.processing_elm",
    "EcgAugmentation": "elm_hf.augment",
    "EcgImageAugmentation": "elm_hf.augment",
    "ElmDataCollator": "elm_hf.collator",
    "LEADS": "elm_hf.modeling.ecg_utils",
    "build_index": "elm_hf.ecg_index",
    "convert_checkpoint": "elm_hf.convert",
    "create_elm": "elm_hf.create",
    "describe_records": "elm_hf.descriptions",
    "evaluate": "elm_hf.evaluation",
    "load_checkpoint": "elm_hf.generation",
    "load_elm_dataset": "elm_hf.data",
    "load_records": "elm_hf.data",
    "feature_text": "elm_hf.feature_rules",
    "measure_ecg": "elm_hf.features",
    "merge_adapter": "elm_hf.merge",
    "pack_by_ecg": "elm_hf.packing",
    "plot_ecg": "elm_hf.plot",
    "prepare_dataset": "elm_hf.prepare",
    "prepare_shard": "elm_hf.prepare",
    "publish_dataset": "elm_hf.publish",
    "publish_model": "elm_hf.publish_checkpoint",
    "read_recording": "elm_hf.recordings",
    "simulate_ecg": "elm_hf.simulate",
    "train_ecg_byte_tokenizer": "elm_hf.ecg_byte",
    "translate_reports": "elm_hf.translate",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
