"""
Pictures of ECGs as if they had been printed, written on, folded, and photographed or scanned.

The artefacts are those that ecg-image-kit lists (Shivashankara et al. 2024): paper, handwriting, creases, perspective and
rotation, lighting, noise and compression.
"""

from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


MOST_WORDS, MOST_FOLDS = 4, 3
PEN_COLORS = ((25, 40, 130), (20, 20, 25), (150, 25, 35))
DEGREES, CORNER_SHIFT, SMALLER = 8, 0.07, 0.1
WORST_QUALITY = 20  # of JPEG


def scan_like(pixels: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """
    Changes a picture of an ECG as printing, use and a camera would.

    All lengths are relative to the picture. Random numbers do not depend on the severity: with the same generator, the same
    artefacts become stronger.

    Args:
        pixels: `(height, width, 3)`, uint8, RGB; it is not modified.
        severity: from 0 (unchanged) to 1. At 1 the sheet is turned by up to 8 degrees, its darkest part has less than half
            of the light, and the JPEG quality is down to 20; people can still read it at 1024 x 768 pixels.
        rng: random generator.

    Returns:
        The changed picture, uint8, of the same shape.

    Raises:
        ValueError: the severity is not between 0 and 1.
    """
    if not 0 <= severity <= 1:
        raise ValueError(f"severity is {severity}; expected a number from 0 to 1")
    artifacts = (_color_paper, _write_by_hand, _fold, _photograph, _light, _blur_and_noise, _compress)
    rngs = [np.random.default_rng(seed) for seed in rng.integers(2**63, size=len(artifacts))]
    if severity == 0:
        return pixels
    picture = pixels.astype(np.float32) / 255
    for artifact, its_rng in zip(artifacts, rngs):
        # Not all artefacts of a picture are equally strong.
        picture = np.clip(artifact(picture, severity * its_rng.uniform(0.4, 1), its_rng), 0, 1)
    return (255 * picture).round().astype(np.uint8)


def _color_paper(picture: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Yellowed or grey paper with stains."""
    loss = np.float32(0.4 * amount * rng.uniform([0.1, 0.2, 0.3], [0.4, 0.6, 1.0]))
    stains = np.float32(0.6) * _smooth_noise(picture.shape[:2], rng)
    return picture * (1 - (1 - stains)[:, :, None] * loss)


def _write_by_hand(picture: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Words of loops, in one of the colours of pens."""
    height, width = picture.shape[:2]
    side = min(height, width)
    ink = Image.new("L", (width, height))
    color = np.float32(PEN_COLORS[rng.integers(len(PEN_COLORS))]) / 255
    words = [_word(rng, side, width, height) for _ in range(MOST_WORDS)]
    for points in words[: round(amount * MOST_WORDS)]:
        ImageDraw.Draw(ink).line([tuple(point) for point in points], fill=255, width=max(1, round(0.005 * side)))
    cover = 0.85 * np.asarray(ink, np.float32)[:, :, None] / 255
    return picture + cover * (color - picture)


def _word(rng: np.random.Generator, side: int, width: int, height: int) -> np.ndarray:
    """The line of a word, `(points, 2)` in pixels: loops of different heights from left to right."""
    letters = int(rng.integers(4, 10))
    time = np.linspace(0, letters, 24 * letters)
    size = side * rng.uniform(0.015, 0.035)
    heights = np.interp(time, np.arange(letters + 1), rng.uniform(0.3, 1.6, letters + 1))
    x = size * (1.1 * time + 0.5 * np.cos(2 * np.pi * time))
    y = -size * heights * np.sin(2 * np.pi * time)
    slope = rng.uniform(-0.15, 0.15)
    start = rng.uniform(0.02, 0.8, 2) * (width, height) + (0, 0.1 * height)
    return start + np.stack([x, y + slope * x], axis=1)


def _fold(picture: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Creases across the sheet: a dark and a light line, and another brightness on either side."""
    height, width = picture.shape[:2]
    side = min(height, width)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    shade = np.ones((height, width), np.float32)
    for number in range(MOST_FOLDS):
        is_upright, place, slope = rng.random() < 0.5, rng.uniform(0.15, 0.85), rng.uniform(-0.05, 0.05)
        distance = x - place * width - slope * y if is_upright else y - place * height - slope * x
        if number >= round(amount * MOST_FOLDS):
            continue
        crease = max(0.004 * side, 0.7)
        dark, light = (np.exp(-(((distance - shift) / crease) ** 2)) for shift in (0, 1.5 * crease))
        shade *= 1 - amount * (
            0.5 * dark - 0.15 * light + 0.12 * np.sign(distance) * np.exp(-abs(distance) / (0.15 * side))
        )
    return picture * shade[:, :, None]


def _photograph(picture: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """The sheet on a table, turned and seen from the side. All of it stays in the picture."""
    height, width = picture.shape[:2]
    angle = np.radians(amount * DEGREES * rng.uniform(-1, 1))
    shifts = amount * CORNER_SHIFT * rng.uniform(0, 1, (4, 2))
    table = rng.uniform(0.1, 0.7) * rng.uniform([0.8, 0.7, 0.6], 1)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.5
    moved = (corners - 2 * corners * shifts) * (1 - amount * SMALLER * rng.uniform(0, 1)) * (width, height)
    moved = moved @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved *= min(1, 0.5 / (abs(moved) / (width, height)).max())
    size = np.array([width, height])
    coefficients = _perspective(moved + size / 2, (corners + 0.5) * size)
    pixels = Image.fromarray((255 * picture).round().astype(np.uint8))
    sheet = pixels.transform(pixels.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    whole = Image.new("L", pixels.size, 255)
    cover = whole.transform(pixels.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    cover = np.asarray(cover, np.float32)[:, :, None] / 255
    ground = np.float32(table) * (1 + np.float32(0.1) * _smooth_noise((height, width), rng)[:, :, None])
    return ground + cover * (np.asarray(sheet, np.float32) / 255 - ground)


def _perspective(seen: np.ndarray, corners: np.ndarray) -> list[float]:
    """The eight coefficients of Pillow's perspective transform that moves `corners` to `seen`, both `(4, 2)` in pixels."""
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, corners):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values)).tolist()


def _light(picture: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Light from one side in its own colour, and the soft edge of a shadow."""
    height, width = picture.shape[:2]
    y, x = (np.arange(size, dtype=np.float32) / max(height, width) for size in (height, width))
    falls, edge = (np.float32([[np.cos(angle)], [np.sin(angle)]]) for angle in rng.uniform(0, 2 * np.pi, 2))
    ramp = falls[0] * x + (falls[1] * y)[:, None]
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
    across = edge[0] * (x - x.mean()) + (edge[1] * (y - y.mean()))[:, None]
    shadow = 1 / (1 + np.exp((rng.uniform(-0.2, 0.3) - across) / np.float32(0.03)))
    warmth = np.float32(1 + 0.12 * amount * rng.uniform(-1, 1) * np.array([1, 0, -1]))
    light = (1 - 0.45 * amount * ramp) * (1 - 0.3 * amount * shadow)
    return picture * light[:, :, None] * warmth


def _blur_and_noise(picture: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """A lens out of focus, and the noise of a sensor."""
    radius = 0.003 * amount * min(picture.shape[:2]) * rng.uniform(0.3, 1)
    pixels = Image.fromarray((255 * picture).round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    noise = 0.05 * amount * rng.standard_normal(picture.shape, np.float32)
    return np.asarray(pixels, np.float32) / 255 + noise


def _compress(picture: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG."""
    file = BytesIO()
    quality = round(95 - (95 - WORST_QUALITY) * amount)
    Image.fromarray((255 * picture).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255


def _smooth_noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Random values from 0 to 1 that change slowly, of the given shape."""
    coarse = Image.fromarray(rng.random((6, 6), np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)).clip(0, 1)
