"""The app below its page: models that come and go, looks that are kept, the warning, the playground, sizes, the run."""

from __future__ import annotations

import html
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gradlens.app import cards, changes
from gradlens.app.agreement import agreement
from gradlens.app.familiar import Familiarity, Reference, References, overall
from gradlens.app.looking import Eyes, Look, Photo, quick_methods, read_photo
from gradlens.app.pool import Pool
from gradlens.app.run_table import HEADS, read_run
from gradlens.app.service import Service
from gradlens.app.settings import Settings, size_in_bytes
from gradlens.cam.engine import explain
from gradlens.data.corruptions import CORRUPTIONS
from gradlens.data.preprocess import to_tensor
from gradlens.errors import GradlensError, InputError, InstallationError
from gradlens.records import Estimate
from gradlens.runtime import Runtime
from runs import write_run

CPU = Runtime(device="cpu", quiet=True)
MODELS = ("vehicles/vit", "vehicles/custom_cnn", "vehicles/convnext")


def photo(seed: int = 0, size: tuple[int, int] = (120, 160)) -> Photo:
    """A smooth picture of nothing in particular."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return Photo(np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)), f"photo {seed} {size}")


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(Settings(models=MODELS), CPU)


@pytest.fixture(scope="module")
def looks(service: Service) -> list[Look]:
    return [service.eyes.look(photo(), name) for name in MODELS]


# ------------------------------------------------------------------------------------------------------------ models


def test_models_come_when_they_are_needed_and_the_least_used_leave() -> None:
    pool = Pool(MODELS, CPU, 10**9)
    assert pool.loaded == []
    sizes = {}
    for name in MODELS:
        with pool.use(name) as held:
            sizes[name] = held.size
            assert held.size == sum(t.nbytes for t in held.model.module.state_dict().values())
    assert pool.loaded == list(MODELS)
    small = Pool(MODELS, CPU, sizes[MODELS[0]] + sizes[MODELS[2]])
    for name in (MODELS[0], MODELS[1], MODELS[0], MODELS[2]):
        with small.use(name):
            assert small.loaded[-1] == name
            assert small.size <= small.budget or small.loaded == [name]
    assert MODELS[1] not in small.loaded


def test_a_model_larger_than_the_budget_stays_while_nobody_needs_another() -> None:
    pool = Pool(MODELS, CPU, 1)
    with pool.use(MODELS[0]):
        assert pool.loaded == [MODELS[0]]
    with pool.use(MODELS[1]):
        assert pool.loaded == [MODELS[1]]


def test_room_for_passes_counts() -> None:
    alone = Pool(MODELS, CPU, 10**9, at_once=3)
    with alone.use(MODELS[0]) as held:
        assert alone.size == held.size + 3 * held.look_size + held.batch_size
        images = torch.zeros(1, *held.model.preprocess.input_size)
        saved: dict[int, int] = {}  # what autograd keeps for the backward pass is alive at its start: a lower bound

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        held.model.module.requires_grad_(False)  # maps need no gradients of weights, and nothing is kept for them
        weights = {p.untyped_storage().data_ptr() for p in held.model.module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = held.model.module(images.requires_grad_(True))
        assert held.look_size > sum(n for at, n in saved.items() if at not in weights) > 10**5
        del out
    weights_of_two = 0
    for name in MODELS[:2]:
        with alone.use(name) as held:
            weights_of_two += held.size
    tight = Pool(MODELS, CPU, weights_of_two, at_once=3)  # room for both, but not for a pass
    for name in MODELS[:2]:
        tight.prepare(name)
    assert tight.loaded == [MODELS[1]]


def test_other_work_waits_for_a_pause_and_ends_with_the_pool() -> None:
    pool = Pool(MODELS, CPU, 10**9)
    pool.give_way()
    passed: list[str] = []
    began = threading.Event()

    def work() -> None:
        began.set()
        pool.give_way()
        passed.append("other work")

    with pool.awaited():
        thread = threading.Thread(target=work)
        thread.start()
        began.wait()
        passed.append("a picture")
    thread.join()
    assert passed == ["a picture", "other work"]
    pool.close()
    with pytest.raises(GradlensError, match="ended"):
        pool.give_way()


@pytest.mark.parametrize(
    ("n", "chosen"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 4]), (14, [0, 4, 8, 13])]
)
def test_models_chosen_at_first_are_spread_over_the_list(n: int, chosen: list[int]) -> None:
    names = tuple(f"cifar10/m{i}" for i in range(n))
    assert Service(Settings(names), Runtime(device="cpu")).at_first == [names[i] for i in chosen]


def test_models_chosen_at_first_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Settings(models=(*MODELS, "vehicles/vgg", "vehicles/mobilenet")), CPU)
    chosen = [*MODELS, "vehicles/mobilenet"]
    asked: list[str] = []
    monkeypatch.setattr(service.references, "of", lambda name: asked.append(name))
    done = threading.Event()
    prepare = service._prepare
    monkeypatch.setattr(service, "_prepare", lambda: (prepare(), done.set()))
    with service.preparing():
        assert done.wait(120)
    assert service.pool.loaded == asked == chosen
    with service.preparing():  # the pool is closed: nothing is begun
        pass
    assert asked == chosen


def test_ctrl_c_while_the_preparing_thread_starts_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    service = Service(Settings(models=MODELS), CPU)
    closed = threading.Event()
    close = service.pool.close
    monkeypatch.setattr(service.pool, "close", lambda: (close(), closed.set()))
    monkeypatch.setattr(service, "_prepare", lambda: closed.wait(5) and time.sleep(0.2))
    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt), service.preparing():
        pytest.fail("the interrupt was swallowed")
    assert [t for t in threading.enumerate() if t.name == "preparing"] == []


def test_a_model_serves_one_thread_at_a_time() -> None:
    pool = Pool(MODELS, CPU, 10**9)
    inside: list[str] = []
    most: list[int] = []

    def work(who: str) -> None:
        with pool.use(MODELS[0]):
            inside.append(who)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.remove(who)

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_threads_get_the_maps_that_one_thread_gets(service: Service) -> None:
    photos = [photo(i) for i in range(4)]
    alone = {(p.key, m): Eyes(service.pool).look(p, m) for p in photos for m in MODELS[:2]}
    together: dict[tuple[str, str], Look] = {}
    eyes = Eyes(service.pool)

    def work(p: Photo) -> None:
        for m in MODELS[:2]:
            together[p.key, m] = eyes.look(p, m)

    threads = [threading.Thread(target=work, args=(p,)) for p in photos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, look in alone.items():
        np.testing.assert_array_equal(look.logits, together[key].logits)
        for one, other in zip(look.stack.maps, together[key].stack.maps, strict=True):
            np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------------------------- looks


def test_a_look_is_what_the_engine_gives(service: Service, looks: list[Look]) -> None:
    for look in looks:
        with service.pool.use(look.model) as held:
            images = to_tensor(held.model.preprocess, photo().pixels)[None]
            stack = explain(held.model.module, images, layers="all").stacks(held.model.classes)[0]
            with torch.no_grad():
                probabilities = held.model.module(images).softmax(1)[0].numpy()
        assert [p.name for p in look.stack.depths] == [p.name for p in stack.depths]
        for mine, theirs in zip(look.stack.maps, stack.maps, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(look.probabilities, probabilities, atol=1e-5)
        assert look.top(1)[0] == (look.prediction, pytest.approx(probabilities.max(), abs=1e-5))
        assert look.stack.target[1] == look.prediction
        assert [share for _, share in look.top(8)] == sorted((s for _, s in look.top(8)), reverse=True)


def test_the_slider_reaches_every_depth(looks: list[Look]) -> None:
    for look in looks:
        assert {look.at(i / 100) for i in range(101)} == set(range(len(look.stack.depths)))
        assert (look.at(0), look.at(1)) == (0, len(look.stack.depths) - 1)


def test_another_depth_is_only_drawn(service: Service, looks: list[Look], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.pool, "use", lambda name: pytest.fail(f"{name} was run again"))
    outcomes = {name: service.outcome(photo(), name, "gradcam") for name in MODELS}
    assert [outcomes[name] for name in MODELS] == looks
    assert cards.cards(outcomes, 0.1) != cards.cards(outcomes, 0.9)


def test_looks_that_take_too_much_room_are_forgotten(service: Service) -> None:
    eyes = Eyes(service.pool, room=1)
    first = eyes.look(photo(), MODELS[0])
    assert eyes.look(photo(), MODELS[0]) is first
    eyes.look(photo(1), MODELS[0])
    assert eyes.look(photo(), MODELS[0]) is not first


def test_every_quick_method_answers_or_says_why(service: Service) -> None:
    for method in quick_methods():
        outcome = service.outcome(photo(), MODELS[1], method.name)
        assert isinstance(outcome, Look), f"{method.name}: {outcome}"
        assert len(outcome.stack.maps) == len(outcome.stack.depths) > 5


def test_a_class_that_a_model_does_not_have(service: Service) -> None:
    assert service.outcome(photo(), MODELS[0], "gradcam", "zebra") == "has no class 'zebra'"
    asked = service.outcome(photo(), MODELS[0], "gradcam", "ship")
    assert isinstance(asked, Look)
    assert asked.stack.target[1] == "ship"


def test_a_model_that_cannot_be_loaded_does_not_stop_the_others(tmp_path: Path) -> None:
    service = Service(Settings(models=(str(tmp_path / "nothing"), MODELS[0])), CPU)
    *_, outcomes = service.outcomes(photo(), service.pool.names, "gradcam")
    assert isinstance(outcomes[MODELS[0]], Look)
    assert isinstance(outcomes[str(tmp_path / "nothing")], str)


# ---------------------------------------------------------------------------------------------------------- pictures


def test_a_picture_is_decoded_as_elsewhere(tmp_path: Path) -> None:
    turned = Image.fromarray(photo().pixels)
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_photo(tmp_path / "turned.jpg").pixels.shape == (160, 120, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<html>", "an HTML page"),
        (b"\x89PNG\r\n\x1a\nrest", "something else"),
        (b"plain words", "something else"),
    ],
)
def test_a_bad_file_gives_one_line(tmp_path: Path, service: Service, content: bytes, said: str) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=said) as told:
        service.photo(tmp_path / "bad.png")
    assert "\n" not in str(told.value)
    assert "bad.png" in str(told.value)


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (4000, 3000)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="at most 1 million pixels, got 4000 × 3000"):
        read_photo(tmp_path / "large.png", most_pixels=10**6)


# --------------------------------------------------------------------------------------------------------- agreement


def test_agreement_by_hand(looks: list[Look]) -> None:
    def saying(*p: float, classes: tuple[str, ...] = ("a", "b")) -> Look:
        return replace(looks[0], classes=classes, probabilities=np.array(p))

    found = agreement([saying(0.9, 0.1), saying(0.6, 0.4), saying(0.2, 0.8)])
    assert found.votes == (("a", 2), ("b", 1))
    assert (found.models, found.pairs, found.same) == (3, 3, 1)
    assert found.overlap == pytest.approx((0.7 + 0.3 + 0.6) / 3)
    assert agreement([saying(0.4, 0.6), saying(0.9, 0.1)]).votes == (("a", 1), ("b", 1))
    assert agreement([saying(1.0, 0.0), saying(0.0, 1.0, classes=("b", "a"))]).overlap == 1.0  # by name
    assert agreement([saying(0.9, 0.1)]).pairs == 0


# ------------------------------------------------------------------------------------------------------------ warning


def reference(n: int = 200) -> Reference:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4
    features = (rng.normal(size=(n, 6)) + 5 * np.eye(6)[labels]).astype(np.float32)
    logits = (rng.normal(size=(n, 4)) + 4 * np.eye(4)[labels]).astype(np.float32)
    return Reference("known", "abc", "layer", features, logits, labels)


def test_familiarity_counts_the_images_that_are_as_far(looks: list[Look]) -> None:
    known = reference()
    shares = []
    for distance in (0.0, 2.0, 4.0, 20.0):
        features = (5 * np.eye(6)[0] + distance * np.eye(6)[5]).astype(np.float32)
        look = replace(looks[0], features=features, logits=known.logits[0])
        found = known.familiarity(look)
        shares.append(found.share)
        assert (found.n, found.source) == (200, "known")
        assert 1 / 201 <= found.share <= 1
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    assert shares[-1] == pytest.approx(1 / 201)


def test_known_images_are_flagged_as_rarely_as_said(looks: list[Look]) -> None:
    known, rng = reference(400), np.random.default_rng(1)
    fresh = rng.normal(size=(400, 6)) + 5 * np.eye(6)[np.arange(400) % 4]
    flagged = 0
    for row in fresh.astype(np.float32):
        found = known.familiarity(replace(looks[0], features=row, logits=known.logits[0]))
        flagged += found.verdict == "unlike"
    assert flagged <= 12  # 1 % of 400, and three standard deviations


def test_a_reference_comes_back_from_its_file(tmp_path: Path, looks: list[Look]) -> None:
    known = reference()
    known.save(tmp_path / "known.npz")
    again = Reference.load(tmp_path / "known.npz")
    look = replace(looks[0], features=known.features[3], logits=known.logits[3])
    assert again.familiarity(look) == known.familiarity(look)
    (tmp_path / "known.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="known"):
        Reference.load(tmp_path / "known.npz")
    np.savez(tmp_path / "objects.npz", facts=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="objects"):
        Reference.load(tmp_path / "objects.npz")


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    for i in range(12):
        place = tmp_path / "images" / ("bus", "car")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(i, (96, 96)).pixels).save(place / f"{i}.png")
    return tmp_path / "images"


def test_references_are_made_once_and_kept(
    service: Service, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
    told: list[float] = []
    made = References(service.pool, str(folder_of_images)).of(MODELS[0], lambda share, what: told.append(share))
    assert isinstance(made, Reference)
    assert made.features.shape[0] == made.logits.shape[0] == 12
    assert made.source == "images"
    assert told[-1] == 1
    monkeypatch.setattr("gradlens.app.familiar._measured", lambda *_: pytest.fail("was measured again"))
    again = References(service.pool, str(folder_of_images)).of(MODELS[0])
    assert isinstance(again, Reference)
    np.testing.assert_array_equal(made.features, again.features)


def test_who_waits_for_a_reference_hears_how_far_it_is(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    references, heard, told = References(service.pool), threading.Event(), []

    def find(name: str, progress: Callable[[float, str], None]) -> Reference:
        progress(0.25, "half of a half")
        assert heard.wait(60)
        return reference()

    def hear(share: float, what: str) -> None:
        told.append((share, what))
        heard.set()

    monkeypatch.setattr(references, "_find", find)
    first = threading.Thread(target=references.of, args=(MODELS[0],))
    first.start()
    while references._now[0] == 0:
        threading.Event().wait(0.01)
    assert isinstance(references.of(MODELS[0], hear), Reference)
    first.join()
    assert set(told) == {(0.25, "half of a half")}


def test_models_without_a_test_set_say_so(service: Service, tmp_path: Path) -> None:
    cifar = Service(Settings(models=("cifar10/vit",)), CPU)
    found, without = cifar.familiarity(photo(), ["cifar10/vit"], "gradcam")
    assert found == []
    assert "--in-dist" in without["cifar10/vit"]
    for i in range(5):
        Image.fromarray(photo(i, (32, 32)).pixels).save(tmp_path / f"{i}.png")
    few = References(service.pool, str(tmp_path))
    assert "at least 10" in str(few.of(MODELS[0]))


def test_most_models_decide() -> None:
    def one(share: float) -> Familiarity:
        return Familiarity("m", "s", 300, share, 0.5)

    assert [one(s).verdict for s in (0.005, 0.01, 0.03, 0.05, 0.2)] == [
        "unlike",
        "unlike",
        "unusual",
        "unusual",
        "alike",
    ]
    assert overall([one(0.005), one(0.5)]) == "unlike"
    assert overall([one(0.005), one(0.5), one(0.5)]) == "alike"
    assert overall([one(0.005), one(0.03), one(0.5)]) == "unusual"


# --------------------------------------------------------------------------------------------------------- playground


@pytest.mark.parametrize("name", list(changes.CHANGES))
def test_a_change_grows_with_its_severity(name: str) -> None:
    before = photo(3, (150, 200))
    images = [changes.changed(before, name, severity) for severity in range(6)]
    assert images[0] is before
    assert len({image.key for image in images}) == 6
    for image in images[1:]:
        assert image.pixels.dtype == np.uint8
        assert image.pixels.shape[2] == 3
    again = changes.changed(before, name, 3)
    np.testing.assert_array_equal(again.pixels, images[3].pixels)
    if name == "crop":
        sides = [image.pixels.shape[0] for image in images]
    elif name == "elastic_transform":  # its severities go from broad to narrow waves
        return
    else:
        sides = [-float(np.abs(image.pixels.astype(float) - before.pixels).mean()) for image in images]
    assert sides[0] > sides[1] > sides[5]


def test_changes_with_a_corruptions_name_are_that_corruption() -> None:
    from gradlens.data.corruptions import corrupt

    before = photo(4)
    for name in set(changes.CHANGES) & set(CORRUPTIONS):
        wanted = corrupt(before.pixels, name, 4, before.key)
        np.testing.assert_array_equal(changes.changed(before, name, 4).pixels, wanted)


def test_the_night_is_dark_by_as_much_as_said() -> None:
    grey = Photo(np.full((8, 8, 3), 200, np.uint8), "grey")
    linear = (changes.changed(grey, "night", 5).pixels[0, 0] / 200) ** 2.2
    assert linear[2] == pytest.approx(0.05, rel=0.05)
    assert linear[0] < linear[1] < linear[2]


def test_large_pictures_are_reduced_before_they_are_changed() -> None:
    assert changes.base(photo(0, (900, 1200))).pixels.shape[:2] == (448, 597)
    small = photo()
    assert changes.base(small) is small
    with pytest.raises(ValueError, match="0 to 5"):
        changes.changed(small, "fog", 6)


def test_before_and_after_explain_the_same_class(service: Service) -> None:
    *_, both = service.before_after(photo(7), MODELS[:2], "gradcam", "", "night", 5)
    for before, after in both.values():
        assert isinstance(before, Look)
        assert isinstance(after, Look)
        assert after.stack.target == before.stack.target
        assert not np.array_equal(before.probabilities, after.probabilities)
    page = cards.before_after(both, 0.8, "Night", 5, "Little light.")
    assert page.count("<img") == 2 + 2 * len(both)  # what all of them saw stands there once
    assert "Night, severity 5" in page
    assert "Little light." in page


def test_the_playground_counts_the_models_that_change_their_answer(looks: list[Look]) -> None:
    look = looks[0]
    other = replace(look, probabilities=look.probabilities[::-1].copy())
    assert other.prediction != look.prediction
    page = cards.before_after({"a": (look, look), "b": (look, other), "c": ("no such file", None)}, 0.8, "Fog", 3)
    assert "<b>1 of 2</b> models gives another answer" in " ".join(page.split())
    assert f"{look.prediction} → <b>{other.prediction}</b>" in page
    assert f"still <b>{look.prediction}</b>" in page
    assert "no such file" in page
    assert "All 2 models keep their answer" in cards.before_after({m: (look, look) for m in "ab"}, 0.8, "Fog", 3)
    assert "Nothing has happened" in cards.before_after({"a": (look, look)}, 0.8, "Fog", 0)


# --------------------------------------------------------------------------------------------------------------- page


def test_names_are_escaped(looks: list[Look]) -> None:
    evil = "<img src=x onerror=alert(1)> {{7*7}} ${7*7}"
    look = replace(
        looks[0],
        classes=tuple(f"{evil}{i}" for i in range(8)),
        stack=replace(looks[0].stack, target=(0, evil)),
    )
    page = cards.cards({evil: look, "other": evil}, 0.5) + cards.message(evil) + cards.summary({evil: look})
    assert "<img src=x" not in page
    assert html.escape("<img src=x onerror=alert(1)>") in page


def test_cards_show_what_was_measured(looks: list[Look]) -> None:
    page = cards.cards({look.model: look for look in looks}, 0.5)
    for look in looks:
        point = look.stack.depths[look.at(0.5)]
        assert f"<code>{point.name}</code>" in page
        assert f"{100 * look.top(1)[0][1]:.1f} %" in page
    alts = re.findall(r'<img src="data:image/webp;base64,[^"]+" alt="([^"]+)"', page)
    assert len(alts) == len(looks) + 1
    assert any(alt.startswith("Grad-CAM of vehicles/vit") for alt in alts)


def test_a_long_name_breaks_after_its_collection(looks: list[Look]) -> None:
    page = cards.cards({"cifar10/net": looks[0], "vehicles/net": "no such file"}, 0.5)
    assert "cifar10/<wbr>net" in page
    assert "vehicles/<wbr>net" in page


def test_a_map_that_shows_nothing_says_why(looks: list[Look]) -> None:
    blank = replace(looks[0].stack, statuses=("zero gradient",) * len(looks[0].stack.depths))
    shown = cards.map_at(replace(looks[0], stack=blank), 1.0)
    assert shown.said == "gradient is zero"
    assert shown.alt.endswith("gradient is zero")


def test_the_warning_says_how_many_models_and_what_it_does_not_mean() -> None:
    far, near = Familiarity("a", "known", 320, 1 / 321, 0.4), Familiarity("b", "known", 320, 0.5, 0.4)
    page = cards.familiarity([far, far, near], {"c": "no set"})
    assert "Unlike the images" in page
    assert "2 of 3 models" in page
    assert "It does not mean that the predictions are wrong" in page
    assert "99.7 %" in page
    assert "c cannot tell: no set" in page
    assert "Like the images" in cards.familiarity([near], {})
    assert "is not known" in cards.familiarity([], {"c": "no set"})


# ------------------------------------------------------------------------------------------------------------ the run


def test_the_run_table_holds_the_runs_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, {m: {"own": 0.9, "probe": 0.6} for m in ("alpha", "beta")}, in_dist="own")
    table = read_run(tmp_path)
    rows = table.rows("accuracy")
    assert len(rows[0]) == len(HEADS)
    assert {(row[0], row[1]) for row in rows} == {(m, d) for m in ("alpha", "beta") for d in ("own", "probe")}
    for row in rows:
        estimate: Estimate = table.run.scores[str(row[0]), str(row[1])]["accuracy"]
        assert row[2:6] == [estimate.n, *(round(100 * v, 1) for v in (estimate.value, estimate.low, estimate.high))]
        assert (row[6] is None) == (row[1] == "own")
    assert [row for row in rows if row[1] == "probe"] == table.rows("accuracy", "probe")
    assert "own" in table.note("accuracy")


def test_the_run_table_writes_every_number_with_the_same_digits(tmp_path: Path) -> None:
    write_run(tmp_path, {m: {"own": 0.9, "probe": 0.6} for m in ("alpha", "beta")}, in_dist="own")
    table = read_run(tmp_path)
    for metric, digits in (("accuracy", 1), ("nll", 3)):
        told = table.table(metric)
        assert told["data"] == table.rows(metric)
        for row, written in zip(told["data"], told["metadata"]["display_value"], strict=True):
            assert [w for v, w in zip(row, written, strict=True) if v is None] == [""] * row.count(None)
            numbers = [(v, w) for v, w in zip(row, written, strict=True) if isinstance(v, float)]
            assert numbers
            for value, shown in numbers:
                assert len(shown.partition(".")[2]) == digits
                assert float(shown) == value


# ---------------------------------------------------------------------------------------------------------- settings


@given(st.integers(1, 10**6), st.sampled_from(["", "k", "M", "g"]), st.sampled_from(["", "b", "B", "iB"]))
def test_sizes(number: int, unit: str, ending: str) -> None:
    if ending == "iB" and not unit:
        return
    power = ["", "k", "m", "g"].index(unit.lower())
    assert size_in_bytes(f"{number}{unit}{ending}") == number * (1024 if ending == "iB" else 1000) ** power


@pytest.mark.parametrize("text", ["", "big", "-1GB", "0", "1 PB", "1..5GB", "nan"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        size_in_bytes(text)


def test_answers_for_programs(service: Service, tmp_path: Path) -> None:
    stream = BytesIO()
    Image.fromarray(photo().pixels).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    told = service.answer(tmp_path / "a.png", MODELS[:2], "gradcam")
    assert told["schema"] == 1
    assert [m["name"] for m in told["models"]] == list(MODELS[:2])
    assert sum(told["votes"].values()) == 2
    with pytest.raises(InputError, match="zebra"):
        service.answer(tmp_path / "a.png", ["zebra"], "gradcam")
    with pytest.raises(InputError, match="at least one"):
        service.answer(tmp_path / "a.png", [], "gradcam")


# ----------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def app(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: object) -> tuple[int, str, str]:
        from gradlens.cli.main import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["app", *map(str, args)])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return call


def test_without_gradio_one_line_says_how_to_get_it(app, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    code, out, err = app("--model", "vit")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert 'pip install "gradlens[app]"' in err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--memory", "much"], 2, "--memory: expected a size"),
        (["--max-upload", "0"], 2, "--max-upload: expected a size"),
        (["--port", "70000"], 2, "--port"),
        (["--model", "vitt"], 1, "vit"),
    ],
)
def test_wrong_usage(app, args: list[str], code: int, said: str) -> None:  # type: ignore[no-untyped-def]
    got, out, err = app(*args)
    assert (got, out) == (code, "")
    assert said in err


def test_help_has_examples(app) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = app("--help")
    assert code == 0
    assert "gradlens app --model 'vehicles/*' --memory 500MB --export my-space" in out


def test_old_gradio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from gradlens.app.serve import import_gradio

    monkeypatch.setitem(__import__("sys").modules, "gradio", SimpleNamespace(__version__="5.49.1"))
    with pytest.raises(InstallationError, match=r"6 or newer.*5\.49\.1"):
        import_gradio(offline=True)


def test_this_machines_address_answers_under_its_own_names_only() -> None:
    """Else a page elsewhere whose name was given this machine's address could ask as if it were ours."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    from gradlens.app.serve import called_by_name

    routes = [Route("/", lambda _: PlainTextResponse("here"), methods=["GET", "POST"])]
    asked = TestClient(Starlette(routes=routes, **called_by_name("127.0.0.1")["app_kwargs"]))
    for name in ("127.0.0.1:7860", "localhost", "LOCALHOST:7861", "[::1]:7860"):
        assert asked.get("/", headers={"Host": name}).text == "here"
    for name in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.", ""):
        assert asked.post("/", headers={"Host": name}).status_code == 400, name
    assert called_by_name("0.0.0.0") == {}, "an address that others reach has names that nobody here knows"


def test_a_device_that_is_not_there_is_said_at_once() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(GradlensError, match="cuda"):
        Service(Settings(models=MODELS), Runtime(device="cuda"))
