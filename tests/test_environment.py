"""The three descriptions of the environment agree: pyproject.toml, environment.yml and constraints.txt."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in (line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
}


def test_conda_environment_lists_what_pyproject_lists():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    options, packages = [p for p in pip if p.startswith("-")], [p for p in pip if not p.startswith("-")]
    assert options == ["-c constraints.txt", "-e .[book]"]
    assert packages == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["book"]
    assert f"python{PROJECT['requires-python']}" in dependencies


@pytest.mark.parametrize("group", ["core", "book", "test", "cluster"])
def test_every_dependency_is_pinned_at_a_version_that_its_range_allows(group):
    listed = PROJECT["dependencies"] if group == "core" else PROJECT["optional-dependencies"][group]
    for requirement in map(Requirement, listed):
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} has no exact version in constraints.txt"
        assert requirement.specifier.contains(pin), f"constraints.txt has {requirement.name} {pin}, not {requirement}"


def test_constraints_hold_exact_versions_once_each_and_no_hosts():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip()]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert len(names) == len(set(names))
