"""Scans and photographs of ECGs: as input, as augmentation in training, and as steps of an evaluation."""

import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_LLM
from PIL import Image, ImageDraw
from test_ask import run  # noqa: F401  a fixture
from test_report import RUN, predictions_of
from transformers import ViTImageProcessorPil

from elm_hf.checkpoints.create import create_elm
from elm_hf.checkpoints.load import check_reads_pictures, load_checkpoint
from elm_hf.data.loading import load_elm_dataset
from elm_hf.ecg.scan_artifacts import scan_like
from elm_hf.evaluation import asker, degradation
from elm_hf.evaluation.ablation import SignalAblation
from elm_hf.evaluation.degradation import SEVERITIES, DegradedPictures, degradation_steps
from elm_hf.evaluation.evaluate import evaluate
from elm_hf.evaluation.report import write_report
from elm_hf.modeling.ecg_leads import LEADS
from elm_hf.modeling.ecg_pictures import EcgPicture, as_picture
from elm_hf.modeling.feature_extraction_ecg import SignalQualityWarning
from elm_hf.modeling.image_processing_ecg import EcgImageProcessor
from elm_hf.scoring.reliance import signal_reliance
from elm_hf.scoring.scores import Questions, ScoreBook
from elm_hf.training.augmentation import EcgImageAugmentation, sample_rng
from elm_hf.training.collator import ElmDataCollator


RENDERS_CHARTS = True

SIDE = 64
VISION = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def picture_elm(simulated_dataset, tmp_path_factory) -> Path:
    """A new checkpoint of a tiny ELM that reads drawn ECGs of 2 s, in six rows on blue paper."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "elm.json").write_text(json.dumps({"text_config": TINY_LLM, "encoder_config": VISION}))
    paper = {"layout": "6x2", "mm_per_s": 50.0, "grid_color": "blue"}
    create_elm(
        folder / "elm", config=folder / "elm.json", tokenizer_dataset=str(simulated_dataset), vocab_size=400,
        num_ecg_tokens=4, seconds=2, representation="image", paper=paper,
    )  # fmt: skip
    return folder / "elm"


@pytest.fixture(scope="module")
def loaded(picture_elm) -> tuple:
    return load_checkpoint(picture_elm)


@pytest.fixture
def sheet() -> Image.Image:
    """A sheet of 300 x 200 pixels on white, with a black square of 40 x 40 pixels and marks in its corners."""
    image = Image.new("RGB", (300, 200), (230, 240, 250))
    draw = ImageDraw.Draw(image)
    draw.rectangle((100, 80, 139, 119), "black")
    for x, y, color in ((4, 4, "red"), (276, 4, "green"), (4, 176, "blue"), (276, 176, "yellow")):
        draw.rectangle((x, y, x + 19, y + 19), color)
    return image


@pytest.fixture
def scan(sheet, tmp_path) -> Path:
    sheet.save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


def ask_about(**item) -> list[dict]:
    return [{"role": "user", "content": [{"type": "ecg", **item}, {"type": "text", "text": "What?"}]}]


def encoded(processor, *conversations: list[dict]) -> dict[str, np.ndarray]:
    return processor.apply_chat_template(
        list(conversations), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )


# Pictures as input


def test_square_picture_is_prepared_as_by_the_encoders_own_processor(sheet, tmp_path):
    square = sheet.crop((0, 0, 200, 200))
    own = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.3, 0.4, 0.5], image_std=[0.2] * 3)
    processor = EcgImageProcessor.from_vision_encoder(own)
    theirs = own(images=[square], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(processor(EcgPicture(square), return_tensors="np")["pixel_values"], theirs, atol=1e-5)


def test_wide_picture_keeps_its_proportions_and_its_corners(sheet):
    (drawn,) = EcgImageProcessor(size={"height": 300, "width": 300}).draw(sheet)
    dark = (drawn.max(axis=2) < 100).nonzero()
    assert np.ptp(dark[0]) == np.ptp(dark[1]) == 39  # 40 x 40 pixels
    assert (dark[0].min(), dark[1].min()) == (130, 100)  # 50 rows are added above
    assert (drawn[:50] == (230, 240, 250)).all() and (drawn[250:] == (230, 240, 250)).all()
    assert drawn[60, 10].tolist() == [255, 0, 0] and drawn[230, 285].tolist() == [255, 255, 0]


def test_drawn_ecg_is_the_same_as_a_signal_and_as_its_picture(loaded, simulated_dataset, tmp_path):
    """The conversation has the same prompt and the same pixels, whether it has the signal or the picture of it."""
    model, processor = loaded
    row = load_elm_dataset(simulated_dataset)[0]
    signal = {"ecg": row["ecgs"][0], "sampling_rate": 250, "lead_names": list(LEADS)}
    Image.fromarray(processor.image_processor.draw(row["ecgs"][0], 250)[0]).save(tmp_path / "ecg.png")
    first, second, third = (
        encoded(processor, ask_about(**item))
        for item in (signal, {"image": tmp_path / "ecg.png"}, {"path": str(tmp_path / "ecg.png")})
    )
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
        np.testing.assert_array_equal(values, third[name], err_msg=name)
    assert first["ecg_values"].std() > 0.1
    with torch.no_grad():
        tensors = {name: torch.from_numpy(values) for name, values in second.items()}
        assert model(**tensors).logits.isfinite().all()


def test_signals_and_pictures_can_be_mixed(loaded, simulated_dataset, sheet):
    _, processor = loaded
    ecgs = [row["ecgs"][0] for row in load_elm_dataset(simulated_dataset).select(range(2))]
    pictures = processor.image_processor.draw([ecgs[0], sheet, ecgs[1]], [250, None, 250])
    assert (pictures[[0, 2]] == processor.image_processor.draw(ecgs, 250)).all()
    assert (pictures[1] == processor.image_processor.draw(sheet)[0]).all()
    texts = processor([processor.ecg_token] * 2, ecg=[sheet, ecgs[0]], sampling_rate=[None, 250])
    assert np.allclose(texts["ecg_values"], processor.image_processor.normalize(pictures[[1, 0]]))


def test_pictures_in_other_forms_are_the_same_picture(sheet, tmp_path):
    expected = np.asarray(sheet)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # the camera was held upright: turn it clockwise
    sheet.rotate(90, expand=True).save(tmp_path / "turned.png", exif=rotated)
    see_through = sheet.convert("RGBA")
    white = Image.new("RGB", sheet.size, "white")
    white.paste(sheet.crop((0, 0, 150, 200)))
    see_through.paste((0, 0, 0, 0), (150, 0, 300, 200))
    see_through.save(tmp_path / "transparent.png")
    grey = np.asarray(sheet.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    sheet.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.gif")
    assert (EcgPicture(tmp_path / "turned.png").pixels == expected).all()
    assert (EcgPicture(tmp_path / "transparent.png").pixels == np.asarray(white)).all()
    assert (EcgPicture(tmp_path / "deep.tif").pixels == grey[:, :, None]).all()
    assert abs(EcgPicture(tmp_path / "palette.gif").pixels.astype(int) - expected).max() < 3
    assert (EcgPicture(expected).pixels == expected).all()
    assert as_picture(tmp_path / "a.JPG") and as_picture(sheet) and not as_picture("a.csv") and not as_picture(grey)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"I,II\n0.1,0.2\n", r"fake.png: is not a picture; expected PNG, JPEG"),
        (None, "fake.png: no such file"),
        ("half", "fake.png: is damaged"),
        ("pages", "fake.png: has 2 pages; save the page with the ECG"),
    ],
)
def test_file_that_is_no_picture_is_refused(content, message, scan, loaded, tmp_path):
    path = tmp_path / "fake.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "half":
        noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif content == "pages":
        Image.open(scan).save(path, format="TIFF", save_all=True, append_images=[Image.new("RGB", (300, 200))])
    with pytest.raises((ValueError, OSError), match=message):
        encoded(loaded[1], ask_about(image=path))


@pytest.mark.parametrize(
    "image, message",
    [
        ("https://example.org/ecg.png", "download it first"),
        (np.zeros((12, 500), np.float32), r"this one is \(12, 500\) and float32"),
        (7, "got int"),
    ],
)
def test_what_cannot_be_a_picture_is_named(image, message):
    with pytest.raises(ValueError, match=message):
        EcgPicture(image)


def test_model_of_signals_refuses_a_picture_and_names_both(tiny_elm, scan, sheet):
    _, processor = load_checkpoint(tiny_elm)
    for item in ({"image": scan}, {"ecg": str(scan)}, {"path": scan}):
        with pytest.raises(ValueError, match=r"scan.png is a picture, and this model reads signals.*\"image\""):
            encoded(processor, ask_about(**item))
    with pytest.raises(ValueError, match="^ECG 1 of 1: the image that was given is a picture"):
        encoded(processor, ask_about(image=sheet))
    stacked = EcgImageProcessor("stacked_signal")
    with pytest.raises(
        ValueError, match=r"scan.png is a picture, and this model reads signals as pictures \(\"stacked"
    ):
        stacked(scan)


def test_blank_pictures_and_small_ones_are_warned_about(loaded, sheet, scan, tmp_path, recwarn):
    _, processor = loaded
    blank = np.random.default_rng(0).normal(240, 2, (200, 300, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(blank).save(tmp_path / "blank.jpg")
    encoded(processor, ask_about(image=scan))
    assert not [one for one in recwarn if issubclass(one.category, SignalQualityWarning)]
    with pytest.warns(SignalQualityWarning, match=r"ECG 1 of 1 \(.*blank.jpg\): the picture is blank"):
        encoded(processor, ask_about(path=tmp_path / "blank.jpg"))
    with pytest.warns(SignalQualityWarning, match="the picture has only 60 x 40 pixels"):
        encoded(processor, ask_about(image=sheet.resize((60, 40))))


def test_checkpoint_keeps_the_paper(loaded):
    processor = loaded[1].image_processor
    assert (processor.layout, processor.mm_per_s, processor.grid_color) == ("6x2", 50, "blue")


# The command


def test_a_scan_is_asked_about_and_drawn_with_its_answer(picture_elm, scan, tmp_path, run):  # noqa: F811
    shutil.copy(scan, tmp_path / "other.png")
    code, output, errors = run(
        "ask", picture_elm, "--ecg", scan, "--question", "What?", "--max-new-tokens", 3, "--plot", "out.png"
    )
    assert code == 0 and "warning" not in errors and "ECG scan.png, answered by" in output and "What?\n    " in output
    drawn = np.asarray(Image.open(tmp_path / "out.png"))
    assert drawn.shape[1] > 300 and (drawn == (255, 0, 0)).all(axis=2).sum() == 400  # a mark of 20 x 20 pixels
    code, output, _ = run(
        "ask", picture_elm, "--ecg", "scan.png", "other.png", "--question", "What?", "--output", "a.csv"
    )
    answers = pd.read_csv(tmp_path / "a.csv")
    assert code == 0 and answers["file"].tolist() == ["scan.png", "other.png"] and answers["problems"].isna().all()


def test_the_command_refuses_before_it_loads_the_model(picture_elm, tiny_elm, scan, tmp_path, run, monkeypatch):  # noqa: F811
    (tmp_path / "text.png").write_text("Dear colleague")
    Image.new("RGB", (300, 200), "white").save(tmp_path / "blank.png")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_elm)}))
    monkeypatch.setattr("elm_hf.checkpoints.load.load_checkpoint", None)
    both = 'scan.png: a picture, and .* reads ECGs as "signal"'
    for arguments, message in [
        (("ask", tiny_elm, "--question", "What?", "--ecg", scan), both),
        (("ask", tiny_elm, "--question", "What?", "--output", "a.csv", "--ecg", scan), both),
        (("chat", tiny_elm, "--ecg", scan), both),
        (("ask", picture_elm, "--question", "What?", "--ecg", "text.png"), "text.png: is not a picture"),
        (("ask", picture_elm, "--question", "What?", "--ecg", "none.png"), "none.png: no such file"),
        (("chat", picture_elm, "--strict", "--ecg", "blank.png"), "blank.png: the picture is blank"),
        (("measure", scan), "scan.png: a picture; only models of drawn ECGs read pictures"),
    ]:
        code, _, errors = run(*arguments)
        assert code == 1 and len(errors.splitlines()) == 1, errors
        assert re.search(message, errors), errors
    with pytest.raises(ValueError, match='scan.png: a picture, and .*adapter reads ECGs as "signal"'):
        check_reads_pictures(adapter, ["scan.png"])


# Artefacts of scans


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """A drawn ECG of 256 x 256 pixels."""
    time = np.arange(2500) / 250
    ecg = np.stack([np.exp(-(((time % 0.8 - 0.4) / 0.02) ** 2)) * (lead + 1) / 12 for lead in range(12)])
    return EcgImageProcessor(size={"height": 256, "width": 256}).draw(ecg.astype(np.float32), 250)[0]


def test_artifacts_depend_on_the_generator_alone_and_grow_with_the_severity(drawn):
    before = drawn.copy()
    steps = [scan_like(drawn, severity, np.random.default_rng(3)) for severity in (0, *SEVERITIES)]
    assert (steps[0] == before).all() and (drawn == before).all()
    assert all(one.shape == drawn.shape and one.dtype == np.uint8 for one in steps)
    again = scan_like(drawn, 0.5, np.random.default_rng(3))
    assert (again == steps[2]).all() and (scan_like(drawn, 0.5, np.random.default_rng(4)) != again).any()
    ink = [np.percentile(one.mean(axis=2), 90) - np.percentile(one.mean(axis=2), 0.1) for one in steps]
    light = [one.mean() for one in steps]
    assert light == sorted(light, reverse=True) and ink[-1] < 0.9 * ink[0]
    with pytest.raises(ValueError, match="severity is 1.1; expected a number from 0 to 1"):
        scan_like(drawn, 1.1, np.random.default_rng(0))


def test_the_whole_sheet_stays_in_the_picture():
    """Its corners, marked in saturated colours, are seen in each picture, further inside than in the sheet."""
    sheet = np.full((240, 320, 3), 250, np.uint8)
    corners = {0: (slice(16), slice(16)), 1: (slice(16), slice(-16, None)), 2: (slice(-16, None), slice(16))}
    for channel, place in corners.items():
        sheet[place] = 0
        sheet[*place, channel] = 250
    for seed in range(6):
        seen = scan_like(sheet, 1, np.random.default_rng(seed)).astype(int)
        for channel, (rows, columns) in corners.items():
            others = np.delete(seen, channel, axis=2).max(axis=2)
            marked = (seen[:, :, channel] > 2.2 * others + 20).nonzero()
            assert len(marked[0]) > 60, (seed, channel)
            assert abs(np.median(marked[0]) - (8 if rows.start is None else 232)) < 60
            assert abs(np.median(marked[1]) - (8 if columns.start is None else 312)) < 80


def test_training_reads_pictures_with_artifacts(loaded, simulated_dataset):
    _, processor = loaded
    row = load_elm_dataset(simulated_dataset)[0]
    collator = ElmDataCollator(processor, image_augmentation=EcgImageAugmentation(scan=0.8), seed=5)
    batch, again = collator([row]), collator([row])
    assert torch.equal(batch["ecg_values"], again["ecg_values"])
    drawn = processor.image_processor.draw(row["ecgs"][0], 250)[0]
    rng = sample_rng(5, 0, zlib.crc32(row["conversation_id"].encode()))
    expected = scan_like(drawn, rng.uniform(0, 0.8), rng)
    np.testing.assert_allclose(batch["ecg_values"], processor.image_processor.normalize(expected[None]), atol=1e-5)
    collator.epoch = 1
    assert not torch.equal(collator([row])["ecg_values"], batch["ecg_values"])
    with pytest.raises(ValueError, match="scan is 1.5; expected 0 .off. to 1"):
        EcgImageAugmentation(scan=1.5)


# Steps of an evaluation


@pytest.fixture(scope="module")
def degraded(picture_elm, simulated_dataset, tmp_path_factory) -> tuple[Path, dict]:
    """An evaluation of an untrained model on drawn pictures and on those with artefacts."""
    folder = tmp_path_factory.mktemp("reports") / "degraded"
    settings = {"split": "train", "limit": 4, "num_occlusions": 0, "max_new_tokens": 2, "quiet": True}
    settings |= {"output": folder, "conditions": ("ecg", "shuffled", "none"), "picture_degradation": True}
    return folder, evaluate(picture_elm, simulated_dataset, **settings), settings


def test_each_step_asks_the_same_questions_under_the_conditions_with_a_picture(degraded):
    folder, report, _ = degraded
    drawn = pd.read_parquet(folder / "predictions.parquet")
    for number, severity in enumerate(SEVERITIES, 1):
        table = pd.read_parquet(folder / f"scan_{number}" / "predictions.parquet")
        assert set(table["condition"]) == {"ecg", "shuffled"}
        assert set(table["question_id"]) == set(drawn["question_id"])
        assert json.loads((folder / f"scan_{number}" / "run.json").read_text())["severity"] == severity
    assert [step["severity"] for step in report["picture_degradation"]] == [0, *SEVERITIES]
    text = (folder / "report.md").read_text()
    assert "## Pictures like scans" in text and "| 0.75 |" in text
    for name in ("picture_degradation", "picture_degradation_steps"):
        assert f"(figures/{name}.png)" in text and (folder / "figures" / f"{name}.png").is_file()
    assert Image.open(folder / "figures/picture_degradation_steps.png").size == (5 * SIDE, SIDE)


def test_an_interrupted_evaluation_goes_on_with_the_steps(
    degraded, picture_elm, simulated_dataset, tmp_path, monkeypatch
):
    """The steps that are complete are not asked again; the others are."""
    folder, report, settings = degraded
    shutil.copytree(folder, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "scan_4")
    asked = []
    whole = asker.answers_to
    monkeypatch.setattr(asker, "answers_to", lambda batch, *rest: asked.append(batch) or whole(batch, *rest))
    monkeypatch.setattr("elm_hf.evaluation.evaluate.write_report", lambda *arguments, **results: results)
    again = evaluate(picture_elm, simulated_dataset, **settings | {"output": tmp_path / "again"})
    assert len(asked) == 1 and again["picture_degradation"] == report["picture_degradation"]


def test_pictures_of_a_step_are_drawn_ecgs_with_artifacts(loaded, simulated_dataset):
    _, processor = loaded
    rows = load_elm_dataset(simulated_dataset)
    ablation = SignalAblation(rows, ("ecg", "zeros"))
    weak, strong = (DegradedPictures(ablation, rows, processor.image_processor, severity, 7) for severity in (0.25, 1))
    (first,), (second,), (third,) = weak.ecgs(0, "ecg", 1), strong.ecgs(0, "ecg", 1), strong.ecgs(0, "ecg", 1)
    drawn = processor.image_processor.draw(rows[0]["ecgs"][0], 250)[0].astype(int)
    assert (second.pixels == third.pixels).all() and weak.names(0, "ecg", 1) == ablation.names(0, "ecg", 1)
    assert 0 < abs(first.pixels - drawn).mean() < abs(second.pixels - drawn).mean()
    flat = strong.ecgs(0, "zeros", 1)[0].pixels
    assert flat.shape == (SIDE, SIDE, 3) and (flat != second.pixels).any()
    ablation.ecgs = lambda *_: [np.zeros((12, 500), np.float32)]  # a recording without any signal is asked about, too
    assert (strong.ecgs(0, "ecg", 1)[0].pixels.shape) == (SIDE, SIDE, 3)


def test_steps_have_the_scores_changes_and_reliance_of_their_answers(tmp_path):
    drawn = predictions_of({"ecg": 0.95, "shuffled": 0.5, "none": 0.5})
    weaker = predictions_of({"ecg": 0.6, "shuffled": 0.5}, seed=1)
    steps = degradation_steps(drawn, {0.5: weaker})
    right = [
        (table["prediction"] == table["messages_answer"])[table["condition"] == "ecg"].mean()
        for table in (drawn, weaker)
    ]
    first, second = (step["kinds"]["short"] for step in steps)
    assert [first["score"]["score"], second["score"]["score"]] == pytest.approx(right)
    assert first["change"] is None and second["change"]["score"] == pytest.approx(right[1] - right[0])
    assert second["change"]["high"] < 0 and first["reliance"]["reads_ecg"] is True
    both = pd.concat([weaker, drawn[drawn["condition"] == "none"]])
    book = ScoreBook(Questions(both), 1000, 0)
    assert second["reliance"] == signal_reliance(book, np.arange(len(book.questions.table)))
    report = write_report(tmp_path, drawn, RUN, picture_degradation=steps)
    assert json.loads((tmp_path / "report.json").read_text())["picture_degradation"] == json.loads(json.dumps(steps))
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| 0.5 |"))
    assert f"{right[1]:.3f} [" in row and report["figures"]["picture_degradation"] == "figures/picture_degradation.png"


@pytest.mark.parametrize("patients", [5, 6])
def test_the_change_by_degraded_pictures_has_an_interval_from_six_patients_on(patients):
    drawn = predictions_of({"ecg": 1, "none": 0.5}, num_patients=patients)
    weaker = predictions_of({"ecg": 0}, num_patients=patients)
    change = degradation_steps(drawn, {0.5: weaker})[1]["kinds"]["short"]["change"]
    assert change["score"] == pytest.approx(-1)
    if patients == 6:
        assert change["low"] <= -1 < change["high"] < 0 and "note" not in change
    else:
        assert (change["low"], change["high"]) == (None, None)
        assert change["note"] == "less than 6 patients or answers: no interval"


def test_model_of_signals_has_no_degraded_pictures(tiny_elm, simulated_dataset, monkeypatch):
    monkeypatch.setattr(degradation, "ask_about_degraded", None)
    with pytest.raises(ValueError, match='models of drawn ECGs .representation "image".*reads .signal.$'):
        evaluate(tiny_elm, simulated_dataset, limit=4, split="train", picture_degradation=True, quiet=True)
