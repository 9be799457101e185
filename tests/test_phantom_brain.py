"""Brain cohorts: warps, growth, contrasts, lesions, visits and pairs, each against what it promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtutor.phantom import brain, growth, mri, warp

FLUID, GREY, WHITE, VENTRICLE, HYPER, INFARCT, BLEED, OEDEMA, CORE = range(1, 10)


def ball(shape, centre, radius):
    return (radius + 0.5 - (warp.places(shape) - centre.view(1, -1, *[1] * len(shape))).norm(dim=1)).clamp(0, 1)


# ---- warps

@pytest.mark.parametrize("dims", [2, 3])
@settings(max_examples=8)
@given(factor=st.floats(0.4, 2.0), radius=st.floats(4.0, 5.5))
def test_expansion_has_the_prescribed_volume_change_and_jacobian(dims, factor, radius):
    shape, centre = (48,) * dims, torch.full((1, dims), 23.5)
    velocity = warp.expansion(shape, centre, radius, factor)
    there, back = warp.exponentiate(velocity), warp.exponentiate(-velocity)
    middle = warp.jacobian(there)[(0, *[slice(22, 26)] * dims)]
    assert torch.allclose(middle, torch.full_like(middle, factor), rtol=0.02)
    assert warp.jacobian(there).min() > 0
    assert there[..., 0].abs().max() < 1e-5  # nothing moves far away
    before = ball(shape, centre[0], radius)
    after = warp.apply(before[None], back)
    assert float(after.sum() / before.sum()) == pytest.approx(factor, rel=0.06)


@pytest.mark.parametrize(("dims", "size"), [(2, 40), (3, 28)])
def test_forward_and_inverse_cancel_and_do_not_fold(dims, size):
    fixed, _ = brain.pair(2, size, 1, "slice" if dims == 2 else "volume", amplitude=2.0)
    u, v = fixed.meta["displacement"], fixed.meta["inverse"]
    inside = (..., *[slice(3, -3)] * dims)
    assert u.norm(dim=1).max() > 1.2
    assert warp.compose(u, v)[inside].abs().max() < 0.15
    assert warp.compose(v, u)[inside].abs().max() < 0.15
    assert fixed.meta["jacobian"].min() > 0.1


def test_composition_and_shift_by_hand():
    shift = torch.zeros(1, 2, 9, 9)
    shift[:, 0], shift[:, 1] = 2.0, 1.0  # x, then y
    image = torch.arange(81.0).view(1, 1, 9, 9)
    assert torch.equal(warp.apply(image, shift)[..., :8, :7], image[..., 1:, 2:])
    assert torch.equal(warp.compose(shift, shift)[..., 4, 4], 2 * shift[..., 4, 4])
    assert torch.allclose(warp.jacobian(shift), torch.ones(1, 9, 9))
    linear = 0.2 * (warp.places((9, 9)) - 4)
    assert torch.allclose(warp.jacobian(linear), torch.full((1, 9, 9), 1.44), rtol=1e-5)


@pytest.mark.parametrize("shape", [(24, 24), (16, 16, 16)])
def test_swelling_has_the_asked_divergence(shape):
    source = mri.smooth(torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0)), 2.0)[:, 0]
    velocity = warp.swelling(source)
    found = sum(torch.gradient(velocity[:, k], dim=-1 - k)[0] for k in range(len(shape)))
    wanted = source - source.flatten(1).mean(1).view(-1, *[1] * len(shape))
    inside = (slice(None), *[slice(2, -2)] * len(shape))
    assert (found - wanted)[inside].abs().max() < 0.12 * wanted.abs().max()


# ---- growth

def test_diffusion_alone_keeps_every_cell():
    g = torch.Generator().manual_seed(0)
    d = torch.rand(3, 14, 15, 16, generator=g) * (torch.rand(3, 14, 15, 16, generator=g) > 0.3)
    u = growth.seeded(d, torch.full((3, 3), 7.0), 2.0)
    after = growth.grow(u, d, torch.zeros(3), torch.full((3, 1), 20.0), 2.0)[:, 0]
    assert torch.allclose(after.sum((1, 2, 3)), u.sum((1, 2, 3)), rtol=1e-5)
    assert after.min() >= 0
    assert after.amax() < u.amax()
    assert (after[d == 0] == 0).all()  # no cell in fluid


def test_reaction_alone_is_the_logistic_law():
    u = torch.tensor([[0.01, 0.3, 0.9, 1.0]])
    days, rho = torch.tensor([[10.0, 50.0, 200.0]]), 0.03
    seen = growth.grow(u, torch.zeros(1, 4), torch.tensor([rho]), days, 1.0, steps=5)
    gain = (rho * days[0])[:, None].exp()
    assert torch.allclose(seen[0], u * gain / (1 + u * (gain - 1)), atol=1e-5)


@pytest.mark.parametrize(("d", "rho"), [(0.3, 0.02), (0.6, 0.01), (0.1, 0.03)])
def test_front_moves_at_two_root_d_rho(d, rho):
    u = torch.zeros(1, 700)
    u[:, :5] = 1
    speed = 2 * math.sqrt(d * rho)
    days = torch.tensor([[200.0, 500.0]]) / speed
    seen = growth.grow(u, torch.full((1, 700), d), torch.tensor([rho]), days, 1.0)
    place = (seen > 0.5).sum(-1).float()[0]
    assert float((place[1] - place[0]) / 300) == pytest.approx(1.0, abs=0.06)
    assert (seen <= 1).all()


@settings(max_examples=10)
@given(c=st.floats(0.3, 4.0))
def test_one_image_tells_only_d_times_age_and_rho_times_age(c):
    d = torch.full((1, 24, 24), 0.2)
    u = growth.seeded(d, torch.full((1, 2), 12.0), 3.0)
    one = growth.grow(u, d, torch.tensor([0.02]), torch.tensor([[200.0]]), 3.0, steps=60)
    other = growth.grow(u, c * d, torch.tensor([0.02 * c]), torch.tensor([[200.0 / c]]), 3.0, steps=60)
    assert torch.allclose(one, other, atol=1e-4)


def test_growth_is_differentiable_and_checks_its_input():
    d = torch.full((1, 12, 12), 0.2, dtype=torch.float64)
    u = growth.seeded(d, torch.full((1, 2), 6.0), 2.0)

    def size(scale, rate):
        return growth.grow(u, d * scale, rate, torch.tensor([[40.0]], dtype=torch.float64), 2.0, steps=20).sum()

    at = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (1.0, 0.03)]
    assert torch.autograd.gradcheck(size, at)
    with pytest.raises(ValueError, match="use 4 or more"):
        growth.grow(u, d, torch.tensor([0.0]), torch.tensor([[20.0]]), 2.0, steps=1)
    with pytest.raises(ValueError, match="increase"):
        growth.grow(u, d, torch.tensor([0.0]), torch.tensor([[20.0, 10.0]]), 2.0)


def test_seed_at_the_place_in_x_y_order():
    u = growth.seeded(torch.ones(1, 10, 20), torch.tensor([[15.0, 3.0]]), 1.0)
    assert (u[0] == u.max()).nonzero().tolist() == [[3, 15]]


# ---- cohorts

def test_fields_of_volumes_and_slices():
    c = brain.cohort(2, 24, 0, contrast=("t1", "t2"))
    assert c.volume.shape == (2, 2, 24, 24, 24)
    assert c.volume.dtype == torch.float32
    assert c.mask.shape == (2, 24, 24, 24)
    assert c.names["volume"] == ("t1", "t2")
    assert c.box is None
    s = brain.cohort(3, 40, 0, "slice", contrast=brain.CONTRASTS, plane="coronal")
    assert s.image.shape == (3, 7, 40, 40)
    assert s.box.shape == (3, 4, 4)
    assert s.names["mask"] == brain.CLASSES
    assert s.image.isfinite().all()


def test_tissue_volumes_are_a_brain_s():
    c = brain.cohort(4, 48, 1, age=40.0, prevalence={"white matter lesion": 0.0})
    ml = torch.stack([(c.mask == k).flatten(1).sum(1) for k in range(1, 5)], 1) * 4.5**3 / 1000
    assert ((ml[:, 1] > 550) & (ml[:, 1] < 1100)).all()
    assert ((ml[:, 2] > 400) & (ml[:, 2] < 900)).all()
    assert torch.allclose(ml[:, 3], c.meta["ventricle_ml"])
    assert ((ml[:, 3] > 8) & (ml[:, 3] < 80)).all()


def test_axes_are_as_documented():
    c = brain.cohort(2, 32, 2, coordinates=True, variation=0.0, tilt=0.0, atrophy=0.0)
    x, y, z = c.meta["mni"].unbind(1)
    assert (x.diff(dim=3) < 0).all()
    assert (y.diff(dim=2) < 0).all()
    assert (z.diff(dim=1) > 0).all()
    spacing = -x.diff(dim=3)
    assert torch.allclose(spacing, torch.full_like(spacing, brain.FOV / 32), atol=1e-3)
    cerebellum = (c.mask == GREY) & (z < -30) & (x.abs() < 25)
    assert y[cerebellum].mean() < -40  # at the back
    for plane, (across, down) in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items():
        s = brain.cohort(1, 24, 2, "slice", plane=plane, coordinates=True, variation=0.0, tilt=0.0, level=10.0)
        mni = s.meta["mni"][0]
        assert (mni[across].diff(dim=1) < 0).all()
        assert (mni[down].diff(dim=0) < 0).all()
        assert torch.allclose(mni[3 - across - down], torch.tensor(10.0), atol=1e-4)


def test_without_variation_every_patient_is_the_template():
    c = brain.cohort(2, 32, 3, "slice", variation=0.0, tilt=0.0, atrophy=0.0, level=20.0, noisy=False,
                     prevalence={"white matter lesion": 0.0})
    assert torch.allclose(c.image[0], c.image[1], atol=1e-5)
    free = brain.cohort(2, 32, 3, "slice", level=20.0, noisy=False)
    assert (free.image[0] - free.image[1]).abs().max() > 0.2


@pytest.mark.parametrize(("contrast", "order"), [
    ("t1", (WHITE, GREY, VENTRICLE)), ("t2", (VENTRICLE, GREY, WHITE)), ("flair", (GREY, WHITE, VENTRICLE)),
    ("pd", (GREY, WHITE)), ("fa", (WHITE, GREY, VENTRICLE)), ("ct", (GREY, WHITE, VENTRICLE))])
@pytest.mark.parametrize("site", range(len(brain.SITES)))
def test_contrasts_order_the_tissues(contrast, order, site):
    c = brain.cohort(3, 64, 4, "slice", contrast, noisy=False, site=site, level=20.0)
    mean = [float(c.image[:, 0][c.mask == k].mean()) for k in order]
    assert mean == sorted(mean, reverse=True)


def test_lesions_look_as_on_a_scan():
    c = brain.cohort(12, 64, 5, "slice", ("flair", "t2", "ct"), noisy=False, skull=False, age=75.0,
                     prevalence={"white matter lesion": 1.0, "infarct": 1.0, "haemorrhage": 1.0})
    flair, t2, ct = (c.image[:, k] for k in range(3))
    assert flair[c.mask == HYPER].mean() > 1.25 * flair[c.mask == WHITE].mean()
    assert t2[c.mask == INFARCT].mean() > 1.5 * t2[c.mask == WHITE].mean()
    assert 0.055 < ct[c.mask == BLEED].mean() < 0.09  # HU / 1000
    none = brain.cohort(4, 32, 5, "slice", prevalence={"white matter lesion": 0.0})
    assert none.mask.max() <= VENTRICLE
    assert none.label.sum() == 0
    assert none.box.isnan().all()
    x0, y0, x1, y1 = c.box[0, 2].int().tolist()
    assert (c.mask[0] == BLEED)[y0:y1, x0:x1].sum() == (c.mask[0] == BLEED).sum() > 0


def test_a_finding_can_be_confounded_per_patient():
    sick = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    c = brain.cohort(6, 48, 6, "slice", site=sick.long(), prevalence={"infarct": sick}, lesion_mm=(9.0, 12.0))
    assert torch.equal(c.label[:, 1], sick)
    assert torch.equal(c.meta["site"], sick.long())


def test_one_brain_on_three_scanners():
    a, b, c = (brain.cohort(2, 48, 7, "slice", site=s) for s in range(3))
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.mask, c.mask)
    assert (a.image - b.image).abs().mean() > 0.01
    air = (a.mask == 0) & (a.image[:, 0] < 0.1)
    pair = torch.stack([a.image[:, 0][air], b.image[:, 0][air]])
    assert torch.corrcoef(pair)[0, 1] < 0.3  # each scanner has its own noise
    assert c.image[:, 0, :6, :6].std() > 1.5 * a.image[:, 0, :6, :6].std()


def test_noise_is_rician():
    c = brain.cohort(4, 64, 8, "slice", site=2, level=60.0)
    corner = c.image[:, 0, :8, :8]
    sigma = brain.SITES[2]["noise"]
    assert float(corner.mean()) == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.1)  # Rayleigh in air
    assert corner.min() >= 0


def test_skull_comes_with_ct():
    c = brain.cohort(2, 48, 9, "slice", ("t1", "ct"), level=30.0, noisy=False)
    assert (c.image[:, 1] > 0.4).flatten(1).sum(1).min() > 80
    assert c.image[:, 1].min() == pytest.approx(-1.0)
    bare = brain.cohort(2, 48, 9, "slice", level=30.0, noisy=False)
    assert torch.equal(bare.mask, c.mask)
    assert (bare.image[:, 0] > 0.05).sum() < (c.image[:, 0] > 0.05).sum()


def test_thick_slices_are_smoother():
    thin, thick = (brain.cohort(3, 48, 10, "slice", thickness=mm, noisy=False, level=20.0) for mm in (0.0, 16.0))
    assert thick.image.diff(dim=-1).abs().mean() < 0.95 * thin.image.diff(dim=-1).abs().mean()


@pytest.mark.parametrize(("kind", "size"), [("slice", 64), ("volume", 40)])
def test_atrophy_widens_the_ventricles_as_prescribed(kind, size):
    key = "ventricle_cm2" if kind == "slice" else "ventricle_ml"
    options = {"level": 20.0} if kind == "slice" else {}
    area = torch.stack([brain.cohort(3, size, 11, kind, atrophy=a, **options).meta[key] for a in (-0.3, 0, 0.3, 0.9)])
    assert (area.diff(dim=0) > 0).all()
    assert float((area[2] / area[1]).mean()) == pytest.approx(math.exp(0.3), rel=0.15)


def test_visits_progress_and_treated_lesions_shrink():
    c, treated = (brain.cohort(3, 32, 12, "slice", visits=3, prevalence={"infarct": 1.0, "white matter lesion": 0.0},
                               progress=rate, lesion_mm=(12.0, 16.0)) for rate in (4.0, -4.0))
    assert c.patient.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert c.visit.tolist() == [0, 1, 2] * 3
    day = c.meta["day"].view(3, 3)
    assert (day[:, 0] == 0).all()
    assert (day.diff(dim=1) > 59).all()
    area = (c.mask == INFARCT).flatten(1).sum(1).view(3, 3)
    assert (area[:, 2] > area[:, 0]).all()
    less = (treated.mask == INFARCT).flatten(1).sum(1).view(3, 3)
    assert (less[:, 2] < less[:, 0]).all()
    assert torch.equal(less[:, 0], area[:, 0])  # the first visit is the same


@pytest.mark.parametrize("kind", ["slice", "volume"])
def test_tumours_grow_on_tissue_only(kind):
    c = brain.cohort(3, 32, 13, kind, ("flair", "t1ce"), visits=2, prevalence={"tumour": 1.0}, noisy=False)
    density = c.meta["density"]
    early, late = density[::2].flatten(1), density[1::2].flatten(1)
    assert (late.sum(1) > early.sum(1)).all()
    assert density.min() >= 0
    assert density.max() <= 1
    assert torch.equal(c.mask == CORE, density >= growth.CORE)
    assert (density[c.mask == VENTRICLE] < growth.OEDEMA).all()
    pixels = c.image if kind == "slice" else c.volume
    assert pixels[:, 0][c.mask == OEDEMA].mean() > 1.15 * pixels[:, 0][c.mask == WHITE].mean()
    assert (c.meta["tumour_rate"] > 0).all()
    assert brain.cohort(2, 24, 13, kind, prevalence={"tumour": 0.0}).meta.get("density") is None


def test_age_of_a_tumour_can_be_asked_of_the_template():
    c = brain.cohort(1, 64, 14, "slice", variation=0.0, tilt=0.0, atrophy=0.0, level=20.0,
                     prevalence={"white matter lesion": 0.0})
    d = growth.diffusivity((c.mask == GREY).float(), (c.mask == WHITE).float(), torch.tensor([0.3]))
    assert (d[c.mask == VENTRICLE] == 0).all()
    assert torch.allclose(d[c.mask == GREY], torch.tensor(0.03))


# ---- pairs

@pytest.mark.parametrize("kind", ["slice", "volume"])
def test_the_moving_image_warped_is_the_fixed_image(kind):
    size = 64 if kind == "slice" else 40
    fixed, moving = brain.pair(2, size, 15, kind, noisy=False, prevalence={"white matter lesion": 0.0})
    a, b = ((c.image if kind == "slice" else c.volume) for c in (fixed, moving))
    u = fixed.meta["displacement"]
    before, after = (a - b).abs().mean(), (a - warp.apply(b, u)).abs().mean()
    assert after < 0.45 * before
    at = fixed.landmark.long()
    step = torch.stack([torch.stack([u[i][(slice(None), *reversed(p.tolist()))] for p in at[i]]) for i in range(2)])
    assert torch.allclose(moving.landmark, fixed.landmark + step, atol=1e-4)
    assert (fixed.landmark >= 0).all()
    assert (fixed.landmark <= size - 1).all()


def test_amplitude_and_velocity_set_the_warp():
    small, large = (brain.pair(2, 32, 16, amplitude=a)[0].meta["displacement"].norm(dim=1).amax() for a in (1.0, 4.0))
    assert 2 < large / small < 6
    velocity = warp.expansion((32, 32), torch.full((2, 2), 15.5), 4.0, 1.5)
    fixed, _ = brain.pair(2, 32, 16, velocity=velocity)
    assert fixed.meta["jacobian"][:, 15, 15] == pytest.approx(torch.tensor([1.5, 1.5]), rel=0.02)


def test_a_tumour_in_the_moving_image_only_or_smaller_in_the_fixed():
    fixed, moving = brain.pair(3, 48, 17, tumour=(0.0, 1.0), amplitude=2.0)
    assert (fixed.mask < OEDEMA).all()
    assert ((moving.mask >= OEDEMA).flatten(1).sum(1) > 10).all()
    fixed, moving = brain.pair(3, 48, 17, tumour=(0.8, 1.0), amplitude=0.01)
    small, large = ((c.mask >= OEDEMA).flatten(1).sum(1) for c in (fixed, moving))
    assert (small > 0).all()
    assert (small < large).all()


def test_pairs_may_differ_in_contrast_and_show_the_patients_of_the_cohort():
    fixed, moving = brain.pair(2, 48, 18, contrast=("t1", "fa"), amplitude=1e-4, noisy=False)
    assert fixed.names["image"] == ("t1",)
    assert moving.names["image"] == ("fa",)
    alone = brain.cohort(2, 48, 18, "slice", ("t1", "fa"), noisy=False)
    assert torch.allclose(fixed.image[:, 0], alone.image[:, 0], atol=0.01)
    assert torch.allclose(moving.image[:, 0], alone.image[:, 1], atol=0.01)


# ---- every patient stands alone

@pytest.mark.parametrize("options", [{"kind": "volume", "prevalence": {"tumour": 0.5}}, {"kind": "slice", "site": None},
                                     {"kind": "slice", "visits": 2, "prevalence": {"tumour": 0.5, "infarct": 0.5}}])
def test_a_patient_does_not_depend_on_the_cohort(options):
    few, many = (brain.cohort(n, 24, 19, **options) for n in (3, 7))
    rows = len(few)
    for key, column in few.columns().items():
        if key != "mask":
            assert torch.allclose(column.float(), many.columns()[key][:rows].float(), atol=2e-3, equal_nan=True), key
    assert (few.mask != many.mask[:rows]).float().mean() < 1e-3


def test_a_pair_does_not_depend_on_the_cohort():
    few, many = (brain.pair(n, 24, 20, tumour=(0.0, 1.0))[1] for n in (2, 5))
    assert torch.allclose(few.image, many.image[:2], atol=2e-3)


@pytest.mark.parametrize(("options", "words"), [
    ({"kind": "mesh"}, "kind must be"), ({"contrast": "pet"}, "contrasts among"), ({"plane": "tilted"}, "plane one of"),
    ({"prevalence": {"stroke": 1.0}}, "choose from white matter lesion"), ({"site": 7}, "site must be a number"),
    ({"visits": 40}, "visits must be from 1 to 12")])
def test_bad_input_says_what_to_do(options, words):
    with pytest.raises(ValueError, match=words):
        brain.cohort(1, 16, **options)
