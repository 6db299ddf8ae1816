"""The names of the datasets that can be built: those of the scripts in `elm_hf.dataset_scripts`."""

import pkgutil

import elm_hf.dataset_scripts


def dataset_names() -> list[str]:
    """The names of the scripts, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(elm_hf.dataset_scripts.__path__))


def check_dataset_name(name: str) -> None:
    """
    Raises:
        ValueError: there is no script of this name.
    """
    if name not in dataset_names():
        raise ValueError(f"unknown dataset {name!r}; available: {', '.join(dataset_names())}")
