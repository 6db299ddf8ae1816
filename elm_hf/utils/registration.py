"""Registers the classes of `elm_hf.modeling` with the Auto classes of transformers."""

from elm_hf.modeling.ecg_encoders import import_ecg_encoders


def register_modeling_classes():
    """
    Makes the Auto classes find elm-hf's configurations, models and processors. Without this, a checkpoint of elm-hf
    needs `trust_remote_code=True`.
    """
    # Each module registers its classes when it is imported.
    import elm_hf.modeling.feature_extraction_ecg_coca
    import elm_hf.modeling.feature_extraction_ecg_cpc
    import elm_hf.modeling.feature_extraction_ecg_fm
    import elm_hf.modeling.feature_extraction_ecg_jepa
    import elm_hf.modeling.feature_extraction_hubert_ecg
    import elm_hf.modeling.feature_extraction_net1d
    import elm_hf.modeling.modeling_elm
    import elm_hf.modeling.processing_elm
    import elm_hf.modeling.processing_elm_signal_vision
    import elm_hf.modeling.processing_elm_symbol
    import elm_hf.modeling.processing_elm_vision  # noqa: F401

    import_ecg_encoders()
