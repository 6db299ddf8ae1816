"""The documentation: the site builds without a broken link, names what is public, and its notebook runs."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import elm_hf


ROOT = Path(__file__).resolve().parent.parent
needs_docs = pytest.mark.skipif(
    not (find_spec("mkdocs") and find_spec("mkdocs_jupyter") and find_spec("ipykernel")),
    reason='needs pip install "elm-hf[docs]"',
)


def test_the_reference_describes_every_public_name():
    described = re.findall(r"^::: \S+\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(described) == sorted(set(elm_hf.__all__) - {"__version__", "LEADS"})


def test_links_of_the_readme_lead_to_files_of_the_repository():
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"elm-hf/elm-hf/(?:blob/)?main/([^)#\s]+)(#[^)\s]*)?\)", readme)
    assert len(links) > 10
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor[1:] in slugs, (path, anchor)


@needs_docs
def test_the_site_has_every_page_and_no_broken_link(tmp_path):
    """A broken link, an unknown anchor or a page outside the navigation is a warning, which `strict` makes an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "commands" / "index.html").read_text()
    assert "--questions-per-ecg" in commands and "--occlusions" in commands
    assert "ecg_values" in (tmp_path / "api" / "index.html").read_text()


@needs_docs
def test_the_notebook_runs_from_files_to_an_answering_model(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PATH", os.path.join(sys.prefix, "share", "jupyter"))
    notebook = nbformat.read(ROOT / "docs" / "own_ecgs.ipynb", 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=resources).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "This model's answers depend on the ECG" in said
    answers = re.findall(r"truth: (.*?)   answer: (.*)", said)
    assert len(answers) == 4 and sum(truth == answer.strip() for truth, answer in answers) >= 3
