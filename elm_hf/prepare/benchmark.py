"""
`eval.yaml`, by which the Hub shows a dataset as a benchmark with a leaderboard (huggingface.co/docs/hub/eval-results).

Its tasks are the folds. Results of models refer to them: `elm-hf publish-model --evaluation` writes these to
`.eval_results/` (`elm_hf.checkpoints.eval_results`).
"""

from collections.abc import Collection

import yaml

from elm_hf.data.layout import OFFICIAL


EVAL_NAME = "eval.yaml"
FRAMEWORK = "elm-hf"
SPLIT = "test"


def eval_yaml(title: str, files: Collection[str]) -> bytes:
    """
    The content of `eval.yaml`.

    Args:
        title: name of the dataset.
        files: paths of the dataset's files in its repository.

    Raises:
        ValueError: no fold has a test split.
    """
    folds = sorted({path.split("/")[0] for path in files if path.split("/")[-1].startswith(f"{SPLIT}-")})
    folds = [name for name in folds if name == OFFICIAL or name.removeprefix("fold").isdecimal()]
    if not folds:
        raise ValueError(f"{title}: cannot be a benchmark (--benchmark): no fold has a {SPLIT} split")
    content = {
        "name": title,
        "description": (
            "Questions about ECGs. Each fold is a task: a model answers the questions of its test patients, whom it was not "
            "trained on. The value is exact match of short answers, or ROUGE-L of free text, with the ECG; the notes of a "
            "result have the scores with another signal or none in its place (elm-hf evaluate)."
        ),
        "evaluation_framework": FRAMEWORK,
        "tasks": [{"id": name, "config": name, "split": SPLIT} for name in folds],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120).encode()
