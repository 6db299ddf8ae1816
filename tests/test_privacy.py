"""The user's own data: pseudonyms and their key, what is not copied, and who may publish and use the datasets."""

import csv
import hashlib
import hmac
import json
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_ecgfolder import describe, ecg, row

from elm_hf.data.loading import load_elm_dataset
from elm_hf.data.tables import load_records
from elm_hf.dataset_scripts import ecgfolder
from elm_hf.ecg.recording import Recording
from elm_hf.prepare.card import credited
from elm_hf.prepare.dataset import prepare_dataset
from elm_hf.prepare.licenses import is_credentialed, license_fields, who_may_use
from elm_hf.prepare.own_data import privacy_lines
from elm_hf.prepare.personal_text import has_date, without_persons
from elm_hf.prepare.pseudonyms import Pseudonyms, load_pseudonyms
from elm_hf.prepare.publish import publish_dataset


KEY = bytes(range(32))
NAME = "user/mine-250-500"
HEADER = "file_name,patient_id,sampling_rate,age,birth_date,ecg_date,question,answer\n"


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "clinic.key"
    path.write_text(KEY.hex() + "\n")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Files with the names of patients. One cannot be read, one is a copy, and one row has no answer."""
    folder = tmp_path_factory.mktemp("source") / "ecgs"
    folder.mkdir()
    for number, name in enumerate(("Meier_2019-03-04", "Schulze_2019-03-05", "Weber_2020-01-31")):
        np.save(folder / f"{name}.npy", ecg(number).astype(np.float32))
    np.save(folder / "Meier_copy.npy", ecg(0).astype(np.float64))
    (folder / "Vogel.npy").write_bytes(b"")
    (folder / "metadata.csv").write_text(
        HEADER + "Meier_2019-03-04.npy,MRN-4711,250,,31.12.1921,2019-03-04,Normal?,yes\n"
        "Schulze_2019-03-05.npy,MRN-0815,250,63,,,Normal?,no\n"
        "Weber_2020-01-31.npy,MRN-4711,250,89,,,Seen on 4 March 2019?,MRN-4711 was\n"
        "Meier_copy.npy,MRN-4711,250,,,,Normal?,yes\n"
        "Vogel.npy,MRN-9999,250,,,,Normal?,yes\n"
        "Weber_2020-01-31.npy,MRN-4711,250,,,,Normal?,\n"
    )
    return folder


def build(source: Path, output: Path, **options) -> dict:
    options = {"seconds": 2, "num_folds": 2, "max_skipped": 0.5, "overwrite": True} | options
    return prepare_dataset("ecgfolder", output, source=source, **options)


@pytest.fixture(scope="module")
def built(source, key, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built") / "mine"
    build(source, output, key=key, title="ECGs of a clinic", license="cc-by-4.0", citation="@misc{clinic}")
    return output


@pytest.fixture(scope="module")
def kept(source, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("kept") / "kept"
    build(source, output, keep_ids=True, license="cc-by-4.0")
    return output


def pseudonym(kind: str, name: str) -> str:
    """By the definition of HMAC (RFC 2104) with SHA-256."""
    message = f"elm-hf {kind}\0{name}".encode()
    padded = KEY + bytes(32)
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return kind[0] + hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).hexdigest()[:16]


def text_of(folder: Path) -> str:
    """Everything that the files of a dataset say, with the tables and their metadata unpacked."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            parts += [
                str(table.schema.metadata),
                str(table.drop_columns([n for n in table.column_names if n == "ecg"]).to_pydict()),
            ]
        elif path.is_file():
            parts.append(path.read_bytes().decode("latin-1"))
    return "\n".join(parts)


# pseudonyms


def test_patients_and_files_get_pseudonyms(built):
    files = ["Meier_2019-03-04.npy", "Schulze_2019-03-05.npy", "Weber_2020-01-31.npy"]
    patients = [pseudonym("patient", name) for name in ("MRN-4711", "MRN-0815", "MRN-4711")]
    names = [pseudonym("recording", name) for name in files]
    records = load_records(built)
    assert records["recording_id"][:] == names and records["patient_id"][:] == patients
    assert records["record_id"][:] == [f"ecgfolder-{name}-0" for name in names]
    rows = [row for fold in (1, 2) for row in load_elm_dataset(built, fold=fold, split="test")]
    assert {(row["record_ids"][0], row["patient_ids"][0]) for row in rows} == {
        (f"ecgfolder-{name}-0", patient) for name, patient in zip(names, patients)
    }


def test_no_file_of_the_dataset_names_a_patient_or_a_file(built):
    text = text_of(built)
    found = re.findall(r"Meier|Schulze|Weber|Vogel|MRN-0815|MRN-9999|1921|2019-03|2020-01", text)
    assert found == [] and "MRN-4711 was" in text  # an answer is copied as written, and this is said


def test_names_are_kept_beside_the_dataset(built):
    private = built.with_name("mine.private")
    assert sorted(path.name for path in private.iterdir()) == ["ids.csv", "left_out.csv", "skipped.csv"]
    with (private / "ids.csv").open(newline="") as file:
        ids = list(csv.DictReader(file))
    assert ids[1] == {
        "recording_id": pseudonym("recording", "Schulze_2019-03-05.npy"),
        "patient_id": pseudonym("patient", "MRN-0815"),
        "file_name": "Schulze_2019-03-05.npy",
        "patient_id_in_the_source": "MRN-0815",
    }
    with (private / "skipped.csv").open(newline="") as file:
        skipped = {row["recording_id"]: row["message"] for row in csv.DictReader(file)}
    assert skipped["Meier_copy.npy"] == "Meier_copy.npy: same signal as Meier_2019-03-04.npy"
    assert "Vogel.npy" in skipped and "row 6" in (private / "left_out.csv").read_text()
    assert ": Meier_copy.npy: same signal as another recording" in (private / "left_out.csv").read_text()
    said = privacy_lines(json.loads((built / "build_report.json").read_text()), built)[0]
    assert said.endswith(f"the ids and file names behind them are in {private}, which is not published")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {0o600}


def test_ages_over_89_are_90(built):
    assert load_records(built)["age"][:] == [90, 63, 89]  # from the dates: 97


def test_the_same_key_gives_the_same_ids_and_another_key_others(source, built, key, tmp_path, caplog):
    build(source, tmp_path / "again", key=key, num_proc=2)
    for name in ("records/train-00000-of-00001.parquet", "fold1/test-00000-of-00001.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (built / name).read_bytes()
    ids = load_records(tmp_path / "again")["patient_id"][:]
    assert "key" not in caplog.text

    other = build(source, tmp_path / "again", key=tmp_path / "new" / "other.key")
    assert "other.key: made a new key of pseudonyms. Keep it" in caplog.text
    first = hmac.digest(KEY, b"elm-hf key\0", "sha256").hex()[:8]
    assert f"made with the key {other['own_data']['key']}, and were made with the key {first}" in caplog.text
    assert set(ids).isdisjoint(load_records(tmp_path / "again")["patient_id"][:])
    assert stat.S_IMODE((tmp_path / "new" / "other.key").stat().st_mode) == 0o600

    joined = [tmp_path / "again", built]
    with pytest.raises(ValueError, match="made with different keys .*; build them with the same key"):
        prepare_dataset("label_qa", tmp_path / "questions", records=joined)


def test_an_unfinished_build_is_not_continued_with_another_key(source, key, tmp_path):
    prepare = {"name": "ecgfolder", "source": source, "seconds": 2, "num_folds": 2}
    with pytest.raises(ValueError, match="over the limit"):
        prepare_dataset(output=tmp_path / "mine", key=key, max_skipped=0, **prepare)
    with pytest.raises(ValueError, match="contains a different unfinished build .key "):
        prepare_dataset(output=tmp_path / "mine", key=tmp_path / "other.key", max_skipped=0.5, **prepare)
    prepare_dataset(output=tmp_path / "mine", key=key, max_skipped=0.5, **prepare)


def test_keys_that_cannot_be_used(source, tmp_path):
    (tmp_path / "short.key").write_text("abc")
    for path, message in {
        tmp_path / "short.key": "short.key: not a key of pseudonyms; expected 64 hexadecimal digits",
        tmp_path / "mine" / "key": "the key of the pseudonyms must be outside of the dataset",
    }.items():
        with pytest.raises(ValueError, match=message):
            build(source, tmp_path / "mine", key=path)
    with pytest.raises(ValueError, match=r"keep_ids .* makes no pseudonyms; omit key"):
        build(source, tmp_path / "mine", key=tmp_path / "any.key", keep_ids=True)
    with pytest.raises(ValueError, match=r"simulated_qa has no option key \(--key\)"):
        prepare_dataset("simulated_qa", tmp_path / "mine", num_recordings=10, key=tmp_path / "any.key")


def test_the_key_of_the_user_is_made_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first, second = (load_pseudonyms(None, tmp_path / name) for name in ("one", "two"))
    assert first == second and caplog.text.count("made a new key") == 1
    path = tmp_path / "config" / "elm-hf" / "pseudonyms.key"
    assert bytes.fromhex(path.read_text()) == first.key and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_kept_ids_are_said(kept):
    assert load_records(kept)["patient_id"][0] == "MRN-4711"
    assert (kept / "skipped.csv").is_file() and not kept.with_name("kept.private").exists()
    said, texts = privacy_lines(json.loads((kept / "build_report.json").read_text()), kept)
    assert said.startswith("kept as they are: patient ids (patient_id), names of files (recording_id, record_id")
    assert "1 rows contain a date and 1 rows their patient id in question" in texts


# what is not copied


def test_statements_lose_dates_and_names():
    assert without_persons("When compared with ECG of 12-JAN-2019 10:20, no change") == (
        "When compared with ECG of [date], no change"
    )
    assert without_persons("Sinus rhythm | Confirmed by: Smith, J. (12) on 1/2/2019 8:00 AM | Normal ECG") == (
        "Sinus rhythm | Confirmed by [name] | Normal ECG"
    )
    for text in ("31.12.2019", "2019-12-31", "20191231", "3. März 2020", "Dec 31, 2019", "12/31/19"):
        assert has_date(f"ECG ({text})")
    for text in ("PR 160, QRS 98, QT/QTc 400/420", "V1-V4 1.5 mm", "rate 60-80-100", "70 bpm, axis -30", "2019"):
        assert without_persons(text) == text


def test_dates_in_the_statements_of_a_device_are_removed(tmp_path, monkeypatch):
    """The reading of the files of electrocardiographs is tested elsewhere; here the statements are given."""

    def read(*_) -> Recording:
        report = {
            "device_statements": ["Since 12-JAN-2019 no change"],
            "confirmed_statements": [],
            "device_qrs_ms": 98,
        }
        return Recording(ecg(), 250, (), device_report=report)

    monkeypatch.setattr(ecgfolder, "read_ecg_file", read)
    builder = ecgfolder.Ecgfolder(
        cache_dir=str(tmp_path), config_name="conversations", source=str(describe(tmp_path, row())), seconds=2
    )
    (reference,) = builder.references()
    (as_given,) = builder.record_rows(reference)
    assert as_given["device_statements"] == ["Since 12-JAN-2019 no change"]
    builder.pseudonyms = Pseudonyms(KEY)
    (record,) = builder.record_rows(reference)
    assert (record["device_statements"], record["device_qrs_ms"]) == (["Since [date] no change"], 98)
    assert builder.counts["note dates or names were removed from its statements"] == 1


# privacy.json


def test_privacy_json_lists_every_column(built, simulated_dataset):
    found = json.loads((built / "privacy.json").read_text())
    assert (found["ids"], found["key"]) == ("pseudonyms", hmac.digest(KEY, b"elm-hf key\0", "sha256").hex()[:8])
    assert found["texts"] == {"rows_with_a_date": 1, "rows_with_their_patient_id": 1}
    for folder, content in (
        (built, found),
        (simulated_dataset, json.loads((simulated_dataset / "privacy.json").read_text())),
    ):
        tables = {
            path.name: pq.read_schema(next(path.glob("*.parquet"))).names for path in folder.iterdir() if path.is_dir()
        }
        assert {name: list(columns) for name, columns in content["tables"].items()} == tables
    columns = found["tables"]["records"]
    assert columns["patient_id"]["kind"] == "id" and "keyed hash" in columns["patient_id"]["holds"]
    assert columns["age"]["holds"] == "years; 90 stands for 90 and over"
    assert "published source" in content["tables"]["records"]["patient_id"]["holds"] and "key" not in content


# licences


def published(folder: Path, **options) -> set[str]:
    return set(publish_dataset(folder, NAME, dry_run=True, **options).sizes)


def with_own_data(folder: Path, to: Path, **fields) -> Path:
    """A copy of a dataset whose build report says something else about the user's own data."""
    copy = Path(shutil.copytree(folder, to))
    report = json.loads((copy / "build_report.json").read_text())
    report["own_data"] |= fields
    (copy / "build_report.json").write_text(json.dumps(report))
    return copy


def test_own_data_with_a_licence_are_published_with_pseudonyms(built, tmp_path):
    clean = with_own_data(built, tmp_path / "clean", texts={})
    files = published(clean)
    assert {"privacy.json", "README.md"} <= files and {"skipped.csv", "ids.csv"}.isdisjoint(files)
    card = (built / "README.md").read_text()
    assert "pretty_name: ECGs of a clinic" in card and "license: cc-by-4.0" in card and "@misc{clinic}" in card
    assert "Everybody may use the data under the terms of the licence." in card
    with pytest.raises(ValueError, match="the texts of 1 rows contain the id of their patient"):
        published(built)
    assert "privacy.json" in published(built, private=True) and "privacy.json" in published(built, signals=True)


def test_own_data_need_a_licence(built, tmp_path):
    unclear = with_own_data(built, tmp_path / "mine", license=None, texts={})
    for private in (False, True):
        with pytest.raises(
            ValueError, match=r"data of your own, for which no licence is stated.* license \(--license\)"
        ):
            published(unclear, private=private)
    assert "privacy.json" in published(unclear, license="other")


def test_credentialed_data_are_not_published_to_a_public_repository(built, tmp_path):
    licence = "PhysioNet Credentialed Health Data License 1.5.0"
    mine = with_own_data(built, tmp_path / "mine", license=licence, texts={})
    for signals in (None, True):
        with pytest.raises(ValueError, match="not published to a public repository: only people who have signed"):
            published(mine, signals=signals)
    assert "records/train-00000-of-00001.parquet" in published(mine, private=True)
    assert "ecg.png" not in published(mine, signals=False)


def test_ids_as_given_are_not_published_to_a_public_repository(kept, tmp_path):
    """Also those of a dataset that an earlier version has built, which still loads."""
    earlier = Path(shutil.copytree(kept, tmp_path / "earlier"))
    report = json.loads((earlier / "build_report.json").read_text())
    del report["own_data"]
    (earlier / "build_report.json").write_text(json.dumps(report))
    (earlier / "privacy.json").unlink()
    assert len(load_elm_dataset(earlier, fold=1)) > 0
    for folder, signals in ((earlier, None), (earlier, False), (kept, None)):
        with pytest.raises(ValueError, match="holds patient ids and names of files as they were given"):
            published(folder, license="cc-by-4.0", signals=signals)
    assert "privacy.json" in published(earlier, license="cc-by-4.0", signals=True)


def test_a_licence_is_for_own_data_only(simulated_dataset):
    with pytest.raises(ValueError, match=r"license \(--license\) is for data of your own"):
        publish_dataset(simulated_dataset, NAME, dry_run=True, license="mit")


def test_questions_about_own_records_keep_their_licence(built, tmp_path):
    mine = with_own_data(built, tmp_path / "mine", texts={})
    report = json.loads((mine / "build_report.json").read_text())
    credits = credited(mine, report | {"dataset": "label_qa"})
    assert [(credit.name, credit.license, credit.is_own) for credit in credits][1:] == [
        ("ECGs of a clinic", "cc-by-4.0", True)
    ]


@pytest.mark.parametrize(
    ("license", "fields", "users"),
    [
        ("cc-by-4.0", {"license": "cc-by-4.0"}, "Everybody may use the data under"),
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}, "not commercially"),
        ("unknown", {"license": "unknown"}, "nobody may use the data without asking"),
        ("Terms of the clinic", {"license": "other", "license_name": "Terms of the clinic"}, "of their owner only"),
        ("physionet-credentialed-1.5.0", {"license": "other", "license_name": "physionet-credentialed-1.5.0"},
         "Only people with credentialed access"),
    ],
)  # fmt: skip
def test_cards_say_who_may_use_the_data(license, fields, users):
    assert license_fields([license]) == fields and users in who_may_use(license)
    assert is_credentialed(license) == license.startswith("physionet")
