"""The steps of a reasoning about one ECG, each a question with options (ECG-Reasoning-Benchmark, Oh et al. 2026)."""

from datasets import List, Value


INITIAL = "initial_diagnostic_question"
CRITERION, FINDING, DECISION = "criterion_selection", "finding_identification", "diagnostic_decision"
LEAD_GROUNDING = "lead_grounding"  # the only step with several true options
GROUNDING_TYPES = (LEAD_GROUNDING, "wave_grounding", "measurement_grounding")
# In the order in which they are asked; all but the first are repeated for each criterion.
STEP_TYPES = (INITIAL, CRITERION, FINDING, *GROUNDING_TYPES, DECISION)

# Columns of conversations that consist of such steps: a step for each answer. `loop` is the number of the criterion, from 0
# on; -1 for the initial question.
STEP_FEATURES = {
    "target_dx": Value("string"),
    "dx_label": Value("bool"),
    "steps": List(
        {
            "type": Value("string"),
            "loop": Value("int32"),
            "options": List(Value("string")),
            "answer": List(Value("string")),
        }
    ),
}

# Diagnoses whose samples release 0.0.2 of the benchmark replaced: earlier results about them are void.
RELEASE = "0.0.2"
REPLACED_DIAGNOSES = {
    "left_anterior_fascicular_block": "LAFB",
    "left_posterior_fascicular_block": "LPFB",
    "left_ventricular_hypertrophy": "LVH",
    "third_degree_av_block": "3AVB",
    "premature_atrial_complex": "PAC",
    "premature_ventricular_complex": "PVC",
}
