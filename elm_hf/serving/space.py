"""The demo as a Space on the Hub."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from elm_hf.ecg.find_files import find_ecg_files
from elm_hf.utils.files import check_links
from elm_hf.utils.hub import Publication, check_repo_id, publish_files


SDK_VERSION = "6.31.0"
EXAMPLES_FOLDER = "examples"
LARGEST_EXAMPLES = 200_000_000  # bytes
APP = """\
from elm_hf.serving.demo import launch_demo


launch_demo({arguments})
"""
CARD = """
# {title}

Ask [{checkpoint}](https://huggingface.co/{checkpoint}), an ECG-language model, about an ECG. For research only, not for clinical
use. Do not upload ECGs that you may not share with the server of this Space.

Made with elm-hf (`elm-hf publish-demo`). The same page on your own machine: `elm-hf demo {checkpoint}`.
"""


def publish_demo(
    checkpoint: str,
    repo_id: str,
    examples: Path | None = None,
    questions: Sequence[str] = (),
    max_new_tokens: int | None = None,
    requirement: str | None = None,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
) -> Publication:
    """
    Publish the demo of a model as a Space. Its files are a card, `app.py`, `requirements.txt` and the examples.

    Args:
        checkpoint: repository of the model, which the Space loads.
        repo_id: repository of the Space, `user/name`.
        examples: folder with ECGs to choose from, which becomes public with the Space. By default they are simulated.
        questions: questions to choose from. By default those of [`~elm_hf.serving.demo.launch_demo`].
        max_new_tokens: longest answer, in tokens.
        requirement: how the Space installs elm-hf, as a line of `requirements.txt`. By default this version from PyPI.
        private, revision, dry_run: see [`~elm_hf.utils.hub.publish_files`].

    Raises:
        ValueError: a name is not one of a repository, or the folder has no examples, links that lead out of it, or too
            many bytes.
        ConnectionError, HfHubHTTPError: as in `publish_files`.
    """
    check_repo_id(repo_id)
    if Path(checkpoint).is_dir():
        raise ValueError(
            f"{checkpoint}: a folder, which a Space cannot load; publish it with elm-hf publish-model and name its repository"
        )
    check_repo_id(checkpoint)
    options = {"questions": list(questions) or None, "max_new_tokens": max_new_tokens}
    options["examples"] = None if examples is None else EXAMPLES_FOLDER
    requirement = requirement or f"elm-hf[demo,formats]=={version('elm-hf')}"
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    files: dict[str, Path | bytes] = {
        "README.md": _card(checkpoint, repo_id).encode(),
        "app.py": APP.format(arguments=", ".join([repr(checkpoint), *given])).encode(),
        "requirements.txt": f"{requirement}\n".encode(),
    }
    if examples is not None:
        files |= {f"{EXAMPLES_FOLDER}/{name}": path for name, path in _example_files(examples).items()}
    return publish_files(repo_id, "space", files, (), "Published with elm-hf", private, revision, dry_run)


def _card(checkpoint: str, repo_id: str) -> str:
    title = f"Ask {checkpoint.rpartition('/')[2]} about ECGs"
    header = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": SDK_VERSION,
        "app_file": "app.py",
        "models": [checkpoint],
        "short_description": "An ECG-language model answers questions",
        "tags": ["ecg", "elm-hf"],
    }
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n{CARD.format(title=title, checkpoint=checkpoint)}"


def _example_files(folder: Path) -> dict[str, Path]:
    """All files of the folder, by their paths in it."""
    find_ecg_files([folder])
    check_links(folder)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    total = sum(path.stat().st_size for path in files.values())
    if total > LARGEST_EXAMPLES:
        raise ValueError(
            f"{folder}: {total / 1e6:.0f} MB of examples; choose a few, up to {LARGEST_EXAMPLES / 1e6:.0f} MB"
        )
    return files
