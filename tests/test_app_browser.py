"""The app as people meet it: a server of its own process, a real browser, an exported folder that runs."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from browser import SCHEMES, WIDTHS, Tab, violations
from runs import write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WAIT = 120_000  # milliseconds: a busy machine is no fault of the page

# what Gradio 6.31 itself says and does, whatever the page
CONSOLE = (
    "Method not implemented.",  # a component without an update method, when a value arrives before it is shown
)
STOCK = {
    "aria-prohibited-attr": "Gradio labels plain <div>s",
    "color-contrast": "Gradio's own small print: block labels and slider ends",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server until the block ends; its end is that of Ctrl-C."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs start without it
    )  # fmt: skip
    try:
        for _ in range(1500):
            try:
                with urllib.request.urlopen(url, timeout=5):
                    break
            except OSError:
                if process.poll() is not None:
                    pytest.fail(f"the server ended: {process.communicate()[0]}")
            time.sleep(0.2)
        else:
            pytest.fail("the server did not start")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third of the models' test set: enough images that one in a hundred is more than none."""
    place = tmp_path_factory.mktemp("known")
    for folder in (ROOT / "probe_sets" / "vehicles-test").iterdir():
        if folder.is_dir() and not folder.name.startswith("_"):
            (place / folder.name).mkdir()
            for image in sorted(folder.iterdir())[:13]:
                shutil.copy(image, place / folder.name)
    return place


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, known: Path) -> dict[str, Path]:
    """A vehicle, noise, a text that calls itself a picture, and a file that is too large."""
    place = tmp_path_factory.mktemp("pictures")
    vehicle = sorted((known / "bus").iterdir())[0]
    Image.open(vehicle).convert("RGB").save(place / "vehicle.png")
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(place / "noise.png")
    (place / "words.png").write_text("not a picture at all")
    large = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    Image.fromarray(large).save(place / "large.png")
    return {path.stem: path for path in place.iterdir()}


# read by Python before anything else; what it refuses is written down, because somebody may swallow the exception
GUARD = """
import os, sys

def stay_here(event, args):
    if event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if host not in (None, "", "127.0.0.1", "::1", "0.0.0.0", "localhost", b"localhost"):
        with open(os.environ["REFUSED"], "a") as file:
            file.write(f"{event} {host}\\n")
        raise OSError(f"{host} is another machine")

sys.addaudithook(stay_here)
"""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python connects to no other machine; the file REFUSED tells which it would have."""
    place = tmp_path_factory.mktemp("guard")
    (place / "sitecustomize.py").write_text(GUARD)
    (place / "refused").touch()
    return {"PYTHONPATH": str(place), "REFUSED": str(place / "refused")}


@pytest.fixture(scope="module")
def url(
    known: Path, pictures: dict[str, Path], guard: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A running app with two small models, which asks nobody else for anything as long as it runs."""
    run = tmp_path_factory.mktemp("run")
    write_run(run, {m: {"own": 0.9, "probe": 0.6} for m in ("alpha", "beta")}, in_dist="own")
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    command = [
        *(sys.executable, "-m", "gradlens", "app", "--model", "vit", "--model", "custom_cnn", "--device", "cpu"),
        *("--in-dist", str(known), "--image", str(pictures["vehicle"]), "--run", str(run), "--port", str(port)),
        *("--max-upload", "1MB"),
    ]
    with running(command, address, **guard):
        yield address
    assert Path(guard["REFUSED"]).read_text() == ""


def test_the_guard_stops_a_connection(guard: dict[str, str], tmp_path: Path) -> None:
    # 192.0.2.0/24 is nobody's (RFC 5737)
    script = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    environment = {**os.environ, **guard, "REFUSED": str(tmp_path / "refused")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "is another machine" in done.stderr
    assert "192.0.2.1" in (tmp_path / "refused").read_text()


@pytest.fixture
def tab(url: str, visit: Callable[..., Tab]) -> Iterator[Tab]:
    """A tab on the app; whatever a test does there, nothing is asked of anybody else, and nothing is complained of."""
    one = visit(url, offline=False)
    one.page.set_default_timeout(WAIT)
    one.page.wait_for_selector("#cards")
    yield one
    elsewhere = [r for r in one.requests if not r.startswith((url, "data:", "blob:"))]
    assert elsewhere == []
    assert [c for c in one.complaints if c not in CONSOLE] == []


def give(tab: Tab, picture: Path) -> None:
    """Upload a picture."""
    if tab.page.get_by_label("Remove Image").count():
        tab.page.get_by_label("Remove Image").click()
    tab.page.locator("#picture input[type=file]").set_input_files(picture)


NUMBERS = "[...document.querySelectorAll('#cards figcaption b')].map(b => b.innerText.split(' of '))"


def depths(tab: Tab) -> list[str]:
    return tab.page.locator("#cards figcaption b").all_inner_texts()


def answered(tab: Tab, models: int = 2) -> None:
    tab.page.wait_for_function(f"document.querySelectorAll('#cards .gl-top').length === {models}", timeout=WAIT)


def test_upload_answer_slider_warning(tab: Tab, pictures: dict[str, Path]) -> None:
    page = tab.page
    give(tab, pictures["vehicle"])
    answered(tab)
    assert page.locator("#cards .gl-top li").count() == 10
    shares = [float(text.removesuffix(" %")) for text in page.locator("#cards .gl-share").all_inner_texts()]
    assert all(0 <= s <= 100 for s in shares)
    assert "say" in page.locator("#summary").inner_text()
    page.wait_for_selector("#familiar .gl-alike, #familiar .gl-unusual")
    first, times = depths(tab), page.locator("#cards .gl-cost").all_inner_texts()
    assert len(first) == 2

    slider = page.locator("#depth input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function(
        "[...document.querySelectorAll('#cards figcaption b')].every(b => b.innerText.startsWith('1 of'))"
    )
    assert page.locator("#cards .gl-cost").all_inner_texts() == times  # drawn, not run again
    page.keyboard.press("End")
    page.wait_for_function(f"{NUMBERS}.every(([i, n]) => i === n)")

    give(tab, pictures["noise"])
    page.wait_for_selector("#familiar .gl-unlike")
    told = page.locator("#familiar").inner_text()
    assert "Unlike the images these models were tested on" in told
    page.locator("#familiar summary").click()
    assert "does not mean that the predictions are wrong" in page.locator("#familiar").inner_text()


def test_an_example_and_another_method(tab: Tab) -> None:
    page = tab.page
    page.locator("#examples").get_by_text("vehicle").click()
    answered(tab)
    before = page.locator("#cards .gl-map img").nth(1).get_attribute("src")
    page.locator("#method input").click()
    page.get_by_role("option", name="LayerCAM").click()
    page.wait_for_function("document.querySelectorAll('#cards .gl-map img')[1]?.alt.startsWith('LayerCAM')")
    assert page.locator("#cards .gl-map img").nth(1).get_attribute("src") != before
    page.get_by_role("checkbox", name="custom_cnn").uncheck()
    answered(tab, 1)
    assert "One model" in page.locator("#summary").inner_text()


def test_a_pasted_picture_is_answered(tab: Tab, pictures: dict[str, Path]) -> None:
    page = tab.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    encoded = base64.b64encode(pictures["vehicle"].read_bytes()).decode()
    page.evaluate(
        """async text => {
            const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
            const item = new ClipboardItem({"image/png": new Blob([bytes], {type: "image/png"})});
            await navigator.clipboard.write([item]);
        }""",
        encoded,
    )
    page.locator("#picture").get_by_label("Paste from clipboard").click()
    answered(tab)
    assert page.locator("#cards .gl-seen img").count() == 1


def test_a_photographed_picture_is_answered(tab: Tab) -> None:
    page = tab.page
    page.locator("#picture").get_by_label("Capture from camera").click()
    page.locator("#picture").get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
    page.locator("#picture").get_by_label("capture photo").click()
    answered(tab)
    page.wait_for_selector("#familiar .gl-unlike")  # green bars are no vehicle


def test_the_depth_has_no_place_beside_a_table(tab: Tab) -> None:
    page = tab.page
    assert page.locator("#depth").is_visible()
    page.get_by_role("tab", name="Run").click()
    page.locator("#depth").wait_for(state="hidden")
    page.get_by_role("tab", name="Shift playground").click()
    page.locator("#depth").wait_for(state="visible")


def test_several_people_get_their_own_answers(url: str, visit: Callable[..., Tab], pictures: dict[str, Path]) -> None:
    tabs = [visit(url, offline=False) for _ in range(3)]
    for one, name in zip(tabs, ("vehicle", "noise", "vehicle"), strict=True):
        one.page.set_default_timeout(WAIT)
        give(one, pictures[name])  # at once: nobody waits for the answer before the next one asks
    seen = []
    for one in tabs:
        answered(one)
        one.page.wait_for_function("!document.querySelector('#cards')?.innerText.includes('loading')")
        cards = one.page.locator("#cards .gl-top")
        seen.append((cards.all_inner_texts(), one.page.locator("#cards .gl-seen img").get_attribute("src")))
    assert seen[0] == seen[2] != seen[1]
    assert [c for one in tabs for c in one.complaints if c not in CONSOLE] == []


def test_playground_moves_with_the_slider(tab: Tab, pictures: dict[str, Path]) -> None:
    page = tab.page
    give(tab, pictures["vehicle"])
    answered(tab)
    page.get_by_role("tab", name="Shift playground").click()
    page.wait_for_function("document.querySelectorAll('#pairs .gl-pair .gl-sides').length === 2")
    assert "Out of focus" in page.locator("#pairs .gl-summary").inner_text()
    mild = page.locator("#pairs .gl-turn").all_inner_texts()
    page.locator("#severity input[type=range]").focus()
    page.keyboard.press("End")
    page.wait_for_function("document.querySelectorAll('#pairs h3')[1]?.innerText === 'Blur, severity 5'")
    page.wait_for_function("document.querySelectorAll('#pairs .gl-pair .gl-sides').length === 2")
    assert page.locator("#pairs .gl-turn").all_inner_texts() != mild
    page.locator("#change input").click()
    page.get_by_role("option", name="Night").click()
    page.wait_for_function("document.querySelectorAll('#pairs h3')[1]?.innerText === 'Night, severity 5'")


def test_the_run_sorts(tab: Tab) -> None:
    page = tab.page
    page.get_by_role("tab", name="Run").click()
    page.locator("#run-table [role=gridcell]").first.wait_for()
    assert "alpha" in page.locator("#run-table").inner_text()

    def scores() -> list[float]:
        cells = page.locator("#run-table [role=gridcell][data-col='3']")
        # from top to bottom as they are seen: a cell keeps the number of its row when rows are sorted
        found = cells.evaluate_all("cells => cells.map(c => [c.getBoundingClientRect().top, Number(c.innerText)])")
        return [score for _, score in sorted(found)]

    at_first = scores()
    assert at_first not in (sorted(at_first), sorted(at_first, reverse=True))
    for order, backwards in (("ascending", False), ("descending", True)):
        heading = page.locator("#run-table [data-testid=header-3]").first
        heading.hover()
        heading.get_by_label("Open cell menu").click(force=True)  # it shows under the pointer alone
        page.get_by_role("menuitem", name=f"Sort {order}").click()
        page.wait_for_timeout(1500)
        assert scores() == sorted(at_first, reverse=backwards)


def test_a_file_that_is_no_picture_is_one_line_in_the_page(tab: Tab, pictures: dict[str, Path]) -> None:
    give(tab, pictures["words"])
    line = tab.page.locator("#problem [role=alert]")
    line.wait_for()
    assert "another picture" in tab.page.locator("#cards").inner_text()
    assert line.inner_text().startswith("words.png: expected an image")
    assert "\n" not in line.inner_text()


def test_a_file_that_is_too_large_is_not_taken(tab: Tab, pictures: dict[str, Path]) -> None:
    give(tab, pictures["large"])
    tab.page.get_by_text("1.0 MB").or_(tab.page.get_by_text("maximum")).first.wait_for()
    assert tab.page.locator("#cards .gl-top").count() == 0
    tab.complaints.clear()  # the browser reports the refused upload


@WIDTHS
@SCHEMES
def test_everybody_can_use_it(
    url: str, visit: Callable[..., Tab], pictures: dict[str, Path], width: int, dark: bool, tmp_path: Path
) -> None:
    one = visit(url, width=width, dark=dark, offline=False)
    one.page.set_default_timeout(WAIT)
    give(one, pictures["noise"])
    answered(one)
    one.page.wait_for_selector("#familiar .gl-unlike")
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    one.page.screenshot(path=tmp_path / "page.png", full_page=True)
    found = [line for line in violations(one.page) if line.split(":")[0] not in STOCK or "gl-" in line.split("(")[0]]
    assert found == []


# --------------------------------------------------------------------------------------------------------- the server


def refused(url: str, **headers: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as err:
        return err.code, err.headers


def test_other_pages_and_other_files_get_nothing(url: str) -> None:
    _, headers = refused(f"{url}config", Origin="https://evil.example")
    assert headers.get("Access-Control-Allow-Origin") not in ("*", "https://evil.example")
    status, _ = refused(f"{url}gradio_api/file=/etc/passwd")
    assert status in (403, 404)
    assert refused(f"{url}config")[0] == 200
    assert refused(f"{url}config", Host="evil.example")[0] == 400, "a name that was given this machine's address"


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gradlens", "app", "--model", "cifar10/vit", "--port", str(port), "--quiet"]
    with running(command, f"http://127.0.0.1:{port}/", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/\n"
        assert list(tmp_path.glob("gradlens-app-*"))
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=120)
        assert process.returncode == 130
    assert "Traceback" not in told
    assert "interrupted" in told
    assert list(tmp_path.glob("gradlens-app-*")) == []  # uploads are gone


def test_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gradlens", "app", "--model", "cifar10/vit", "--port", str(port), "--quiet"]
    with running(command, f"http://127.0.0.1:{port}/", TMPDIR=str(tmp_path)) as process:
        process.terminate()  # as a container or a service ends its servers
        told, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    assert "Traceback" not in told
    assert list(tmp_path.glob("gradlens-app-*")) == []


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "gradlens", "app", "--model", "cifar10/vit", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"expected port {port} of 127.0.0.1, but it is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_exported_folder_runs(
    tmp_path: Path, known: Path, pictures: dict[str, Path], guard: dict[str, str], visit: Callable[..., Tab]
) -> None:
    space = tmp_path / "space"
    command = [
        *(sys.executable, "-m", "gradlens", "app", "--model", "vit", "--in-dist", str(known)),
        *("--image", str(pictures["vehicle"]), "--title", "Vehicles: a look", "--export", str(space)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, f"{space}\n"), done.stderr
    head = (space / "README.md").read_text().split("---")[1]
    front = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert front["sdk"] == "gradio"
    assert front["app_file"] == "app.py"
    assert front["title"] == '"Vehicles: a look"'
    requirements = (space / "requirements.txt").read_text().splitlines()
    assert f"gradio=={front['sdk_version']}" in requirements
    assert any(line.startswith("torch>=") for line in requirements)
    assert (space / "checkpoints" / "vehicles" / "vit" / "model.safetensors").is_file()
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1
    assert "new or empty folder" in again.stderr

    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    # of this machine only the libraries: neither this checkout nor its cache
    own = {"GRADIO_SERVER_PORT": str(port), "GRADLENS_CACHE": str(tmp_path / "cache"), **guard}
    with running([sys.executable, str(space / "app.py")], address, **own):
        one = visit(address, offline=False)
        one.page.set_default_timeout(WAIT)
        one.page.locator("#examples").get_by_text("vehicle").click()
        answered(one, 1)
        one.page.wait_for_selector("#familiar h2")
        assert "not known" not in one.page.locator("#familiar h2").inner_text()  # the reference came along
        assert [r for r in one.requests if not r.startswith((address, "data:", "blob:"))] == []
        assert [c for c in one.complaints if c not in CONSOLE] == []
        from gradio_client import Client, handle_file

        client = Client(address, verbose=False)
        told = client.predict(handle_file(pictures["vehicle"]), ["vehicles/vit"], "gradcam", api_name="/classify")
    (model,) = told["models"]
    assert model["name"] == "vehicles/vit"
    assert len(model["top"]) == 5
    assert model["top"][0]["class"] == "bus"
    assert told["votes"] == {"bus": 1}
    assert Path(guard["REFUSED"]).read_text() == ""
