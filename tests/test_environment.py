"""The three descriptions of the environment agree, and the package stays small enough to read."""

import ast
import io
import re
import tokenize
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


@pytest.mark.parametrize("group", ["core", "book", "grading", "test", "cluster"])
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


def code_lines(path):
    """Lines that hold code: no blank lines, comments or docstrings."""
    source = path.read_text(encoding="utf-8")
    notes = {line for node in ast.walk(ast.parse(source)) if hasattr(node, "body") and isinstance(node.body, list)
             for text in node.body[:1] if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
             for line in range(text.lineno, text.end_lineno + 1)}
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    return len({line for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in skipped
                for line in range(token.start[0], token.end[0] + 1)} - notes)


def test_the_package_can_be_read_in_an_afternoon():
    files = sorted((ROOT / "medtutor").rglob("*.py"))
    phantom = {path for path in files if "phantom" in path.parts}
    language = {path for path in files if "language" in path.parts}
    render = {path for path in files if "render" in path.parts}
    grading = {path for path in files if "grading" in path.parts}
    assert sum(map(code_lines, set(files) - phantom - language - render - grading)) <= 3000
    assert sum(map(code_lines, phantom)) <= 3500
    assert sum(map(code_lines, language)) <= 750
    assert sum(map(code_lines, render)) <= 480
    assert sum(map(code_lines, grading)) <= 480
    assert [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []
