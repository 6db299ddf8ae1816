"""ECG-language models for the Hugging Face libraries. Public names are imported on first use."""

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
    "EcgSeResNetConfig": "elm_hf.modeling.configuration_ecg_se_resnet",
    "EcgSeResNetModel": "elm_hf.modeling.modeling_ecg_se_resnet",
    "EcgSeResNetForSequenceClassification": "elm_hf.modeling.modeling_ecg_se_resnet",
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
    "EcgFeatureExtractor": "elm_hf.modeling.feature_extraction_ecg",
    "EcgImageProcessor": "elm_hf.modeling.image_processing_ecg",
    "EcgByteTokenizer": "elm_hf.modeling.tokenization_ecg_byte",
    "ElmProcessor": "elm_hf.modeling.processing_elm",
    "ElmSignalVisionProcessor": "elm_hf.modeling.processing_elm_signal_vision",
    "ElmSymbolProcessor": "elm_hf.modeling.processing_elm_symbol",
    "ElmVisionProcessor": "elm_hf.modeling.processing_elm_vision",
    "EcgAugmentation": "elm_hf.training.augmentation",
    "EcgImageAugmentation": "elm_hf.training.augmentation",
    "ElmDataCollator": "elm_hf.training.collator",
    "LEADS": "elm_hf.modeling.ecg_leads",
    "build_index": "elm_hf.retrieval.index",
    "convert_checkpoint": "elm_hf.checkpoints.convert",
    "create_elm": "elm_hf.checkpoints.create",
    "describe_records": "elm_hf.descriptions.describe",
    "evaluate": "elm_hf.evaluation.evaluate",
    "load_checkpoint": "elm_hf.checkpoints.load",
    "load_elm_dataset": "elm_hf.data.loading",
    "load_records": "elm_hf.data.tables",
    "feature_text": "elm_hf.ecg.normal_ranges",
    "measure_ecg": "elm_hf.modeling.ecg_measurements",
    "merge_adapter": "elm_hf.checkpoints.merge",
    "pack_by_ecg": "elm_hf.training.packing",
    "plot_ecg": "elm_hf.ecg.plot",
    "prepare_dataset": "elm_hf.prepare.dataset",
    "prepare_shard": "elm_hf.prepare.dataset",
    "publish_dataset": "elm_hf.prepare.publish",
    "publish_model": "elm_hf.checkpoints.publish",
    "read_recording": "elm_hf.ecg.recording",
    "simulate_ecg": "elm_hf.ecg.simulation",
    "train_ecg_byte_tokenizer": "elm_hf.checkpoints.ecg_byte",
    "translate_reports": "elm_hf.descriptions.translate",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
