"""Hidden tests of the exercises of chapter 25. A docstring is what a student reads when the test fails."""

import math

import numpy as np
import pytest
import torch

from medtutor.exercise import student_seed


def tensor(answer, shape):
    """A returned tensor or array as float64, of the shape asked for."""
    answer = torch.as_tensor(answer).double()
    assert tuple(answer.shape) == shape
    return answer


def close(a, b, tolerance=1e-5):
    return torch.allclose(torch.as_tensor(a).double(), torch.as_tensor(b).double(), tolerance, tolerance)


# ---- 25.1

def numbers(student):
    """What the notebook draws for this student: shift, side, factor."""
    seed = student_seed(student.id, "25.1")
    return (2, 3, 5, 7)[seed % 4], (12, 18, 24)[seed // 4 % 3], (1.5, 2.0, 3.0)[seed // 12 % 3]


@pytest.mark.points("25.1", 1)
def test_where_a_shift_takes_the_square(student):
    """The column is not right for your numbers. Is STUDENT your id? The warped image fetches at x + u(x)."""
    shift, _, _ = numbers(student)
    assert student.value("prediction")["left"] == 20 - shift


@pytest.mark.points("25.1", 1)
def test_what_a_factor_does_to_the_square(student):
    """The side or J is not right for your numbers. A step of one pixel in the warped image is a longer step in the
    moving one; J is the ratio of two areas."""
    _, side, factor = numbers(student)
    said = student.value("prediction")
    assert abs(float(said["side"]) - side / factor) <= 0.5
    assert abs(float(said["J"]) - factor**2) <= 0.02


@pytest.mark.points("25.1", 1)
def test_the_order_of_two_maps(student):
    """The order is not right. The result is read backwards: start at a pixel of the last image and ask where it
    fetches, and where that place fetches in its turn."""
    shift, _, factor = numbers(student)

    def zoomed(x):
        return 31.5 + factor * (x - 31.5)

    def shifted(x):
        return x + shift

    def warped(x):  # of an image whose grey value is its place
        return zoomed(x)

    place = 5.0
    at_once = {"phi(shift(x))": zoomed(shifted(place)), "shift(phi(x))": shifted(zoomed(place))}
    assert at_once[student.value("prediction")["order"]] == warped(shifted(place))


# ---- 25.2

def folded(u):
    """The signed areas of the four triangles at the corners of each cell."""
    _, h, w = u.shape
    y, x = np.mgrid[:h, :w]
    place = np.stack([x + u[0].numpy(), y + u[1].numpy()], -1)
    out = np.zeros((h - 1, w - 1), bool)
    for i in range(h - 1):
        for j in range(w - 1):
            ring = place[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            for k in range(4):
                (a, b), (c, d) = ring[(k + 1) % 4] - ring[k], ring[k - 1] - ring[k]
                out[i, j] |= a * d - b * c <= 0
    return torch.from_numpy(out)


@pytest.mark.points("25.2", 2)
def test_cells_of_random_fields(student):
    """On rough fields some cells are judged wrongly. Take each corner on its own, with both products of the
    determinant, and mind which channel and which axis is x."""
    for seed, strength in ((1, 0.3), (2, 0.6), (3, 1.5)):
        u = strength * torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
        assert torch.equal(tensor(student("folded_cells", u), (6, 9)).bool(), folded(u))


@pytest.mark.points("25.2", 1)
def test_a_zigzag_is_a_fold(student):
    """Fields that jump to and fro from pixel to pixel, in x or in y, are not judged rightly."""
    for axis in (1, 2):
        sign = 1 - 2 * (torch.arange(8).double() % 2)
        u = torch.zeros(2, 8, 8, dtype=torch.double)
        u[2 - axis] = 0.6 * (sign[:, None] if axis == 1 else sign[None])
        assert torch.equal(tensor(student("folded_cells", u), (7, 7)).bool(), folded(u))


@pytest.mark.points("25.2", 1)
def test_turns_and_collapses(student):
    """A turn folds nothing, whatever its angle; a cell that becomes a line counts as folded."""
    place = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="xy")).double()
    for angle in (0.7, math.pi / 2, 2.0, math.pi):
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
        u = torch.einsum("ab,bhw->ahw", turn, place) - place
        assert not tensor(student("folded_cells", u), (4, 3)).any()
    flat = torch.zeros_like(place)
    flat[0, :, 2:] = -1  # column 2 falls on column 1
    assert torch.equal(tensor(student("folded_cells", flat), (4, 3)).bool(), folded(flat))
    assert folded(flat)[:, 1].all()


# ---- 25.3

def captured(values, tolerance):
    """The walk, by recursion."""
    reach = len(values) // 2

    def end(k):
        best = min((v, j) for j, v in enumerate(values) if abs(j - k) == 1)
        return end(best[1]) if best[0] < values[k] else k

    home = [abs(end(k) - reach) <= tolerance for k in range(len(values))]
    good = [r for r in range(reach + 1) if all(home[reach - r:reach + r + 1])]
    return max(good, default=-1)


def curves():
    """A bowl with ripples of many sizes, so that every range occurs."""
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        shift = torch.arange(-9.0, 10.0, dtype=torch.double) - float(torch.randint(-1, 2, (1,), generator=draw))
        yield shift.abs() + 0.25 * (seed % 8) * torch.randn(19, generator=draw, dtype=torch.double)


@pytest.mark.points("25.3", 2)
def test_ranges_of_rough_curves(student):
    """On rough curves the range differs from the rule. Follow a walk by hand: the lower neighbour, if it is strictly
    lower; then both sides, and the first start that is lost."""
    for profile in curves():
        assert int(student("capture_range", profile)) == captured(profile.tolist(), 1)


@pytest.mark.points("25.3", 1)
def test_other_tolerances(student):
    """With another tolerance the range is wrong."""
    for profile in curves():
        for tolerance in (0, 3):
            assert int(student("capture_range", profile, tolerance=tolerance)) == captured(profile.tolist(), tolerance)


@pytest.mark.points("25.3", 1)
def test_plateaus_and_far_valleys(student):
    """A walk stops on a plateau, sees no valley beyond a hill, and may start at the very end of the curve."""
    for values in ([4, 4, 4, 4, 1, 0, 1, 2, 3, 4, 5], [-9, -8, 4, 3, 1, 0, 1, 3, 4, -8, -9], [3.0, 2, 1, 0, 1, 2, 3],
                   [1.0] * 7, [3, 2, 1, 0, 0, 0, 5], [0, 1, 2, 3, 2, 1, 0], [2.0, 1.0, 3.0]):
        profile = torch.tensor(values, dtype=torch.double)
        assert int(student("capture_range", profile)) == captured(values, 1)


# ---- 25.4

def price(jacobian, ratio, weight):
    """Pixel by pixel."""
    out = []
    for case in range(len(ratio)):
        cost = total = 0.0
        for j, w in zip(jacobian[case].flatten().tolist(), weight[case].flatten().tolist(), strict=True):
            cost += w * abs(math.log(max(abs(j) * float(ratio[case]), 0.01)))
            total += w
        out.append(cost / total if total else 0.0)
    return torch.tensor(out)


def tumours(seed, cases=4):
    """Jacobians from folded to squeezed by ten, ratios, soft masks."""
    draw = torch.Generator().manual_seed(seed)
    jacobian = (1.2 * torch.randn(cases, 1, 6, 5, generator=draw, dtype=torch.double)).exp()
    jacobian[:, :, 0, :2] *= -1
    jacobian[:, :, 1, 0] = 0
    return (jacobian, 0.4 + torch.rand(cases, generator=draw, dtype=torch.double),
            torch.rand(cases, 1, 6, 5, generator=draw, dtype=torch.double) ** 3)


@pytest.mark.points("25.4", 2)
def test_the_price_of_random_maps(student):
    """On rough maps the price differs from the definition. Check R of each case, the absolute values, the weights, the
    lower bound, and that there is no upper one."""
    for seed in (1, 2):
        given = tumours(seed)
        assert close(tensor(student("log_volume_term", *given), (4,)), price(*given))


@pytest.mark.points("25.4", 1)
def test_growth_costs_what_shrinkage_costs(student):
    """Scaling with the organ should cost nothing; growth and shrinkage by the same factor should cost the same, also
    beyond a factor of three."""
    jacobian = torch.tensor([2.0, 0.25, 9.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4).contiguous()
    weight = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    even = tensor(student("log_volume_term", jacobian, 1 / jacobian[:, 0, 0, 0], weight), (3,))
    assert close(even, torch.zeros(3))
    there, back = (tensor(student("log_volume_term", j, torch.ones(3), weight), (3,)) for j in (jacobian, 1 / jacobian))
    assert close(there, back)
    assert close(there, jacobian[:, 0, 0, 0].log().abs())


@pytest.mark.points("25.4", 1)
def test_a_case_without_a_tumour(student):
    """A case whose mask is empty should cost 0, and the other cases what they cost alone."""
    jacobian, ratio, weight = tumours(4)
    weight[1] = 0
    assert close(tensor(student("log_volume_term", jacobian, ratio, weight), (4,)), price(jacobian, ratio, weight))


# ---- 25.5

def summary(key, value):
    top = key.amax(1)
    share = (key - top[:, None]).exp()
    return {"top": top, "weight": share.sum(1), "mean": share @ value.T / share.sum(1, keepdim=True)}


def volume(seed, strength, d=5, n=60):
    draw = torch.Generator().manual_seed(seed)
    return (strength * torch.randn(d, n, generator=draw, dtype=torch.double),
            torch.randn(d, n, generator=draw, dtype=torch.double))


def agree(found, key, value):
    """Whether a summary is that of these keys and values."""
    wanted, d = summary(key, value), len(key)
    return all(close(tensor(found[name], (d,) if name != "mean" else (d, d)), x) for name, x in wanted.items())


@pytest.mark.points("25.5", 2)
def test_two_parts_of_different_size(student):
    """The merged summary is not that of both parts together. Bring both weights to the common top, and let each row of
    the mean have its own weights."""
    for seed in (1, 2, 3):
        key, value = volume(seed, 2.0)
        for cut in (1, 20, 55):
            a, b = (summary(key[:, s], value[:, s]) for s in (slice(cut), slice(cut, None)))
            assert agree(student("merge", a, b), key, value)


@pytest.mark.points("25.5", 2)
def test_a_chain_of_parts(student):
    """Merging part after part, forwards or backwards, should give the context of the whole. Is the summary that you
    return complete, so that it can be merged again?"""
    key, value = volume(4, 3.0)
    for step in (7, 13):
        parts = [summary(key[:, k:k + step], value[:, k:k + step]) for k in range(0, key.shape[1], step)]
        for order in (parts, parts[::-1]):
            found = order[0]
            for part in order[1:]:
                found = student("merge", found, part)
            assert agree(found, key, value)


@pytest.mark.points("25.5", 1)
def test_large_keys(student):
    """With keys of several hundred the result is not finite or not right."""
    key, value = volume(5, 400.0)
    for shift in (0.0, 3000.0, -3000.0):
        a, b = (summary(key[:, s] + shift, value[:, s]) for s in (slice(30), slice(30, None)))
        assert agree(student("merge", a, b), key + shift, value)
