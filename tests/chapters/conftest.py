"""Fixtures for the tests of the chapters' own definitions."""

import pytest
import torch

from medtutor.notebook import definitions


@pytest.fixture(scope="module")
def ch(request):
    """The definitions of the chapter that the test file is named after, such as 01 for test_01_mpu_net.py."""
    return definitions(request.path.name.split("_")[1])


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state and leaves no trace in it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
