"""Colours and resolution of the figures of reports."""

from elm_hf.scoring.names import BLIND


# Okabe & Ito (2008): colours that the colour-blind can tell apart.
COLORS = {"ecg": "#0072B2", BLIND: "#D55E00"}
CONTROL_COLOR = "#999999"
DPI = 110
AS_IT_IS = {"parse_math": False}  # a dollar sign in a question type or an answer does not start a formula
