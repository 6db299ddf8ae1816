"""The masked autoencoders' formulas once more, in float64 and without modules, on weights under their published names.

Written from the description of the reference models alone, so that a mistake in `modeling/` is not made here as well.
"""

import math

import torch


BASE = {"samples": 2250, "leads": 12, "patch": 75, "width": 768, "layers": 12, "heads": 12, "inner": 3072}
BASE |= {"d_width": 256, "d_layers": 4, "d_heads": 4, "d_inner": 1024}
# Odd sizes, so that no two axes have the same length and heads are not as wide as tokens.
TINY = {"samples": 150, "leads": 12, "patch": 15, "width": 40, "layers": 2, "heads": 2, "inner": 56}
TINY |= {"d_width": 24, "d_layers": 2, "d_heads": 1, "d_inner": 36}


def patch_values(kind: str, sizes: dict) -> int:
    """Values of a patch: of one lead, of all leads, or a whole lead."""
    return {"st_mem": sizes["patch"], "mtae": sizes["leads"] * sizes["patch"], "mlae": sizes["samples"]}[kind]


def num_patches(kind: str, sizes: dict) -> int:
    return sizes["leads"] if kind == "mlae" else sizes["samples"] // sizes["patch"]


def published_shapes(kind: str, sizes: dict, full: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in a published file."""
    width, values, patches = sizes["width"], patch_values(kind, sizes), num_patches(kind, sizes)
    shapes = {"pos_embedding": (1, patches + (2 if kind == "st_mem" else 1), width)}
    if kind == "st_mem":
        shapes["sep_embedding"] = (width,)
        shapes |= {f"lead_embeddings.{lead}": (width,) for lead in range(sizes["leads"])}
    else:
        shapes["cls_embedding"] = (width,)
    embedding = _norm("to_patch_embedding.1", values) | _linear("to_patch_embedding.2", values, width)
    embedding |= _norm("to_patch_embedding.3", width)
    shapes |= embedding
    for layer in range(sizes["layers"]):
        shapes |= _block(f"block{layer}", width, sizes["heads"], sizes["inner"])
    shapes |= _norm("norm", width)
    if not full:
        return shapes
    decoder = sizes["d_width"]
    shapes = {f"encoder.{name}": shape for name, shape in shapes.items()} | embedding
    shapes |= _linear("to_decoder_embedding", width, decoder) | {"mask_embedding": (1, 1, decoder)}
    shapes["decoder_pos_embed"] = (1, patches + (2 if kind == "st_mem" else 1), decoder)
    for layer in range(sizes["d_layers"]):
        shapes |= _block(f"decoder_blocks.{layer}", decoder, sizes["d_heads"], sizes["d_inner"])
    return shapes | _norm("decoder_norm", decoder) | _linear("decoder_head", decoder, values)


def _norm(name: str, width: int) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> dict:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _block(name: str, width: int, heads: int, inner: int) -> dict:
    shapes = _norm(f"{name}.attn.norm", width) | _linear(f"{name}.attn.fn.to_qkv", width, 3 * heads * 64)
    if heads > 1 or width != 64:
        shapes |= _linear(f"{name}.attn.fn.to_out.0", heads * 64, width)
    shapes |= _norm(f"{name}.ff.norm", width) | _linear(f"{name}.ff.fn.net.0", width, inner)
    return shapes | _linear(f"{name}.ff.fn.net.3", inner, width)


def random_weights(kind: str, sizes: dict = TINY, full: bool = True, seed: int = 0) -> dict[str, torch.Tensor]:
    """Published names with random values, none of them as an initialisation would have it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in published_shapes(kind, sizes, full).items():
        spread = 1 / math.sqrt(shape[-1]) if name.endswith(".weight") and len(shape) == 2 else 0.5
        weights[name] = torch.randn(shape, generator=generator) * spread
        if len(shape) == 1 and name.endswith(".weight"):
            weights[name] += 1
    for name in weights:
        if f"encoder.{name}" in weights:
            weights[name] = weights[f"encoder.{name}"].clone()
    return weights


class Reference:
    """One autoencoder, of `kind` st_mem, mtae or mlae. `weights` as published."""

    def __init__(self, kind: str, weights: dict[str, torch.Tensor], sizes: dict = TINY):
        self.kind, self.sizes = kind, sizes
        self.weights = {name.removeprefix("encoder."): value.double() for name, value in weights.items()}

    def linear(self, x, name):
        return torch.einsum("...i,oi->...o", x, self.weights[f"{name}.weight"]) + self.weights[f"{name}.bias"]

    def norm(self, x, name, eps=1e-5):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def block(self, x, name):
        thirds = self.linear(self.norm(x, f"{name}.attn.norm"), f"{name}.attn.fn.to_qkv").chunk(3, dim=-1)
        heads = []
        for query, key, value in zip(*(third.split(64, dim=-1) for third in thirds)):
            scores = torch.exp(torch.einsum("bqi,bki->bqk", query, key) / 8)
            heads.append(torch.einsum("bqk,bki->bqi", scores / scores.sum(-1, keepdim=True), value))
        attended = torch.cat(heads, dim=-1)
        if f"{name}.attn.fn.to_out.0.weight" in self.weights:
            attended = self.linear(attended, f"{name}.attn.fn.to_out.0")
        x = x + attended
        hidden = self.linear(self.norm(x, f"{name}.ff.norm"), f"{name}.ff.fn.net.0")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        return x + self.linear(hidden, f"{name}.ff.fn.net.3")

    def patches(self, ecg):
        """`(batch, rows of patches, patches, values)`; a row is a lead for ST-MEM, the only one for the others."""
        batch, leads, samples = ecg.shape
        size = self.sizes["patch"]
        if self.kind == "mlae":
            return ecg[:, None]
        if self.kind == "st_mem":
            return ecg.reshape(batch, leads, samples // size, size)
        columns = [ecg[:, :, start + t] for start in range(0, samples, size) for t in range(size)]
        return torch.stack(columns, dim=1).reshape(batch, 1, samples // size, size * leads)

    def tokens(self, ecg):
        x = self.norm(self.patches(ecg), "to_patch_embedding.1")
        x = self.norm(self.linear(x, "to_patch_embedding.2"), "to_patch_embedding.3")
        return x + self.weights["pos_embedding"][0, 1 : 1 + x.shape[2]]

    def through_blocks(self, tokens, leads=None):
        """Tokens `(batch, rows, tokens, width)` with their special tokens through the encoder's blocks."""
        position = self.weights["pos_embedding"][0]
        batch, rows, _, width = tokens.shape
        if self.kind == "st_mem":
            lead = torch.stack([self.weights[f"lead_embeddings.{number}"] for number in leads])[:, None]
            separator = self.weights["sep_embedding"]
            left, right = ((separator + row).expand(batch, rows, 1, width) for row in (position[0], position[-1]))
            tokens = torch.cat([left, tokens, right], dim=2) + lead
        else:
            first = (self.weights["cls_embedding"] + position[0]).expand(batch, rows, 1, width)
            tokens = torch.cat([first, tokens], dim=2)
        x = tokens.reshape(batch, -1, width)
        for layer in range(self.sizes["layers"]):
            x = self.block(x, f"block{layer}")
        return x.reshape(tokens.shape)

    def encode(self, ecg, leads=None):
        """The patches' (and class) tokens, each normed, and the representation. `leads`: which ones `ecg` holds."""
        leads = range(ecg.shape[1]) if leads is None else leads
        x = self.through_blocks(self.tokens(ecg.double()), leads)
        if self.kind != "st_mem":
            x = self.norm(x[:, 0], "norm")
            return x, x[:, 0]
        x = x[:, :, 1:-1]
        return self.norm(x, "norm").flatten(1, 2), self.norm(x.mean(dim=(1, 2)), "norm")

    def pretrain(self, ecg, noise, ratio=0.75, standardised=True):
        """Prediction, mask, order and loss for `noise` of the shape of a row of patches (mtae, mlae) or all rows."""
        ecg = ecg.double()
        patches, tokens = self.patches(ecg), self.tokens(ecg)
        noise = noise.reshape(tokens.shape[:3])
        kept = int(noise.shape[-1] * (1 - ratio))
        shuffle = torch.argsort(noise, dim=-1)
        restore = torch.argsort(shuffle, dim=-1)
        batch, rows, count = noise.shape
        chosen = torch.stack([tokens[b, r, shuffle[b, r, :kept]] for b in range(batch) for r in range(rows)]).reshape(
            batch, rows, kept, -1
        )
        latent = self.norm(self.through_blocks(chosen, range(rows)), "norm")
        prediction = self._decode(self.linear(latent, "to_decoder_embedding"), restore, kept)

        target = patches
        if standardised:
            target = (target - target.mean(-1, keepdim=True)) / torch.sqrt(target.var(-1, keepdim=True) + 1e-6)
        mask = (restore >= kept).double()
        loss = (((prediction - target) ** 2).mean(-1) * mask).sum() / mask.sum()
        shape = (slice(None), slice(None)) if self.kind == "st_mem" else (slice(None), 0)
        return {
            "loss": loss,
            "prediction": prediction[shape],
            "mask": mask[shape],
            "ids_restore": restore[shape],
            "last_hidden_state": latent.flatten(1, 2),
        }

    def _decode(self, x, restore, kept):
        position = self.weights["decoder_pos_embed"][0]
        batch, rows, count = restore.shape
        decoded = []
        for b in range(batch):
            for r in range(rows):
                one = x[b, r]
                body = [
                    one[1 + place] if place < kept else self.weights["mask_embedding"][0, 0] for place in restore[b, r]
                ]
                sequence = [one[0] + position[0]]
                sequence += [token + position[1 + time] for time, token in enumerate(body)]
                if self.kind == "st_mem":
                    sequence.append(one[-1] + position[-1])
                decoded.append(torch.stack(sequence))
        x = torch.stack(decoded)
        for layer in range(self.sizes["d_layers"]):
            x = self.block(x, f"decoder_blocks.{layer}")
        x = self.linear(self.norm(x, "decoder_norm", eps=1e-6), "decoder_head")
        return x[:, 1 : 1 + count].reshape(batch, rows, count, -1)


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference, relative to the largest reference value."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return float((ours.detach().double() - reference).abs().max() / reference.abs().max())
