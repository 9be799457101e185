"""The words of the book: what a `Cohort` knows, written as reports, captions, questions, and read back from text.

`known` holds facts and the tables of words.yml, `writer` writes, `reader` reads, `questions` asks, `refer` names one of
several things, `codemixed` asks as patients do in Hindi and English. What `writer` and `known` offer is here too:
`language.report(language.facts(cohort, 0))`.
"""

from medtutor.language.known import Fact, canonical, compare, facts, knowledge, words
from medtutor.language.writer import Report, Sentence, caption, pertinent, phrases, prompts, report, written

__all__ = ["Fact", "Report", "Sentence", "canonical", "caption", "compare", "facts", "knowledge", "pertinent",
           "phrases", "prompts", "report", "words", "written"]
