"""Self-checks of the exercises of chapter 25: what is wrong with an answer, never what is right."""

import math

import torch

from medtutor.exercise import Wrong, ask, exercise, expect_range, expect_shape, expect_type, misconception, same


@exercise("25.1")
def which_way(answer):
    """The form of the prediction only; whether it is true shows in the warp below it."""
    expect_type(answer, dict, "the prediction")
    if set(answer) != {"left", "side", "J", "order"}:
        raise Wrong('The prediction should have the keys "left", "side", "J" and "order".')
    if missing := [key for key, value in answer.items() if value is None or value is Ellipsis]:
        raise Wrong(f"There is no answer yet for {', '.join(missing)}. A guess is better than nothing.")
    expect_type(answer["left"], int, '"left", a column,')
    expect_range(answer["left"], 0, 63, '"left"')
    for key in ("side", "J"):
        expect_type(answer[key], (int, float), f'"{key}"')
    expect_range(answer["side"], 1, 64, '"side"')
    expect_range(answer["J"], 0, 100, '"J"')
    if answer["order"] not in ("shift(phi(x))", "phi(shift(x))"):
        raise Wrong('"order" should be "shift(phi(x))" or "phi(shift(x))", in these letters.')
    return "In its form, that is. Whether it is true, the warp will say: give your reason first."


def field(x, y=None):
    """A displacement (2, H, W) from its components, given as lists of rows."""
    x = torch.tensor(x, dtype=torch.double)
    return torch.stack([x, torch.zeros_like(x) if y is None else torch.tensor(y, dtype=torch.double)])


@exercise("25.2")
def folds(answer):
    still = ask(answer, torch.zeros(2, 3, 5, dtype=torch.double))
    expect_shape(still, (2, 4), "the cells of a field of 3 x 5 pixels")
    if still.dtype != torch.bool:
        raise Wrong("Return a tensor of booleans.")
    if still.any():
        raise Wrong("Without displacement nothing folds. Do not forget that the map is x + u(x).")
    if not ask(answer, field([[0, -2], [0, -2]])).all():
        raise Wrong("A cell that is turned over in x does not count as folded. Channel 0 is x, and the last axis is x.")
    if not ask(answer, field([[0, 0], [0, 0]], [[0, 0], [-2, -2]])).all():
        raise Wrong("A cell that is turned over in y does not count as folded. Channel 1 is y, and axis 1 is y.")
    if ask(answer, field([[0, -1], [-1, -2]], [[0, 1], [-1, 0]])).any():
        raise Wrong("A quarter turn folds nothing. A determinant has two products.")
    if ask(answer, field([[0, -2], [0, -2]], [[0, 0], [-2, -2]])).any():
        raise Wrong("Half a turn folds nothing: both axes are turned over. Take the determinant, not the derivatives "
                    "one by one.")
    zigzag = ask(answer, field([[0.55, -0.55, 0.55, -0.55]] * 2))
    if zigzag.tolist() != [[True, False, True]]:
        raise Wrong("Of the three cells of a zigzag of 0.55 pixels, those fold that become narrower than nothing, the "
                    "others do not. Use differences within a cell, not across two pixels.")
    for row in ([0, 0], [0, -1.5]), ([0, -1.5], [0, 0]):
        if not ask(answer, field(row)).all():
            raise Wrong("A cell folded at two corners only is missed. Look at all four corners, each on its own.")
    if not ask(answer, field([[0, -1], [0, -1]])).all():
        raise Wrong("A cell whose area is 0 counts as folded, too.")
    return "On small cases, that is. Now see what the usual test misses."


@exercise("25.3")
def how_far(answer):
    def at(*values, **options):
        found = ask(answer, torch.tensor(values, dtype=torch.double), **options)
        expect_type(found, int, "the capture range")
        return found

    bowl = at(9, 4, 1, 0, 1, 4, 9)
    misconception(bowl, 7, "Return a distance in pixels, not a number of starts.")
    misconception(bowl, 2, "Starts at the very ends count, too: they have one neighbour only.")
    if bowl != 3:
        raise Wrong("In a plain bowl with its bottom at 0 every start comes home, up to R.")
    example = at(5, 3, 4, 2, 0, 3, 4)
    misconception(example, 3, "Both sides must come home: the answer goes with the worse one.")
    misconception(example, -1, "With the tolerance of 1 the valley at shift 1 counts as home.")
    misconception(example, 0, "The start at -1 has two neighbours, and goes to the lower of them.")
    if example != 1:
        raise Wrong("For the example of the text the answer is another.")
    if at(5, 3, 4, 2, 0, 3, 4, tolerance=0) != -1:
        raise Wrong("With tolerance 0 the start at 0 of the example is not recovered, and the answer is -1.")
    hills = at(0, 5, 6, 3, 1, 3, 6, 5, 0)
    misconception(hills, -1, "A deeper valley beyond a hill is no matter to a walk that starts on this side of it.")
    misconception(hills, 1, "The top of a hill has two lower neighbours; the walk goes to the lower one.")
    if hills != 2:
        raise Wrong("Starts beyond a hill walk outwards and are lost.")
    if at(5, 4, 4, 1, 0, 1, 2, 3, 4) != 2:
        raise Wrong("On a plateau a walk stops: it goes to a neighbour only if that is strictly lower.")
    if at(3, 2, 4, 5, 1, 2, 3, 4, 5) != 1:
        raise Wrong("Where three starts on the left are lost and none on the right, the left decides. A start is lost "
                    "or not by where its walk ends, not by how high it stands.")
    return "On small curves, that is. Now look at an edge, sharp and blurred."


@exercise("25.4")
def price_of_volume(answer):
    def price(jacobian, ratio, weight):
        return ask(answer, *(torch.tensor(x, dtype=torch.double) for x in (
            [[[row]] for row in jacobian], ratio, [[[row]] for row in weight])))

    log2, ones = math.log(2), [[1, 1]]
    value = price([[2, 0.5]], [1], ones)
    expect_shape(value, (1,), "the price of one case")
    expect_range(value, 0, 10, "the price")
    misconception(value, [0.0], "A halved pixel and a doubled one make up for each other. Take the absolute value of "
                  "each logarithm before the mean.")
    misconception(value, [math.log(1.25)], "This is the logarithm of a mean. Take the mean of the logarithms.")
    misconception(value, [2.0], "This is the paper's max(a, 1/a).")
    misconception(value, [2 * log2], "The sum must be divided by the sum of the weights.")
    misconception(value, [1.0], "Use the natural logarithm.")
    if not same(value, [log2]):
        raise Wrong("The example of the text has another price.")
    if not same(price([[4, 4]], [0.25], ones), [0.0]):
        raise Wrong("Tissue at J = 4 in an organ with R = 1/4 has shrunk exactly as its organ. It should cost nothing. "
                    "Does R multiply?")
    if not same(price([[5, 5]], [1], ones), [math.log(5)]):
        raise Wrong("A tumour squeezed to a fifth has the wrong price. There should be no upper bound any more.")
    if not same(price([[-2, 2]], [1], ones), [log2]):
        raise Wrong("Take the absolute value of J: it is negative where the map folds.")
    if not same(price([[0, 0]], [1], ones), [-math.log(0.01)]):
        raise Wrong("Where |J| R is below 0.01 it counts as 0.01.")
    if not same(price([[2, 8]], [1], [[0.75, 0.25]]), [1.5 * log2]):
        raise Wrong("The pixels count by their weights.")
    if not same(price([[2, 2], [2, 2]], [1, 0.5], ones * 2), [log2, 0.0]):
        raise Wrong("Each case has its own R. Mind the shapes: R is (B,), J is (B, 1, H, W).")
    if not same(price([[2, 2], [2, 2]], [1, 1], [[0, 0], [1, 1]]), [0.0, log2]):
        raise Wrong("A case without a tumour should cost 0, and not disturb the other.")
    j = torch.full((1, 1, 2, 2), 5.0, requires_grad=True)
    cost = answer(j, torch.ones(1), torch.ones(1, 1, 2, 2))
    if not cost.requires_grad:
        raise Wrong("No gradient comes back: use PyTorch operations on the tensors from end to end.")
    return "On small cases, that is, and it can be trained through. See below how hard it pulls."


@exercise("25.5")
def merged(answer):
    def part(top, weight, mean):
        return {k: torch.tensor(v, dtype=torch.double) for k, v in (("top", top), ("weight", weight), ("mean", mean))}

    a, b = part([0], [2], [[3]]), part([math.log(4)], [1], [[9]])
    both = ask(answer, dict(a), dict(b))
    expect_type(both, dict, "the summary")
    if set(both) != {"top", "weight", "mean"}:
        raise Wrong('The summary should have the keys "top", "weight" and "mean".')
    expect_shape(both["mean"], (1, 1), '"mean"')
    mean = float(both["mean"])
    misconception(mean, 6.0, "This is the plain average of two means. A part counts by its share of all weights.")
    misconception(mean, 5.0, "The weights of two parts are in different units: each is counted against its own top.")
    misconception(mean, 11 / 3, "The weights are changed in the wrong direction: a part with a lower top counts "
                  "less.")
    if not same(mean, 7.0):
        raise Wrong("The mean of the example is another. Is each part's mean weighed by its share of all weights?")
    if not same(both["top"], [math.log(4)]):
        raise Wrong("The top of both is the larger of the two.")
    if not same(both["weight"], [1.5]):
        raise Wrong("The weight of both should be counted against the common top.")
    swapped = ask(answer, dict(b), dict(a))
    if not all(same(swapped[key], both[key]) for key in both):
        raise Wrong("Merging b with a should give the same as merging a with b.")
    two = ask(answer, part([0, 0], [1, 3], [[1, 1], [1, 1]]), part([0, 0], [1, 1], [[5, 5], [5, 5]]))
    misconception(two["mean"], [[3.0, 2.0], [3.0, 2.0]], "Row i of the mean belongs to channel i of the keys: the "
                  "weights go down the rows, not along them.")
    if not same(two["mean"], [[3.0, 3.0], [2.0, 2.0]]):
        raise Wrong("With two channels of different weights the means are wrong. Row i of the mean belongs to channel "
                    "i.")
    log4, even = math.log(4), [[1, 1], [1, 1]]
    apart = ask(answer, part([0, log4], [1, 1], even), part([log4, 0], [1, 1], [[6, 6], [6, 6]]))
    if not same(apart["mean"], [[5.0, 5.0], [2.0, 2.0]]):
        raise Wrong("Each channel has a top of its own: in one the first part may have the larger one, in another the "
                    "second.")
    high = ask(answer, part([800], [1], [[1]]), part([0], [1], [[9]]))
    if not all(same(high[key], value) for key, value in (("mean", [[1.0]]), ("weight", [1.0]))):
        raise Wrong("With a key of 800 the result is wrong or not finite. Never compute e to the power of a top "
                    "itself, only of differences to the larger one.")
    return "On small cases, that is. Now for a whole volume."
