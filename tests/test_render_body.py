"""The engine: the closed-form radiograph against numerical integration, volumes, tubes, composition, determinism."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medtutor.render.body import MU_WATER, Builder, ellipsoid, half_space, rotation, tube


def at(*xyz, n=2):
    return torch.tensor([xyz], dtype=torch.float64).expand(n, 3)


def torso(n=2):
    """A trunk with a lung, a heart painted over it, a cut liver and a rib, different for each patient."""
    grow = torch.linspace(1.0, 1.2, n, dtype=torch.float64)[:, None]
    b = Builder(n, ("background", "lung", "heart", "liver", "rib"), {"ct": -1000.0})
    cut = half_space(at(0, 0, 1, n=n), at(0, 0, 110, n=n)) & half_space(at(0.3, 0, -1, n=n), at(0, 0, -110, n=n))
    b.add("trunk", ellipsoid(at(0, 0, 0, n=n), at(140, 100, math.inf, n=n)) & cut, ct=0.0)
    turn = rotation(torch.full((n,), 12.0), "y")
    lung = ellipsoid(at(55, 10, 10, n=n), at(45, 60, 80, n=n) * grow, turn)
    b.add("lung", lung, within="trunk", ct=-800.0, organ="lung")
    b.add("heart", ellipsoid(at(20, -20, -10, n=n), at(50, 40, 45, n=n)), within="trunk", over=("lung",), ct=50.0,
          organ="heart")
    flat = half_space(at(0, 0, 1, n=n), at(0, 0, -60, n=n)) & half_space(at(1, 0, 0, n=n), at(-20, 0, 0, n=n))
    b.add("liver", ellipsoid(at(-40, 0, -70, n=n), at(60, 50, 40, n=n)) & flat, within="trunk", ct=60.0, organ="liver")
    line = torch.tensor([[10.0, 80, 60], [70, 60, 50], [105, 20, 35], [100, -30, 10]]).expand(n, 4, 3)
    b.add("rib", tube(line, 5.0), within="trunk", over=("lung",), ct=900.0, organ="rib")
    return b.build()


def marched(body, angle, size, fov, step, source=math.inf):
    """The line integral by brute force: the CT summed along each ray."""
    a = math.radians(angle)
    right = torch.tensor([math.cos(a), math.sin(a), 0.0], dtype=torch.float64)
    beam = torch.tensor([math.sin(a), -math.cos(a), 0.0], dtype=torch.float64)
    axis = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * fov / size
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    origin = u[..., None] * right - v[..., None] * torch.tensor([0.0, 0, 1])
    ray = beam + origin / source
    t = torch.arange(-240, 240, step, dtype=torch.float64) + step / 2
    points = origin[:, :, None] + t[:, None] * ray[:, :, None]
    ct = body.ct(points.view(-1, 3)).view(body.n, size, size, -1)
    return (MU_WATER * (1 + ct / 1000)).sum(-1) * step * ray.norm(dim=-1)


@pytest.mark.parametrize("angle", [0, 90, 180, 33.0, -127.0])
@pytest.mark.parametrize("source", [math.inf, 900.0])
def test_radiograph_is_the_line_integral_of_the_ct(angle, source):
    body = torso()
    exact = body.xray(angle, 12, 300.0, source)
    coarse, fine = ((exact - marched(body, angle, 12, 300.0, step, source)).abs().mean() for step in (4.0, 0.5))
    assert fine < 0.005
    assert fine < coarse / 3
    assert exact.max() > 3


def random_body(seed, n=3, parts=9):
    """Parts of every kind at random places, painted over each other and absent at random, and their solids."""
    g = torch.Generator().manual_seed(seed)
    u = lambda low, high, *shape: low + (high - low) * torch.rand(n, *shape, generator=g, dtype=torch.float64)  # noqa: E731
    b, names = Builder(n, ("background", "a", "b"), {"ct": -1000.0}), []
    for k in range(parts):
        turn = rotation(u(-90, 90), "x") @ rotation(u(-90, 90), "z")
        middle, radii = u(-60, 60, 3), u(15, 60, 3)
        radii[:, 2] = torch.where(u(0, 1) < 0.3 * (k % 2), math.inf, radii[:, 2])
        shape = ellipsoid(middle, radii, turn) & half_space(u(-1, 1, 3), middle + u(-20, 20, 3))
        if k % 2:  # closed, since it may be an endless cylinder
            cap = turn[..., 2]
            shape = (shape & half_space(cap, middle + 50 * cap) & half_space(-cap, middle - 50 * cap))
        elif k % 4 == 2:
            shape = tube(torch.stack([middle, middle + u(20, 40, 3), middle + u(30, 60, 3) * 2], 1), u(8, 20))
        b.add(f"p{k}", shape, over=tuple(names[k % 3::2]), organ=(None, "a", "b")[k % 3], present=u(0, 1) < 0.8,
              ct=u(-800, 800))
        names.append(f"p{k}")
    return b, b.build()


def naive(builder, points):
    """Values and labels at points (M, 3): every part in the order of painting, by its definition."""
    n, m = builder.n, len(points)
    solids = [s.fields for s in builder.solids]
    inside = torch.ones(len(solids), n, m, dtype=torch.bool)
    for s, fields in enumerate(solids):
        form, centre, normal, offset = (torch.from_numpy(f.copy()) for f in fields[:4])
        for q in range(form.shape[1]):
            gap = points - centre[:, q, None]
            inside[s] &= torch.einsum("nmi,nij,nmj->nm", gap, form[:, q], gap) <= 1
        for h in range(normal.shape[1]):
            inside[s] &= (normal[:, h, None] * points).sum(-1) <= offset[:, h, None]
        inside[s] &= torch.from_numpy(builder.solids[s].on > 0)[:, None]
    value, label = torch.full((n, m), -1000.0, dtype=torch.float64), torch.zeros(n, m, dtype=torch.long)
    for part in builder.parts:
        here, first, sign = inside[list(part.solids)].all(0), builder.solids[part.solids[0]], (-1) ** len(part.solids)
        value -= sign * torch.from_numpy(first.delta[0])[:, None] * here
        if first.organ >= 0 and (sign > 0 or len(part.solids) == 1):
            label[here & (label == first.organ) if sign > 0 else here] = 0 if sign > 0 else first.organ
    return value, label


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_kernels_agree_with_the_definition_of_the_parts(seed):
    builder, body = random_body(seed)
    points = (torch.rand(3000, 3, generator=torch.Generator().manual_seed(seed)) * 240 - 120).double()
    value, label = naive(builder, points)
    found = body.sample(points)
    assert torch.allclose(found[0].double(), value, atol=1e-2)
    assert torch.equal(found[1], label)
    axis = (torch.arange(20, dtype=torch.float64) - 9.5) * 10
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    value, label = (t.view(3, 20, 20, 20) for t in naive(builder, torch.stack([x, y, z], -1).view(-1, 3)))
    found = body.volume(20, 200.0)
    assert torch.allclose(found[0].double(), value, atol=1e-2)
    assert torch.equal(found[1], label)


@settings(max_examples=5)
@given(st.integers(0, 2**31), st.floats(-180, 180), st.sampled_from([math.inf, 700.0, 400.0]))
def test_film_of_random_parts_is_their_integral(seed, angle, source):
    _, body = random_body(seed)
    exact = body.xray(angle, 10, 300.0, source)
    assert (exact - marched(body, angle, 10, 300.0, 0.5, source)).abs().mean() < 0.01


def test_what_covers_an_organ_without_name_takes_its_label():
    b = Builder(1, ("background", "lung", "heart"), {"ct": -1000.0})
    b.add("lung", ellipsoid(at(0, 0, 0, n=1), at(60, 60, 60, n=1)), ct=-800.0, organ="lung")
    b.add("heart", ellipsoid(at(0, 0, 0, n=1), at(40, 40, 40, n=1)), over=("lung",), ct=50.0, organ="heart")
    b.add("pacemaker", ellipsoid(at(0, 0, 0, n=1), at(15, 15, 15, n=1)), over=("lung", "heart"), ct=3000.0)
    points = torch.tensor([[50.0, 0, 0], [30, 0, 0], [5, 0, 0]])
    value, label = b.build().sample(points)
    assert value[0].tolist() == pytest.approx([-800, 50, 3000])
    assert label[0].tolist() == [1, 2, 0]


def test_a_ray_that_starts_inside_a_part_only_leaves_it():
    b = Builder(1, ("background",), {"ct": -1000.0})
    b.add("room", ellipsoid(at(0, 0, 0, n=1), at(500, 500, 500, n=1)), ct=0.0)
    middle = b.build().xray("PA", 3, 30.0, 200.0)[0, 1, 1]  # from the source, 200 mm before the centre, to the far wall
    assert middle == pytest.approx(700 * MU_WATER, rel=1e-3)


def test_patients_and_threads_are_independent():
    _, body = random_body(0)
    whole = body.film("AP", 24, 300.0, 700.0, ("a", "b"))
    alone = body[1:2].film("AP", 24, 300.0, 700.0, ("a", "b"))
    assert all(torch.equal(w[1:2], a) for w, a in zip(whole, alone, strict=True))
    before, threads = body.slice(5.0, 24, 200.0), torch.get_num_threads()
    torch.set_num_threads(3)
    after = body.slice(5.0, 24, 200.0)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_ap_is_the_mirror_of_pa():
    body = torso()
    assert torch.allclose(body.xray(0, 32), body.xray(180, 32).flip(-1), atol=1e-4)
    assert torch.allclose(body.xray("PA", 32), body.xray("AP", 32), atol=1e-4)
    near = body.projected("heart", "AP", 64, source=600.0).sum((1, 2))
    assert (near > body.projected("heart", "PA", 64, source=600.0).sum((1, 2))).all()  # closer to the source: larger


def test_windows_do_not_change_the_picture():
    body = torso()
    wide = body.xray("PA", 48, 900.0)  # every part fits a small window
    narrow = body.xray("PA", 16, 300.0)  # nearly none does
    assert torch.allclose(wide[:, 16:32, 16:32], narrow, atol=2e-3)


@settings(max_examples=20)
@given(st.tuples(*[st.floats(20, 60)] * 3), st.floats(-60, 60), st.sampled_from("xyz"))
def test_ellipsoid_volume_and_shadow(radii, degrees, axis):
    b = Builder(1, ("background", "ball"), {"ct": -1000.0})
    turn = rotation(torch.tensor([degrees]), axis)
    b.add("ball", ellipsoid(at(3, -4, 5, n=1), at(*radii, n=1), turn), ct=0.0, organ="ball")
    body = b.build()
    volume = 4 / 3 * math.pi * math.prod(radii)
    voxels = (body.volume(48, 150.0)[1] == 1).sum() * (150 / 48) ** 3
    assert voxels == pytest.approx(volume, rel=0.04)
    line = body.xray(20.0, 96, 160.0).sum() * (160 / 96) ** 2 / MU_WATER
    assert line == pytest.approx(volume, rel=0.01)
    inverse = turn[0] @ torch.diag(torch.tensor(radii, dtype=torch.float64) ** 2) @ turn[0].T
    shadow = math.pi * torch.linalg.det(inverse[[0, 2]][:, [0, 2]]).sqrt()  # onto x, z
    assert body.projected("ball", "PA", 96, 160.0).sum() * (160 / 96) ** 2 == pytest.approx(float(shadow), rel=0.02)


def test_tube_keeps_its_value_through_joints():
    line = torch.tensor([[[0.0, 0, 0], [30, 10, 0], [50, 35, 15], [45, 60, 40]]], dtype=torch.float64)
    b = Builder(1, ("background", "vessel"), {"ct": -1000.0})
    b.add("vessel", tube(line, 6.0), ct=300.0, organ="vessel")
    body = b.build()
    along = torch.cat([torch.lerp(a, c, w) for a, c in zip(line[0], line[0, 1:], strict=False)
                       for w in torch.linspace(0.02, 1, 50, dtype=torch.float64)[:, None]]).view(-1, 3)[:-1]
    ball = torch.randn(len(along), 3, generator=torch.Generator().manual_seed(0)).double()
    off = along + ball / ball.norm(dim=1, keepdim=True) * 1.5
    off = off[2:-2]
    values = body.ct(off)
    assert torch.allclose(values, torch.full_like(values, 300.0))
    around = body.ct(off + 4 * ball[2:-2])
    assert set(around.unique().round().tolist()) <= {-1000.0, 300.0}


def test_composition_shows_the_last_painted_value():
    body = torso()
    points = torch.tensor([[30.0, -10, 0], [55, 40, 20], [-60, 0, -75], [0, 0, 90], [0, 0, 200]], dtype=torch.float64)
    value, organ = body.sample(points)
    assert value[0].tolist() == pytest.approx([50, -800, 60, 0, -1000], abs=0.01)
    assert [body.organs[k] for k in organ[0]] == ["heart", "lung", "liver", "background", "background"]
    grid = (torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 300 - 150).double()
    assert set(body.ct(grid).round().unique().tolist()) == {-1000.0, -800.0, 0.0, 50.0, 60.0, 900.0}


def test_projected_mask_is_the_shadow_of_the_labels():
    body = torso()
    _, label = body.volume(48, 240.0)
    for organ in ("heart", "liver"):
        seen = (label == body.organs.index(organ)).any(2).flip(1)  # along y; image rows run from the head down
        mask = body.projected(organ, "PA", 48, 240.0)
        assert (seen & ~mask).sum() == 0
        assert (mask & ~seen).float().mean() < 0.02


def test_absent_parts_leave_no_trace():
    b = Builder(2, ("background", "ball"), {"ct": -1000.0})
    b.add("trunk", ellipsoid(at(0, 0, 0), at(90, 90, 90)), ct=0.0)
    b.add("ball", ellipsoid(at(0, 0, 0), at(30, 30, 30)), within="trunk", ct=60.0, organ="ball",
          present=torch.tensor([True, False]))
    body = b.build()
    assert body.projected("ball", size=32).flatten(1).any(1).tolist() == [True, False]
    value, label = body.slice(0.0, 32, 200.0)
    assert label.flatten(1).amax(1).tolist() == [1, 0]
    assert value[1].max() == 0


def test_moving_the_body_moves_the_ct():
    body, points = torso(), (torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 200 - 100).double()
    turn, shift = rotation(torch.tensor([25.0]), "z")[0], torch.tensor([5.0, -7, 11], dtype=torch.float64)
    assert torch.allclose(body.moved(turn, shift).ct(points @ turn.T + shift), body.ct(points), atol=1e-3)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1]))
    assert torch.allclose(body.moved(mirror).xray("PA", 32), body.xray("PA", 32).flip(-1), atol=1e-4)


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="view must be one of"):
        torso().xray("oblique")
    with pytest.raises(ValueError, match="add that first"):
        Builder(2, ("background",), {"ct": -1000.0}).add("liver", ellipsoid(at(0, 0, 0), at(1, 1, 1)), within="trunk")


def test_same_in_another_process():
    code = """
import hashlib
from medtutor.phantom import abdomen, thorax, wound
for made in (thorax.cohort(2, 32), abdomen.cohort(2, 32, 0, "mr"), wound.cohort(2, 32)):
    print(hashlib.sha256(made.image.numpy().tobytes()).hexdigest())
"""
    run = [sys.executable, "-c", code]
    found = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in "ab"}
    assert len(found) == 1
    assert len(set(found.pop().split())) == 3


def test_threads_change_nothing_and_survive_a_fork():
    code = """
import os, threading, numpy, torch
from medtutor.render import kernels
def draw():
    out = numpy.empty((500, 40), "f")
    kernels.spread(kernels.random, 500, numpy.uint64(3), out)
    return out
alone = draw()
torch.set_num_threads(3)
assert (draw() == alone).all()
assert threading.active_count() == 1  # nothing is left that could spin
child = os.fork()
if not child:
    os._exit(0 if (draw() == alone).all() else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_compiles_where_no_cache_can_be_written(tmp_path):
    import medtutor.render

    source = Path(medtutor.render.__file__).parent / "kernels.py"
    (tmp_path / "kernels.py").write_bytes(source.read_bytes())
    (tmp_path / "__pycache__").write_text("in the way of numba's cache")
    (tmp_path / "home").write_text("in the way of the user's cache")
    code = "import numpy, kernels; x = numpy.ones((1, 4), 'f'); kernels.random(0, 1, numpy.uint64(1), x); print(x)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                         env={"PATH": "", "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home")})
    assert run.stdout.startswith("[[0.")


def test_importing_the_package_is_cheap():
    code = "import sys, medtutor.phantom; print('torch' in sys.modules, 'medtutor.render.body' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
