"""The training loop: it learns, repeats, resumes, and gives in two processes what it gives in one."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from medtutor import train
from medtutor.cohort import Cohort


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def cases(n=20, seed=0, volume=False):
    """Noise whose label is whether its mean is positive."""
    shape = (n, 1, 4, 6, 6) if volume else (n, 1, 8, 8)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(shape, generator=generator) + torch.randn(n, *[1] * (len(shape) - 1), generator=generator)
    label = (pixels.flatten(1).mean(1) > 0).float()
    return Cohort(volume=pixels, label=label) if volume else Cohort(image=pixels, label=label)


def network(seed=0, norm=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(),
                         nn.Dropout(0.2 if norm else 0.0), nn.Flatten(), nn.Linear(144, 1), nn.Flatten(0))


def bce(model, batch):
    pixels = batch.image if batch.image is not None else batch.volume
    return nn.functional.binary_cross_entropy_with_logits(model(pixels), batch.label)


def jitter(batch, generator):
    """Adds noise from the generator that the loop gives."""
    from dataclasses import replace

    return replace(batch, image=batch.image + 0.1 * torch.randn(batch.image.shape, generator=generator))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_loss_falls_and_the_cost_is_recorded(accelerator):
    model = network()
    fit = train.fit(model, cases(), bce, accelerator=accelerator, epochs=15, batch=8, lr=1e-2)
    assert len(fit.losses) == 15
    assert fit.losses[-1] < 0.5 * fit.losses[0]
    assert fit.seconds > 0
    assert fit.parameters == 4 * 9 + 4 + 8 + 144 + 1
    assert not fit.model.training
    right = (train.predict(fit.model, cases()) > 0).float() == cases().label
    assert right.float().mean() > 0.9


def test_a_loss_is_the_mean_over_the_cases_of_its_epoch(accelerator):
    # With no learning to speak of, the recorded loss is that of the untrained model, whatever the batches.
    model = network(norm=False)
    expected = float(bce(model, cases(21)).detach())
    for batch in (4, 5, 21, 50):
        fit = train.fit(copy.deepcopy(model), cases(21), bce, accelerator=accelerator, epochs=1, batch=batch, lr=1e-12)
        assert fit.losses[0] == pytest.approx(expected, rel=1e-5)


def test_same_seed_same_weights_other_seed_others(accelerator):
    def trained(seed):
        return train.fit(network(), cases(), bce, accelerator=accelerator, epochs=3, batch=8, augment=jitter, seed=seed)

    first = trained(1)
    torch.rand(3)  # the state of the global generator does not matter
    again, other = trained(1), trained(2)
    assert same(first.model, again.model)
    assert first.losses == again.losses
    assert not same(first.model, other.model)


def test_an_interrupted_training_ends_at_the_weights_of_an_unbroken_one(accelerator, tmp_path):
    options = {"accelerator": accelerator, "epochs": 4, "batch": 8, "lr": 1e-2, "seed": 3}
    unbroken = train.fit(network(), cases(), bce, augment=jitter, **options)
    calls = []

    def interrupted(batch, generator):
        calls.append(1)
        if len(calls) == 8:  # in the middle of the third epoch of three batches
            raise KeyboardInterrupt
        return jitter(batch, generator)

    path = tmp_path / "runs" / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train.fit(network(), cases(), bce, augment=interrupted, checkpoint=path, **options)
    assert list(path.parent.iterdir()) == [path]
    resumed = train.fit(network(seed=9), cases(), bce, augment=jitter, checkpoint=path, **options)
    assert same(resumed.model, unbroken.model)
    assert resumed.losses == unbroken.losses

    def not_called(batch, generator):
        raise AssertionError("a finished training trained again")

    finished = train.fit(network(seed=9), cases(), bce, augment=not_called, checkpoint=path, **options)
    assert same(finished.model, unbroken.model)
    assert finished.seconds >= torch.load(path, weights_only=True)["seconds"] > 0


@pytest.mark.parametrize("change", [{"epochs": 3}, {"batch": 4}, {"lr": 2e-3}, {"seed": 5}])
def test_a_checkpoint_of_another_recipe_is_ignored(accelerator, tmp_path, change):
    options = {"accelerator": accelerator, "epochs": 2, "batch": 8, "lr": 1e-3, "seed": 0}
    train.fit(network(), cases(), bce, checkpoint=tmp_path / "state.pt", **options)
    with_file = train.fit(network(), cases(), bce, checkpoint=tmp_path / "state.pt", **options | change)
    assert same(with_file.model, train.fit(network(), cases(), bce, **options | change).model)


@pytest.mark.parametrize("content", ["nothing", "text", "half"])
def test_a_damaged_checkpoint_is_one_sentence(accelerator, tmp_path, content):
    path = tmp_path / "state.pt"
    train.fit(network(), cases(), bce, accelerator=accelerator, epochs=1, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes({"nothing": b"", "text": b"no checkpoint", "half": whole[: len(whole) // 2]}[content])
    with pytest.raises(ValueError, match="state.pt is not a readable checkpoint; delete it to train from the start"):
        train.fit(network(), cases(), bce, accelerator=accelerator, epochs=1, checkpoint=path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_malicious_pickle_is_refused_and_not_executed(accelerator, tmp_path):
    path, trap = tmp_path / "state.pt", tmp_path / "executed"
    torch.save({"recipe": Malicious(str(trap))}, path)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        train.fit(network(), cases(), bce, accelerator=accelerator, epochs=1, checkpoint=path)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()  # the trap works: an unsafe load springs it


def test_one_step_learns(accelerator):
    model = network(norm=False)
    before = copy.deepcopy(model)
    fit = train.fit(model, cases(8), bce, accelerator=accelerator, epochs=1, batch=8, lr=1e-2)
    assert (fit.model[0].weight - before[0].weight).abs().max() > 1e-3


def test_frozen_parameters_are_neither_counted_nor_changed(accelerator):
    model = network()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model)
    fit = train.fit(model, cases(), bce, accelerator=accelerator, epochs=2, lr=1e-2)
    assert fit.parameters == train.count(before) == 8 + 145
    assert torch.equal(fit.model[0].weight, before[0].weight)
    assert not torch.equal(fit.model[5].weight, before[5].weight)


def test_strided_1x1_convolutions_of_few_channels_learn_as_without_onednn(accelerator):
    """Detects the layout in which oneDNN writes out of bounds (uxlfoundation/oneDNN issue 6035)."""
    generator, fits = torch.Generator().manual_seed(0), []
    cohort = Cohort(image=torch.randn(16, 8, 64, 64, generator=generator), label=torch.ones(16))
    for enabled in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                              nn.Linear(16, 1), nn.Flatten(0))
        with torch.backends.mkldnn.flags(enabled=enabled):
            fits.append(train.fit(model, cohort, bce, accelerator=accelerator, epochs=3, batch=8))
    for a, b in zip(fits[0].model.parameters(), fits[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_volumes(accelerator):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 1), nn.Flatten(0))
    fit = train.fit(model, cases(volume=True), bce, accelerator=accelerator, epochs=10, batch=8, lr=1e-2)
    assert fit.losses[-1] < fit.losses[0]
    assert train.predict(fit.model, cases(volume=True)).shape == (20,)


@pytest.mark.parametrize(("count", "epochs"), [(0, 1), (8, 0)])
def test_nothing_to_train_on_is_one_sentence(accelerator, count, epochs):
    with pytest.raises(ValueError, match=f"nothing to train on: {count} cases, {epochs} epochs"):
        train.fit(network(), cases(8)[:count], bce, accelerator=accelerator, epochs=epochs)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_predictions_are_the_outputs_in_evaluation_mode_and_leave_no_trace(batch):
    model, cohort = network().train(), cases()
    before, pixels = copy.deepcopy(model), cohort.image.clone()
    found = train.predict(model, cohort, batch=batch)
    with torch.no_grad():
        torch.testing.assert_close(found, before.eval()(pixels))
    assert not found.requires_grad
    assert same(model, before)
    assert torch.equal(cohort.image, pixels)
    assert torch.is_grad_enabled()


def test_predictions_of_volumes_and_of_a_forward_of_ones_own():
    cohort = cases(volume=True)
    assert torch.equal(train.predict(nn.Flatten(), cohort, batch=3), cohort.volume.flatten(1))
    found = train.predict(nn.Identity(), cohort, lambda model, batch: model(batch.label > 0), batch=3)
    assert torch.equal(found, cohort.label)
    assert found.dtype == torch.float32


SCRIPT = """
import sys
import torch
from accelerate import Accelerator
from test_train import bce, cases, network
from medtutor import train

accelerator = Accelerator(cpu=True)
fit = train.fit(network(norm=False), cases(27), bce, accelerator=accelerator, epochs=3, batch=13, lr=1e-2)
torch.save({"weights": fit.model.state_dict(), "losses": fit.losses, "kind": type(fit.model).__name__,
            "processes": accelerator.num_processes}, f"{sys.argv[1]}/{accelerator.process_index}.pt")
"""


def test_two_processes_give_the_weights_of_one(accelerator, tmp_path):
    # Batches of 13, 13 and 1 cases: shares of 7 and 6, and at the end of 1 and none.
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([*command, str(tmp_path / "script.py"), str(tmp_path)], env=environment, timeout=120,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    one = train.fit(network(norm=False), cases(27), bce, accelerator=accelerator, epochs=3, batch=13, lr=1e-2)
    start = network(norm=False).state_dict()
    for rank in (0, 1):
        two = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (two["processes"], two["kind"]) == (2, "Sequential")
        assert two["losses"] == pytest.approx(one.losses, abs=1e-6)
        for name, weight in one.model.state_dict().items():
            assert (weight - start[name]).abs().max() > 1e-3
            torch.testing.assert_close(two["weights"][name], weight, atol=1e-5, rtol=0)


def test_one_thread_ends_with_its_block():
    before = torch.get_num_threads()
    with train.one_thread():
        inside = torch.get_num_threads()
    assert (inside, torch.get_num_threads()) == (1, before)
