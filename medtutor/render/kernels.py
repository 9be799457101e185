"""The inner loops of the digital patient, compiled by numba: lines through convex parts, and random numbers.

A picture has coordinates (u, v) and its rays run along t; `place` (N, 4, 4) maps its homogeneous coordinates (u, v, t,
1) to those of the bodies. Where a quadric meets the ray of a pixel, what pixels of a row it covers, and what rows, are
one question: the interval in which a quadratic a x^2 + 2 b x + c is not positive, once the coordinates before x have
been eliminated.

A part is a row of `table`: first and last index into `quadrics_of`, the first of its quadrics that only bound it, and
first and last index into `planes_of`. Every kernel works on the patients first:last, so that threads can share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch

FAR = 1e6  # mm; larger than any body
_LEAST = 1e-10  # 1/mm^2: the form of an endless cylinder along its axis


def _compiled(function: Callable) -> Callable:
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the machine code in: compile anew
        return numba.njit(**options)(function)


def spread(kernel: Callable, n: int, *arguments) -> None:
    """Call kernel(first, last, *arguments) for pieces of range(n), in as many threads as torch uses.

    Plain threads end with the call. Those of OpenMP would spin beside torch's and not survive a fork.
    """
    workers = min(torch.get_num_threads(), n)
    if workers < 2:
        kernel(0, n, *arguments)
        return
    edges = np.linspace(0, n, min(n, 4 * workers) + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda piece: kernel(*piece, *arguments), pairwise(edges)))


@_compiled
def _interval(a, b, c):
    """Where a x^2 + 2 b x + c <= 0; everywhere, to be safe, where the quadratic does not open upwards."""
    if a <= 0:
        return -FAR, FAR
    root = b * b - a * c
    if root < 0:
        return FAR, -FAR
    root = math.sqrt(root)
    return (-b - root) / a, (-b + root) / a


@_compiled
def _indices(low, high, start, step, count):
    """First and last (exclusive) of the points start + i step, i < count, from low to high."""
    first = min(max(math.ceil((low - start) / step - 1e-9), 0), count)
    return int(first), int(min(max(math.floor((high - start) / step + 1e-9) + 1, first), count))


@_compiled
def _times(row, matrix, i):
    return row[0] * matrix[0, i] + row[1] * matrix[1, i] + row[2] * matrix[2, i]


@_compiled
def trim(begin, end, normal, offset, middle, reach, ends, planes, on):
    """Write the half-spaces of the solids s, ends[s] to ends[s + 1], into planes (N, H, 4), which is zero. One that
    holds the whole ball of its solid is left out; a solid whose ball lies outside of one is absent: on (N, S) is 0."""
    for n in range(begin, end):
        for s in range(len(ends) - 1):
            x, y, z = middle[n, s]
            for h in range(ends[s], ends[s + 1]):
                a, b, c = normal[n, h]
                gap, size = a * x + b * y + c * z - offset[n, h], reach[n, s] * math.sqrt(a * a + b * b + c * c)
                if gap > size:
                    on[n, s] = 0
                if gap >= -size:
                    planes[n, h] = a, b, c, -offset[n, h]


@_compiled
def _seen(form, centre, half, place):
    """The quadrics (Q, 4, 4) and planes (H, 4) of a body in the coordinates of the picture, the conic (Q, 6) that each
    quadric covers of it, and the interval (Q, 2) of v in which that lies."""
    quadrics, planes = np.empty((len(form), 4, 4)), np.empty((len(half), 4))
    conics, rows, arm = np.empty((len(form), 6)), np.empty((len(form), 2)), np.empty((3, 4))
    for q in range(len(form)):
        m = quadrics[q]
        for d in range(3):
            for i in range(4):
                arm[d, i] = place[d, i] - centre[q, d] * place[3, i]
        for i in range(4):
            x, y, z = _times(form[q, 0], arm, i), _times(form[q, 1], arm, i), _times(form[q, 2], arm, i)
            for j in range(i + 1):
                m[i, j] = m[j, i] = x * arm[0, j] + y * arm[1, j] + z * arm[2, j] - place[3, i] * place[3, j]
        a = m[2, 2] if abs(m[2, 2]) > _LEAST else _LEAST
        uu, uv, u1 = a * m[0, 0] - m[0, 2] ** 2, a * m[0, 1] - m[0, 2] * m[1, 2], a * m[0, 3] - m[0, 2] * m[2, 3]
        vv, v1, one = a * m[1, 1] - m[1, 2] ** 2, a * m[1, 3] - m[1, 2] * m[2, 3], a * m[3, 3] - m[2, 3] ** 2
        conics[q] = uu, uv, u1, vv, v1, one
        rows[q] = _interval(uu * vv - uv * uv, uu * v1 - uv * u1, uu * one - u1 * u1) if uu > 0 else (-FAR, FAR)
    for h in range(len(half)):
        for i in range(4):
            planes[h, i] = _times(half[h], place, i) + half[h, 3] * place[3, i]
    return quadrics, planes, conics, rows


@_compiled
def _rows(part, quadrics_of, rows, start, step, count):
    low, high = -FAR, FAR
    for j in range(part[0], part[1]):
        low, high = max(low, rows[quadrics_of[j], 0]), min(high, rows[quadrics_of[j], 1])
    return _indices(low, high, start, step, count)


@_compiled
def _spans(part, quadrics_of, planes_of, quadrics, planes, conics, v, start, step, low, high):
    """The interval low[i] to high[i] of t in which the ray at (u_i, v) is inside the part, for first <= i < last."""
    left, right = -FAR, FAR
    for j in range(part[0], part[1]):
        e = conics[quadrics_of[j]]
        ends = _interval(e[0], e[1] * v + e[2], (e[3] * v + 2 * e[4]) * v + e[5])
        left, right = max(left, ends[0]), min(right, ends[1])
    first, last = _indices(left, right, start, step, len(low))
    if first == last:
        return first, last
    start, low, high = start + first * step, low[first:last], high[first:last]
    low[:], high[:] = -FAR, FAR
    for j in range(part[0], part[2]):
        m, e = quadrics[quadrics_of[j]], conics[quadrics_of[j]]
        inverse = 1 / (m[2, 2] if abs(m[2, 2]) > _LEAST else _LEAST)
        share, b0, b1 = -inverse * inverse, -(m[1, 2] * v + m[2, 3]) * inverse, -m[0, 2] * inverse
        c0, c1, c2 = ((e[3] * v + 2 * e[4]) * v + e[5]) * share, 2 * (e[1] * v + e[2]) * share, e[0] * share
        for i in range(len(low)):
            u = start + i * step
            half, middle = math.sqrt(max(c0 + (c1 + c2 * u) * u, 0.0)), b0 + b1 * u
            low[i] = max(low[i], middle - half if inverse > 0 else -FAR)  # else the source is inside: rays only leave
            high[i] = min(high[i], middle + half if inverse > 0 else middle - half)
    for j in range(part[3], part[4]):
        m = planes[planes_of[j]]
        if m[2] == 0 and m[0] == 0 and m[1] == 0 and m[3] == 0:  # left out
            continue
        inverse = -1 / m[2] if abs(m[2]) > 1e-9 else -1e9  # a parallel plane keeps the whole ray or nothing
        e0, e1 = (m[1] * v + m[3]) * inverse, m[0] * inverse
        if inverse < 0:
            for i in range(len(high)):
                high[i] = min(high[i], e0 + e1 * (start + i * step))
        else:
            for i in range(len(low)):
                low[i] = max(low[i], e0 + e1 * (start + i * step))
    return first, last


@_compiled
def film(begin, end, table, quadrics_of, planes_of, form, centre, half, place, gain, weight, slot, start, step, k,
         line, mask):
    """Sum gain times chord of every part into line (N, v, u); mask (N, slots, v, u) where the sum of weight times chord
    over the parts of a slot (0: none, then from 1) is more than 0.01."""
    size, limit = line.shape[2], 0.999 / k if k > 0 else FAR
    low, high, total = np.empty(size), np.empty(size), np.empty((1 + mask.shape[1], size, size), np.float32)
    for n in range(begin, end):
        quadrics, planes, conics, rows = _seen(form[n], centre[n], half[n], place[n])
        total[:] = 0
        for p in range(len(table)):
            if gain[n, p] == 0 and (slot[p] == 0 or weight[n, p] == 0):
                continue
            top, bottom = _rows(table[p], quadrics_of, rows, start, step, size)
            for r in range(top, bottom):
                first, last = _spans(table[p], quadrics_of, planes_of, quadrics, planes, conics, start + r * step,
                                     start, step, low, high)
                near, beyond, brightness, grey = low[first:last], high[first:last], gain[n, p], total[0, r, first:last]
                for i in range(len(near)):
                    leave = beyond[i] if beyond[i] < limit else limit
                    chord = leave - near[i] if leave > near[i] else 0.0
                    near[i] = chord / ((1 - k * near[i]) * (1 - k * leave))
                    grey[i] += brightness * near[i]
                if slot[p] > 0:
                    shade, sign = total[slot[p], r, first:last], weight[n, p]
                    for i in range(len(near)):
                        shade[i] += sign * near[i]
        line[n], mask[n] = total[0], total[1:] > 0.01


@_compiled
def fill(begin, end, table, quadrics_of, planes_of, form, centre, half, place, delta, weight, organ, whole, grid,
         opaque, value, label):
    """Paint every part into value and label (N, v, u, t), either of them possibly empty. Opaque ones hide what was
    there, others add to its value."""
    shape = value.shape if value.size else label.shape
    low, high = np.empty(shape[2]), np.empty(shape[2])
    for n in range(begin, end):
        quadrics, planes, conics, rows = _seen(form[n], centre[n], half[n], place[n])
        for p in range(len(table)):
            shows = weight[n, p] > 0 if opaque else delta[n, p] != 0
            paints = label.size > 0 and (shows if opaque else _paints(organ[p], weight[n, p], whole[p]))
            if not paints and (value.size == 0 or not shows):
                continue
            top, bottom = _rows(table[p], quadrics_of, rows, grid[0, 0], grid[0, 1], shape[1])
            for r in range(top, bottom):
                first, last = _spans(table[p], quadrics_of, planes_of, quadrics, planes, conics,
                                     grid[0, 0] + r * grid[0, 1], grid[1, 0], grid[1, 1], low, high)
                for i in range(first, last):
                    near, beyond = _indices(low[i], high[i], grid[2, 0], grid[2, 1], shape[3])
                    if value.size:
                        for j in range(near, beyond):
                            value[n, r, i, j] = delta[n, p] if opaque else value[n, r, i, j] + delta[n, p]
                    if paints:
                        for j in range(near, beyond):
                            before = label[n, r, i, j]
                            label[n, r, i, j] = max(organ[p], 0) if opaque else _named(before, organ[p], weight[n, p])


@_compiled
def _paints(organ, weight, whole):
    """Whether a part changes names: a present one names its points, and what a later part covers loses its name."""
    return organ >= 0 and (weight < 0 or (whole and weight > 0))


@_compiled
def _named(label, organ, weight):
    return organ if weight > 0 else 0 if label == organ else label


@_compiled
def probe(begin, end, table, quadrics_of, planes_of, form, centre, half, points, delta, weight, organ, whole, value,
          label):
    """As `fill`, at any points (N, M, 3) of the bodies: value and label (N, M)."""
    for n in range(begin, end):
        for p in range(len(table)):
            part, paints = table[p], label.size > 0 and _paints(organ[p], weight[n, p], whole[p])
            for k in range(points.shape[1]):
                x, y, z = points[n, k]
                inside, j = True, part[0]
                while inside and j < part[2]:
                    f, m, j = form[n, quadrics_of[j]], centre[n, quadrics_of[j]], j + 1
                    a, b, c = x - m[0], y - m[1], z - m[2]
                    mixed = f[0, 1] * a * b + f[0, 2] * a * c + f[1, 2] * b * c
                    inside = f[0, 0] * a * a + f[1, 1] * b * b + f[2, 2] * c * c + 2 * mixed <= 1
                j = part[3]
                while inside and j < part[4]:
                    h, j = half[n, planes_of[j]], j + 1
                    inside = h[0] * x + h[1] * y + h[2] * z + h[3] <= 0
                if inside and value.size:
                    value[n, k] += delta[n, p]
                if inside and paints:
                    label[n, k] = _named(label[n, k], organ[p], weight[n, p])


@_compiled
def _scramble(x):
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_compiled
def random(begin, end, key, out):
    """Uniform out[i, j] in [0, 1), from (key, i, j) alone."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    for i in range(begin, end):
        state = _scramble(key ^ _scramble(np.uint64(i) + golden))
        for j in range(out.shape[1]):
            state += golden
            out[i, j] = np.float32(_scramble(state) >> np.uint64(40)) * np.float32(2.0**-24)


@_compiled
def strokes(begin, end, ends, width, layer, soft, least, cover, mask):
    """Draw lines between ends (N, L, 2, 2), x and y in pixels, of `width` (N, L, 2) pixels at the ends, into cover
    (N, K, H, W): how much of each pixel the lines of layer[l] cover, with edges that fade over soft[k] times the width.
    mask (N, K, H, W) is True inside, or within least[k] / 2 pixels of the middle. A line with a width of 0 is left out.
    """
    for n in range(begin, end):
        for s in range(len(layer)):
            (x, y), (x1, y1), (w0, w1), k = ends[n, s, 0], ends[n, s, 1], width[n, s], layer[s]
            if min(w0, w1) <= 0:
                continue
            dx, dy, reach = x1 - x, y1 - y, 1 + max(w0, w1, least[k]) * (1 + soft[k]) / 2
            first, last = _indices(min(y, y1) - reach, max(y, y1) + reach, 0.0, 1.0, cover.shape[2])
            left, right = _indices(min(x, x1) - reach, max(x, x1) + reach, 0.0, 1.0, cover.shape[3])
            for i in range(first, last):
                for j in range(left, right):
                    part = min(max(((j - x) * dx + (i - y) * dy) / (dx * dx + dy * dy + 1e-9), 0.0), 1.0)
                    away, w = math.hypot(j - x - part * dx, i - y - part * dy), w0 + part * (w1 - w0)
                    share = min(max((w / 2 - away) / max(1.0, soft[k] * w) + 0.5, 0.0), w, 1.0)
                    cover[n, k, i, j] = max(cover[n, k, i, j], share)
                    mask[n, k, i, j] |= 2 * away <= max(w, least[k])
