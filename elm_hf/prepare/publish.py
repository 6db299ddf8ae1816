"""Publish built datasets in one commit, so that the Hub shows either all files or none."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from elm_hf.data.columns import CONVERSATION_IDS, RECORD_IDS
from elm_hf.data.layout import BUILD_REPORT_NAME, PATIENTS, PICTURE_NAME, PRIVACY_NAME
from elm_hf.prepare.benchmark import EVAL_NAME, eval_yaml
from elm_hf.prepare.card import credited, dataset_card
from elm_hf.prepare.licenses import FREE_LICENSES, UNKNOWN_LICENSE, Credit, is_credentialed
from elm_hf.prepare.own_data import WITH_PATIENT_ID
from elm_hf.prepare.privacy import AS_GIVEN, ids_of_own_data, privacy_report
from elm_hf.utils.files import check_links, read_json
from elm_hf.utils.hub import Publication, check_repo_id, publish_files


# Files of an earlier version that are deleted if a new version does not include them.
STALE_DATA = (".parquet", ".csv", PICTURE_NAME)


def publish_dataset(
    folder: str | PathLike,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    signals: bool | None = None,
    dry_run: bool = False,
    license: str | None = None,
    benchmark: bool = False,
) -> Publication:
    """
    Publish a dataset built by `prepare_dataset`, with Parquet files, card and build report, in one commit.

    Args:
        folder: folder of the build.
        repo_id: repository to publish to, `user/NAME-RATE-SAMPLES`, such as `user/ecg-qa-ptbxl-250-2500` for records
            of 10 s at 250 Hz.
        private: make the repository private.
        revision: branch to publish to. It is created if it does not exist. Defaults to the main branch.
        signals: True publishes everything. False publishes ids and folds only, without signals, texts and patient
            data. By default, everything is published if the licences of all sources clearly permit redistribution.
        dry_run: return the list of files without publishing them.
        license: licence of the publisher's own data, an identifier of the Hub or words. Defaults to that of the build.
        benchmark: include `eval.yaml`, by which the Hub shows the dataset as a benchmark whose tasks are the folds.

    Raises:
        ValueError: `folder` is not a build or has links that lead out of it, the name does not follow the scheme, a licence
            requires that `signals` is set, or does not permit a public repository, the publisher's own data have no
            licence or their patients no pseudonyms, the repository is public, but `private` is True, or `benchmark` is
            True for a dataset without questions.
        ConnectionError: the Hub could not be reached or was busy in every attempt. No uploaded file is visible.
        HfHubHTTPError: the Hub rejected the request.
    """
    folder = Path(folder)
    report = _read_report(folder)
    check_links(folder)
    check_repo_id(repo_id)
    _check_scheme(repo_id, report)
    report = _with_license(folder, report, license)
    credits = credited(folder, report)
    _check_own_data(folder, credits)
    if not private:
        _check_is_public(folder, report, credits, signals)
    if signals is None:
        _check_licenses(folder, credits)
        signals = True
    with _dataset_files(folder, repo_id, signals, report) as files:
        if benchmark:
            if not signals:
                raise ValueError(
                    f"{folder}: a benchmark (--benchmark) needs its questions, and without signals only ids are published"
                )
            files[EVAL_NAME] = eval_yaml(repo_id.split("/")[-1], list(files))
        message = f"{report['dataset']}, built with elm-hf {report['versions']['elm-hf']}"
        return publish_files(repo_id, "dataset", files, STALE_DATA, message, private, revision, dry_run)


def _read_report(folder: Path) -> dict:
    path = folder / BUILD_REPORT_NAME
    if not path.is_file():
        raise ValueError(
            f"{folder}: not a dataset built by elm-hf (no {BUILD_REPORT_NAME}); build it with elm-hf prepare"
        )
    report = read_json(path)
    records, versions = report.get("records"), report.get("versions")
    if not (isinstance(report.get("dataset"), str) and isinstance(records, dict) and isinstance(versions, dict)):
        raise ValueError(f"{path}: not the report of a build; build the dataset again")
    return report


def _check_scheme(repo_id: str, report: dict) -> None:
    """Check that the name ends in sampling rate and record length. A text-only dataset has neither."""
    if not report["records"]["records"]:
        return
    ending = f"-{report['records']['sampling_rate']}-{report['records']['samples']}"
    if not repo_id.endswith(ending):
        stem = re.sub(r"(-\d+){2}$", "", repo_id)
        raise ValueError(
            f"{repo_id}: the name of a dataset must end in sampling rate and samples of a record, here {ending[1:]}; "
            f"use {stem}{ending}"
        )


def _with_license(folder: Path, report: dict, license: str | None) -> dict:
    """The build report with a licence of the publisher's own data."""
    if license is None:
        return report
    if not any(credit.is_own for credit in credited(folder, report)):
        raise ValueError(
            f"{folder}: license (--license) is for data of your own; this dataset has the licences of its sources"
        )
    return report | {"own_data": (report.get("own_data") or {}) | {"license": license}}


def _check_own_data(folder: Path, credits: list[Credit]) -> None:
    if any(credit.is_own and credit.license == UNKNOWN_LICENSE for credit in credits):
        raise ValueError(
            f"{folder}: holds data of your own, for which no licence is stated, so that nobody could use them; state it with "
            "license (--license), such as cc-by-4.0, or other for terms of your own"
        )


def _check_is_public(folder: Path, report: dict, credits: list[Credit], signals: bool | None) -> None:
    """Check that everybody may see the data."""
    credentialed = [credit for credit in credits if is_credentialed(credit.license)]
    if credentialed and signals is not False:
        named = ", ".join(f"{credit.name} ({credit.license})" for credit in credentialed)
        raise ValueError(
            f"{folder}: not published to a public repository: only people who have signed the data use agreement of the source "
            f"may have the data, and may not pass them on: {named}. Publish ids and folds only (--without-signals), from which "
            "others with access build the dataset"
        )
    if signals:
        return
    if ids_of_own_data(folder) == AS_GIVEN:
        raise ValueError(
            f"{folder}: holds patient ids and names of files as they were given. Build the dataset again without keep_ids "
            "(--keep-ids), so that they become pseudonyms, or publish it privately (--private), or everything "
            "(--with-signals) if everybody may see them"
        )
    found = ((report.get("own_data") or {}).get("texts") or {}).get(WITH_PATIENT_ID, 0)
    if found and signals is None:
        raise ValueError(
            f"{folder}: the texts of {found} rows contain the id of their patient. Remove them from the table and build the dataset "
            "again, or publish it privately (--private), or everything (--with-signals) if everybody may see them"
        )


def _check_licenses(folder: Path, credits: list[Credit]) -> None:
    unclear = [credit for credit in credits if not credit.is_own and credit.license not in FREE_LICENSES]
    if unclear:
        named = ", ".join(f"{credit.name} ({credit.license})" for credit in unclear)
        raise ValueError(
            f"{folder}: the licence does not clearly permit redistribution: {named}. Publish ids and folds only "
            "(--without-signals), or everything (--with-signals) if you have the permission"
        )


@contextmanager
def _dataset_files(folder: Path, repo_id: str, signals: bool, report: dict) -> Iterator[dict[str, Path | bytes]]:
    """The files to publish, by their path in the repository. Files with ids only are temporary."""
    with tempfile.TemporaryDirectory() as ids_only:
        if signals:
            published = folder
        else:
            published = Path(ids_only)
            for path in sorted(folder.glob("*/*.parquet")):
                _write_ids(path, published / path.relative_to(folder))
        card = dataset_card(folder, repo_id, None if signals else published, report)
        paths = [path for path in sorted(published.rglob("*")) if path.is_file()]
        files = {path.relative_to(published).as_posix(): path for path in paths} | {
            BUILD_REPORT_NAME: _json(report),
            PRIVACY_NAME: _json(privacy_report(published, report)),
        }
        yield files | {"README.md": str(card).encode()}


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _write_ids(path: Path, new_path: Path) -> None:
    new_path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.name == PATIENTS:  # ids and folds only
        shutil.copyfile(path, new_path)
        return
    schema = pq.read_schema(path)
    table = pq.read_table(path, columns=RECORD_IDS if "ecg" in schema.names else CONVERSATION_IDS)
    if "ecg" in schema.names:
        samples = Features.from_arrow_schema(schema)["ecg"].shape[1]
        table = table.append_column("num_samples", pa.array([samples] * len(table), pa.int32()))
    pq.write_table(table.replace_schema_metadata(None), new_path)
