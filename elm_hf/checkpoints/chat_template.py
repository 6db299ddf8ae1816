"""Checks a chat template in a process of its own, whose time and memory are limited."""

import multiprocessing
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from elm_hf.modeling.turn_format import MAX_CHARACTERS


CPU_S = 3
WALL_S = 60
MEMORY_BYTES = 2**30
MEMORY_IN_USE = Path("/proc/self/statm")  # Linux; elsewhere only the time is limited

_QUESTION, _ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
_CONVERSATIONS = (
    [_QUESTION],
    [_QUESTION, _ANSWER],
    [{"role": "system", "content": "c"}, _QUESTION, _ANSWER, _QUESTION],
)


def check_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """
    Checks that a chat template writes short conversations in short time. Templates are programs of strangers.

    Args:
        tokenizer: the tokenizer.
        name: name of the checkpoint or file, for error messages.

    Raises:
        ValueError: the template is not a text, or needs too much time or memory, or writes too much.
    """
    template = tokenizer.chat_template
    texts = list(template.values()) if isinstance(template, dict) else [template or ""]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name}: its chat template is {template!r:.100}; expected a text.")
    if "fork" not in multiprocessing.get_all_start_methods():
        return
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_render, args=(tokenizer, theirs), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the child only runs the template
        process.start()
    theirs.close()
    try:
        problem = ours.recv() if ours.poll(WALL_S) else f"takes longer than {WALL_S} s"
    except EOFError:  # killed by its limit
        problem = f"takes longer than {CPU_S} s"
    finally:
        process.kill()
        process.join()
        ours.close()
    if problem is not None:
        raise ValueError(f"{name}: its chat template {problem} for a short conversation.")


def _render(tokenizer: PreTrainedTokenizerBase, pipe: Connection) -> None:
    """Renders the conversations and sends what is wrong, None if nothing is."""
    import resource

    if MEMORY_IN_USE.is_file():
        limit = int(MEMORY_IN_USE.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    problem = None
    for messages in _CONVERSATIONS:
        for add_generation_prompt in (False, True):
            try:
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            except MemoryError:
                problem = f"takes more than {MEMORY_BYTES:,} bytes"
            except Exception:  # a refusal, or a fault that ends in one line when the template is used
                continue
            else:
                if len(text) > MAX_CHARACTERS:
                    problem = f"writes {len(text):,} characters"
    pipe.send(problem)
