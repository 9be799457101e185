"""Exercises are pages of the site; their solutions are behind a deliberate step."""

import nbformat
import pytest

pytestmark = pytest.mark.site


@pytest.fixture(scope="session")
def solutions(pages):
    found = [path for path in pages if path.name.endswith("-solutions.html")]
    assert found
    return found


def exercises_of(path):
    return path.with_name(path.name.replace("-solutions", ""))


def test_only_a_closed_box_on_the_page_of_exercises_leads_to_solutions(pages, solutions):
    for path in solutions:
        links = {page: soup.select(f'a[href$="{path.name}"]') for page, soup in pages.items() if page != path}
        assert [page for page, found in links.items() if found] == [exercises_of(path)]
        (link,) = links[exercises_of(path)]
        assert link.find_parent(class_="dropdown")


def test_search_and_buttons_know_no_solutions(pages, site, solutions):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for path in solutions:
        name = path.relative_to(site).with_suffix("").as_posix()
        assert f'"{name}"' not in index
        assert f'"{name.removesuffix("-solutions")}"' in index
        for page in (path, exercises_of(path)):
            assert not pages[page].select(".dropdown-launch-buttons, .dropdown-download-buttons")


def test_the_page_and_its_download_are_the_student_edition(pages, site, solutions):
    for path in solutions:
        exercise = exercises_of(path)
        assert "YOUR CODE HERE" in pages[exercise].article.text
        assert "YOUR CODE HERE" not in pages[path].article.text
        assert "END SOLUTION" not in pages[exercise].text + pages[path].text
        book, checks = pages[exercise].select("article a[download]")
        served = nbformat.read((exercise.parent / book["href"]).resolve(), as_version=4)
        assert not any("BEGIN SOLUTION" in cell.source for cell in served.cells)
        assert served.metadata.kernelspec.name == "python3"
        assert (exercise.parent / checks["href"]).resolve().exists()
