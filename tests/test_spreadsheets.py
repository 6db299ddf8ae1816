"""Tables as they come out of a spreadsheet: what is read, what is said about it, and what is refused."""

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from test_ecgfolder import ecg

from elm_hf.ecg.files import read_ecg_file
from elm_hf.ecg.recording import RecordingError
from elm_hf.ecg.spreadsheet import TableError, open_table
from elm_hf.modeling.ecg_leads import LEADS


RATE = 250
TIMES = np.arange(500) / RATE


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    return ecg(4)


def write(path: Path, header, columns, separator=",", decimal=".", encoding="utf-8", before="", end="") -> Path:
    """Write columns of numbers; NaN is an empty cell."""
    rows = [
        separator.join("" if np.isnan(value) else f"{value:.6g}".replace(".", decimal) for value in row) + end
        for row in np.array(columns).T
    ]
    path.write_bytes((before + "\r\n".join([separator.join(header) + end, *rows]) + "\r\n").encode(encoding))
    return path


def write_xlsx(path: Path, **sheets: list[list]) -> Path:
    """A minimal workbook, by the description of the format (ECMA-376): text, numbers and empty cells."""

    def cell(place: str, value) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        return f'<c r="{place}"><v>{value!r}</v></c>'

    def sheet(rows: list[list]) -> str:
        lines = (
            f'<row r="{number}">{"".join(cell(f"{chr(65 + column)}{number}", one) for column, one in enumerate(row))}</row>'
            for number, row in enumerate(rows, 1)
        )
        return f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData></worksheet>'

    base = "http://schemas.openxmlformats.org"
    main, relations = f"{base}/spreadsheetml/2006/main", f"{base}/officeDocument/2006/relationships"
    links = "".join(
        f'<Relationship Id="r{number}" Type="{relations}/worksheet" Target="worksheets/sheet{number}.xml"/>'
        for number in range(1, len(sheets) + 1)
    )
    names = "".join(
        f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"/>' for number, name in enumerate(sheets, 1)
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{base}/package/2006/relationships"><Relationship Id="r1" '
            f'Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        file.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets>{names}</sheets></workbook>'
        )
        file.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{base}/package/2006/relationships">{links}</Relationships>',
        )
        for number, rows in enumerate(sheets.values(), 1):
            file.writestr(f"xl/worksheets/sheet{number}.xml", sheet(rows))
    return path


def read_as(path: Path, signal: np.ndarray, **options) -> tuple[str, ...]:
    """The notes about a table, after checking that it gives the signal at 250 Hz."""
    recording = read_ecg_file(path, **options)
    assert recording.sampling_rate == RATE
    np.testing.assert_allclose(recording.ecg, signal, atol=1e-5)
    return recording.notes


def refused(path: Path, **options) -> str:
    with pytest.raises(RecordingError) as caught:
        read_ecg_file(path, **options)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return f"{caught.value.reason}: {str(caught.value).removeprefix(f'{path}: ')}"


# signals


@pytest.mark.parametrize(
    "name, header, scale, options, notes",
    [
        ("a.csv", "I", 1, {}, []),
        ("a.csv", "{}", 1, {"separator": ";", "decimal": ","}, ["cells separated by semicolons", "decimal commas"]),
        ("a.CSV", "Lead {}", 1, {"separator": "\t", "decimal": ","}, ["cells separated by tabs", "decimal commas"]),
        (
            "a.tsv",
            "MDC_ECG_LEAD_{}",
            1,
            {"separator": "\t", "encoding": "utf-16"},
            ["UTF-16", "cells separated by tabs"],
        ),
        ("a.csv", "{} (µV)", 1000, {"encoding": "latin-1"}, ["Latin-1", "in uV"]),
        ("a.csv", "ECG {}_mv", 1, {}, ["in mV"]),
        ("a.csv", "Ableitung {} [UV]", 1000, {"separator": ";"}, ["cells separated by semicolons", "in uV"]),
        ("a.csv", "{}", 1, {"separator": ";", "before": "sep=;\r\n"}, ["cells separated by semicolons"]),
        ("a.csv", "{}", 1, {"separator": ";", "end": ";"}, ["cells separated by semicolons"]),
    ],
)
def test_tables_of_spreadsheet_programs(name, header, scale, options, notes, signal, tmp_path):
    names = [header.format(lead) for lead in LEADS] if "{" in header else LEADS
    path = write(tmp_path / name, names, signal * scale, **options)
    assert read_as(path, signal, sampling_rate=RATE) == tuple(notes)


@pytest.mark.parametrize(
    "name, column",
    [
        ("time", TIMES),
        ("Time", TIMES * 1000),
        ("Zeit (s)", TIMES + 7.5),
        ("t_ms", TIMES * 1000),
        ("Time [µs]", TIMES * 1e6),
        ("seconds", TIMES),
    ],
)
def test_a_column_of_times_gives_the_sampling_rate(name, column, signal, tmp_path):
    path = write(tmp_path / "ecg.csv", [name, *LEADS], [column, *signal])
    assert read_as(path, signal) == (f'250 Hz, by the column "{name}"',)
    assert read_as(path, signal, sampling_rate=RATE)
    assert "sampling rate disagrees: its column of times gives a sampling rate of 250 Hz" in refused(
        path, sampling_rate=500
    )


def test_rounded_times_give_a_whole_rate(signal, tmp_path):
    """At 360 Hz, samples are 2.78 ms apart, and their times in whole milliseconds are 2 or 3 ms apart."""
    path = write(tmp_path / "ecg.csv", ["time", *LEADS], [np.round(np.arange(500) / 360, 3), *signal])
    assert read_ecg_file(path).sampling_rate == 360


def test_a_column_that_counts_and_rows_below_the_table_are_dropped(signal, tmp_path):
    columns = [np.arange(500), *signal]
    columns = [np.append(column, [np.nan, np.nan]) for column in columns]
    path = write(tmp_path / "ecg.csv", ["", *LEADS], columns)
    assert read_as(path, signal, sampling_rate=RATE) == ('the column "" counts the samples',)


def test_an_xlsx_file_gives_the_same_ecg(signal, tmp_path):
    pytest.importorskip("python_calamine", reason="elm-hf[formats] is not installed")
    rows = [[float(one) for one in row] for row in np.array([TIMES, *signal]).T]
    rows[100][3] = None
    path = write_xlsx(tmp_path / "ecg.xlsx", Data=[["Time (s)", *LEADS], *rows], Empty=[])
    expected = signal.copy()
    expected[2, 100] = np.nan
    assert read_as(path, expected) == ('250 Hz, by the column "Time (s)"',)
    two = write_xlsx(tmp_path / "two.xlsx", One=[["I"], [0.5]], Two=[["II"], [0.5]])
    assert 'sheets with content: "One", "Two"; expected one' in refused(two)
    (tmp_path / "not.xlsx").write_bytes(b"PK\3\4" + bytes(1000))
    assert refused(tmp_path / "not.xlsx").startswith("unreadable file: cannot be read as an .xlsx file (")


def test_without_the_extra_an_xlsx_file_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("elm_hf.ecg.xlsx_reader.find_spec", lambda name: None)
    write_xlsx(tmp_path / "ecg.xlsx", Data=[["I"], [0.5]])
    with pytest.raises(RecordingError, match=r'pip install "elm-hf\[formats\]"') as caught:
        read_ecg_file(tmp_path / "ecg.xlsx")
    assert caught.value.reason == "formats not installed"


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("I;II\n1,234;2,345\n", {}, "a number such as 1,234 may be 1.234 or 1234; save it with decimal points"),
        ("I;II\n1.234,5;2\n", {}, "numbers with points and with commas"),
        ("I;II\n0,5;0.5\n", {}, "numbers with points and with commas"),
        ("I;II,III\n1;2,3\n", {}, "its header contains several of commas, semicolons, tabs"),
        ("0.1,0.2\n0.2,0.3\n", {}, "the first line contains numbers, expected the names of the leads"),
        ("I,II\n0.1,text\n", {}, 'column "II" holds string, expected numbers'),
        ("I,II\n,\n", {}, "all cells are empty"),
        ("I,II\n", {}, "contains no samples"),
        ("I (mV),II\n0.1,0.2\n", {}, 'column "I (mV)" is in mV and "II" in no unit; use one unit for all leads'),
        ("I (mV),II (uV)\n0.1,0.2\n", {}, 'column "I (mV)" is in mV and "II (uV)" in uV'),
        ("I (mmHg)\n0.1\n", {}, 'column "I (mmHg)": unit "mmHg", expected mV, µV or V'),
        ("I (mV)\n0.1\n", {"units": "UV"}, "units disagree: its header gives mV, but units is uV"),
        ("I\n0.1\n", {"sampling_rate": None}, "no sampling rate: no sampling_rate; a .csv file requires one"),
        (
            "time,I\n" + "".join(f"{row},0.1\n" for row in range(20)),
            {"sampling_rate": None},
            'column "time" counts 1, 2, 3, which may be milliseconds or samples',
        ),
        (
            "time,I\n" + "".join(f"{(row + (row > 9)) / 250},0.1\n" for row in range(20)),
            {},
            'column "time" does not increase evenly: 0.036 is followed by 0.044 in row 11',
        ),
        (
            "time (h),I\n" + "".join(f"{row / 250},0.1\n" for row in range(20)),
            {},
            'column "time (h)": unit "h", expected s, ms or µs',
        ),
        (
            "time,I\n" + "".join(f"{row * 37},0.1\n" for row in range(20)),
            {},
            'column "time" increases by 37, which is the sampling interval of no ECG',
        ),
        ("I\n0.1\n\0\n", {}, "contains binary data"),
    ],
)
def test_what_is_not_certain_is_refused(text, options, message, tmp_path):
    (tmp_path / "ecg.csv").write_bytes(text.encode())
    assert message in refused(tmp_path / "ecg.csv", **{"sampling_rate": RATE} | options)


@pytest.mark.parametrize(
    "encoding, text", [("cp1251", "Синусовый ритм"), ("cp1253", "Ρυθμός"), ("cp1250", "załamek P")]
)
def test_text_in_another_encoding_is_not_read_as_latin_1(encoding, text, tmp_path):
    (tmp_path / "table.csv").write_bytes(f"file_name,report\na.csv,{text}\n".encode(encoding))
    with pytest.raises(TableError, match="neither UTF-8 nor Latin-1"):
        open_table(tmp_path / "table.csv")
    (tmp_path / "table.csv").write_bytes("file_name,report\na.csv,Größe: 3 µV – l’œdème, 20°\n".encode("cp1252"))
    assert open_table(tmp_path / "table.csv").notes == ("Latin-1",)
