"""Rotation, blur, hue and artefacts of scans of a picture `(3, height, width)` with values from 0 to 1."""

import numpy as np
import torch
from torch.nn import functional as F

from elm_hf.ecg.scan_artifacts import scan_like


# In YIQ the hue is an angle in the plane of I and Q.
YIQ_FROM_RGB = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def rotate(picture: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotates a picture counter-clockwise about its centre, with bilinear interpolation."""
    height, width = picture.shape[1:]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    # affine_grid scales both axes to -1 … 1, whatever the size of the picture.
    turn = torch.tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]).to(picture)
    grid = F.affine_grid(turn[None], (1, 3, height, width), align_corners=False)
    return F.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0]


def blur(picture: torch.Tensor, deviation: float) -> torch.Tensor:
    """Blurs a picture with a Gaussian, truncated at three standard deviations; the border is extended outwards."""
    reach = int(np.ceil(3 * deviation))
    if reach == 0:
        return picture
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2).to(picture)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = F.pad(picture[None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.transpose(2, 3), groups=3)[0]


def turn_hue(picture: torch.Tensor, turns: float) -> torch.Tensor:
    """Rotates the hue of a picture and keeps its luminance."""
    cos, sin = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    turn = torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=torch.float32)
    matrix = torch.linalg.inv(YIQ_FROM_RGB) @ turn @ YIQ_FROM_RGB
    return torch.einsum("ij,jhw->ihw", matrix.to(picture), picture)


def scan(picture: torch.Tensor, severity: float, rng: np.random.Generator) -> torch.Tensor:
    """Changes a picture as printing, use and a camera would, see [`scan_like`]."""
    pixels = (255 * picture).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    changed = torch.from_numpy(scan_like(pixels, severity, rng)).permute(2, 0, 1)
    return changed.to(picture) / 255
