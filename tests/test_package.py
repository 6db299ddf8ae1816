"""The package as pip installs it: what it declares, and that a wheel outside a clone prepares, trains, evaluates and asks."""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from conftest import TINY_LLM
from warm_python import OF_THE_HUB, Interpreter


ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = ("elm_hf", "modeling", "dataset_scripts")


def declared() -> set[str]:
    requirements = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    return {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in requirements}


def test_every_package_that_is_imported_is_declared():
    found = set()
    for file in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    distributions = packages_distributions()
    found -= {"elm_hf", "vllm"}  # vLLM loads the plug-in and is not loaded by elm-hf
    names = {name: distributions.get(name, [name]) for name in found - set(sys.stdlib_module_names)}
    missing = [name for name, of in names.items() if not {one.lower().replace("_", "-") for one in of} & declared()]
    assert missing == []


def test_every_folder_of_code_is_packaged():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    rooms = {f"elm_hf.{folder.parent.name}" for folder in (ROOT / "elm_hf").glob("*/__init__.py")}
    assert set(packages) == {
        "elm_hf",
        *rooms,
        *(f"elm_hf.{name}" for name in ("modeling", "dataset_scripts", "cards", "recipes")),
    }


def test_links_of_the_readme_work_outside_the_clone():
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    ours = re.compile(
        r"https://(?:github\.com/elm-hf/elm-hf/blob|raw\.githubusercontent\.com/elm-hf/elm-hf)/main/([^#]+)"
    )
    assert len(targets) > 10 and all(target.startswith("https://") for target in targets)
    for path in (found[1] for target in targets if (found := ours.match(target))):
        assert (ROOT / path).is_file(), path


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An environment with the wheel and the libraries, but without the clone: its `bin`."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = {"capture_output": True, "text": True, "check": True}
    # pip otherwise downloads the setuptools that builds it
    built_here = ["--no-build-isolation"] if int(version("setuptools").split(".")[0]) >= 77 else []
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *built_here, "-w", folder, ROOT]
    subprocess.run(build, **quiet)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], **quiet)
    python = folder / "venv" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **quiet
        ).stdout.strip()
    )
    libraries = dict.fromkeys(
        [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
    )
    (site / "libraries.pth").write_text("\n".join(libraries))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, **quiet)
    return folder / "venv" / "bin"


def test_a_wheel_prepares_creates_trains_evaluates_and_asks(installed, tmp_path):
    (tmp_path / "elm.json").write_text(json.dumps({"text_config": TINY_LLM}))
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}

    libraries = Interpreter(
        OF_THE_HUB, lambda words: subprocess.Popen([installed / "python", *words], env=environment, cwd=tmp_path)
    )

    def run(*arguments: str) -> str:
        process = libraries.start([installed / "elm-hf", *arguments], environment, tmp_path)
        assert process.wait() == 0, process.error.read_text()[-3000:]
        return process.output.read_text()

    assert "quickstart" in run("recipes")
    where = subprocess.run(
        [installed / "python", "-c", "import elm_hf; print(elm_hf.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(installed.parent))
    run("prepare", "simulated_qa", "--output", "data", "--num-recordings", "24", "--seconds", "2", "--num-folds", "2")
    create = ["--config", "elm.json", "--tokenizer-dataset", "data", "--vocab-size", "400", "--seconds", "2"]
    run("create", "elm", *create, "--num-ecg-tokens", "5")
    options = ["--model_name_or_path", "elm", "--dataset", "data", "--output_dir", "trained", "--max_steps", "2"]
    run("train", "--config", "quickstart", *options, "--save_strategy", "no")
    report = run("evaluate", "trained", "--dataset", "data", "--limit", "4", "--occlusions", "0", "--condition", "ecg")
    assert "exact_match" in report or "with ECG" in report
    assert "truth:" in run("ask", "trained", "--dataset", "data", "--num-questions", "1")
