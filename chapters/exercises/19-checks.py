"""Self-checks of the exercises of chapter 19: what is wrong with an answer, never what is right."""

import math

import torch

from medtutor.exercise import Wrong, ask, exercise, expect_range, expect_shape, expect_type, misconception, same


@exercise("19.1")
def three_bits(answer):
    """The form of the prediction only; whether it is true shows in the simulation below it."""
    shares = ("independent", "together", "apart")
    expect_type(answer, dict, "the prediction")
    if set(answer) != {*shares, "findings"}:
        raise Wrong('The prediction should have the keys "independent", "together", "apart" and "findings".')
    if missing := [key for key, value in answer.items() if value is None or value is Ellipsis]:
        raise Wrong(f"There is no answer yet for {', '.join(missing)}. A guess is better than nothing.")
    for key in shares:
        expect_type(answer[key], (int, float), f'"{key}"')
        if 1 < answer[key] <= 100:
            raise Wrong(f'"{key}" is a share from 0 to 1, not a percentage.')
        expect_range(answer[key], 0, 1, f'"{key}"')
    expect_type(answer["findings"], int, '"findings"')
    expect_range(answer["findings"], 1, 10_000, '"findings"')
    return "In its form, that is. Whether it is true, the simulation will say: give your reason first."


@exercise("19.2")
def words_from_the_film(answer):
    def logits(*rows, shift=0.0):
        return torch.tensor([rows], dtype=torch.double).log() + shift

    even, half, log2 = (0.25,) * 4, (1 / 6, 1 / 6, 1 / 6, 0.5), math.log(2)
    # the same number added to all logits of a place leaves its probabilities as they are
    rise = ask(answer, logits(half, even, even, shift=1.0), logits(even, even, even), torch.tensor([[1, 3, 0]]))
    expect_shape(rise, (4,), "the rise for a vocabulary of four words")
    rise = torch.as_tensor(rise, dtype=torch.double)
    if not rise[0].isnan():
        raise Wrong("Index 0 should be NaN. Padding is no word that anybody predicts.")
    misconception(rise[3], -log2, "The sign is turned round: a word that needs the film is harder to predict without "
                  "it.")
    misconception(rise[3], 0.0, "A word that the film makes twice as likely has no rise. Which place's logits are for "
                  "the word at place t?")
    misconception(rise[3], 0.25, "This is a difference of probabilities. Cross-entropy is the negative logarithm.")
    misconception(rise[3], 1 + math.log(0.5 / 0.25), "This is a difference of logits. A number added to all logits of "
                  "a place changes no probability: cross-entropy needs the softmax.")
    misconception(rise[3], log2 / 3, "The sum is divided by the length of the report. Divide by the number of places "
                  "at which this word is the true next one.")
    if not same(rise[3], log2):
        raise Wrong("The word of the example in the text does not have the rise given there.")
    if not (rise[1].isnan() and rise[2].isnan()):
        raise Wrong("A word that is never the true next word should have NaN, as 0 / 0.")
    longer = ask(answer, logits(half, even, even, even), logits(even, even, even, even), torch.tensor([[1, 3, 3, 2]]))
    found = torch.as_tensor(longer)[3]
    misconception(found, log2, "A word that comes twice in a report, once with a rise and once without, counts twice.")
    misconception(found, log2 / 3, "Each word has a mean of its own: divide by the number of its places, not by that "
                  "of all words.")
    if not same(found, log2 / 2):
        raise Wrong("Of a word that comes twice, once with the rise of the example and once without any, the mean is "
                    "wrong.")
    return "On small cases, that is: next word, no padding, mean over the word's own places."


@exercise("19.3")
def one_cue_for_each_run(answer):
    expect_type(answer, tuple, "the answer")
    serialise, parse = answer
    seen, gone, doubt = ("small left", "present"), ("pneumothorax", "absent"), ("mass", "uncertain")
    effusion = ("effusion", "present")
    text = ask(serialise, [seen, effusion, gone])
    expect_type(text, str, "what `serialise` returns")
    misconception(text, "no small left effusion pneumothorax", "One cue for the whole sentence: this is the chapter's "
                  "serialiser, which loses the effusion.")
    misconception(text, "small left . effusion . no pneumothorax", "Neighbours with equal labels belong in one "
                  "segment.")
    if text != "small left effusion . no pneumothorax":
        raise Wrong(f"For the example in the text `serialise` returns {text!r}.")
    text = ask(serialise, [gone, ("mass", "absent")])
    misconception(text, "no pneumothorax no mass", "One cue at most for a run, not one for each entity.")
    misconception(text, "no pneumothorax . no mass", "Neighbours with equal labels belong in one segment.")
    text = ask(serialise, [gone, effusion, ("mass", "absent")])
    if text.count(" . ") != 2:
        raise Wrong("Absent, present, absent: these are three runs. Keep the order of the text, and join neighbours "
                    "only.")
    if "maybe" not in ask(serialise, [doubt]):
        raise Wrong("An uncertain mass lost its doubt.")
    for found, wanted in (([("lungs", "present")], ""), ([], ""), ([("heart", "absent")], "no heart"),
                          ([("heart", "present"), ("enlarged", "present")], "heart enlarged")):
        text = ask(serialise, found)
        if text != wanted:
            raise Wrong(f"For {found} `serialise` returns {text!r}. Left out is only a run of one entity that is "
                        "present and useless.")
    return _reads_back(parse)


def _reads_back(parse):
    found = ask(parse, "small left effusion . no pneumothorax . maybe mass")
    expect_type(found, list, "what `parse` returns")
    if [tuple(pair)[1:] for pair in found] != [("present",), ("absent",), ("uncertain",)]:
        raise Wrong("`parse` should return one pair (words, label) for each segment; the labels of three segments, "
                    "without a cue, with no and with maybe, come out wrong.")
    if any(tuple(pair)[0].startswith(("no ", "maybe ")) for pair in found):
        raise Wrong("The words of a pair should not hold the cue any more.")
    if [tuple(pair) for pair in ask(parse, "nodule . normal vessels")] != [("nodule", "present"),
                                                                           ("normal vessels", "present")]:
        raise Wrong("A nodule is no denial. A cue is a whole word, not the first two letters.")
    if ask(parse, "") != []:
        raise Wrong("An empty string has no segments.")
    return "No finding changes its side of the no, and the sequence can be read back."


@exercise("19.4")
def offset_for_recall(answer):
    # the example of the text: positive against the strongest other state, for three films that have the finding
    first = [[0.08, 0.6, 0.3, 0.02], [0.3, 0.2, 0.4, 0.1], [0.8, 0.1, 0.06, 0.04], [0.02, 0.9, 0.05, 0.03]]
    table, state = torch.tensor(first).unsqueeze(2), torch.tensor([[1], [1], [1], [2]])
    pi = ask(answer, table, state, 0.6)  # of three films: two
    expect_shape(pi, (1,), "pi for one finding")
    expect_range(pi, 0, 1, "pi")
    pi = float(pi[0])
    misconception(pi, 1.0, "With pi = 1 one of the three films of the example is named. That is less than asked for.")
    misconception(pi, 0.125, "With this offset all three are named. A smaller intervention reaches the share, too.")
    misconception(pi, 0.25, "Compare with the strongest other state, not with all others together: states are chosen "
                  "by the largest.")
    misconception(pi, 0.425, "This lies between the values of two films, as a quantile does. Only at the value of a "
                  "film does the number of named films change.")
    if not same(pi, 0.5):
        raise Wrong("For the example in the text pi is another. List, for each film that has the finding, the pi at "
                    "which it begins to be named.")
    if not same(ask(answer, table, state, 1.0), [0.125]):
        raise Wrong("For a recall of 1 every film that has the finding must be named, and none of the others matters.")
    if not same(ask(answer, table, state, 0.25), [1.0]):
        raise Wrong("Where the recall is reached without any offset, pi stays 1: it is never larger.")
    both = ask(answer, torch.cat([table, table.flip(0)], 2), torch.tensor([[1, 0], [1, 0], [1, 1], [2, 1]]), 1.0)
    if not same(both, [0.125, 0.5]):
        raise Wrong("Each finding has its own pi, from the films that have it.")
    absent = ask(answer, table, torch.zeros_like(state), 0.5)
    if not same(absent, [1.0]):
        raise Wrong("A finding that no validation film has should keep pi = 1. A share of nothing is 0 / 0.")
    return "On small cases, that is. Now look at what recall costs."


@exercise("19.5")
def distinct(answer):
    mild, left, right = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    pair = torch.block_diag(*[1 - torch.eye(2)] * 2).bool()

    def reports(*rows):
        return torch.tensor([[a | b for a, b in zip(*row, strict=True)] for row in rows]).bool()

    one, two = (mild, left), (mild, right)
    score = ask(answer, reports(one, one, two, two), pair)
    expect_shape(score, (4,), "the score of four studies")
    score = torch.as_tensor(score, dtype=torch.double)
    misconception(score, [1.0] * 4, "All get 1: how alike the reports of different patients are is not taken off.")
    misconception(score, [1 - 5 / 9] * 4, "A study is not one of its own others. Look at the diagonal.")
    misconception(score, [0.5] * 4, "This is the overlap coefficient or the F1. The union is what Jaccard divides by.")
    misconception(score, [3.0] * 4, "Take the difference of the two means, not their ratio.")
    if not same(score, [2 / 3] * 4):
        raise Wrong("The four studies of the example in the text do not get the score given there.")
    if not same(ask(answer, reports(one, one, one, one), pair), [0.0] * 4):
        raise Wrong("One report for everybody should get 0.")
    silent = (0, 0, 0), (0, 0, 0)
    if not same(ask(answer, reports(silent, silent, one, one), pair), [1.0] * 4):
        raise Wrong("Two equivalents without a word, two with the same words: everyone gets 1. What is J of two empty "
                    "reports?")
    if not same(ask(answer, reports(one, one, two, (right, right)), pair), [5 / 6, 5 / 6, 1 / 6, 1 / 2]):
        raise Wrong("For {mild, left} twice, {mild, right} and {right} the scores are wrong. Both means belong to "
                    "study i, so they run over its own row.")
    if not same(ask(answer, reports(one, two, two, two), torch.zeros(4, 4).bool()), [math.nan] * 4):
        raise Wrong("A study without equivalents should have NaN.")
    if not same(ask(answer, reports(one, one, two), ~torch.eye(3).bool()), [math.nan] * 3):
        raise Wrong("If all other studies are equivalents, there is nobody to differ from: NaN.")
    return "On small cases, that is. See below what the parrots get now."
