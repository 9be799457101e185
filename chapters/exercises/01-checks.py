"""What a student is told at once about the exercises of chapter 01. Small inputs, hints, never an answer."""

import itertools
import math

import torch

from medtutor.exercise import Wrong, ask, exercise, expect_range, expect_shape, expect_type, misconception, same


@exercise("01.1")
def two_kidneys(prediction):
    """The form only: whether a prediction is true, the experiment says."""
    expect_type(prediction, dict, "prediction")
    if sorted(prediction) != ["A", "B", "C", "D"]:
        raise Wrong('prediction should have exactly the keys "A", "B", "C" and "D".')
    for case, word in prediction.items():
        if word is None:
            raise Wrong(f"There is no answer yet for case {case}. Fill in all four before you run the experiment.")
        if word not in ("equal", "different"):
            raise Wrong(f'Case {case} says {word!r}; write "equal" or "different".')
    return ("In its form, that is: four cases, a word each. Whether the words are true, the experiment below will say. "
            "Give your reasons first.")


@exercise("01.2")
def matrix_behind(function):
    answer = ask(function, 0.8, 0.9, 0.8, none_is_right=True)
    if answer is None:
        raise Wrong("For the example of the text you return None, but that matrix exists.")
    expect_type(answer, tuple, "what your function returns")
    if len(answer) != 4:
        raise Wrong(f"Return four shares (tp, fp, fn, tn); yours are {len(answer)}.")
    expect_range(answer, 0, 1, "each share")
    tp, fp, fn, tn = (float(v) for v in answer)
    if not same(tp + fp + fn + tn, 1.0):
        raise Wrong(f"The four shares should add up to 1, but they add up to {tp + fp + fn + tn:.4f}.")
    for counts in ((8, 2, 2, 18), (5, 3, 1, 40), (1, 6, 30, 3), (20, 1, 7, 2)):
        tp, fp, fn, tn = counts
        precision, specificity, dice = tp / (tp + fp), tn / (tn + fp), 2 * tp / (2 * tp + fp + fn)
        answer = ask(function, precision, specificity, dice, none_is_right=True)
        if answer is None:
            raise Wrong(f"You return None for the scores of a matrix that exists: TP, FP, FN, TN = {counts} pixels.")
        back = [v / sum(counts) for v in counts]
        if not same(answer, back):
            misconception(answer, [back[0], back[2], back[1], back[3]], "Your false positives and false negatives have "
                          "changed places. Which of them is in precision?")
            wrong = [name for name, a, b in zip(("TP", "FP", "FN", "TN"), answer, back, strict=True) if not same(a, b)]
            raise Wrong(f"Scores of TP, FP, FN, TN = {counts} pixels: your {' and '.join(wrong)} do not lead back to "
                        "this matrix. Put your shares into the three formulas and see which score comes out wrong.")
    if ask(function, 0.5, 0.9, 0.9, none_is_right=True) is not None:
        raise Wrong("Precision 0.5 and Dice 0.9 would need more true positives than there are positives: a share is "
                    "negative. Return None there.")
    return "The counts come back, and impossible scores are refused."


def tversky(mask, p, a, b) -> float:
    hit, alarm, miss = p[mask].sum(), (1 - p[mask]).sum(), p[~mask].sum()
    return float(hit / (hit + a * alarm + b * miss)) if mask.any() else 0.0


@exercise("01.3")
def best_mask(function):
    six = (0.1, 0.35, 0.8, 0.3, 0.6, 0.05)
    for values, a, b in (((0.4, 0.9, 0.2), 0.5, 0.5), (six, 0.3, 0.7), (six, 0.7, 0.3), ((0.2, 0.0, 0.1), 0.5, 0.5),
                         ((1.0, 1.0), 1.0, 2.0)):
        p = torch.tensor(values)
        mask = ask(function, p, a, b)
        expect_shape(mask, tuple(p.shape), "the mask")
        if getattr(mask, "dtype", None) != torch.bool:
            raise Wrong(f"The mask should have dtype torch.bool, but it has {getattr(mask, 'dtype', None)}.")
        masks = [torch.tensor(m) for m in itertools.product((False, True), repeat=len(p))]
        index = tversky(mask, p, a, b)
        if math.isclose(index, max(tversky(m, p, a, b) for m in masks), abs_tol=1e-5):
            continue
        where = (f"p = {list(values)}, a = {a}, b = {b}: your mask {mask.tolist()} has T = {index:.3f}, another one "
                 "has more. ")
        if same(tversky(mask, p, b, a), max(tversky(m, p, b, a) for m in masks)):
            raise Wrong(where + "It is the best where a and b change places. Which of them weighs false alarms?")
        if torch.equal(mask, p > 0.5):
            raise Wrong(where + "It is the mask cut at 0.5.")
        if mask.all():
            raise Wrong(where + "It holds every voxel.")
        if p[mask].sum() < p.sort(descending=True).values[:int(mask.sum())].sum() - 1e-6:
            raise Wrong(where + "It leaves out a voxel that is more probable than one it holds. Did you bring the "
                        "sorted voxels back to their places?")
        raise Wrong(where + "Compute T for the most probable voxel alone, for the two most probable, and so on.")
    return "At least on small cases, where all masks can be tried. The hidden tests have larger ones."


@exercise("01.4")
def who_sees_the_lesion(answer):
    function, finders = answer["case_specific"], answer["finders"]
    half = torch.zeros(2, 8, 8, dtype=torch.bool)
    half[0, :, :4], half[1, :, 4:] = True, True
    left = torch.zeros(2, 2, 2)
    left[:, :, 0] = 1.0
    alone = "Your D is the chapter's measure alone. Take off what the maps of the other patients have there."
    value = ask(function, left, half)
    expect_shape(value, (2,), "D")
    misconception(value, [2.0, 0.0], alone)
    misconception(value, [2.0, -2.0], "You compare a map with itself in other lesions. The controls are the maps of "
                  "other patients in the same lesion.")
    if not same(value, [0.0, 0.0]):
        raise Wrong("The same map for both patients should give D = 0 for both, wherever it looks.")
    lesion = torch.stack([half[0], half[1], half[1]])
    value = ask(function, lesion[:, ::4, ::4].float(), lesion)
    misconception(value, [4 / 3, 2 / 3, 2 / 3], "Is a patient its own control? The mean is over the others only.")
    misconception(value, [2.0, 0.0, 0.0], "You take off the sum over the other patients. It should be their mean.")
    if not same(value, [2.0, 1.0, 1.0]):
        raise Wrong("Three patients, each map exactly on its lesion: the left half, the right half, the right half. "
                    f"Work out D by hand; you get {[round(float(v), 3) for v in value]}.")
    maps, places = torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]]), torch.tensor([[[True, False]], [[True, True]]])
    if not same(ask(function, maps, places), ask(function, 5 * maps, places)):
        raise Wrong("Maps that are five times as bright should give the same D: only shares count.")
    if finders is None:
        raise Wrong("Your function is right. There are no finders yet: use it on the six networks.")
    expect_type(finders, dict, "finders")
    for name, value in finders.items():
        if name not in tuple("ABCDEF"):
            raise Wrong(f'The names of the networks are "A" to "F"; finders has {name!r}.')
        expect_type(value, float, f"the mean D of network {name}")
        if value <= 0.4:
            raise Wrong(f"Network {name} is no finder with a mean D of {value:.2f}: leave it out.")
    if not 0 < len(finders) < 6:
        raise Wrong("Some of the networks see the lesion, and some do not.")
    return "Your function is right. Whether your finders are, the hidden test decides: it draws your data again."


@exercise("01.5")
def add_block(function):
    q, v = torch.tensor([[1.0]]), torch.tensor([[10.0]])
    state = ask(function, None, q, torch.zeros(1, 1), v)
    expect_type(state, tuple, "the state")
    if len(state) != 3:
        raise Wrong(f"The state has three tensors (top, weight, mixed); yours has {len(state)}.")
    for name, value, shape in zip(("top", "weight", "mixed"), state, ((1,), (1,), (1, 1)), strict=True):
        expect_shape(value, shape, name)
    before = [s.clone() for s in state]
    after = ask(function, state, q, torch.tensor([[math.log(3.0)]]), torch.tensor([[2.0]]))
    if not all(torch.equal(a, b) for a, b in zip(state, before, strict=True)):
        raise Wrong("You change the old state in place. Make new tensors: somebody may still need the old one.")
    result = after[2] / after[1][:, None]
    misconception(result, [[6.0]], "In the example both blocks count alike in your result. What was kept before was "
                  "measured against a smaller top.")
    misconception(result, [[9.0]], "You shrink the old weight and not the old mixed values.")
    misconception(result, [[8.0]], "A larger top has to shrink the old terms; yours grow.")
    if not same(result, [[4.0]]):
        raise Wrong(f"The example of the text should end in y = 4, but yours is {float(result):.4f}.")
    draw = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(5, 3, generator=draw), torch.randn(9, 3, generator=draw), torch.randn(9, 2, generator=draw)
    exact = (q @ k.T).softmax(1) @ v
    for sizes in ((9,), (4, 4, 1), (1, 8)):
        state = None
        for keys, values in zip(k.split(sizes), v.split(sizes), strict=True):
            state = ask(function, state, q, keys, values)
        result = state[2] / state[1][:, None]
        expect_shape(result, (5, 2), "mixed over weight")
        if not same(result, exact):
            hint = "Look along which axis you sum." if sizes == (9,) else (
                "A single block is right; look at how two are joined where the second brings a smaller top.")
            raise Wrong(f"Five queries, nine keys in blocks of {sizes}: not the attention over all nine. {hint}")
    for keys in (40 * k, 40 * k.flip(0)):
        state = ask(function, ask(function, None, 40 * q, keys[:4], v[:4]), 40 * q, keys[4:], v[4:])
        if not all(s.isfinite().all() for s in state):
            raise Wrong("With logits of some hundreds, in two blocks, your state is infinite or NaN. No exp may get a "
                        "positive number; the top is the largest logit of all blocks so far.")
    return "The same attention, whatever the blocks."
