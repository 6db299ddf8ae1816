"""The subcommand that draws ECGs."""

from pathlib import Path
from typing import Annotated

import typer

from elm_hf.cli.app import EcgFiles, SamplingRate, Units, app, none_of, say_notes


# Settings of the paper that ECGs are drawn on, see `EcgPaper`.
Layout = Annotated[
    str,
    typer.Option(
        help="Layout: 3x4 (three rows of four leads), 3x4+1 (with a rhythm strip), 3x4+3 (with V1, II and V5), 6x2 or 12x1."
    ),
]
MmPerSecond = Annotated[float, typer.Option("--mm-per-s", help="Speed of the paper in mm/s, such as 25 or 50.")]
GridColor = Annotated[str, typer.Option(help="Colour of the paper's lines: red, orange, green, blue or grey.")]


@app.command()
def plot(
    ecgs: EcgFiles,
    output: Annotated[
        Path,
        typer.Option(help="PNG file to draw; a folder of PNG files if several files, a folder or a table is given."),
    ],
    title: Annotated[str | None, typer.Option(help="Title of the drawing; the file's name by default.")] = None,
    layout: Layout = "3x4+1",
    mm_per_s: MmPerSecond = 25,
    mm_per_mv: Annotated[float, typer.Option(help="Amplitude in mm/mV, such as 5, 10 or 20.")] = 10,
    grid_color: GridColor = "red",
    sampling_rate: SamplingRate = None,
    units: Units = None,
):
    """Draw ECGs on ECG paper: by default 25 mm/s, 10 mm/mV, 3x4 leads and a rhythm strip."""
    from elm_hf.ecg.find_files import find_ecg_files, stands_for_several
    from elm_hf.ecg.recording import RecordingError
    from elm_hf.utils.errors import one_line

    several = len(ecgs) > 1 or stands_for_several(ecgs[0])
    if not several:
        check_png(output)
    elif output.suffix and not output.is_dir():
        raise ValueError(
            f"{output}: the drawings of several files need a folder; give it a name without {output.suffix}"
        )
    from elm_hf.modeling.ecg_raster import check_paper

    check_paper(layout, mm_per_s, grid_color)
    if not mm_per_mv > 0:
        raise ValueError(f"--mm-per-mv is {mm_per_mv:g}; expected a positive number, such as 5, 10 or 20")
    paper = {"layout": layout, "mm_per_s": mm_per_s, "mm_per_mv": mm_per_mv, "grid_color": grid_color}
    files = [file for group in find_ecg_files(ecgs, sampling_rate, units) for file in group]
    paths = _drawings(files, output) if several else [output]
    failures, notes = [], {}
    for file, path in zip(files, paths):
        try:
            notes[file.name] = _draw(file, path, title, paper)
        except RecordingError as error:
            failures.append((file.path, one_line(error)))
            if several:
                typer.echo(f"left out: {failures[-1][1]}", err=True)
    if len(failures) == len(files):
        raise ValueError(none_of(failures, "drawn"))
    say_notes(notes)
    typer.echo(
        f"{len(files) - len(failures)} of {len(files)} files drawn in {output}" if several else f"Drawn in {output}"
    )


def check_png(path: Path | None) -> None:
    """Check that a drawing has the suffix of its format."""
    if path is not None and path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the drawing is a PNG; give it a name that ends in .png")


def _drawings(files: list, folder: Path) -> list[Path]:
    """A path for the drawing of each file, with the sub-folders of the files."""
    paths = []
    for file in files:
        place = Path(file.place.removesuffix(".hea"))
        inside = [part for part in place.parts if part not in ("..", place.anchor)]
        paths.append(folder.joinpath(*inside[:-1], f"{inside[-1]}.png"))
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ValueError(f"several of the files would be drawn in {twice}; draw them in separate folders")
    return paths


def _draw(file, path: Path, title: str | None, paper: dict) -> tuple[str, ...]:
    """Draw the ECG of a file. Returns the notes about it."""
    from elm_hf.ecg.plot import plot_ecg
    from elm_hf.ecg.recording import RecordingError
    from elm_hf.modeling.ecg_leads import LEADS

    recording = file.read()
    if len(recording.missing_leads) == len(LEADS):
        raise RecordingError(
            "no usable lead", f"{file.path}: every lead is missing or flat, so there is no ECG to draw"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_ecg(recording.ecg, recording.sampling_rate, title=title or file.path.name, **paper).save(path)
    return recording.notes
