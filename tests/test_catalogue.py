"""The catalogue itself: every entry whole, unique, honest about its licence and its edition."""

import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest
import yaml
from test_data import REAL, needs_real

from medtutor.data import catalogue, entry, store
from medtutor.data.loaders import LOADERS

TEXT = (Path(entry.__file__).parent / "catalogue.yml").read_text(encoding="utf-8")
ENTRIES = list(catalogue().values())
LABELS = yaml.safe_load((Path(entry.__file__).parent / "labels.yml").read_text(encoding="utf-8"))


def test_no_name_is_given_twice():
    names = re.findall(r"^([a-z0-9-]+):", TEXT, re.MULTILINE)  # YAML would silently keep the last one
    assert Counter(names) == Counter(list(catalogue()))
    assert len({found.title for found in ENTRIES}) == len(ENTRIES)
    sets = [tuple(resource.sha256 for resource in found.download) for found in ENTRIES if found.download]
    assert len(set(sets)) == len(sets)


@pytest.mark.parametrize("found", ENTRIES, ids=lambda found: found.name)
def test_every_entry_is_whole(found):
    assert found.loader in LOADERS
    assert found.cases > 0
    assert found.citation.count(".") >= 1
    assert len(found.citation) > 40
    for address in (found.licence_url, found.source, found.original, *(u for r in found.download for u in r.urls)):
        assert re.fullmatch(r"https?://[\w.-]+\.[a-z]+(/\S*)?|drive:\S+", address)
    assert bool(found.sha256) == bool(found.files)
    # Whoever lacks it is told how to get it: by a download, by a sentence, or from the address of this edition.
    assert found.download or found.access or found.sha256
    assert "\n" not in found.access
    for resource in found.download:
        assert (resource.unpack == "none") == (PurePosixPath(resource.path).suffix == ".npz")


@pytest.mark.parametrize("found", ENTRIES, ids=lambda found: found.name)
def test_licences_say_what_they_forbid(found):
    assert found.non_commercial or "-NC" not in found.licence
    if match := re.match(r"CC (BY[A-Z-]*) (\d\.\d)$", found.licence):
        assert found.licence_url == f"https://creativecommons.org/licenses/{match[1].lower()}/{match[2]}/"
        assert found.non_commercial == ("-NC" in found.licence)


def test_medmnist_is_there_in_every_size():
    for name in LABELS:
        sizes = {64} if name.endswith("3d") else {64, 128, 224}
        own = {r.path: r for found in ENTRIES for r in found.download if r.path.split(".")[0].split("_")[0] == name}
        assert set(own) == {f"{name}.npz"} | {f"{name}_{size}.npz" for size in sizes}
        assert all("zenodo.org/records/10519652/files/" + path in own[path].urls[0] for path in own)
    assert sum(found.loader == "medmnist" for found in ENTRIES) == 12 * 4 + 6 * 2


def test_the_decathlon_is_complete():
    tasks = sorted(r.inside for found in ENTRIES for r in found.download if r.inside.startswith("Task"))
    assert [int(task[4:6]) for task in tasks] == list(range(1, 11))


@needs_real
def test_editions_are_those_of_the_store():
    rows = {row["name"]: row["sha256"] for row in json.loads((REAL / "MANIFEST.json").read_text(encoding="utf-8"))}
    known = {found.name for found in ENTRIES if found.sha256}
    assert len(known) >= 15
    for name in known & set(rows):
        hashes = {path: value for path, value in rows[name].items() if PurePosixPath(path).name != "README.md"}
        assert (len(hashes), store.edition(hashes)) == (catalogue()[name].files, catalogue()[name].sha256)
