"""Twelve-lead ECGs: the heart as a dipole that twelve leads see, and the printed sheet as a camera sees it.

A beat is a sum of Gaussian waves about its R peak, as in ECGSYN (McSharry et al., IEEE TBME 2003), here of a dipole
(Sameni et al., EURASIP JASP 2007) in mV: x to the patient's left, y down, z to the back. Dower's matrix gives I, II and
V1 to V6, the equations of Einthoven and Goldberger the other leads, so that an injury which lifts ST in one territory
lowers it in the opposite leads by itself. Times are in seconds, lengths on paper in mm.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf, nan, pi, prod

import torch
from torch import Tensor, where
from torch.nn.functional import grid_sample, pad

from medtutor.cohort import Cohort
from medtutor.phantom import texture
from medtutor.phantom.texture import Draws, boxes, cloud, noise, px, turned, unit_grid

_TABLE = texture.table("ecg")
NAMES = {key: tuple(words) for key, words in _TABLE["names"].items()}
LEADS, LABELS, WARDS = NAMES["signal"], NAMES["label"], NAMES["header"]
PREVALENCE = dict.fromkeys(LABELS, 0.15)
SECONDS, BEATS = 10, 40  # of a record; more beats than fit into it
AFTER_R = 0.105  # seconds after R where the ST level is defined, about 60 ms after the end of a normal QRS
_DOWER, _INJURY, _WAVES = (torch.tensor(list(_TABLE[key].values()), dtype=torch.float64)
                           for key in ("dower", "injury", "waves"))
_MESH = (5, 0.32), (1, 0.11)  # distance of the lines, and their width times their darkness
_COLOUR = {name: torch.tensor(rgb)[:, None, None] for name, rgb in _TABLE["colours"].items()}


def cohort(n: int, size: int = 64, seed: int = 0, kind: str = "sheet", leads: int = 12, per_patient: int = 1,
           prevalence: dict[str, float] | None = None, exclusive: bool = False, elevation: float | None = None,
           header: float | None = None, photo: bool = True, rate: int = 250, noisy: bool = True) -> Cohort:
    """n patients with `per_patient` ECGs each: a row per ECG, ordered by `patient`, then `visit`.

    meta["signal"] (N, 12, 10 rate) in mV: III = II - I, AVR = -(I + II) / 2, AVL = I - II / 2 and AVF = II - I / 2 hold
    exactly, noise included. `label` (N, 5): ST elevation (with reciprocal depression), irregular rhythm (atrial
    fibrillation: f waves, no P), Q wave (old infarct), bundle branch block, ectopic beats (ventricular); all zero is
    normal. The ECGs of a patient share label and waves; beats, noise and camera differ. `prevalence` is the chance of
    each label, and with `exclusive` that of it alone (the rest is normal). `elevation` (mV, in the lead where ST rises
    most) is drawn from 0.12 to 0.45 unless given, for those who have the label.

    kind "sheet" adds `image` (N, 3, size, size), RGB in [0, 1]: pink paper with squares of 1 and 5 mm, 25 mm/s, a
    calibration pulse of 1 mV. leads 12: four columns of 2.5 s and a rhythm strip, 278 x 205 mm squeezed into a square;
    leads 3: I, II and V2, the first 5 s, on 150 x 150 mm. `photo` adds turn, zoom, creases and light. `header` prints a
    ward: that of the patient's first label with this probability, else any; its box is meta["header_box"], NaN without.

    Other `meta`: r_peaks (N, 40) in seconds, NaN outside of the record, ectopic (N, 40), heart_rate (beats/min), st_mv
    (N, 12), what the infarct adds to a lead 105 ms after R, age, sex, gain (mm/mV), header (-1 without),
    severity_ST_elevation, severity_Q_wave, territory (-1 without infarct) and block, with their words in `names`. kind
    "signal" has no picture. `noisy=False` leaves out wander, hum, muscle and sensor. Of all this only muscle noise
    depends on `rate` (samples/s). Patient i depends on `seed` and i only. Raises ValueError for options out of range.
    """
    risk = torch.tensor([*texture.chances(prevalence, PREVALENCE, exclusive).values()], dtype=torch.float64)
    if not (kind in ("sheet", "signal") and leads in _TABLE["sheets"] and rate >= 50 and per_patient >= 1
            and 0 <= (header or 0) <= 1 and 0 <= (elevation or 0) <= 2):
        raise ValueError("kind must be sheet or signal, leads 12 or 3, rate 50 or more, per_patient 1 or more, header "
                         f"0 to 1, elevation 0 to 2, but got {(kind, leads, rate, per_patient, header, elevation)}")
    label, pace, wave, meta = _hearts(n, seed, risk, exclusive, elevation)
    shots = [_record(label, pace, wave, seed, visit, rate, noisy) for visit in range(per_patient)]
    for visit, shot in enumerate(shots if kind == "sheet" else ()):
        shot |= _sheet(label, shot["signal"], size, seed, visit, leads, header, photo, rate, noisy)
    meta = {key: column.repeat_interleave(per_patient, 0) for key, column in meta.items()} | {
        key: torch.stack([shot[key] for shot in shots], 1).flatten(0, 1) for key in shots[0]}
    return Cohort(image=meta.pop("image", None), label=label.repeat_interleave(per_patient, 0).float(), meta=meta,
                  **texture.frames(n, per_patient), names=NAMES, units=_TABLE["units"])


def waves(time: Tensor, peaks: Tensor, other: Tensor, wave: Tensor, own: Tensor) -> Tensor:
    """Signals (N, L, T) of beats with R `peaks` (N, B): at each `time` (T,), the last before and the first after it.

    `wave` (N, K, 2 + L): a beat is a sum of K Gaussians; the middle after R, the standard deviation, the heights. Beats
    that are `other` (N, B) have only the waves that are their `own` (K,), the rest only those that are not.
    """
    place, total = torch.searchsorted(peaks, time.expand(len(peaks), -1).contiguous(), right=True), 0.0
    middle, width, height = wave.float().split((1, 1, wave.shape[-1] - 2), -1)
    for back in (1, 0):
        beat = (place - back).clamp(0, peaks.shape[1] - 1)
        bell = torch.exp(-0.5 * (((time - peaks.gather(1, beat)).float()[:, None] - middle) / width) ** 2)
        total = total + height.mT @ (bell * (other.gather(1, beat)[:, None] == own[:, None]))
    return total


def _twelve(eight: Tensor) -> Tensor:
    """All leads (N, 12, T) from I, II and V1 to V6 (N, 8, T)."""
    one, two = eight[:, :1], eight[:, 1:2]
    return torch.cat([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, eight[:, 2:]], 1)


def _hearts(n: int, seed: int, risk: Tensor, exclusive: bool, elevation: float | None) -> tuple:
    """What the ECGs of a patient share: labels, mean R-R interval, `wave` of `waves` in eight leads, `meta`."""
    u, normal = (draws := Draws(n, seed, "ecg heart", 160)).uniform, draws.normal
    alone, each, edge = u(0, 1, 1), u(0, 1, 5), risk.cumsum(0)
    label = (alone < edge) & (alone >= edge - risk) if exclusive else each < risk
    st, wild, scar, blocked, _ = label[..., None].unbind(1)
    age, sex, grade, area, left = u(25, 88), u(0, 2).long(), u(0.05, 1, 2), u(0, 3).long(), u(1, 3, 1).long()
    pace, block = 60 / where(wild, u(75, 130, 1), u(60, 98, 1)), (blocked * left)[:, 0]
    when, form = _WAVES[block].split((2, 3), -1)
    when = when * normal(1, 0.05, 12, 2)
    when[:, [4, 5, 8]] *= pace.sqrt()[..., None]  # repolarisation follows the rate
    form = (form + 0.1 * form.norm(dim=-1, keepdim=True) * normal(0, 1, 12, 3)) * normal(1, 0.16, 12, 1)
    form[:, 4:6] *= u(0.6, 1.4, 1, 1)
    form[:, 9:] *= where(u(0, 1, 1, 3) < 0.5, 1, -1) * u(0.9, 1.5, 1, 1)  # one focus for each patient
    lean = normal(0, 0.16, 1, 1) - (age[:, None, None] - 55) / 250  # the axis turns to the left with age
    form[..., :2] += lean * form[..., [1, 0]] * torch.tensor([-1, 1])
    height, injury = form @ _DOWER, _INJURY[area] @ _DOWER
    injury = injury / _twelve(injury[..., None]).amax(1)  # 1 mV in the lead of its maximum
    lift = st * (0.12 + 0.33 * grade[:, :1] if elevation is None else elevation)
    bell = torch.exp(-0.5 * ((AFTER_R - when[:, 7:9, :1]) / when[:, 7:9, 1:]) ** 2).sum(1)
    height[:, 0], height[:, 7:9] = height[:, 0] * ~wild, (injury * lift / bell)[:, None]
    height[:, 1] = where(scar, -injury * (0.3 + 0.5 * grade[:, 1:]), height[:, 1])
    when[:, 1, 1:] = where(scar, 0.014, when[:, 1, 1:])
    meta = {"severity_Q_wave": (grade[:, 1:] * scar)[:, 0].float(),
            "severity_ST_elevation": ((lift - 0.12) / 0.33).clamp(0, 1)[:, 0].float(), "age": age.float(), "sex": sex,
            "block": block, "territory": where((st | scar)[:, 0], area, -1),
            "st_mv": _twelve((injury * lift)[..., None])[..., 0].float()}
    return label, pace, torch.cat([when, height], -1), meta


def _record(label: Tensor, pace: Tensor, wave: Tensor, seed: int, visit: int, rate: int, noisy: bool) -> dict:
    """One record of every patient: signal, r_peaks, ectopic, heart_rate."""
    n, time, k = len(label), torch.arange(SECONDS * rate).double() / rate, torch.arange(BEATS)
    u, normal = (draws := Draws(n, seed, f"ecg record {visit}", 192)).uniform, draws.normal
    wild, own = label[:, 1:2], torch.arange(12) > 8  # the last three waves are those of an ectopic beat
    ectopic = label[:, 4:] & ((k + u(0, 4, 1).floor()) % u(2, 5, 1).floor() == 0)
    breath = 1 + 0.03 * torch.sin(k * u(1.2, 1.9, 1) + u(0, 2 * pi, 1)) + normal(0, 0.01, BEATS)
    gap = where(wild, (0.24 * normal(0, 1, BEATS) - 0.03).exp(), breath) * u(0.95, 1.05, 1) * pace
    gap = (gap * (1 - 0.38 * ectopic.double() + 0.38 * ectopic.roll(1, 1))).clamp(min=0.28)  # early, then a pause
    peaks = gap.cumsum(1) - gap[:, :1] * u(1, 2, 1)
    shake = (torch.tensor([0.02, 0.04, -0.04]).double() * normal(1, 0.3, 3) * wild) @ _DOWER  # f waves
    turns = 2 * pi * (u(5.0, 7.5, 1) * time + 0.25 * torch.sin(2 * pi * u(0.3, 0.9, 1) * time) + u(0, 1, 1))
    tone, phase = where(torch.arange(4) < 3, u(0.05, 0.45, 1, 4), 50.0)[..., None], u(0, 1, 8, 4, 1)  # wander, hum
    loud, tremor = u(0, 1, 8, 4, 1) * torch.tensor([0.05, 0.05, 0.05, 0.012])[:, None], u(0.004, 0.02, 1, 1)
    signal, white = [], noise(n, seed, f"ecg muscle {visit}", (8, len(time))) if noisy else torch.zeros(n, 1, 1)
    for i in torch.arange(n).split(64):  # few enough for the cache
        flutter = shake[i][..., None] * (turns[i].sin() + 0.4 * (2 * turns[i]).sin())[:, None]
        outside = ((2 * pi * (tone[i] * time + phase[i])).float().sin() * loud[i]).sum(2) + tremor[i] * white[i]
        signal.append(_twelve((waves(time, peaks[i], ectopic[i], wave[i], own) + flutter + noisy * outside).float()))
    inside = (peaks >= 0) & (peaks < SECONDS)
    length = where(inside, peaks, -inf).amax(1) - where(inside, peaks, inf).amin(1)
    return {"signal": torch.cat(signal), "r_peaks": where(inside, peaks, nan).float(), "ectopic": ectopic & inside,
            "heart_rate": (60 * (inside.sum(1) - 1) / length).float()}


@lru_cache
def _words(ward: str, leads: int, size: int) -> Tensor:
    """Ink (2 size, 2 size) of the lead names, and of the name of a ward."""
    from PIL import Image, ImageDraw, ImageFont

    wide, high, start, pitch, first, _, rows = _TABLE["sheets"][leads]
    page, font = Image.new("L", (4 * wide, 4 * high)), ImageFont.load_default
    pen = ImageDraw.Draw(page)
    pen.text((4 * start, 24), ward, 255, font(36))
    for r, c, name in ((r, c, LEADS[lead]) for r, row in enumerate(rows) for c, lead in enumerate(row)):
        pen.text((4 * start + 250 * c + 8, 4 * (first + pitch * r - 21)), name.replace("AV", "aV"), 255, font(20))
    page = page.resize((2 * size, 2 * size), Image.Resampling.BOX)
    return torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8).view(2 * size, -1) / 255


def _sheet(label: Tensor, signal: Tensor, size: int, seed: int, visit: int, leads: int, header: float | None,
           photo: bool, rate: int, noisy: bool) -> dict:
    """The sheets of one record each: image, gain, header, header_box."""
    n, (wide, high, start, pitch, first, seconds, rows) = len(label), _TABLE["sheets"][leads]
    draws, tint = Draws(n, seed, f"ecg sheet {visit}", 32), Draws(n, seed, "ecg paper", 4).uniform(0, 1, 4, 1, 1)
    u, own = draws.uniform, label.any(1) * (1 + label.long().argmax(1))
    gain, ward = where(u() < 0.85, 10.0, 5.0), where(u() < (header or 0), own, u(0, 6).long())
    ward = ward * 0 - 1 if header is None else ward
    # ---- each row as one strip that begins with the pulse, and the range of its values in each half of a pixel
    time, begin = torch.arange(seconds * rate), torch.arange(-7 * rate // 25, 0) / rate * 25
    strip = torch.stack([signal[:, torch.tensor(row)[time * len(row) // len(time)], time] for row in rows], 1)
    pulse = ((begin > -6) & (begin < -1)).float().expand(n, len(rows), -1)
    strip = pad(torch.cat([pulse, strip], -1), (1, 1), value=nan)  # nothing is drawn beyond the ends
    strip = first + pitch * torch.arange(len(rows))[:, None] - px(gain) * strip  # mm from the top of the sheet
    every = wide / size / 50 * rate  # samples in half a pixel
    index = (torch.arange(2 * size) * every + (7 - start) / 25 * rate + 1)[:, None] + torch.arange(round(every) + 2)
    index, (column, row) = index.long().clamp(0, strip.shape[-1] - 1), unit_grid(size)
    # ---- where on the paper (x, y) a pixel looks, and the light there
    turn, zoom, shift = photo * draws.normal(0, 0.03), 1 + photo * u(-0.06, 0.02), photo * u(-0.02, 0.02, 2)
    tilt, ahead, fold, crease = photo * u(0, 0.25, 1), u(0, 2 * pi, 1), u(-0.6, 0.6), photo * u(-0.07, 0.07)
    tilt = tilt * torch.cat([ahead.cos(), ahead.sin()], 1)
    bend = [0.012 * photo * cloud(n, seed, f"ecg {name} {visit}", size, 4, 2, 2) for name in ("along", "across")]
    line, desk = _COLOUR["line"] + _COLOUR["tint"] * tint[:, :3], _COLOUR["desk"] * (0.7 + 0.6 * tint[:, 3:])
    words, image, box = torch.stack([_words(ward, leads, size) for ward in (*WARDS, "")]), [], []
    white = 0.015 * noise(n, seed, f"ecg camera {visit}", (3, size, size)) if noisy else torch.zeros(n, 1, 1, 1)
    for i in torch.arange(n).split(64):
        x, y = (p / px(zoom[i]) + b[i] for p, b in zip(turned(column, row, shift[i], turn[i]), bend, strict=True))
        light = 1 + px(tilt[i, 0]) * column + px(tilt[i, 1]) * row + 1.5 * bend[0][i]
        light = light + px(crease[i]) * torch.tanh((x - px(fold[i])) * 40) * torch.exp(-4 * (x - px(fold[i])).abs())
        across, down, run = (x + 1) / 2 * wide, (y + 1) / 2 * high, strip[i][:, :, index]
        place = (across[:, None] / wide * 2 * size + torch.tensor([[[-0.5]], [[0.5]]])).long().clamp(0, 2 * size - 1)
        ink = grid_sample(words[ward[i]][:, None], torch.stack([x, y], -1).float(), align_corners=False)[:, 0]
        for ends in zip(run.amin(-1).unbind(1), run.amax(-1).unbind(1), strict=True):
            top, low = (end.gather(1, place.flatten(1)).view_as(place) - down[:, None] for end in ends)
            ink = ink.maximum((1 - top.maximum(-low) * size / high).clamp(0, 1).nan_to_num().mean(1))
        bare = prod(1 - dark / min(pixel, mesh) * (1 - (p - (p / mesh).round() * mesh).abs() / pixel).clamp(min=0)
                    for p, pixel in ((across, wide / size), (down, high / size)) for mesh, dark in _MESH)
        sheet = (line[i] + (_COLOUR["paper"] - line[i]) * bare[:, None]) * ((1 - 0.88 * ink) * light)[:, None]
        inside = (0.5 - (x.abs().maximum(y.abs()) - 1) * size / 2).clamp(0, 1)
        image.append((desk[i] + (sheet - desk[i]) * inside[:, None] + white[i]).clamp(0, 1).float())
        box.append(boxes(((down > 5) & (down < 16) & (across > start) & (across < start + 110))[:, None])[:, 0])
    return {"image": torch.cat(image), "gain": gain.float(), "header": ward,
            "header_box": where(ward[:, None] < 0, nan, torch.cat(box))}
