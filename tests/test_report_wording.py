"""Sentences of a run as a page shows them: short names, and what holds for several sets said once."""

from __future__ import annotations

from gradlens.figures import severity
from gradlens.report.run_files import Analysed
from gradlens.report.wording import SHOWN, reply, shorten, words

NAMES = {"cars/vit": "vit", "cars/vit-s1": "vit-s1", "cars-night": "night", "cars-fog": "fog", "cars-rain": "rain"}
SETS = ("cars-night", "cars-fog", "cars-rain")


def test_names_are_shortened_as_whole_words_only() -> None:
    said = "cars/vit-s1 and cars/vit on cars-night, not in cars-night-2 or my/cars/vit"
    assert shorten(said, NAMES) == "vit-s1 and vit on night, not in cars-night-2 or my/cars/vit"
    assert shorten(said, {"cars/vit": "cars/vit"}) == said


def test_later_findings_are_folded_and_a_note_does_not_repeat_its_heading() -> None:
    findings = tuple(f"cars/vit loses {i}" for i in range(SHOWN + 2))
    one = Analysed("label_noise", "Labels", "", findings, ("label noise: not judged: cars-fog",), {}, (), "")
    told = words(one, NAMES)
    assert (*told.findings, *told.more) == tuple(f"vit loses {i}" for i in range(SHOWN + 2))
    assert len(told.more) == 2
    assert told.notes == ("not judged: fog",)


def test_what_holds_for_several_sets_is_said_once() -> None:
    text = "cars-night: the same. cars-fog: 3 of 4, 0.5 points. cars-rain: the same. A mix is no harm."
    told = reply(text, SETS, NAMES)
    assert told.text == "A mix is no harm."
    assert told.by_set == (("night, rain", "the same"), ("fog", "3 of 4, 0.5 points"))
    assert reply("cars-night: so. cars-fog: so. cars-rain: so.", SETS, NAMES).by_set == (("all 3 sets", "so"),)


def test_answers_of_another_shape_stay_as_they_are() -> None:
    for text in ("Roles: cars-night (probe).", "cars-night: only this one.", "", "First. Second. cars-fog: a. Last."):
        told = reply(text, SETS, NAMES)
        assert told.by_set == ()
        assert told.text == shorten(text, NAMES)


def test_lines_have_names_at_their_ends_and_of_many_the_best_and_the_worst() -> None:
    for n in (3, 9):
        curves = [severity.Curve(f"m{i}", "fog", 0.9, (1, 2), (0.8, 0.1 * i), (0.7, 0), (0.9, 1)) for i in range(n)]
        figure = severity.severity_curves(curves, "Wilson")
        (ax,) = figure.axes
        told = [text.get_text() for text in ax.texts]
        assert told == (["m0", "m1", "m2"] if n == 3 else ["m0", "m8"])
        assert bool(figure.legends) == (n == 9)
        marks = [str(line.get_gid()) for line in ax.lines if line.get_gid()]
        assert len(marks) == 3 * n
        assert marks[1] == "told: m0 at severity 1 of fog: 80.0 % [70.0, 90.0]"
