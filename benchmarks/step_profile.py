"""Where the time of a training step goes, by kind of work; for `four_bit.py`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.modeling_layers import GradientCheckpointingLayer


# Kinds of work, by the names of GPU kernels or, on a CPU, of operations. The first that matches counts.
KINDS = {
    "dequantization": r"dequant|4bit",
    "attention": r"attention|attn|flash|fmha|softmax",
    "matrix products": r"gemm|gemv|cutlass|nvjet|cublas|xmma|wgmma|splitk|::(mm|addmm|bmm|baddbmm|matmul|linear)$",
    "optimizer": r"adam|foreach|multi_tensor",
    "copies, casts": r"copy|memcpy|memset|_to_|::(to|clone|contiguous|zero_|fill_)$|fillfunctor",
    "other elementwise": r"",
}
_RECOMPUTED = "computed again in the backward pass"


@dataclass
class Profile:
    """
    Milliseconds of a step.

    Attributes:
        of_kind: of each of `KINDS`.
        recomputed: of all of these, what checkpointing computes again in the backward pass.
        longest: names and times of the kernels, or operations on a CPU, that take longest.
    """

    of_kind: dict[str, float]
    recomputed: float
    longest: list[tuple[str, float]]


def kind_of(name: str) -> str:
    """The kind of work of a kernel or an operation."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower()))


def profile_step(
    step: Callable[[], None], model: torch.nn.Module, device: str, is_compiled: bool, rounds: int
) -> Profile:
    """
    Profiles a step.

    Args:
        step: the step, which has run before.
        model: the model.
        device: `"cuda"` or `"cpu"`.
        is_compiled: whether the layers are compiled. What is computed again is then not told apart, since hooks would
            compile the layers anew.
        rounds: number of steps, of which the times are averages.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    # Hooks of a layer itself do not run when its forward pass is computed again; those of its parts do.
    parts = [] if is_compiled else [part for layer in layers for part in layer.children()]
    hooks = [hook for part in parts for hook in _mark_recomputation(part)]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    try:
        with profile(activities=activities) as profiler:
            for _ in range(rounds):
                step()
            if device == "cuda":
                torch.cuda.synchronize()
    finally:
        for hook in hooks:
            hook.remove()
    marks, works = [], []
    for event in profiler.key_averages():
        (marks if event.key == _RECOMPUTED else works).append(event)
    times = {name: total / rounds for name, total in _times_of(works, device).items()}
    of_kind = dict.fromkeys(KINDS, 0.0)
    for name, milliseconds in times.items():
        of_kind[kind_of(name)] += milliseconds
    recomputed = sum(_with_children(mark, device) for mark in marks if mark.device_type == DeviceType.CPU)
    return Profile(of_kind, recomputed / rounds, sorted(times.items(), key=lambda item: -item[1])[:15])


def _mark_recomputation(module: torch.nn.Module) -> list:
    """Names the forward pass of a module in the profile if it runs during a backward pass."""
    marks = []

    def before(*_):
        in_backward = torch._C._current_graph_task_id() != -1
        marks.append(record_function(_RECOMPUTED).__enter__() if in_backward else None)

    def after(*_):
        mark = marks.pop()
        if mark is not None:
            mark.__exit__(None, None, None)

    # Checkpointing ends the last module of a layer by an exception, as soon as it has what it needs.
    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def _times_of(events: list, device: str) -> dict[str, float]:
    """Milliseconds of each kernel, or of each operation itself on a CPU."""
    if device == "cuda":
        on_device = [event for event in events if event.device_type == DeviceType.CUDA]
        kernels = [event for event in on_device if not event.is_user_annotation]
        return {event.key: event.self_device_time_total / 1000 for event in kernels}
    return {event.key: event.self_cpu_time_total / 1000 for event in events}


def _with_children(event, device: str) -> float:
    return (event.device_time_total if device == "cuda" else event.cpu_time_total) / 1000
