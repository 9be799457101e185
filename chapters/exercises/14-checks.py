"""What a student is told at once about the exercises of chapter 14. Small inputs, hints, never an answer."""

import math

import torch
import torch.nn.functional as F

from medtutor.exercise import Wrong, ask, exercise, expect_range, expect_shape, expect_type, misconception, same


@exercise("14.1")
def leaking_phrases(prediction):
    """The form only: whether a prediction is true, the experiment says."""
    expect_type(prediction, dict, "prediction")
    if sorted(prediction) != ["A", "B", "C", "D"]:
        raise Wrong('prediction should have exactly the keys "A", "B", "C" and "D".')
    for name, words in prediction.items():
        if words is None:
            raise Wrong(f"There is no answer yet for list {name}. Fill in all four before you run the experiment.")
        if words not in ("nothing", "a part", "everything"):
            raise Wrong(f'List {name} says {words!r}; write "nothing", "a part" or "everything".')
    return ("In its form, that is: four lists, an answer each. Whether they are true, the experiment below will say. "
            "Give your reasons first.")


def circle(*degrees: float) -> torch.Tensor:
    """Unit vectors (N, 2) at these angles."""
    angle = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1)


@exercise("14.2")
def the_same_patient_again(answer):
    function, optimism = answer["recall_across_patients"], answer["optimism"]
    label, patient = torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 1, 2])
    value = ask(function, circle(0, 10, 30, 90), label, patient)
    expect_shape(value, (4,), "what your function returns")
    misconception(value, [0.0, 0.0, 0.0, 0.0], "In the example nobody is right: may the third picture find the one at "
                  "10 degrees, of its own patient?")
    if not torch.equal(torch.isnan(value), torch.tensor([False, True, False, True])):
        raise Wrong("In the example of the text the second and the fourth picture should be NaN, and no others: no "
                    f"other patient has their class. Yours are {value.tolist()}.")
    if not same(value, [0.0, math.nan, 1.0, math.nan]):
        raise Wrong(f"In the example of the text you return {value.tolist()}. Go through the first and the third "
                    "picture: which pictures may they find, and which of these is nearest?")
    value = ask(function, circle(0, 5, 20, 50), torch.tensor([0, 0, 1, 0]), torch.tensor([3, 3, 4, 5]))
    misconception(value, [1.0, 1.0, math.nan, 0.0], "A picture of the same patient is still found.")
    misconception(value, [1.0, 1.0, math.nan, 1.0], "A class that only one patient has stays in the archive: its "
                  "pictures may be found, and are wrong.")
    if not same(value, [0.0, 0.0, math.nan, 0.0]):
        raise Wrong("Angles 0, 5, 20, 50, labels 0, 0, 1, 0, patients 3, 3, 4, 5: of all pictures that the others may "
                    f"find, the one at 20 degrees is nearest, and of another class. You return {value.tolist()}.")
    if optimism is None:
        raise Wrong("Your function is right. There is no optimism yet: compute it for your own archive.")
    expect_type(optimism, float, "optimism")
    expect_range(optimism, -1, 1, "optimism")
    if optimism <= 0:
        raise Wrong("optimism is the chapter's measure minus yours; on these archives the chapter's is the larger one.")
    return "Your function is right. Whether your number is, the hidden test decides: it draws your data again."


@exercise("14.3")
def yes_and_no(function):
    s = torch.linspace(-1, 1, 21)
    ones = torch.ones(21)
    value = ask(function, s, ones)
    expect_shape(value, (21,), "what your function returns")
    if not same(value, s):
        raise Wrong("An importance of 1 should change nothing.")
    for a, what in ((0.0, -1.0), (2.0, 1.0)):
        if not same(ask(function, s, a * ones), what * ones):
            raise Wrong(f"An importance of {a:g} should give {what:g} for every similarity, negative ones included.")
    levels = torch.linspace(0, 2, 41)
    table = torch.stack([ask(function, s, a * ones) for a in levels])  # (importances, similarities)
    expect_range(table, -1 - 1e-6, 1 + 1e-6, "every result")
    rise = table.diff(dim=0)
    flat = ((rise < -1e-6) | ((rise < 1e-6) & (s.abs() < 0.95))).nonzero()
    if len(flat):
        row, column = flat[0].tolist()
        raise Wrong(f"For s = {s[column]:.1f} the importances {levels[row]:.2f} and {levels[row + 1]:.2f} give "
                    f"{table[row, column]:.3f} and {table[row + 1, column]:.3f}: the larger one should give more.")
    ties = (table[1:-1].diff(dim=1) < 1e-6).nonzero()
    if len(ties):
        row, column = ties[0].tolist()
        raise Wrong(f"With importance {levels[row + 1]:.2f} the similarity {s[column + 1]:.1f} is no longer better "
                    f"than {s[column]:.1f}. (A result that is cut off at an end forgets the order.)")
    square = ask(function, s[:20].view(4, 5), torch.rand(4, 5, generator=torch.Generator().manual_seed(0)))
    expect_shape(square, (4, 5), "the result for a map")
    return "All four promises are kept."


@exercise("14.4")
def shortest_explanation(answer):
    function, tricky = answer["fewest_knobs"], answer["tricky"]
    large = torch.rand(20, 8, generator=torch.Generator().manual_seed(7)) < 0.3
    for rows, length in (([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], 2), ([[0, 0], [0, 0]], 0),
                         ([[1, 1, 1], [0, 1, 1], [0, 0, 1]], 1),
                         ([[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]], 2),
                         (large, 4)):
        flips = torch.as_tensor(rows).bool()
        table = f"flips = {rows}" if rows is not large else "A random table of 20 images and 8 knobs"
        knobs = ask(function, flips)
        expect_type(knobs, list, "what your function returns")
        if not all(isinstance(k, int) and 0 <= k < flips.shape[1] for k in knobs) or knobs != sorted(set(knobs)):
            raise Wrong(f"Return column numbers (ints) in ascending order, each once; you return {knobs}.")
        missed = flips.any(1) & ~flips[:, knobs].any(1)
        if missed.any():
            raise Wrong(f"{table}: your list {knobs} does not flip image {int(missed.nonzero()[0])}, and some knob "
                        "does.")
        if len(knobs) > length:
            raise Wrong(f"{table}: your list {knobs} explains the table, and a shorter one does, too.")
    if tricky is None:
        raise Wrong("Your function is right. There is no table tricky yet.")
    expect_shape(tricky, (None, None), "tricky")
    if tricky.dtype != torch.bool or tricky.shape[0] > 12 or tricky.shape[1] > 6:
        raise Wrong(f"tricky should be boolean with at most 12 rows and 6 columns; it is {tricky.dtype} with shape "
                    f"{tuple(tricky.shape)}.")
    left, greedy = tricky.any(1), 0
    while left.any():
        left, greedy = left & ~tricky[:, tricky[left].sum(0).argmax()], greedy + 1
    best = len(ask(function, tricky))
    if greedy <= best:
        raise Wrong(f"On your table greed needs {greedy} knobs, and the shortest list has {best}: greed does not fail.")
    return f"Both are right: on your table greed needs {greedy} knobs where {best} are enough."


def obeys(z, label, prior, strength: float) -> bool:
    """Whether one small step from zero goes along with all signs."""
    weight = torch.zeros(prior.shape, dtype=torch.double, requires_grad=True)
    loss = F.cross_entropy(z.double() @ weight.T, label) + strength * (torch.tanh(weight) - prior).abs().mean()
    (slope,) = torch.autograd.grad(loss, weight)
    return bool((slope * prior <= 1e-9).all())


@exercise("14.5")
def how_loud(function):
    z, label, prior = torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]), torch.tensor([[-1.0], [1.0]])
    value = ask(function, z, label, prior)
    expect_type(value, float, "what your function returns")
    expect_range(value, 0, 1e6, "the strength")
    misconception(value, 0.25, "In the example you return the slope of the data. The prior is a mean: how much of "
                  "lambda does a single weight get?")
    misconception(value, 1.0, "The cross-entropy is a mean over films, not a sum.")
    misconception(value, 0.0, "In the example the data pull both weights to the wrong sides, so 0 cannot be enough. In "
                  "which direction does a step move a weight?")
    if not same(value, 0.5):
        raise Wrong(f"In the example of the text the strength is 0.5, but yours is {value:.4f}.")
    if not same(ask(function, z, label, -prior), 0.0):
        raise Wrong("With the signs of the example turned round the data agree with the book: 0 is enough.")
    draw = torch.Generator().manual_seed(3)
    for classes, questions in ((2, 4), (3, 5)):
        z, label = torch.rand(30, questions, generator=draw), torch.arange(30) % classes
        prior = torch.randint(-1, 2, (classes, questions), generator=draw).double()
        z[:, 0], prior[:, 0] = (label == 0).float(), 0  # the loudest question, of which the book says nothing
        value = ask(function, z, label, prior)
        expect_type(value, float, "what your function returns")
        where = f"{classes} classes, {questions} questions, 30 films: "
        if not obeys(z, label, prior, value + 1e-4):
            raise Wrong(where + f"at your strength {value:.4f} some weight still moves towards the wrong sign.")
        if value > 1e-4 and obeys(z, label, prior, value - 1e-4):
            raise Wrong(where + f"a strength below your {value:.4f} is obeyed, too. Do entries 0 of the prior count?")
    return "Below your strength the first step breaks a sign, above it none."
