"""
Findings of a simulated ECG, measured on its signal with simple rules, as an independent check of its labels.

Nothing here uses the simulator. `Measured` expects a clean signal at 1000 Hz (one sample is one millisecond),
`measured_noise` any signal at 250 Hz.
"""

import numpy as np
from scipy.ndimage import median_filter
from scipy.signal import butter, find_peaks, savgol_filter, sosfiltfilt

from elm_hf.modeling.ecg_leads import LEADS


RATE = 1000
BEFORE, AFTER = 480, 640
ROW = {lead: row for row, lead in enumerate(LEADS)}


def r_peaks(ecg: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Sample numbers of the QRS complexes: peaks of the squared slope, summed over all leads and 100 ms."""
    lag, width = round(0.012 * sampling_rate), round(0.1 * sampling_rate)
    energy = np.convolve(np.square(ecg[:, lag:] - ecg[:, :-lag]).sum(0), np.ones(width), "same")
    return find_peaks(energy, height=0.3 * np.quantile(energy, 0.98), distance=round(0.25 * sampling_rate))[0]


class Measured:
    """
    Measurements and findings of an ECG `(12, samples)` in millivolt at 1000 Hz.

    Beats are aligned by correlation and averaged. QRS starts and ends where the spatial speed of the average beat falls
    below 3 % of its maximum, P and T where their size (root mean square of the leads) falls to 5 % of their peak.
    """

    def __init__(self, ecg: np.ndarray):
        peaks = r_peaks(ecg, RATE)
        intervals = np.diff(peaks)
        self.interval, self.irregularity = float(intervals.mean()), float(intervals.std() / intervals.mean())
        self.heart_rate = 60_000 / self.interval
        peaks = _aligned(ecg, peaks)
        self.beats = np.stack([ecg[:, peak - BEFORE : peak + AFTER] for peak in peaks])
        self.beat = self.beats.mean(axis=0)
        self.onset, self.end = self._qrs_bounds(0.03) or self._qrs_bounds(0.08)
        self.rhythm = self._rhythm()
        if not self.is_sinus:  # atrial waves can be as steep as the ends of QRS
            self.onset, self.end = self._qrs_bounds(min(max(1.5 * self._atrial_speed(), 0.03), 0.08))
        self.beat = self.beat - self._level(self.beat)
        self.qrs = self.beat[:, self.onset : self.end + 1]

    @property
    def is_sinus(self) -> bool:
        return self.rhythm.startswith("sinus")

    @property
    def _speed(self) -> np.ndarray:
        """The spatial speed of the average beat relative to its maximum."""
        speed = np.linalg.norm(savgol_filter(self.beat, 9, 2, deriv=1, axis=1), axis=0)
        return speed / speed[BEFORE - 60 : BEFORE + 60].max()

    def _atrial_speed(self) -> float:
        return float(self._speed[self.onset - 120 : self.onset - 20].max())

    def _qrs_bounds(self, share: float) -> tuple[int, int] | None:
        speed = self._speed
        middle = BEFORE - 60 + int(np.argmax(speed[BEFORE - 60 : BEFORE + 60]))
        quiet = np.convolve(speed < share, np.ones(8), "valid") == 8
        if not quiet[BEFORE // 2 : middle - 8].any():
            return None
        # The smoothing widens QRS by 5 ms.
        onset = int(np.flatnonzero(quiet[: middle - 8]).max()) + 7 + 2
        return onset, middle + int(np.flatnonzero(quiet[middle:]).min()) - 3

    def _level(self, beats: np.ndarray) -> np.ndarray:
        """The level of each lead just before QRS."""
        return beats[..., self.onset - 11 : self.onset - 3].mean(axis=-1, keepdims=True)

    @property
    def qrs_ms(self) -> int:
        return self.end - self.onset

    @property
    def pr_ms(self) -> float:
        """From the onset of P, the wave before QRS, to the onset of QRS."""
        size = np.sqrt(np.square(savgol_filter(self.beat[:, : self.onset], 15, 2, axis=1)).mean(axis=0))
        first = max(self.onset - 330, 0)
        found = find_peaks(size[first:-20], prominence=0.015)[0]
        if not len(found):
            return np.nan
        peak = first + found[-1]
        return self.onset - _last_below(size[:peak], 0.06 * size[peak])

    @property
    def t_end(self) -> int:
        last = min(self.onset + round(self.interval - np.nan_to_num(self.pr_ms, nan=60)), AFTER + BEFORE)
        size = np.sqrt(np.square(savgol_filter(self.beat, 25, 2, axis=1)).mean(axis=0))
        first = self.end + 90
        last = max(last, first + 50)
        found = find_peaks(size[first:last])[0]
        peak = first + (found[np.argmax(size[first:last][found])] if len(found) else 0)
        below = np.flatnonzero(size[peak:last] < 0.05 * size[peak])
        return peak + int(below[0] if len(below) else np.argmin(size[peak:last]))

    @property
    def qtc_ms(self) -> float:
        """The QT interval corrected by Hodges's formula and to a QRS duration of 90 ms."""
        return self.t_end - self.onset + 1.75 * (self.heart_rate - 60) - (self.qrs_ms - 90)

    @property
    def sokolow_mv(self) -> float:
        return max(self.qrs[ROW["V5"]].max(), self.qrs[ROW["V6"]].max()) - self.qrs[ROW["V1"]].min()

    @property
    def axis_deg(self) -> float:
        line = np.linspace(0, 1, self.qrs.shape[1]) * self.qrs[:, -1:]
        area = (self.qrs - line).sum(axis=1)
        return float(np.rad2deg(np.arctan2(area[ROW["aVF"]] * 2 / np.sqrt(3), area[ROW["I"]])))

    @property
    def st_mv(self) -> dict[str, float]:
        """The level of each lead from 5 to 25 ms after the J point."""
        return dict(zip(LEADS, self.beat[:, self.end + 5 : self.end + 25].mean(axis=1).tolist()))

    @property
    def elevated(self) -> str:
        """The territory in which two contiguous leads are elevated."""
        st, margins = self.st_mv, {}
        for territory, chains in {
            "anterior": [("V1", "V2", "V3", "V4")],
            "inferior": [("II", "aVF", "III")],
            "lateral": [("I", "aVL"), ("V5", "V6")],
        }.items():
            ratios = [[st[lead] / (0.2 if lead in ("V2", "V3") else 0.1) for lead in chain] for chain in chains]
            margins[territory] = max(min(pair) for chain in ratios for pair in zip(chain, chain[1:]))
        highest = max(margins, key=margins.get)
        return highest if margins[highest] >= 1 else "none"

    def _rhythm(self) -> str:
        """
        Flutter waves are the same before each QRS, and much larger in III, aVF and V1 than in I, V5 and V6. In atrial
        fibrillation, the intervals are irregular and the waves change from beat to beat.
        """
        atrial = self.beats[:, :, self.onset - 80 : self.onset - 5] - self._level(self.beats)
        changes = (atrial - atrial.mean(axis=0)).std()
        before = self.beat[:, self.onset - min(150, round(0.2 * self.interval)) : self.onset]
        height = dict(zip(LEADS, np.ptp(savgol_filter(before, 25, 2, axis=1), axis=1).tolist()))
        left, lower = height["I"] + height["V5"] + height["V6"], height["III"] + height["aVF"] + height["V1"]
        if lower > 0.19 and changes < 0.02 and left < 0.35 * lower:
            return "atrial flutter"
        if changes > 0.008 and self.irregularity > 0.1:
            return "atrial fibrillation"
        if self.heart_rate < 60:
            return "sinus bradycardia"
        return "sinus tachycardia" if self.heart_rate > 100 else "sinus rhythm"

    @property
    def conduction(self) -> str | None:
        """The shape of QRS in V1 and V6, and its duration."""
        late = self.qrs[:, round(0.6 * self.qrs_ms) :]
        t_wave = self.beat[:, self.end + 80 : self.end + 200].mean(axis=1)
        v1, v6 = self.qrs[ROW["V1"]], self.qrs[ROW["V6"]]
        kind = None
        if late[ROW["V1"]].max() > 0.3 * np.abs(v1).max() and late[ROW["V6"]].min() < -0.15 * v6.max():
            kind = "right bundle branch block"
        elif self.qrs_ms > 100 and v6[: 3 * len(v6) // 4].min() > -0.08 * v6.max() and t_wave[ROW["V6"]] < 0:
            kind = "left bundle branch block" if (v6 > 0.5 * v6.max()).mean() > 0.4 else None
        if self.qrs_ms < 120:
            return kind and f"incomplete {kind}"
        return kind or "nonspecific intraventricular conduction delay"

    @property
    def labels(self) -> set[str]:
        conduction, elevated, axis = self.conduction, self.elevated, self.axis_deg
        found = {self.rhythm, conduction}
        found |= {"first degree av block"} if self.is_sinus and self.pr_ms > 200 else set()
        found |= {"prolonged qt interval"} if self.is_sinus and self.qtc_ms >= 460 else set()
        if elevated != "none" and "left bundle" not in str(conduction) and self.rhythm != "atrial flutter":
            found |= {f"st elevation in {elevated} leads"}
        found |= {"left ventricular hypertrophy"} if self.sokolow_mv > 3.5 else set()
        found |= {"left axis deviation"} if axis < -30 else {"right axis deviation"} if axis > 90 else set()
        found -= {None}
        return found | ({"normal ecg"} if found == {"sinus rhythm"} else set())


def _aligned(ecg: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Peaks with a whole beat around them, moved to where the beat correlates best with the average."""
    peaks = peaks[(peaks > BEFORE + 60) & (peaks < ecg.shape[1] - AFTER - 60)]
    for reach in (60, 90):
        windows = np.stack([ecg[:, peak - reach - 50 : peak + reach + 50] for peak in peaks])
        mean = windows[:, :, 50:-50].mean(axis=0)
        fits = np.stack([np.tensordot(windows[:, :, k : k + 2 * reach], mean) for k in range(101)])
        peaks = peaks + fits.argmax(axis=0) - 50
    return peaks


def _last_below(size: np.ndarray, level: float) -> int:
    below = np.flatnonzero(size < level)
    return int(below[-1]) if len(below) else int(np.argmin(size))


def measured_noise(ecg: np.ndarray) -> str:
    """The kind of noise in an ECG `(12, samples)` at 250 Hz, from what remains after the beats are subtracted."""
    rest = _electrodes(_without_beats(ecg))
    hum = max(np.median(_rms(rest, line - 0.5, line + 0.5)) for line in (50, 60))
    fast = np.median(_rms(rest, 80, 125))
    if hum > 0.012 and hum > fast:
        return "line noise"
    if fast > 0.02:
        return "static noise"
    medians = _running_medians(rest, 15)
    # Tremor lasts and is at the limbs; jumps are rare, large, and at one or two electrodes.
    lasting = np.quantile(np.abs(medians[:, 32:] - 2 * medians[:, 16:-16] + medians[:, :-32]), 0.3, axis=1)
    if lasting[:3].max() > max(0.02, 1.5 * lasting[3:].max()):
        return "tremor"
    without_drift = sosfiltfilt(butter(2, 0.7, "highpass", fs=250, output="sos"), rest)
    jumps = _largest_step(without_drift, 18)  # wider than a QRS complex
    if jumps.max() > max(0.32, 2 * np.median(jumps)):
        return "electrode motion"
    return "baseline drift" if _rms(rest, 0.05, 0.5).max() > 0.05 else "none"


def _running_medians(signals: np.ndarray, samples: int) -> np.ndarray:
    """Of each signal by itself, for which scipy has a faster method."""
    return np.stack([median_filter(signal, samples) for signal in signals])


def _largest_step(signals: np.ndarray, width: int) -> np.ndarray:
    """The largest difference between the levels of each signal over some samples before and after a time."""
    levels = _running_medians(signals, 2 * width - 1)
    return np.abs(levels[:, width:] - levels[:, :-width]).max(axis=1)


def _rms(signals: np.ndarray, low: float, high: float) -> np.ndarray:
    """The root mean square of each signal between two frequencies."""
    frequency = np.fft.rfftfreq(signals.shape[1], 1 / 250)
    power = np.abs(np.fft.rfft(signals)) ** 2 * 2 / signals.shape[1] ** 2
    return np.sqrt(power[:, (frequency >= low) & (frequency < high)].sum(axis=1))


def _electrodes(ecg: np.ndarray) -> np.ndarray:
    """The potentials of RA, LA, LL, V1 ... V6 against the mean of V1 ... V6."""
    limbs = [ecg[ROW[lead]] * 2 / 3 for lead in ("aVR", "aVL", "aVF")]
    return np.concatenate([limbs, ecg[6:]]) - ecg[6:].mean(axis=0)


def _without_beats(ecg: np.ndarray) -> np.ndarray:
    """The signal from the first to the last QRS without the median beat, whose height and time fit each beat."""
    peaks = r_peaks(ecg, 250)
    interval = np.median(np.diff(peaks))
    before, after = round(min(90, 0.45 * interval)), round(min(130, 0.55 * interval))
    rest = ecg - np.median(ecg, axis=1, keepdims=True)
    inner = [peak for peak in peaks if before <= peak < ecg.shape[1] - after]
    beats = np.stack([rest[:, peak - before : peak + after] for peak in inner])
    beat = np.median(beats - np.median(beats, axis=2, keepdims=True), axis=0)
    changes = np.stack([beat, np.gradient(beat, axis=1)])
    middle = changes[:, :, before - 20 : before + 20]
    for peak in inner:
        found = rest[:, peak - 20 : peak + 20]
        fit = np.linalg.lstsq(
            (middle - middle.mean(axis=2, keepdims=True)).reshape(2, -1).T,
            (found - found.mean(axis=1, keepdims=True)).ravel(),
            rcond=None,
        )[0]
        rest[:, peak - before : peak + after] -= np.tensordot(fit, changes, axes=1)
    return rest[:, inner[0] - before : inner[-1] + after]
