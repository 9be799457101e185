"""Quizzes as a student meets them in a real browser, and as Moodle and Canvas read them."""

import re
import zipfile
from html import escape
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import yaml
from books import TINY, make_book
from test_widgets import chromium, needs_browser, opened  # noqa: F401

from medtutor import notebook, quiz

#: Texts that break careless writers: markup, quotes, the end of a CDATA section, of a script and of a formula.
BANK = r"""
- id: "01.q1"
  question: What is the Dice of $B$ against $A$, if $|B| = 2|A|$ and $A < B$ & "covers" it?
  choices:
    - {text: "$\\frac{1}{2}$", right: false, why: "That is the precision."}
    - {text: "$\\frac{2}{3}$ ]]> </script>", right: true, why: "The overlap is $|A|$, <b>twice</b> &amp; over 3."}
    - {text: "1, since `A <i>` is found", right: false, why: 'That is the *sensitivity*: it''s "1".'}
  paper: tiny-paper
- id: "01.q2"
  question: |
    What does this line make?

    ```python
    x = x.flatten(2)  # <u>
    ```
  choices:
    - {text: tokens, right: true, why: "Yes: $$n = \\sum_i h_i w_i$$"}
    - {text: rows </summary>, right: false, why: "No ]]&gt; <!-- -->"}
"""


@pytest.fixture
def book(tiny_book):
    """The tiny book with BANK as the quiz of its chapter."""
    folder = tiny_book / "chapters" / "exercises"
    folder.mkdir()
    (folder / "01-quiz.yml").write_text(BANK, encoding="utf-8")
    return tiny_book


@pytest.fixture
def questions(book):
    return quiz.read(quiz.find("1"))


BANKS = sorted((notebook.book_root() / "chapters" / "exercises").glob("*-quiz.yml"))


@pytest.mark.parametrize("bank", BANKS, ids=lambda bank: bank.name)
def test_the_banks_of_the_book_are_sound(bank):
    papers = {row["id"] for row in notebook.papers()}
    questions = quiz.read(bank)
    assert {question.get("paper") for question in questions} <= papers | {None}
    for question in questions:
        assert len({choice["text"] for choice in question["choices"]}) == len(question["choices"])


# What a student does.

def answered(page, number):
    return page.get_by_role("group").nth(number).get_by_role("status").text_content()


SCORE = ".medtutor-quiz .score"


@needs_browser
def test_a_click_answers_and_first_tries_count(chromium, questions):  # noqa: F811
    with opened(chromium, quiz.html(questions)) as page:
        first = page.get_by_role("group").first
        assert page.locator("details").count() == 0
        assert first.get_by_role("radio").count() == 3
        first.get_by_text("is found").click()
        assert answered(page, 0) == 'Not right. That is the sensitivity: it\'s "1".\n'
        assert page.locator(SCORE).text_content() == "0 of 1 right at the first try; 1 to go."
        first.locator("label").nth(1).click()
        assert answered(page, 0).startswith("Right. ")
        assert page.locator(SCORE).text_content() == "0 of 1 right at the first try; 1 to go."
        page.get_by_role("radio", name="tokens").check()
        assert answered(page, 1).startswith("Right. Yes:")
        assert page.locator(SCORE).text_content() == "1 of 2 right at the first try."
        page.get_by_role("button", name="Start again").click()
        assert page.locator("input:checked").count() == page.locator(".right, .wrong").count() == 0
        assert answered(page, 0) == answered(page, 1) == page.locator(SCORE).text_content() == ""
        assert page.evaluate("document.activeElement.type") == "radio"
        first.locator("label").nth(1).click()
        assert page.locator(SCORE).text_content() == "1 of 1 right at the first try; 1 to go."


@needs_browser
def test_arrow_keys_pass_over_choices_and_enter_or_space_answers(chromium, questions):  # noqa: F811
    with opened(chromium, quiz.html(questions)) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        assert answered(page, 0) == "Press Enter to answer."
        assert page.locator(SCORE).text_content() == ""
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert answered(page, 0).startswith("Not right. That is the sensitivity")
        page.keyboard.press("ArrowUp")
        assert answered(page, 0) == "Press Enter to answer."
        page.keyboard.press("Space")
        assert answered(page, 0).startswith("Right. ")
        assert page.locator(SCORE).text_content() == "0 of 1 right at the first try; 1 to go."
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert page.locator(SCORE).text_content() == "1 of 2 right at the first try."
        page.keyboard.press("ArrowDown")
        page.get_by_role("radio", name="tokens").click()
        assert answered(page, 1).startswith("Right. ")


@needs_browser
def test_names_and_formulas_are_there_for_a_screen_reader(chromium, questions):  # noqa: F811
    with opened(chromium, quiz.html(questions)) as page:
        assert page.get_by_role("group", name=re.compile("^1. What is the Dice")).count() == 1
        assert page.get_by_role("radio", name="1, since A <i> is found").count() == 1
        assert page.locator("math").count() == 6
        assert page.locator("math mfrac").first.bounding_box()["height"] > 15
        assert "\\(" not in page.get_by_role("group").first.inner_text()
        assert page.get_by_role("radio", name="rows </summary>").count() == 1
        assert all(box["height"] >= 24 for box in (label.bounding_box() for label in page.locator("label").all()))


@needs_browser
def test_two_copies_on_a_page_are_independent_and_leave_no_names(chromium, questions):  # noqa: F811
    made = quiz.html(questions)
    with opened(chromium, made + made) as page:
        for copy in (0, 1):
            page.locator(".medtutor-quiz").nth(copy).get_by_role("radio", name="tokens").check()
        assert page.locator("input:checked").count() == 2
        names = set(page.evaluate("Object.getOwnPropertyNames(window)"))
    with opened(chromium, "<script>(function () {})()</script>") as page:
        plain = set(page.evaluate("Object.getOwnPropertyNames(window)"))
    assert {name for name in names - plain if not name.isdigit()} == set()


@needs_browser
@pytest.mark.parametrize("wrap", ["sandbox", "reinserted"])
def test_it_runs_in_a_sandboxed_frame_and_when_a_front_end_inserts_it(chromium, questions, wrap):  # noqa: F811
    made = quiz.html(questions)
    body = f'<iframe sandbox="allow-scripts" srcdoc="{escape(made)}" width=600 height=900></iframe>'
    with opened(chromium, body if wrap == "sandbox" else "<div id=cell></div>") as page:
        scope = page.frame_locator("iframe") if wrap == "sandbox" else page
        if wrap == "reinserted":  # JupyterLab sets innerHTML, then replaces each script by a new one
            page.evaluate("""body => { const cell = document.getElementById('cell'); cell.innerHTML = body;
                cell.querySelectorAll('script').forEach(old => { const made = document.createElement('script');
                made.textContent = old.textContent; old.replaceWith(made); }); }""", made)
        radio = scope.get_by_role("radio", name="tokens")
        radio.focus()
        radio.press("Space")
        radio.press("Enter")
        assert scope.locator(SCORE).text_content() == "1 of 1 right at the first try; 1 to go."


@needs_browser
def test_without_a_script_every_choice_opens_to_its_explanation(chromium, questions):  # noqa: F811
    with opened(chromium, quiz.html(questions, "page", "#{}".format), java_script_enabled=False) as page:
        assert page.get_by_role("radio").count() == page.get_by_role("button").count() == 0
        formulas = page.locator(".math").all_text_contents()
        assert len(formulas) == 8
        assert all(formula[:2] in (r"\(", r"\[") for formula in formulas)  # the site sets them
        why = page.get_by_text("That is the sensitivity")
        assert not why.is_visible()
        page.get_by_text("is found").click()
        assert why.is_visible()
        assert page.get_by_role("link", name="Read the section on tiny-paper.").get_attribute("href") == "#tiny-paper"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_text_follows_the_page_colours_and_nothing_scrolls_sideways(chromium, questions, width):  # noqa: F811
    dark = "<style>body { background: #121212; color: #eeeeee }</style>"
    questions[0]["question"] += " " + "word " * 60
    with opened(chromium, dark + quiz.html(questions), viewport={"width": width, "height": 800}) as page:
        page.get_by_role("radio", name="tokens").check()
        for part in ("legend", "label span", ".why strong", ".score", "button"):
            assert page.locator(part).last.evaluate("e => getComputedStyle(e).color") == "rgb(238, 238, 238)", part
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_output_is_deterministic_self_contained_and_escaped(questions):
    made = quiz.html(questions)
    assert made == quiz.html(questions)
    assert not re.search(r"(https?:)?//[a-z]|<link|require\(|@import|<(b|i|u)>", made.replace("http://www.w3.org", ""))
    assert made.count("</script>") == 1
    assert len(made) < 20_000


def test_show_works_in_a_real_kernel(book):
    import nbformat
    from nbclient import NotebookClient

    cell = nbformat.v4.new_code_cell("from medtutor import quiz; quiz.show('01')")
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=60).execute()
    (output,) = cell.outputs
    assert output["data"]["text/html"] == quiz.html(quiz.read(quiz.find("01")))
    assert output["data"]["text/plain"] == "A quiz of 2 questions."


# What a learning management system reads.

class Text(HTMLParser):
    """The words of an HTML fragment, as a browser would show them."""

    def __init__(self, fragment):
        super().__init__()
        self.words, self.tags = "", set()
        self.feed(fragment)
        self.close()

    def handle_data(self, data):
        self.words += data

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


def moodle(file):
    """The questions in a Moodle XML file, read by the element names and defaults of Moodle's importer."""
    for question in ElementTree.parse(file).getroot().findall("question[@type='multichoice']"):
        assert question.find("single").text == "true"
        assert question.find("questiontext").get("format") == "html"
        choices = [(a.find("text").text, float(a.get("fraction")) == 100, a.find("feedback/text").text)
                   for a in question.findall("answer")]
        assert {a.get("fraction") for a in question.findall("answer")} == {"100", "0"}
        yield question.find("idnumber").text.removeprefix("medtutor-"), question.find("questiontext/text").text, choices


IMS = "{http://www.imsglobal.org/xsd/imsccv1p1/imscp_v1p1}"
QTI = "{http://www.imsglobal.org/xsd/ims_qtiasiv1p2}"
CANVAS = "{http://canvas.instructure.com/xsd/cccv1p0}"


def qti(file):
    """The questions in a QTI 1.2 package: found through the manifest, scored by the conditions, as an importer does."""
    with zipfile.ZipFile(file) as package:
        manifest = ElementTree.fromstring(package.read("imsmanifest.xml"))
        resources = {resource.get("identifier"): resource for resource in manifest.iter(f"{IMS}resource")}
        named = {part.get("href") for part in manifest.iter(f"{IMS}file")}
        assert named | {"imsmanifest.xml"} == set(package.namelist())
        (test,) = (resource for resource in resources.values() if resource.get("type") == "imsqti_xmlv1p2")
        meta = resources[test.find(f"{IMS}dependency").get("identifierref")]
        about = ElementTree.fromstring(package.read(meta.get("href")))
        root = ElementTree.fromstring(package.read(test.find(f"{IMS}file").get("href")))
    assessment = root.find(f"{QTI}assessment")
    assert about.get("identifier") == assessment.get("ident") == test.get("identifier")
    assert about.find(f"{CANVAS}title").text == assessment.get("title")
    for item in assessment.iter(f"{QTI}item"):
        fields = {f.find(f"{QTI}fieldlabel").text: f.find(f"{QTI}fieldentry").text
                  for f in item.iter(f"{QTI}qtimetadatafield")}
        assert fields == {"question_type": "multiple_choice_question", "points_possible": "1"}
        labels = {part.get("ident"): part.find(f".//{QTI}mattext").text for part in item.iter(f"{QTI}response_label")}
        comments = {f.get("ident"): f.find(f".//{QTI}mattext").text for f in item.iter(f"{QTI}itemfeedback")}
        scores, told = dict.fromkeys(labels, 0), {}
        for condition in item.iter(f"{QTI}respcondition"):
            equal = condition.find(f"{QTI}conditionvar/{QTI}varequal")
            assert equal.get("respident") == item.find(f".//{QTI}response_lid").get("ident")
            for change in condition.findall(f"{QTI}setvar"):
                scores[equal.text] = float(change.text)
            for link in condition.findall(f"{QTI}displayfeedback"):
                told[equal.text] = comments[link.get("linkrefid")]
        choices = [(text, scores[name] == 100, told[name]) for name, text in labels.items()]
        yield item.get("title"), item.find(f"{QTI}presentation/{QTI}material/{QTI}mattext").text, choices


@pytest.mark.parametrize(("kind", "reader"), [("moodle", moodle), ("qti", qti)])
def test_an_export_holds_the_bank_and_the_same_bytes_every_time(book, questions, tmp_path, kind, reader):
    files = [quiz.export("01", tmp_path / folder, kind) for folder in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    found = list(reader(files[0]))
    assert [name for name, _, _ in found] == ["01.q1", "01.q2"]
    for question, (_, text, choices) in zip(questions, found, strict=True):
        assert [right for _, right, _ in choices] == [choice["right"] for choice in question["choices"]]
        assert text == quiz.rich(question["question"], "lms")
        assert [(shown, why) for shown, _, why in choices] == [
            (quiz.rich(c["text"], "lms"), quiz.rich(c["why"], "lms")) for c in question["choices"]]
    (_, dice, choices), (_, code, more) = found
    assert Text(dice).words == ('What is the Dice of \\(B\\) against \\(A\\), if \\(|B| = 2|A|\\) and \\(A < B\\) & '
                                '"covers" it?')
    assert [Text(text).words for text, _, _ in choices] == [
        "\\(\\frac{1}{2}\\)", "\\(\\frac{2}{3}\\) ]]> </script>", "1, since A <i> is found"]
    assert Text(choices[1][2]).words == "The overlap is \\(|A|\\), <b>twice</b> & over 3."
    assert Text(choices[2][2]).tags == {"em"}
    assert "x = x.flatten(2)  # <u>" in Text(code).words
    assert Text(more[0][2]).words == "Yes: \\[n = \\sum_i h_i w_i\\]"
    assert Text(more[1][2]).words == "No ]]> <!-- -->"


def test_the_command_writes_both_formats_and_names_the_chapter(medtutor, book, tmp_path):
    for kind, name in (("moodle", "01-quiz-moodle.xml"), ("qti", "01-quiz-qti.zip")):
        status, out, err = medtutor("quiz", "tiny", "--to", str(tmp_path / "out"), "--format", kind)
        assert (status, err) == (0, "")
        assert out.strip().endswith(name)
        assert (tmp_path / "out" / name).exists()
    text = (tmp_path / "out" / "01-quiz-moodle.xml").read_text(encoding="utf-8")
    assert "$course$/top/01 A tiny chapter<" in text


@pytest.mark.parametrize(("words", "sentence"), [
    (["01", "--format", "scorm"], "there is no format 'scorm'; try moodle, qti"),
    (["07"], "there is no chapter '07'; try 01-tiny"),
    (["02"], "chapter 02 has no quiz yet: there is no chapters/exercises/02-quiz.yml"),
])
def test_the_command_answers_a_mistake_with_one_sentence(medtutor, book, tmp_path, words, sentence):
    make_book(book, c02_tiny=TINY)
    status, _, err = medtutor("quiz", *words, "--to", str(tmp_path / "out"))
    assert status == 2
    assert err.startswith(f"medtutor: {sentence}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# What the author of a bank may get wrong.

def changed(change):
    questions = yaml.safe_load(BANK)
    change(questions)
    return yaml.safe_dump(questions)


@pytest.mark.parametrize(("bank", "sentence"), [
    (changed(lambda q: q[0]["choices"].pop(1)), "01.q1: exactly one choice is right, but here 0 are"),
    (changed(lambda q: q[0]["choices"][0].update(right=True)), "01.q1: exactly one choice is right, but here 2 are"),
    (changed(lambda q: q[1]["choices"].pop()), "01.q2: a question has two or more choices"),
    (changed(lambda q: q[1]["choices"][1].pop("why")), "01.q2: a choice has text, right and why, and nothing else"),
    (changed(lambda q: q[1]["choices"][1].update(hint="x")), "01.q2: a choice has text, right and why"),
    (changed(lambda q: q[1]["choices"][1].update(why=" ")), "01.q2: question, text and why are texts"),
    (changed(lambda q: q[1]["choices"][1].update(text=0.5)), "01.q2: question, text and why are texts"),
    (changed(lambda q: q[1]["choices"][1].update(right="no")), "01.q2: right is true or false"),
    (changed(lambda q: q[0].update(question="a \x0c b")), "01.q1: question, text and why are texts"),
    (changed(lambda q: q[0].update(level=3)), "01.q1: a question has id, question, choices and perhaps paper"),
    (changed(lambda q: q[1].pop("id")), "question 2: a question has id, question, choices"),
    (changed(lambda q: q[1].update(id="01.q1")), "01.q1: an id begins with 01 and is given once"),
    (changed(lambda q: q[1].update(id="02.q1")), "02.q1: an id begins with 01 and is given once"),
    (changed(lambda q: q[1].update(id=1.1)), "1.1: an id is like 01.q1"),
    (changed(lambda q: q[1].update(paper=7)), "01.q2: paper is the id of a paper or null"),
    (changed(lambda q: q[0].update(question="So $\\frac{1}{2$")), "01.q1: the formula $\\frac{1}{2$ holds"),
    (changed(lambda q: q[0].update(question="So $\\softplus x$")), "01.q1: the formula $\\softplus x$ holds"),
    (changed(lambda q: q[0].update(question="So $\\text{<b>}$")), "01.q1: the formula $\\text{<b>}$ holds"),
    (changed(lambda q: q[0].update(question="So $\\href{javascript:a}{x}$")), "01.q1: the formula $\\href"),
    (changed(lambda q: q[0].update(question='So $\\color{a" onclick="b}{x}$')), "01.q1: the formula $\\color"),
    (changed(lambda q: q[0].update(question="So $x^2^3$")), "01.q1: the formula $x^2^3$ cannot be read"),
    (changed(lambda q: q.insert(0, "text")), "question 1: a question has id, question, choices"),
    (changed(lambda q: q.clear()), "is not a list of questions"),
    ("id: 01.q1", "is not a list of questions"),
    ("- {id: '01.q1", "cannot be read"),
    ("- \udcff", "cannot be read"),
])
def test_a_wrong_bank_gets_one_sentence_with_file_and_question(tmp_path, bank, sentence):
    file = tmp_path / "01-quiz.yml"
    file.write_bytes(bank.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="^01-quiz.yml") as error:
        quiz.read(file)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
