"""
The formulas of published encoders once more, in float64 and as plain functions, on weights under their published names.

Written from the description of the reference models alone, so that a mistake in `modeling/` is not made here as well.
"""

import math

import torch


# Small networks whose axes have different lengths. `ratio`: inner by outer channels of a block.
ECGFOUNDER_TINY = {
    "leads": 12,
    "stem": 4,
    "widths": [4, 8, 12],
    "depths": [1, 2, 2],
    "ratio": 1,
    "group": 2,
    "labels": 5,
}
CLEF_TINY = {"leads": 1, "stem": 8, "widths": [8, 8, 16], "depths": [2, 1, 1], "ratio": 1.5, "group": 4, "labels": 0}


def draw(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of these shapes, which keep the size of what they are applied to."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
        weights[name] = torch.randn(shape, generator=generator) * spread
        if len(shape) == 1 and name.endswith("weight"):  # of a norm
            weights[name] += 1
    return weights


def swish(x):
    return x / (1 + torch.exp(-x))


def net1d_weights(sizes: dict, prefix: str = "", seed: int = 0) -> dict[str, torch.Tensor]:
    """The content of a file of ECGFounder or CLEF, with batch norms that would change everything if applied."""
    shapes, norms = {}, {"first_bn": sizes["stem"]}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    layer("first_conv.conv", sizes["stem"], sizes["leads"], 16)
    channels = sizes["stem"]
    for stage, (width, depth) in enumerate(zip(sizes["widths"], sizes["depths"])):
        for index in range(depth):
            name, inner = f"stage_list.{stage}.block_list.{index}", int(width * sizes["ratio"])
            norms |= {f"{name}.bn1": channels, f"{name}.bn2": inner, f"{name}.bn3": inner}
            layer(f"{name}.conv1.conv", inner, channels, 1)
            layer(f"{name}.conv2.conv", inner, inner // (width // sizes["group"]), 16)
            layer(f"{name}.conv3.conv", width, inner, 1)
            layer(f"{name}.se_fc1", width // 2, width)
            layer(f"{name}.se_fc2", width, width // 2)
            channels = width
    if sizes["labels"]:
        layer("dense", sizes["labels"], channels)
    weights = draw(shapes, seed)
    for number, (name, width) in enumerate(norms.items()):
        for part in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{name}.{part}"] = 3 + torch.rand(width, generator=torch.Generator().manual_seed(number))
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return {f"{prefix}{name}": value for name, value in weights.items()}


def padded_convolution(x, weight, bias, stride):
    """A convolution as one sum per output sample and group; `x` is `(batch, channels, samples)`."""
    batch, channels, samples = x.shape
    width, per_group, size = weight.shape
    groups, places = channels // per_group, -(-samples // stride)
    missing = max(0, (places - 1) * stride + size - samples)
    padded = torch.zeros(batch, channels, samples + missing, dtype=x.dtype)
    padded[:, :, missing // 2 : missing // 2 + samples] = x
    kernel = weight.reshape(groups, width // groups, per_group, size)
    output = [
        torch.einsum(
            "bgci,gwci->bgw",
            padded[:, :, place * stride : place * stride + size].reshape(batch, groups, per_group, size),
            kernel,
        ).reshape(batch, width)
        for place in range(places)
    ]
    return torch.stack(output, dim=-1) + bias[:, None]


def net1d_block(x, weights, name, stride, is_first):
    def convolve(x, layer, stride=1):
        return padded_convolution(
            x, weights[f"{name}.{layer}.conv.weight"], weights[f"{name}.{layer}.conv.bias"], stride
        )

    def linear(x, layer):
        return x @ weights[f"{name}.{layer}.weight"].T + weights[f"{name}.{layer}.bias"]

    y = convolve(x if is_first else swish(x), "conv1")
    y = convolve(swish(convolve(swish(y), "conv2", stride)), "conv3")
    gate = linear(swish(linear(y.mean(2), "se_fc1")), "se_fc2")
    y = y / (1 + torch.exp(-gate))[:, :, None]
    batch, channels, samples = x.shape
    if stride == 2:
        pairs = [
            (x[:, :, i], x[:, :, i + 1] if i + 1 < samples else torch.zeros(batch, channels))
            for i in range(0, samples, 2)
        ]
        x = torch.stack([torch.where(a > b, a, b) for a, b in pairs], dim=-1)
    more = y.shape[1] - channels
    y[:, more // 2 : more // 2 + channels] += x
    return y


def net1d(weights: dict, ecg: torch.Tensor, prefix: str = "") -> torch.Tensor:
    """Tokens `(batch, tokens, width)` of ECGs `(batch, leads, samples)`."""
    weights = {name.removeprefix(prefix): value.double() for name, value in weights.items()}
    x = swish(padded_convolution(ecg.double(), weights["first_conv.conv.weight"], weights["first_conv.conv.bias"], 2))
    stage = 0
    while f"stage_list.{stage}.block_list.0.conv1.conv.weight" in weights:
        index = 0
        while f"stage_list.{stage}.block_list.{index}.conv1.conv.weight" in weights:
            name, is_first = f"stage_list.{stage}.block_list.{index}", (stage, index) == (0, 0)
            x = net1d_block(x, weights, name, 2 if index == 0 else 1, is_first)
            index += 1
        stage += 1
    return x.transpose(1, 2)
