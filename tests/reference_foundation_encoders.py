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


def noise(*shape) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


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


# Networks of ECG-FM and HuBERT-ECG with heads of 64 dimensions, which the files do not show.
ECG_FM_TINY = {"leads": 12, "conv": [(24, 2, 2)] * 4, "width": 128, "heads": 2, "layers": 2, "inner": 80, "labels": 17}
HUBERT_TINY = {"leads": 1, "conv": [(20, 10, 4), (20, 3, 2), (20, 3, 2), (20, 2, 2), (20, 2, 2)], "width": 96}
HUBERT_TINY |= {"heads": 3, "layers": 2, "inner": 72, "labels": 6}  # heads of 32 dimensions
TAPS, GROUPS = 128, 16  # of the convolution of positions
# What ECG-FM and HuBERT-ECG call the same parts.
ECG_FM_NAMES = {
    "conv": "feature_extractor.conv_layers.{}.0",
    "conv_norm": "feature_extractor.conv_layers.0.2",
    "features_norm": "layer_norm",
    "features": "post_extract_proj",
    "positions": "conv_pos.pos_conv.0",
    "norm": "encoder.layer_norm",
    "attention": "encoder.layers.{}.self_attn",
    "first_norm": "encoder.layers.{}.self_attn_layer_norm",
    "up": "encoder.layers.{}.fc1",
    "down": "encoder.layers.{}.fc2",
    "last_norm": "encoder.layers.{}.final_layer_norm",
}
HUBERT_NAMES = {
    "conv": "feature_extractor.conv_layers.{}.conv",
    "conv_norm": "feature_extractor.conv_layers.0.layer_norm",
    "features_norm": "feature_projection.layer_norm",
    "features": "feature_projection.projection",
    "positions": "encoder.pos_conv_embed.conv",
    "norm": "encoder.layer_norm",
    "attention": "encoder.layers.{}.attention",
    "first_norm": "encoder.layers.{}.layer_norm",
    "up": "encoder.layers.{}.feed_forward.intermediate_dense",
    "down": "encoder.layers.{}.feed_forward.output_dense",
    "last_norm": "encoder.layers.{}.final_layer_norm",
}


def wav2vec_weights(sizes: dict, names: dict, prefix: str = "", old_names: bool = False, seed: int = 0) -> dict:
    """The encoder's weights in a file of ECG-FM or HuBERT-ECG; `old_names`: as PyTorch named normalized weights once."""
    shapes, width = {}, sizes["width"]

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    channels = sizes["leads"]
    for index, (output, kernel, _) in enumerate(sizes["conv"]):
        shapes[f"{names['conv'].format(index)}.weight"] = (output, channels, kernel)
        channels = output
    layer(names["conv_norm"], sizes["conv"][0][0])
    layer(names["features_norm"], channels)
    layer(names["features"], width, channels)
    length, direction = (
        ("weight_g", "weight_v") if old_names else [f"parametrizations.weight.original{number}" for number in (0, 1)]
    )
    shapes[f"{names['positions']}.{length}"] = (1, 1, TAPS)
    shapes[f"{names['positions']}.{direction}"] = (width, width // GROUPS, TAPS)
    shapes[f"{names['positions']}.bias"] = (width,)
    layer(names["norm"], width)
    for index in range(sizes["layers"]):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            layer(f"{names['attention'].format(index)}.{part}", width, width)
        layer(names["up"].format(index), sizes["inner"], width)
        layer(names["down"].format(index), width, sizes["inner"])
        layer(names["first_norm"].format(index), width)
        layer(names["last_norm"].format(index), width)
    return {f"{prefix}{name}": value for name, value in draw(shapes, seed).items()}


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def standardised(x, axis):
    x = x - x.mean(axis, keepdim=True)
    return x / torch.sqrt((x**2).mean(axis, keepdim=True) + 1e-5)


def wav2vec(weights: dict, ecg: torch.Tensor, sizes: dict, names: dict, prefix: str = "") -> torch.Tensor:
    """Tokens `(batch, tokens, width)` of signals `(batch, channels, samples)`."""
    weights = {name.removeprefix(prefix): value.double() for name, value in weights.items()}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return standardised(x, -1) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = ecg.double()
    for index, (_, kernel, stride) in enumerate(sizes["conv"]):
        windows = x.unfold(2, kernel, stride)  # (batch, channels, places, kernel)
        x = torch.einsum("bcpk,wck->bwp", windows, weights[f"{names['conv'].format(index)}.weight"])
        if index == 0:
            scale, offset = (weights[f"{names['conv_norm']}.{part}"][:, None] for part in ("weight", "bias"))
            x = standardised(x, 2) * scale + offset
        x = gelu(x)
    x = linear(norm(x.transpose(1, 2), names["features_norm"]), names["features"])
    x = norm(x + gelu(positions(x, weights, names["positions"])), names["norm"])
    for index in range(sizes["layers"]):
        name = names["attention"].format(index)
        query, key, value = (linear(x, f"{name}.{part}_proj").chunk(sizes["heads"], -1) for part in "qkv")
        heads = []
        for q, k, v in zip(query, key, value):
            scores = torch.exp(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]))
            heads.append(scores @ v / scores.sum(-1, keepdim=True))
        x = norm(x + linear(torch.cat(heads, -1), f"{name}.out_proj"), names["first_norm"].format(index))
        inner = gelu(linear(x, names["up"].format(index)))
        x = norm(x + linear(inner, names["down"].format(index)), names["last_norm"].format(index))
    return x


def positions(x, weights, name):
    """The convolution of positions: each tap's matrix has a length of its own, and there are 64 taps before a token."""
    length, direction = (
        weights[f"{name}.{new}"] if f"{name}.{new}" in weights else weights[f"{name}.{old}"]
        for new, old in (
            ("parametrizations.weight.original0", "weight_g"),
            ("parametrizations.weight.original1", "weight_v"),
        )
    )
    batch, tokens, width = x.shape
    padded = torch.zeros(batch, tokens + TAPS, width, dtype=x.dtype)
    padded[:, TAPS // 2 : TAPS // 2 + tokens] = x
    output = torch.zeros_like(x)
    for tap in range(TAPS):
        matrix = length[0, 0, tap] * direction[:, :, tap] / direction[:, :, tap].square().sum().sqrt()
        groups = padded[:, tap : tap + tokens].reshape(batch, tokens, GROUPS, -1)
        output += torch.einsum("btgi,goi->btgo", groups, matrix.reshape(GROUPS, width // GROUPS, -1)).flatten(2)
    return output + weights[f"{name}.bias"]


# ECG-JEPA with heads of 48 dimensions, which the file does not show.
JEPA_TINY = {"leads": 8, "patches": 6, "patch": 10, "width": 96, "heads": 2, "layers": 3, "inner": 56}


def jepa_weights(sizes: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights in a file of ECG-JEPA. The table is random, so that one that is not loaded is noticed."""
    width = sizes["width"]
    shapes = {"pos_embed": (sizes["leads"] * sizes["patches"], width)}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    for index in range(sizes["layers"]):
        name = f"encoder_blocks.blocks.{index}"
        layer(f"{name}.norm1", width)
        layer(f"{name}.norm2", width)
        shapes[f"{name}.attn.qkv.weight"] = (3 * width, width)
        layer(f"{name}.attn.proj", width, width)
        layer(f"{name}.mlp.fc1", sizes["inner"], width)
        layer(f"{name}.mlp.fc2", width, sizes["inner"])
    layer("norm", width)
    layer("W_P", width, sizes["patch"])
    return draw(shapes, seed)


def jepa(weights: dict, ecg: torch.Tensor, sizes: dict, leads: list[int]) -> torch.Tensor:
    """Tokens `(batch, leads * patches, width)` of some of the eight leads, from ECGs `(batch, these leads, samples)`."""
    weights = {name: value.double() for name, value in weights.items()}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(x, name):
        return standardised(x, -1) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patches = ecg.shape[2] // sizes["patch"]
    places = [(lead, patch) for lead in leads for patch in range(patches)]
    x = torch.stack(
        [
            ecg[:, leads.index(lead), patch * sizes["patch"] : (patch + 1) * sizes["patch"]].double()
            for lead, patch in places
        ],
        dim=1,
    )
    x = linear(x, "W_P")
    table = weights["pos_embed"][[lead * sizes["patches"] + patch for lead, patch in places]]
    sees = torch.tensor([[a[0] == b[0] or a[1] == b[1] for b in places] for a in places])
    for index in range(sizes["layers"]):
        name = f"encoder_blocks.blocks.{index}"
        x = x + table
        heads = []
        query, key, value = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, -1)
        for q, k, v in zip(*(part.chunk(sizes["heads"], -1) for part in (query, key, value))):
            scores = torch.exp(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])) * sees
            heads.append(scores @ v / scores.sum(-1, keepdim=True))
        x = x + linear(torch.cat(heads, -1), f"{name}.attn.proj")
        x = x + linear(gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
    return norm(x, "norm")


CPC_TINY = {"leads": 12, "width": 6, "convolutions": 3, "layers": 2, "states": 3, "nodes": 11}


def cpc_weights(sizes: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """The encoder's weights in the file of ECG-CPC, with systems whose responses die out."""
    shapes, width, states = {}, sizes["width"], sizes["states"]
    for index in range(sizes["convolutions"]):
        name = f"encoder.layers.{index}"
        shapes[f"{name}.0.weight"] = (width, sizes["leads"], 3) if index == 0 else (width, width, 1)
        shapes |= {f"{name}.1.{part}": (width,) for part in ("weight", "bias", "running_mean")}
    for index in range(sizes["layers"]):
        name = f"predictor.predictor.s4_layers.{index}"
        shapes |= {f"{name}.D": (1, width), f"{name}.output_linear.0.weight": (2 * width, width)}
        shapes |= {f"{name}.output_linear.0.bias": (2 * width, 1)}
        shapes |= {f"{name}.kernel.kernel.{part}": (1, width, states, 2) for part in "CBPQ"}
        shapes |= {f"predictor.predictor.norms.{index}.{part}": (width,) for part in ("weight", "bias")}
    weights = draw(shapes, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for index in range(sizes["convolutions"]):
        weights[f"encoder.layers.{index}.1.running_var"] = 0.5 + torch.rand(width, generator=generator)
        weights[f"encoder.layers.{index}.1.num_batches_tracked"] = torch.tensor(5)
    for index in range(sizes["layers"]):
        name = f"predictor.predictor.s4_layers.{index}.kernel.kernel"
        real, imaginary = torch.rand((2, width, states), generator=generator)
        weights[f"{name}.w"] = torch.stack([-0.3 - real, 6 * imaginary], dim=-1)
        weights[f"{name}.log_dt"] = torch.log(0.02 + torch.rand(width, generator=generator) / 4)
        weights[f"{name}.Q"] = weights[f"{name}.Q"] / 4 + weights[f"{name}.P"] * torch.tensor([1, -1])
        turns = torch.arange(sizes["nodes"]) * 2 * math.pi / (2 * (sizes["nodes"] - 1))
        for part in ("omega", "z"):  # the second is not read
            weights[f"{name}.{part}"] = torch.stack([turns.cos(), -turns.sin()], dim=-1)
    return {f"ts_encoder.{name}": value for name, value in weights.items()}


def cpc_system(weights: dict, name: str, channel: int, nodes: int) -> tuple:
    """Matrix, input and output vector of a channel in discrete time, as complex numbers."""

    def doubled(part):
        numbers = weights[f"{name}.{part}"].double().reshape(-1, weights[f"{name}.w"].shape[1], 2)[channel]
        vector = numbers[:, 0] + 1j * numbers[:, 1]
        return torch.cat([vector, vector.conj()])

    step = math.exp(weights[f"{name}.log_dt"].double()[channel])
    matrix = torch.diag(doubled("w")) - torch.outer(doubled("P"), doubled("Q"))
    one = torch.eye(len(matrix), dtype=matrix.dtype)
    backward = torch.linalg.inv(one - step / 2 * matrix)
    matrix, inputs = backward @ (one + step / 2 * matrix), step * backward @ doubled("B")
    power = one
    for _ in range(2 * (nodes - 1)):
        power = power @ matrix
    return matrix, inputs, torch.linalg.inv((one - power).T) @ doubled("C")


def cpc(weights: dict, ecg: torch.Tensor, sizes: dict) -> torch.Tensor:
    """Tokens `(batch, tokens, width)`: the systems are run token by token instead of convolving with their responses."""
    weights = {name.removeprefix("ts_encoder."): value for name, value in weights.items()}
    double = {name: value.double() for name, value in weights.items()}
    x = ecg.double()
    for index in range(sizes["convolutions"]):
        name = f"encoder.layers.{index}"
        if index == 0:
            padded = torch.zeros(*x.shape[:2], x.shape[2] + 2, dtype=x.dtype)
            padded[..., 1:-1] = x
            x = padded.unfold(2, 3, 2)
        else:
            x = x[..., None]
        x = torch.einsum("bctk,wck->bwt", x, double[f"{name}.0.weight"])
        mean, variance, scale, offset = (
            double[f"{name}.1.{part}"][:, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = torch.clamp((x - mean) / torch.sqrt(variance + 1e-5) * scale + offset, min=0)
    for index in range(sizes["layers"]):
        name = f"predictor.predictor.s4_layers.{index}"
        y = double[f"{name}.D"][0][:, None] * x
        for channel in range(sizes["width"]):
            matrix, inputs, outputs = cpc_system(weights, f"{name}.kernel.kernel", channel, sizes["nodes"])
            state = torch.zeros(len(x), len(matrix), dtype=matrix.dtype)
            for token in range(x.shape[2]):
                state = state @ matrix.T + x[:, channel, token, None] * inputs
                y[:, channel, token] += (state @ outputs).real
        y = torch.einsum("wc,bct->bwt", double[f"{name}.output_linear.0.weight"], gelu(y))
        y = y + double[f"{name}.output_linear.0.bias"]
        y = y[:, : sizes["width"]] / (1 + torch.exp(-y[:, sizes["width"] :]))
        scale, offset = (double[f"predictor.predictor.norms.{index}.{part}"][:, None] for part in ("weight", "bias"))
        x = standardised(x + y, 1) * scale + offset
    return x.transpose(1, 2)


COCA_TINY = {
    "leads": 12,
    "samples": 60,
    "patch": 10,
    "width": 128,
    "heads": 2,
    "layers": 2,
    "inner": 56,
    "embedding": 20,
}


def coca_weights(sizes: dict, prefix: str = "", seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of ECG-CoCa in a file of its pre-training or of a language model."""
    width = sizes["width"]
    shapes = {"class_embedding": (width,), "proj": (width, sizes["embedding"])}
    shapes["positional_embedding"] = (1 + sizes["samples"] // sizes["patch"], width)
    shapes["conv1.weight"] = (width, sizes["leads"], sizes["patch"])

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    layer("ln_pre", width)
    layer("ln_post", width)
    for index in range(sizes["layers"]):
        name = f"transformer.resblocks.{index}"
        layer(f"{name}.ln_1", width)
        layer(f"{name}.ln_2", width)
        shapes |= {f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}
        layer(f"{name}.attn.out_proj", width, width)
        layer(f"{name}.mlp.c_fc", sizes["inner"], width)
        layer(f"{name}.mlp.c_proj", width, sizes["inner"])
    return {f"{prefix}{name}": value for name, value in draw(shapes, seed).items()}


def coca(weights: dict, ecg: torch.Tensor, sizes: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens `(batch, 1 + patches, width)` and embeddings `(batch, embedding)` of ECGs `(batch, leads, samples)`."""
    weights = {name: value.double() for name, value in weights.items()}

    def linear(x, weight, bias):
        return x @ weights[weight].T + weights[bias]

    def norm(x, name):
        return standardised(x, -1) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patches = ecg.double().unfold(2, sizes["patch"], sizes["patch"])  # (batch, leads, patches, samples)
    x = torch.einsum("blps,wls->bpw", patches, weights["conv1.weight"])
    x = torch.cat([weights["class_embedding"].repeat(len(x), 1, 1), x], dim=1)
    x = norm(x + weights["positional_embedding"], "ln_pre")
    for index in range(sizes["layers"]):
        name = f"transformer.resblocks.{index}"
        inside, heads = norm(x, f"{name}.ln_1"), []
        query, key, value = linear(inside, f"{name}.attn.in_proj_weight", f"{name}.attn.in_proj_bias").chunk(3, -1)
        for q, k, v in zip(*(part.chunk(sizes["heads"], -1) for part in (query, key, value))):
            scores = torch.exp(q @ k.transpose(1, 2) / 8)
            heads.append(scores @ v / scores.sum(-1, keepdim=True))
        x = x + linear(torch.cat(heads, -1), f"{name}.attn.out_proj.weight", f"{name}.attn.out_proj.bias")
        inside = gelu(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc.weight", f"{name}.mlp.c_fc.bias"))
        x = x + linear(inside, f"{name}.mlp.c_proj.weight", f"{name}.mlp.c_proj.bias")
    embedding = norm(x, "ln_post")[:, 0] @ weights["proj"]
    return x, embedding / embedding.square().sum(-1, keepdim=True).sqrt()
