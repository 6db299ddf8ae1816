"""The rooms of `elm_hf/` (docs/architecture.md): which may import which, and what light modules load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from warm_python import run_python


ROOT = Path(__file__).resolve().parents[1]
FLOORS = """
modeling
ecg
utils
data
prepare checkpoints inference descriptions
retrieval
training
pretrain scoring
interpretations leakage counterfactuals
evaluation
classification comparison other_models
serving
cli
"""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.split("\n")) for room in rooms.split()}


def imported(file: Path) -> list[str]:
    """The modules of ours that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return [name for name in names if name.startswith("elm_hf.")]


@pytest.mark.parametrize("room", [room for room in FLOOR if room != "modeling"])
def test_a_room_imports_only_rooms_above_it(room):
    for file in (ROOT / "elm_hf" / room).glob("*.py"):
        rooms = {name.split(".")[1] for name in imported(file)} - {room, "dataset_scripts"}
        assert {other for other in rooms if FLOOR[other] >= FLOOR[room]} == set(), file


def test_dataset_scripts_import_what_builds_datasets():
    rooms = {name.split(".")[1] for file in (ROOT / "dataset_scripts").glob("*.py") for name in imported(file)}
    assert rooms <= {"prepare", "data", "ecg", "utils", "modeling", "dataset_scripts"}


def test_an_init_is_one_docstring_and_every_folder_is_a_room():
    folders = {file.parent for file in (ROOT / "elm_hf").glob("*/*.py")}
    assert {folder.name for folder in folders} | {"modeling"} == set(FLOOR)
    for folder in folders - {ROOT / "elm_hf" / "cli"}:
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0].value.value, str), folder


LOADED = "import sys, {}; print(*sys.modules)"


def loaded_by(module: str) -> set[str]:
    code = [sys.executable, "-c", LOADED.format(module)]
    return set(subprocess.run(code, capture_output=True, text=True, check=True).stdout.split())


def test_the_collator_reaches_few_modules():
    done = run_python(["-c", LOADED.format("elm_hf.training.collator")])
    ours = {name for name in done.stdout.split() if name.startswith("elm_hf.") and name.count(".") > 1}
    assert 0 < len(ours) <= 9, sorted(ours)


def test_the_questions_of_an_evaluation_reach_few_modules_and_none_of_training():
    loaded = loaded_by("elm_hf.evaluation.questions")
    ours = {name for name in loaded if name.startswith("elm_hf.") and name.count(".") > 1}
    assert len(ours) <= 6 and not any(name.startswith("elm_hf.training") for name in ours), sorted(ours)
    assert "torch" not in loaded


@pytest.mark.parametrize("module", ["elm_hf.cli", "elm_hf.training.arguments", "elm_hf.pretrain.arguments"])
def test_options_are_listed_without_large_libraries(module):
    assert loaded_by(module).isdisjoint({"torch", "transformers", "trl", "datasets", "pandas", "scipy"})
