"""All models' answers side by side, and which images fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from shift_samples import draw, rows, told

from gradlens.errors import InputError
from gradlens.records import Predictions
from gradlens.shift import failures
from gradlens.shift.panel import panel


def several(models: int, n: int = 40, seed: int = 0, dataset: str = "set", **rest: object) -> list[Predictions]:
    """Predictions of several models on the same labelled images."""
    labels = np.random.default_rng(seed).integers(6, size=n)
    return [
        draw(n, seed=seed + m, model=f"m{m}", dataset=dataset, labels=labels, **rest)  # type: ignore[arg-type]
        for m in range(models)
    ]


def test_a_panel_is_what_the_predictions_say() -> None:
    said = several(3)
    p = panel(said)
    assert p.ids == tuple(sorted(said[0].ids))
    for m, one in enumerate(said):
        assert one.logits is not None
        probabilities = softmax(one.logits.astype(np.float64), axis=1)
        for i, name in enumerate(one.ids):
            at = p.place[name]
            assert p.classes[p.answers[m, at]] == one.classes[one.predicted[i]]
            assert p.classes[p.labels[at]] == one.label_classes[one.labels[i]]
            assert p.confidence[m, at] == pytest.approx(probabilities[i].max())
            true = probabilities[i, one.labels[i]]
            assert p.margin[m, at] == pytest.approx(probabilities[i].max() - true)
            assert p.right[m, at] == (one.predicted[i] == one.labels[i])


@given(st.permutations(range(20)), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_neither_images_nor_class_order_matter(order: list[int], seed: int) -> None:
    said = several(2, 20, seed)
    other = [rows(p, np.array(order)) for p in said]
    turned = other[1]
    assert turned.logits is not None
    back = np.array([5, 4, 3, 2, 1, 0])
    other[1] = replace(
        turned, classes=turned.classes[::-1], predicted=back[turned.predicted], logits=turned.logits[:, ::-1]
    )
    a, b = panel(said), panel(other)
    assert a.ids == b.ids
    assert np.array_equal(a.answers, b.answers)
    assert np.array_equal(a.labels, b.labels)
    assert np.allclose(a.margin, b.margin)


def test_classes_and_images_that_only_some_know() -> None:
    a = told([0, 1, -1], [0, 1, 0], ["cat", "dog"], model="a")
    b = told([0, 1], [2, 0], ["cat", "dog", "emu"], model="b", label_classes=("cat", "dog"), ids=("1", "0"))
    b = replace(b, labels=np.array([1, 0]))
    p = panel([a, b])
    assert p.classes == ("cat", "dog", "emu")
    assert p.ids == ("0", "1")  # the unlabelled image is nobody's
    assert p.answers.tolist() == [[0, 1], [0, 2]]
    assert p.right.tolist() == [[True, True], [True, False]]
    assert np.isnan(p.confidence).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"labels": np.array([1, 1])}, "another label"), ({"classes": ("cat", "cat")}, "occurs twice")],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object], said: str) -> None:
    a = told([0, 1], [0, 1], ["cat", "dog"], model="a")
    b = replace(told([0, 1], [0, 1], ["cat", "dog"], model="b"), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        panel([a, b])


def test_no_models_two_sets_or_one_twice() -> None:
    one = several(1)
    with pytest.raises(ValueError, match="at least one"):
        panel([])
    with pytest.raises(ValueError, match="twice"):
        panel(one * 2)
    with pytest.raises(ValueError, match="one set"):
        panel([*one, draw(model="other", dataset="elsewhere")])


# --- failures --------------------------------------------------------------------------------------------------------


def both_sides(models: int = 3, n: int = 60, **rest: object) -> tuple[list[Predictions], list[Predictions]]:
    """In distribution, and the same scenes shifted (noisier)."""
    home = several(models, n, 1, "home", noise=1.0, **rest)
    away = [
        replace(p, pairs=home[0].ids, ids=tuple(f"x-{i}" for i in range(n)))
        for p in several(models, n, 1, "away", noise=4.0, **rest)
    ]
    return home, away


def test_counts_against_a_second_version() -> None:
    home, away = both_sides()
    for m, tally in enumerate(failures.tallies(panel(away), panel(home))):
        before = {i: a == t for i, a, t in zip(home[m].ids, home[m].predicted, home[m].labels, strict=True)}
        after = [a == t for a, t in zip(away[m].predicted, away[m].labels, strict=True)]
        assert away[m].pairs is not None
        assert away[m].logits is not None
        was = [before[p] for p in away[m].pairs if p is not None]
        sure = softmax(away[m].logits.astype(np.float64), axis=1).max(axis=1) >= 0.9
        assert tally.n == tally.pairs == 60
        assert tally.errors == after.count(False)
        assert tally.flips == sum(w and not a for w, a in zip(was, after, strict=True)) > 0
        assert tally.recovered == sum(a and not w for w, a in zip(was, after, strict=True))
        assert tally.confident == sum(s and not a for s, a in zip(sure, after, strict=True))


def test_the_most_confident_come_first_and_no_more_than_asked() -> None:
    _, away = both_sides()
    p = panel(away)
    listed = failures.confident_errors(p, most=5)
    for m, name in enumerate(p.models):
        own = [f for f in listed if f.model == name]
        assert len(own) == 5
        confidences = [f.confidence for f in own]
        assert confidences == sorted(confidences, reverse=True)
        assert confidences[0] == p.confidence[m][p.wrong[m]].max()
        assert all(f.label != f.predicted and 0 <= f.margin <= 1 for f in own)
        assert all(f.models_wrong == p.wrong[:, p.place[f.id]].sum() for f in own)


def test_a_flip_names_both_sides() -> None:
    home, away = both_sides()
    listed = failures.flips(panel(away), panel(home), most=100)
    assert len(listed) == sum(t.flips for t in failures.tallies(panel(away), panel(home)))
    for f in listed:
        assert f.in_dist_prediction == f.label != f.predicted
        assert f.pair in home[0].ids


def test_wrong_in_every_model() -> None:
    labels, names = [0, 0, 0, 0], ["cat", "dog", "emu"]
    said = [
        told(labels, answers, names, model=f"m{m}")
        for m, answers in enumerate([[1, 1, 0, 2], [1, 2, 1, 2], [1, 2, 1, 1]])
    ]
    listed = failures.wrong_in_every_model(panel(said))
    assert [(f.id, f.predicted, f.models_wrong, f.model) for f in listed] == [
        ("0", "dog", 3, ""),  # all say the same
        ("1", "emu", 3, ""),
        ("3", "emu", 3, ""),
    ]
    assert failures.wrong_in_every_model(panel(said[:1])) == []  # one model is not every model


def test_without_logits_there_is_no_confidence_but_there_are_flips() -> None:
    home, away = both_sides(hard=True)
    p = panel(away)
    assert failures.confident_errors(p) == []
    assert failures.tallies(p, panel(home))[0].confident == -1
    listed = failures.flips(p, panel(home))
    assert listed
    assert all(np.isnan(f.confidence) for f in listed)
    of_one = [f for f in listed if f.model == "m0"]
    assert [f.models_wrong for f in of_one] == sorted((f.models_wrong for f in of_one), reverse=True)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(right: bool) -> None:
    labels = [0, 1, 0, 1]
    answers = labels if right else [1, 0, 1, 0]
    p = panel([told(labels, answers, ["cat", "dog"], model=m) for m in ("a", "b")])
    assert len(failures.wrong_in_every_model(p)) == (0 if right else 4)
    assert [t.errors for t in failures.tallies(p)] == ([0, 0] if right else [4, 4])


@given(st.permutations(range(60)), st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_lists_do_not_depend_on_the_order_of_images_and_models(order: list[int], models: list[int]) -> None:
    home, away = both_sides()
    other = [rows(away[m], np.array(order)) for m in models]
    theirs = [home[m] for m in models]
    one = failures.flips(panel(away), panel(home)) + failures.wrong_in_every_model(panel(away))
    two = failures.flips(panel(other), panel(theirs)) + failures.wrong_in_every_model(panel(other))
    assert sorted(map(repr, one)) == sorted(map(repr, two))
