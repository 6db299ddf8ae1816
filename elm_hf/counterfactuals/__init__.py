"""Counterfactual ECGs, which differ in one thing: what a model's answers follow (`elm-hf probe`)."""
