"""`elm-hf convert` on published files of masked autoencoders: converted checkpoints, and files that are refused."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal
import torch
from reference_encoders import TINY, Reference, random_weights, relative_error
from safetensors import safe_open

from elm_hf.checkpoints.convert import convert_checkpoint
from elm_hf.cli import main


KINDS = ("st_mem", "mtae", "mlae")


def published(folder, kind="st_mem", sizes=TINY, full=True, change=None, wrap=True):
    """A file in the format of the published ones. `change` edits its weights."""
    weights = random_weights(kind, sizes, full)
    if change is not None:
        change(weights)
    torch.save({"epoch": 3, "model": weights, "config": {"lr": 1e-3}} if wrap else weights, folder / "file.pth")
    return folder / "file.pth"


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("full, architecture", [(True, "ForPreTraining"), (False, "Model")])
@pytest.mark.parametrize("kind", KINDS)
def test_encoder_and_full_files_give_the_same_representation(kind, full, architecture, tmp_path):
    file = published(tmp_path, kind, full=full)
    model, _ = convert_checkpoint(kind, file, tmp_path / "out")
    assert type(model).__name__.lower() == (kind.replace("_", "") + architecture).lower()
    ecg = torch.randn(2, 12, TINY["samples"], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pooled = model.base_model(ecg).pooler_output
    assert relative_error(pooled, Reference(kind, random_weights(kind, full=full)).encode(ecg)[1]) < 1e-5


@pytest.mark.parametrize("full", [True, False])
def test_every_weight_is_converted_unchanged(full, tmp_path):
    convert_checkpoint("st_mem", published(tmp_path, full=full), tmp_path / "out")
    weights = random_weights("st_mem", full=full)
    unique = {name: value for name, value in weights.items() if f"encoder.{name}" not in weights}
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        saved = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 (not a dictionary)
    vectors = [value for part in saved for value in (part if part.shape == (12, 40) else [part])]  # leads are stacked
    assert sorted(value.numpy().tobytes() for value in vectors) == sorted(
        value.numpy().tobytes() for value in unique.values()
    )


def test_prefix_and_bare_dictionaries_are_accepted(tmp_path):
    def add_prefix(weights):
        for name in list(weights):
            weights[f"module.{name}"] = weights.pop(name)

    file = published(tmp_path, full=True, change=add_prefix, wrap=False)
    model, _ = convert_checkpoint("st_mem", file, tmp_path / "out")
    expected = random_weights("st_mem")["encoder.block1.ff.fn.net.0.weight"]
    assert torch.equal(model.st_mem.layers[1].mlp.up_proj.weight, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_follow_from_the_shapes(kind, tmp_path):
    sizes = {"samples": 96, "leads": 12, "patch": 8, "width": 64, "layers": 3, "heads": 1, "inner": 20}
    sizes |= {"d_width": 30, "d_layers": 1, "d_heads": 2, "d_inner": 22}
    model, extractor = convert_checkpoint(kind, published(tmp_path, kind, sizes), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {"model_type": kind, "num_samples": 96, "num_leads": 12, "hidden_size": 64, "num_hidden_layers": 3}
    expected |= {"num_attention_heads": 1, "intermediate_size": 20, "decoder_hidden_size": 30}
    expected |= {"decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 22}
    expected |= {} if kind == "mlae" else {"patch_size": 8}
    assert {name: config[name] for name in expected} == expected
    assert extractor.num_samples == 96
    ecg = torch.randn(2, 12, 96, generator=torch.Generator().manual_seed(1))
    weights = random_weights(kind, sizes)
    assert "encoder.block0.attn.fn.to_out.0.weight" not in weights  # a single head of 64 has no output projection
    with torch.no_grad():
        pooled = model.base_model(ecg).pooler_output
    assert relative_error(pooled, Reference(kind, weights, sizes).encode(ecg)[1]) < 1e-5


def test_the_preprocessing_is_saved_with_the_checkpoint(tmp_path):
    convert_checkpoint("st_mem", published(tmp_path, full=False), tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    expected = {"sampling_rate": 250, "num_samples": 150, "normalization": "z_score", "band_pass": [0.67, 40.0]}
    expected |= {"leads": ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]}
    assert {name: settings[name] for name in expected} == expected
    assert {"modeling_st_mem.py", "modeling_ecg_vit.py", "ecg_leads.py"} <= set(names_in(tmp_path / "out"))


LOAD_IN_FRESH_PROCESS = """
import sys
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

folder, record = sys.argv[1], sys.argv[3]
try:
    import elm_hf
    raise SystemExit("elm_hf can be imported here")
except ModuleNotFoundError:
    pass
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
inputs = extractor(record, return_tensors="pt")
noise = torch.linspace(0, 1, 360).mul(7).frac().view(1, 12, 30)
with torch.no_grad():
    outputs = {"pooled": encoder(**inputs).pooler_output, "loss": model(**inputs, noise=noise).loss}
torch.save({**inputs, **outputs, "noise": noise}, f"{folder}/outputs.pt")
"""


def test_a_record_through_a_converted_checkpoint_in_a_fresh_process(shared_data, tmp_path):
    sizes = TINY | {"samples": 2250, "patch": 75}
    convert_checkpoint("st_mem", published(tmp_path, sizes=sizes), tmp_path / "out")
    record = shared_data / "ptb_xl" / "records500" / "06000" / "06000_hr"
    # -S hides the finder of editable installs; the library folders, which do not contain elm_hf, are added again
    script = "import sys; sys.path[:0] = sys.argv[2].split(':')\n" + LOAD_IN_FRESH_PROCESS
    paths = ":".join(path for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, str(tmp_path / "out"), paths, str(record)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    outputs = torch.load(tmp_path / "out" / "outputs.pt", weights_only=True)

    # The project's preprocessing, written out: the record's 500 Hz samples are digital units, 1000 per millivolt.
    raw = np.fromfile(f"{record}.dat", dtype="<i2").reshape(-1, 12).T.astype(np.float64)
    signal = scipy.signal.resample(raw, 2500, axis=1)[:, :2250]
    for frequency, kind in ((0.67, "high"), (40, "low")):
        signal = scipy.signal.sosfiltfilt(scipy.signal.butter(5, frequency / 125, kind, output="sos"), signal, axis=1)
    signal = torch.tensor((signal - signal.mean()) / np.sqrt(((signal - signal.mean()) ** 2).mean()))[None]
    assert outputs["ecg_lead_mask"].all()
    assert relative_error(outputs["ecg_values"], signal) < 1e-5
    reference = Reference("st_mem", random_weights("st_mem", sizes), sizes)
    assert relative_error(outputs["pooled"], reference.encode(signal)[1]) < 1e-4
    assert relative_error(outputs["loss"], reference.pretrain(signal, outputs["noise"])["loss"]) < 1e-4


def test_the_command(tmp_path, monkeypatch, capsys):
    file, out = published(tmp_path, full=False), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["elm-hf", "convert", "st_mem", str(file), str(out)])
    with pytest.raises(SystemExit) as first:
        main()
    assert (first.value.code, capsys.readouterr().out) == (0, f"{out}: StMemModel, EcgFeatureExtractor\n")
    with pytest.raises(SystemExit) as second:
        main()
    message = capsys.readouterr().err.splitlines()[-1]
    assert (second.value.code, message) == (1, f"elm-hf: {out} is not empty; choose another folder.")


def rename(old, new):
    return lambda weights: weights.update({new: weights.pop(old)})


BAD_WEIGHTS = {
    "unknown": (
        "st_mem",
        lambda weights: weights.update({"head.weight": torch.zeros(5, 40), "head.bias": torch.zeros(5)}),
        r"2 unknown: head\.bias, head\.weight",
    ),
    "missing": (
        "st_mem",
        lambda weights: weights.pop("encoder.block1.attn.fn.to_qkv.bias"),
        r"1 missing: encoder\.block1\.attn\.fn\.to_qkv\.bias",
    ),
    "renamed": (
        "mtae",
        rename("decoder_norm.weight", "decoder_norm.gain"),
        r"1 unknown: decoder_norm\.gain; 1 missing: decoder_norm\.weight",
    ),
    "layer left out": (
        "st_mem",
        lambda weights: [weights.pop(name) for name in list(weights) if "encoder.block0." in name],
        r"not a checkpoint of st_mem: it lacks block0\.attn\.fn\.to_qkv\.weight, block0\.ff",
    ),
    "shape": (
        "mlae",
        lambda weights: weights.update({"decoder_head.bias": torch.zeros(7)}),
        r"1 of another shape: decoder_head\.bias \[7\], not \[150\]",
    ),
    "decoder of another length": (
        "st_mem",
        lambda weights: weights.update({"decoder_pos_embed": torch.zeros(1, 22, 24)}),
        r"decoder_pos_embed \[1, 22, 24\], not \[1, 12, 24\]",
    ),
    "aliases differ": (
        "st_mem",
        lambda weights: weights["to_patch_embedding.2.bias"].add_(1),
        r"to_patch_embedding\.2\.bias should equal",
    ),
    "a lead left out": (
        "st_mem",
        lambda weights: weights.pop("encoder.lead_embeddings.4"),
        "lead_embeddings 0, 1, 2, 3, 5, 6",
    ),
    "no decoder": (
        "st_mem",
        lambda weights: weights.pop("decoder_pos_embed"),
        "incomplete decoder: it lacks decoder_pos_embed",
    ),
    "head dimension": (
        "st_mem",
        lambda weights: weights.update({"encoder.block0.attn.fn.to_qkv.weight": torch.zeros(120, 40)}),
        "has 120 rows; expected a multiple of 3 x 64",
    ),
    "not tensors": ("st_mem", lambda weights: weights.update({"note": "mine"}), "not tensors: note"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_listed(case, tmp_path):
    kind, change, message = BAD_WEIGHTS[case]
    file = published(tmp_path, kind, change=change)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(kind, file, tmp_path / "out")
    assert names_in(tmp_path) == ["file.pth"]


@pytest.mark.parametrize(
    "held, asked, message",
    [
        ("mtae", "st_mem", "not a checkpoint of st_mem: it lacks lead_embeddings, sep_embedding"),
        ("st_mem", "mtae", "not a checkpoint of mtae: it lacks cls_embedding"),
        ("mlae", "mtae", "not a checkpoint of mtae: its patches have 150 values; expected a multiple of 12"),
        ("mtae", "mlae", "not a checkpoint of mlae: it has positions for 30 leads; expected at most 12"),
        ("st_mem", "resnet", 'kind "resnet" is not one of st_mem, mtae, mlae'),
    ],
)
def test_another_architecture_is_refused(held, asked, message, tmp_path):
    sizes = TINY | {"samples": 450} if held == "mtae" else TINY
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(asked, published(tmp_path, held, sizes), tmp_path / "out")
    assert names_in(tmp_path) == ["file.pth"]


class Touch:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_that_imports_is_refused_and_not_executed(form, tmp_path):
    content = {"model": random_weights("st_mem"), "config": Touch(tmp_path / "made")}
    if form == "pickle":
        (tmp_path / "file.pth").write_bytes(pickle.dumps({"config": content["config"]}, protocol=2))
    else:
        torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match="file.pth: refused, nothing was executed: .*mkdir"):
        convert_checkpoint("st_mem", tmp_path / "file.pth", tmp_path / "out")
    assert names_in(tmp_path) == ["file.pth"]


def test_a_pickle_of_another_kind_is_refused(tmp_path):
    (tmp_path / "file.pth").write_bytes(pickle.dumps([np.float64(3), Touch(tmp_path / "made")], protocol=5))
    with pytest.raises(ValueError, match=r"file.pth: refused, nothing was executed: not a file of tensors \(Unsup"):
        convert_checkpoint("st_mem", tmp_path / "file.pth", tmp_path / "out")
    assert names_in(tmp_path) == ["file.pth"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match="file.pth: "):
        convert_checkpoint("st_mem", tmp_path / "file.pth", tmp_path / "out")
    assert names_in(tmp_path) == ["file.pth"]


def test_a_list_of_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "file.pth")
    with pytest.raises(ValueError, match="expected a dictionary of tensors, found list"):
        convert_checkpoint("st_mem", tmp_path / "file.pth", tmp_path / "out")


def test_a_failed_conversion_leaves_no_files(tmp_path, monkeypatch):
    from elm_hf.modeling.feature_extraction_ecg import EcgFeatureExtractor

    def fail(self, folder):
        raise OSError("disk full")

    monkeypatch.setattr(EcgFeatureExtractor, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_checkpoint("st_mem", published(tmp_path), tmp_path / "out")
    assert names_in(tmp_path) == ["file.pth"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth: no such file"):
        convert_checkpoint("st_mem", tmp_path / "nowhere.pth", tmp_path / "out")
