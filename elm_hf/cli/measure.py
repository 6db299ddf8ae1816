"""The subcommand that measures ECGs."""

import csv
from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import EcgFiles, Json, SamplingRate, Units, app, none_of, print_json, say_notes


@app.command()
def measure(
    ecgs: EcgFiles,
    output: Annotated[Path | None, typer.Option(help="CSV table to write, with a row for each file.")] = None,
    json: Json = False,
    sex: Annotated[str | None, typer.Option(help="Sex of the patients for normal ranges: female or male.")] = None,
    age: Annotated[float | None, typer.Option(min=0, help="Age of the patients in years for normal ranges.")] = None,
    claims: Annotated[
        str | None,
        typer.Option(
            help="English text about the ECG. Check its statements about rate, rhythm, intervals, axis, ST and T."
        ),
    ] = None,
    sampling_rate: SamplingRate = None,
    units: Units = None,
):
    """Measure ECGs: rate, intervals, axis, ST by lead, and what is outside the normal range. Not a medical device."""
    if output is not None and (output.suffix.lower() != ".csv" or json):
        raise ValueError(f"{output}: the table is a CSV file; give it a name that ends in .csv, without --json")
    if claims is not None and output is not None:
        raise ValueError("--claims is not for tables; leave out --output, or use --json")
    if sex not in ("female", "male", None):
        raise ValueError(f'--sex is "{sex}"; expected female or male')
    from elm_hf.ecg.find_files import find_ecg_files
    from elm_hf.ecg.measure_files import measure_file, measurement_row, measurement_text
    from elm_hf.ecg.recording import RecordingError
    from elm_hf.utils.errors import one_line

    found, failures = [], []
    files = [file for group in find_ecg_files(ecgs, sampling_rate, units) for file in group]
    for file in files:
        try:
            found.append(measure_file(file, sex, age, claims))
        except RecordingError as error:
            failures.append((file.path, one_line(error)))
            if len(files) > 1:
                typer.echo(f"left out: {failures[-1][1]}", err=True)
    if not found:
        raise ValueError(none_of(failures, "measured"))
    say_notes({one["file"]: one["notes"] for one in found})
    if json:
        print_json(found)
    elif output is not None:
        _write_table([measurement_row(one) for one in found], output)
    else:
        typer.echo("\n\n".join(map(measurement_text, found)))
    if output is not None or failures:
        where = f" in {output}" if output is not None else ""
        typer.echo(f"{len(found)} of {len(files)} files measured{where}", err=output is None)


def _write_table(rows: list[dict], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
