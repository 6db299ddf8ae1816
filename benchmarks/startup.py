"""
Start-up costs of the commands: processor time and imported libraries.

    python benchmarks/startup.py

All commands are compared with `python -c "import torch"`: a command that answers without torch takes a fraction of it.
"""

import resource
import subprocess
import sys


HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "pandas", "scipy", "sklearn")
COMMANDS = {
    "elm-hf --help": ["--help"],
    "elm-hf train --help": ["train", "--help"],
    "elm-hf pretrain --help": ["pretrain", "--help"],
    "elm-hf recipes": ["recipes"],
    "elm-hf train, misspelt dataset": ["train", "--model_name_or_path", ".", "--dataset", "misspelt"],
    "elm-hf evaluate, misspelt dataset": ["evaluate", ".", "--dataset", "misspelt"],
    "elm-hf evaluate, misspelt checkpoint": ["evaluate", "misspelt", "--dataset", "misspelt"],
    "elm-hf ask, misspelt checkpoint": ["ask", "misspelt", "--dataset", "misspelt"],
    "elm-hf create, misspelt LLM": ["create", "new-elm", "--llm", "./misspelt"],
    "elm-hf prepare, misspelt dataset": ["prepare", "misspelt", "--output", "data"],
}
RUN = """
import atexit, sys
atexit.register(lambda: print("\\nheavy:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr))
sys.argv = ["elm-hf", *{arguments}]
from elm_hf.cli import main
main()
"""


def measure(command: list[str]) -> tuple[float, subprocess.CompletedProcess]:
    """Runs a command. Returns the processor time of its process and children in seconds, and the completed process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def main():
    measure([sys.executable, "-c", "import torch"])  # fills the file cache
    torch_seconds, _ = measure([sys.executable, "-c", "import torch"])
    print(f"import torch: {torch_seconds:.2f} s of processor time\n")
    print("| command | processor time, s | share of importing torch | imports |\n| --- | ---: | ---: | --- |")
    for name, arguments in COMMANDS.items():
        seconds, done = measure([sys.executable, "-c", RUN.format(heavy=HEAVY, arguments=arguments)])
        heavy = done.stderr.rsplit("heavy:", 1)[-1].split()
        print(
            f"| `{name}` | {seconds:.2f} | {seconds / torch_seconds:.2f} | {', '.join(heavy) or 'no large libraries'} |"
        )


if __name__ == "__main__":
    main()
