"""Organ surfaces: meshes against voxels and bodies, areas, clouds, poses, crops, scenes, gaps."""

import subprocess
import sys

import pytest
import torch

from medtutor.phantom import surfaces

HASH = """
import hashlib
from medtutor.phantom import surfaces
c = surfaces.cohort(2, 16, 3, ("spleen", "heart"), 162, 64)
text = hashlib.sha256(b"".join(t.numpy().tobytes() for t in (c.landmark, c.volume, c.meta["points"]))).hexdigest()
"""


@pytest.fixture(scope="module")
def few():
    return surfaces.cohort(4, 48, 1, noisy=False)


def test_fields_units_and_order(few):
    assert few.landmark.shape == (32, 642, 3)
    assert few.volume.shape == (32, 1, 48, 48, 48)
    assert few.meta["points"].shape == few.meta["normals"].shape == (32, 256, 3)
    assert set(few.volume.unique().tolist()) == {0, 1}
    assert few.label.tolist() == list(range(8)) * 4
    assert few.patient.tolist() == [i for i in range(4) for _ in range(8)]
    assert all(few.meta[key].isfinite().all() for key in ("points", "normals", "area_cm2", "volume_ml", "centre"))
    assert few.units["landmark"] == "mm"


def test_the_mesh_holds_the_volume_of_the_voxels(few):
    voxels = few.volume.sum((1, 2, 3, 4)) * few.meta["spacing"] ** 3 / 1000
    share = (few.meta["volume_ml"] / voxels).view(4, 8)
    assert (share > 0.94).all()
    assert (share < 1.08).all()
    assert (share.std(0) < 0.02).all()


def test_organs_have_the_sizes_of_organs(few):
    millilitre = few.meta["volume_ml"].view(4, 8).mean(0)
    for k, (low, high) in enumerate(((900, 2500), (80, 400), (80, 260), (80, 260), (100, 600), (400, 1400),
                                     (1500, 6000), (1500, 6000))):
        assert low < millilitre[k] < high
    centre = few.meta["centre"].view(4, 8, 3)
    assert (centre[:, [0, 2, 6], 0] < 0).all()  # liver, right kidney and right lung on the right
    assert (centre[:, [1, 3, 7], 0] > 0).all()
    assert (centre[:, 5:, 2] > centre[:, :5, 2].amax(1, keepdim=True)).all()  # the chest above the belly


def test_vertices_lie_on_the_surface_of_the_voxels(few):
    """Occupancy just inside and just outside of every vertex, read from the grid."""
    def inside(share):
        spot = few.landmark * share / few.meta["spacing"][:, None, None] + 23.5
        x, y, z = spot.round().long().clamp(0, 47).unbind(-1)
        return few.volume[torch.arange(32)[:, None], 0, z, y, x]

    assert inside(0.9).mean() > 0.95
    assert inside(1.1).mean() < 0.03


def test_vertices_have_the_same_direction_in_every_patient(few):
    ways, faces = surfaces.sphere(642)
    assert torch.allclose(torch.nn.functional.normalize(few.landmark, dim=-1), ways.float(), atol=1e-4)
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len({tuple(sorted(e)) for e in edges.tolist()}) * 2 == len(edges)  # closed: each edge twice
    assert 642 - len(edges) // 2 + len(faces) == 2  # Euler: a sphere


def test_cliffs_become_slopes_and_what_is_round_stays():
    ways, faces = surfaces.sphere(2562)
    round_ = 1 / (ways / torch.tensor([30.0, 25.0, 60.0])).norm(dim=1)[None]  # an ellipsoid as long as a kidney
    assert torch.allclose(surfaces._eased(round_, faces), round_, rtol=1e-6)
    spike = torch.full((1, 2562), 30.0).double()
    spike[0, 7] = 60.0
    assert surfaces._eased(spike, faces).max() - 30 < 0.2 * 30
    cliff = torch.where(ways[:, 0] > 0.1, 30.0, 60.0)[None]
    eased, edge = surfaces._eased(cliff, faces), faces[:, :2]
    steps = [(one[0, edge[:, 0]] / one[0, edge[:, 1]]).log().abs().max() for one in (cliff, eased)]
    assert steps[1] < 0.5 * steps[0]
    far = (ways[:, 0] - 0.1).abs() > 0.5
    assert torch.equal(eased[0, far], cliff[0, far])


@pytest.mark.parametrize("vertices", [42, 162, 642])
def test_area_and_volume_of_a_sphere_converge(vertices):
    ways, faces = surfaces.sphere(vertices)
    chance = torch.rand(1, 4000, 3, generator=torch.Generator().manual_seed(0)).double()
    place, normal, area, volume = surfaces._scattered(30 * ways[None], faces, chance)
    error = {42: 0.15, 162: 0.04, 642: 0.01}[vertices]
    assert abs(area / (4 * torch.pi * 900) - 1) < error
    assert abs(volume / (4 / 3 * torch.pi * 27000) - 1) < 1.5 * error
    assert (place.norm(dim=-1) <= 30 + 1e-6).all()
    assert ((place * normal).sum(-1) > 0.9 * place.norm(dim=-1)).all()  # outward
    octant = ((place[0] > 0) * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8)
    assert ((octant - 500) ** 2 / 500).sum() < 24.3  # chi-square, 7 degrees of freedom, 1 in 1000


def test_points_lie_on_the_mesh_and_noise_moves_them_along_the_normal(few):
    noisy = surfaces.cohort(4, 16, 1)
    gap = noisy.meta["points"] - few.meta["points"]
    along = (gap * few.meta["normals"]).sum(-1)
    assert torch.allclose(gap, along[..., None] * few.meta["normals"], atol=1e-3)
    assert 0.35 < along.std() < 0.45
    assert torch.allclose(few.meta["normals"].norm(dim=-1), torch.ones(32, 256), atol=1e-5)


def test_patients_do_not_depend_on_the_cohort_the_organs_or_the_size(few):
    many = surfaces.cohort(7, 16, 1, organs=("heart", "liver"), noisy=False)
    for k, organ in ((5, 0), (0, 1)):
        assert torch.allclose(many.landmark[organ::2][:4], few.landmark[k::8], atol=1e-3)
        assert torch.allclose(many.meta["points"][organ::2][:4], few.meta["points"][k::8], atol=1e-2)
    assert not torch.allclose(few.landmark[0], few.landmark[8], atol=1)
    assert not torch.allclose(surfaces.cohort(1, 16, 2, ("liver",)).landmark[0], few.landmark[0], atol=1)


def test_every_process_makes_the_same():
    here = {}
    exec(HASH, here)  # our own text above
    there = subprocess.run([sys.executable, "-c", f"{HASH}print(text)"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here["text"]


def test_poses_keep_distances_and_crops_keep_their_share(few):
    there = surfaces.posed(few, 1.0, 0.5, seed=4)
    turn, zoom = there.meta["turn"], there.meta["zoom"]
    assert torch.allclose(turn @ turn.mT, torch.eye(3).expand(32, 3, 3), atol=1e-5)
    assert torch.allclose(torch.det(turn), torch.ones(32), atol=1e-5)
    assert (zoom.sub(1).abs() <= 0.2).all()
    back = there.landmark @ turn / zoom[:, None, None]
    assert torch.allclose(back, few.landmark, atol=1e-2)
    assert torch.allclose(torch.cdist(there.meta["points"], there.meta["points"]),
                          torch.cdist(few.meta["points"], few.meta["points"]) * zoom[:, None, None], atol=0.2)
    assert (there.meta["kept"].sum(1) == 128).all()
    kept, lost = (there.meta["points"][m].view(32, 128, 3).mean(1)
                  for m in (there.meta["kept"], ~there.meta["kept"]))
    assert ((kept - lost).norm(dim=1) > 15).all()  # a half, not a random half
    still = surfaces.posed(few, 0.0, 0.0)
    assert torch.allclose(still.landmark, few.landmark, atol=1e-4)
    assert still.meta["kept"].all()


def test_scenes_hold_organs_of_one_patient_as_they_lie(few):
    two = surfaces.scene(few, 2, seed=1)
    assert two.landmark.shape == (4, 1284, 3)
    assert two.meta["points"].shape == (4, 512, 3)
    for i in range(4):
        one, other = two.meta["part"][i, 0], two.meta["part"][i, 256]
        assert one != other
        assert two.meta["part"][i].unique().numel() == 2
        gap = two.landmark[i, 642:] - two.landmark[i, :642]
        rows = few.landmark[8 * i + other] + few.meta["centre"][8 * i + other] - few.meta["centre"][8 * i + one]
        assert torch.allclose(gap, rows - few.landmark[8 * i + one], atol=1e-2)
    assert len({tuple(p.unique().tolist()) for p in two.meta["part"]}) > 1
    assert surfaces.posed(two, 1.0).meta["points"].shape == (4, 512, 3)


def test_completion_leaves_one_organ_out():
    c = surfaces.completion(12, 24, 2)
    assert c.volume.shape == (12, 6, 24, 24, 24)
    full = torch.stack([c.mask == k for k in range(1, 7)], 1)
    rows = torch.arange(12)
    assert (c.volume[rows, c.label] == 0).all()
    assert full[rows, c.label].flatten(1).any(1).all()
    shown = full.clone()
    shown[rows, c.label] = False
    assert torch.equal(c.volume.bool(), shown)
    assert c.label.unique().numel() > 3
    assert torch.equal(surfaces.completion(5, 24, 2).mask, c.mask[:5])


def test_bodies_of_one_stature_couple_their_organs():
    c = surfaces.cohort(24, 16, 5, ("liver", "heart", "right kidney"), 42, 16)
    size = c.meta["volume_ml"].view(24, 3).log()
    assert torch.corrcoef(size.T)[0, 2] > 0.3


def test_shaded_pictures_show_the_organ():
    c = surfaces.shaded(surfaces.cohort(1, 16, 0, points=4000, noisy=False), 32)
    assert c.image.shape == (8, 1, 32, 32)
    assert c.image.min() >= 0
    assert c.image.max() <= 1
    assert ((c.image > 0).float().mean((1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize(("call", "words"), [
    (lambda: surfaces.cohort(1, organs=("brain",)), "choose organs from liver"),
    (lambda: surfaces.cohort(1, vertices=100), "42, 162, 642 or 2562"),
    (lambda: surfaces.scene(surfaces.cohort(1, 8, organs=("heart",), vertices=42), 2), "count must be from 1 to 1"),
    (lambda: surfaces.posed(surfaces.cohort(1, 8, organs=("heart",), vertices=42), 2.0), "pose must be from 0 to 1"),
    (lambda: surfaces.posed(surfaces.cohort(1, 8, organs=("heart",), vertices=42), 0, 1.0), "crop from 0 to below 1"),
    (lambda: surfaces.completion(1, organs=("tail",)), "choose organs from"),
])
def test_bad_input_says_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()
