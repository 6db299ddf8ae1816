"""Writes an ECG in the formats of electrocardiographs, from their public descriptions or with other libraries."""

import base64
import zlib
from pathlib import Path

import numpy as np

from elm_hf.modeling.ecg_leads import LEADS


STORED_BY_MUSE = ("I", "II", *LEADS[6:])
# What the written files state, by column.
MEASURED = {"device_heart_rate": 64, "device_pr_ms": 164, "device_qrs_ms": 102, "device_qt_ms": 399, "device_axis_deg": 22}  # fmt: skip
STATED = ["Sinus rhythm", "Normal ECG"]


def microvolt(ecg: np.ndarray) -> np.ndarray:
    return np.rint(ecg * 1000).astype("<i2")


def write_muse(path: Path, ecg: np.ndarray, rate: int, status: str = "Unconfirmed") -> None:
    """RestingECG: a median beat, then the rhythm with eight leads, in steps of 2 uV."""

    def waveform(kind: str, counts: np.ndarray) -> str:
        leads = ""
        for name, row in zip(STORED_BY_MUSE, counts):
            data = row.astype("<i2").tobytes()
            leads += (
                f"<LeadData><LeadByteCountTotal>{len(data)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>"
                f"<LeadSampleCountTotal>{row.size}</LeadSampleCountTotal>"
                "<LeadAmplitudeUnitsPerBit>2</LeadAmplitudeUnitsPerBit>"
                f"<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadID>{name}</LeadID>"
                "<FirstSampleBaseline>0</FirstSampleBaseline><LeadSampleSize>2</LeadSampleSize>"
                f"<LeadDataCRC32>{zlib.crc32(data)}</LeadDataCRC32>"
                f"<WaveFormData>{base64.b64encode(data).decode()}</WaveFormData></LeadData>"
            )
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><NumberofLeads>8</NumberofLeads><SampleBase>{rate}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{leads}</Waveform>"
        )

    rows = microvolt(ecg)[[LEADS.index(lead) for lead in STORED_BY_MUSE]] // 2
    statements = "".join(
        f"<DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag><StmtText>{text}</StmtText></DiagnosisStatement>"
        for text in STATED
    )
    path.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>'
        "<MuseInfo><MuseVersion>8</MuseVersion></MuseInfo><PatientDemographics><PatientID>P-1234</PatientID>"
        "<PatientLastName>Mustermann</PatientLastName></PatientDemographics>"
        f"<TestDemographics><Status>{status}</Status></TestDemographics>"
        "<RestingECGMeasurements><VentricularRate>64</VentricularRate><PRInterval>164</PRInterval>"
        "<QRSDuration>102</QRSDuration><QTInterval>399</QTInterval><RAxis>22</RAxis></RestingECGMeasurements>"
        f"<Diagnosis>{statements}</Diagnosis>{waveform('Median', np.full((8, 600), 700))}{waveform('Rhythm', rows)}"
        "</RestingECG>"
    )


def write_aecg(path: Path, ecg: np.ndarray, rate: int) -> None:
    """HL7 aECG: a rhythm series with digits in steps of 1 uV, and a representative beat."""

    def sequences(rows: np.ndarray) -> str:
        return "".join(
            f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper().replace("AV", "aV")}"/>'
            '<value xsi:type="SLIST_PQ"><origin value="0" unit="uV"/><scale value="1" unit="uV"/>'
            f"<digits>{' '.join(map(str, row))}</digits></value></sequence></component>"
            for name, row in zip(LEADS, rows.tolist())
        )

    def series(code: str, rows: np.ndarray, annotations: str) -> str:
        return (
            f'<series><code code="{code}"/><component><sequenceSet><component><sequence><code code="TIME_ABSOLUTE"/>'
            f'<value xsi:type="GLIST_TS"><head value="20200102030405"/><increment value="{1 / rate}" unit="s"/></value>'
            f"</sequence></component>{sequences(rows)}</sequenceSet></component>{annotations}</series>"
        )

    measured = zip(
        (
            *("MDC_ECG_HEART_RATE", "MDC_ECG_TIME_PD_PR", "MDC_ECG_TIME_PD_QRS", "MDC_ECG_TIME_PD_QT"),
            "MDC_ECG_ANGLE_QRS_FRONT",
        ),
        ("bpm", "ms", "ms", "ms", "deg"),
        MEASURED.values(),
    )
    annotations = "".join(
        f'<component><annotation><code code="{code}"/><value xsi:type="PQ" value="{value}" unit="{unit}"/></annotation>'
        "</component>"
        for code, unit, value in measured
    )
    annotations += "".join(
        '<component><annotation><code code="MDC_ECG_INTERPRETATION_STATEMENT"/>'
        f'<value xsi:type="ST">{text}</value></annotation></component>'
        for text in STATED
    )
    annotations = f"<subjectOf><annotationSet>{annotations}</annotationSet></subjectOf>"
    beat = series("REPRESENTATIVE_BEAT", np.full((12, 60), 1500), "")
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><id root="1.2.3"/>'
        f"<component>{beat}</component><component>{series('RHYTHM', microvolt(ecg), annotations)}</component>"
        "</AnnotatedECG>"
    )


def write_sierra(path: Path, ecg: np.ndarray, rate: int, compressed: bool = True) -> None:
    """Philips Sierra XML 1.04 in UTF-16 with steps of 1 uV, XLI-compressed or as Base64."""
    counts = microvolt(ecg).astype(int)
    compression = 'compression="XLI"' if compressed else ""
    data = xli(counts) if compressed else counts.astype("<i2").tobytes()
    statements = "".join(
        f"<statement><leftstatement>{text}</leftstatement><rightstatement/></statement>" for text in STATED
    )
    path.write_text(
        '<?xml version="1.0" encoding="UTF-16"?><restingecgdata xmlns="http://www3.medical.philips.com"><documentinfo>'
        "<documenttype>SierraECG</documenttype><documentversion>1.04</documentversion></documentinfo><interpretations>"
        "<interpretation><globalmeasurements><heartrate>64</heartrate><print>164</print><qrsdur>102</qrsdur>"
        "<qtint>399</qtint><qrsfrontaxis>22</qrsfrontaxis></globalmeasurements>"
        f"{statements}</interpretation></interpretations>"
        f'<waveforms><parsedwaveforms dataencoding="Base64" {compression} numberofleads="12" '
        f'leadlabels="{" ".join(LEADS)}" durationperchannel="{1000 * counts.shape[1] / rate:g}" '
        f'samplespersecond="{rate}" resolution="1" signaloffset="0" signalsigned="True" bitspersample="16">'
        f"{base64.b64encode(data).decode()}</parsedwaveforms></waveforms></restingecgdata>",
        encoding="utf-16",
    )


def xli(counts: np.ndarray) -> bytes:
    """The leads as XLI chunks: limb leads as residuals, second differences, and LZW codes of 10 bits for each byte."""
    i, ii, iii, avr, avl, avf, *chest = counts
    residuals = [ii - i - iii, -avr - (i + ii) // 2, (i - iii) // 2 - avl, (ii + iii) // 2 - avf]
    data = b""
    for lead in (i, ii, *residuals, *chest):
        differences = 2 * lead[1:-1] - lead[:-2] - lead[2:]
        codes = np.concatenate([lead[:2], differences[1:] + 64, [64]]).astype(">i2").tobytes()
        bits = "".join(f"{byte:010b}" for byte in codes[::2] + codes[1::2])
        bits += "0" * (-len(bits) % 8)
        packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
        data += len(packed).to_bytes(4, "little") + bytes(2) + differences[:1].astype("<i2").tobytes() + packed
    return data


def write_dicom(path: Path, ecg: np.ndarray, rate: float, groups: tuple[slice, ...] = (slice(12),)) -> None:
    """12-lead ECG with pydicom, in steps of 2 uV with a correction factor of 0.5: a group for each of `groups`."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid

    def code(value: str, scheme: str, meaning: str) -> Sequence:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return Sequence([item])

    def group(label: str, names: tuple[str, ...], rows: np.ndarray) -> Dataset:
        item = Dataset()
        item.MultiplexGroupLabel, item.SamplingFrequency = label, rate
        item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = rows.shape
        item.WaveformOriginality, item.WaveformBitsAllocated, item.WaveformSampleInterpretation = "ORIGINAL", 16, "SS"
        item.ChannelDefinitionSequence = Sequence()
        for name in names:
            channel = Dataset()
            channel.ChannelSourceSequence = code(f"2:{LEAD_CODES[name]}", "MDC", f"Lead {name}")
            channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = 2, 0.5, 0
            channel.ChannelSensitivityUnitsSequence = code("uV", "UCUM", "microvolt")
            channel.WaveformBitsStored = 16
            item.ChannelDefinitionSequence.append(channel)
        item.WaveformData = rows.T.astype("<i2").tobytes()
        return item

    def annotation(concept: tuple[str, str, str], unit: str = "", **fields) -> Dataset:
        item = Dataset()
        item.ReferencedWaveformChannels = [1, 0]
        item.ConceptNameCodeSequence = code(*concept)
        if unit:
            item.MeasurementUnitsCodeSequence = code(unit, "UCUM", unit)
        for name, value in fields.items():
            setattr(item, name, value)
        return item

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = TwelveLeadECGWaveformStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientName = "ECG", "Mustermann^Max"
    counts = microvolt(ecg)
    written = [group("MEDIAN BEAT", LEADS, np.full((12, 60), 1500))]
    written += [group("RHYTHM", LEADS[rows], counts[rows]) for rows in groups]
    dataset.WaveformSequence = Sequence(written)
    concepts = (("8867-4", "LN", "Heart rate"), ("2:15872", "MDC", "PR Interval"), ("2:16156", "MDC", "QRS Duration"),
                ("2:16160", "MDC", "QT Interval"), ("2:16132", "MDC", "QRS Axis"))  # fmt: skip
    units = ("/min", "ms", "ms", "ms", "deg")
    dataset.WaveformAnnotationSequence = Sequence(
        [
            annotation(concept, unit, NumericValue=value)
            for concept, unit, value in zip(concepts, units, MEASURED.values())
        ]
        + [annotation(("18844-1", "LN", "Interpretation"), UnformattedTextValue=text) for text in STATED]
    )
    dataset.save_as(path, enforce_file_format=True)


LEAD_CODES = {"I": 1, "II": 2, "V1": 3, "V2": 4, "V3": 5, "V4": 6, "V5": 7, "V6": 8, "III": 61, "aVR": 62, "aVL": 63,
              "aVF": 64}  # fmt: skip


def write_edf(path: Path, ecg: np.ndarray, rate: int) -> None:
    """EDF with edfio, in mV with steps of 1 uV, and a signal of breathing at another rate."""
    from edfio import Edf, EdfSignal

    seconds = ecg.shape[1] // rate
    ranges = {"physical_range": (-32.768, 32.767), "digital_range": (-32768, 32767)}
    signals = [
        EdfSignal(np.asarray(row, float), rate, label=f"ECG {name}", physical_dimension="mV", **ranges)
        for name, row in zip(LEADS, ecg)
    ]
    signals.append(EdfSignal(np.arange(25 * seconds) / 100, 25, label="Resp", physical_dimension="mV", **ranges))
    Edf(signals, data_record_duration=1).write(path)


WRITERS = {"muse.xml": write_muse, "aecg.xml": write_aecg, "sierra.xml": write_sierra, "dicom": write_dicom,
           "record.edf": write_edf}  # fmt: skip
