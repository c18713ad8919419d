"""The page of the editor in headless Chromium: a whole correction, by pointer and by keys, and its looks.

Needs Chromium and playwright.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.edit.following import follower
from easi3r_ns.edit.marks import MOVES, STILL
from easi3r_ns.edit.server import EditServer
from tests.edit.conftest import FALSE, make_desk
from tests.support.dataset_scene import make_scene
from tests.view.test_browser import PATIENCE_MS, chromium

pytestmark = pytest.mark.slow

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


class Editor:
    """A page of the editor in a browser; keeps what its console says and where it connects."""

    def __init__(self, context, server: EditServer, size: dict[str, int]) -> None:
        self.server, self.errors, self.requests = server, [], []
        self.page = context.new_page()
        self.page.set_viewport_size(size)
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.open()

    @property
    def session(self):
        return self.server.desk.session

    def open(self) -> None:
        self.page.goto(self.server.url)
        self.page.wait_for_selector("#canvas[data-frame='0']")

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def frame(self, number: int) -> None:
        """Show a frame, from 1, by its picture in the strip."""
        self.page.locator(".thumb").nth(number - 1).click()
        self.page.wait_for_selector(f"#canvas[data-frame='{number - 1}']")

    def at(self, place: tuple[float, float]) -> tuple[float, float]:
        """A place in pixels of the masks, in the window."""
        box = self.page.locator("#canvas").bounding_box()
        width, height = self.session.shape[::-1]
        return box["x"] + place[0] / width * box["width"], box["y"] + place[1] / height * box["height"]

    def click(self, place: tuple[float, float]) -> None:
        self.saved(lambda: self.page.mouse.click(*self.at(place)))

    def drag(self, *places: tuple[float, float]) -> None:
        def act() -> None:
            self.page.mouse.move(*self.at(places[0]))
            self.page.mouse.down()
            for place in places[1:]:
                self.page.mouse.move(*self.at(place), steps=4)
            self.page.mouse.up()

        self.saved(act)

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def status(self) -> str:
        return self.page.locator("#status").inner_text()

    def saved(self, act: Callable[[], object]) -> None:
        """Do something, and wait until the server has kept one more step, or one less, and the page knows."""
        before = self.session.history
        act()
        eventually(lambda: self.session.history != before)
        self.page.wait_for_selector("body[aria-busy=false]")

    def shows(self, words: str) -> None:
        eventually(lambda: words in self.status(), self.status)

    def painted(self, place: tuple[float, float]) -> np.ndarray:
        """(3,) RGB on the canvas."""
        width, height = self.session.shape[::-1]
        script = """([x, y]) => { const c = document.getElementById('canvas');
            return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data].slice(0, 3); }"""
        return np.array(self.page.evaluate(script, [place[0] / width, place[1] / height]))


def eventually(condition: Callable[[], bool], why: Callable[[], object] = lambda: "") -> None:
    end = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def context():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = chromium()
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_context()
        browser.close()


@pytest.fixture
def editor(context, scene, tmp_path):
    server = EditServer(make_desk(scene, tmp_path, follow=follower), 0)
    server.begin()
    opened = Editor(context, server, DESKTOP)
    yield opened
    opened.page.close()
    server.shutdown()
    server.server_close()
    assert opened.errors == []
    outside = [url for url in opened.requests if not url.startswith((server.url, "blob:", "data:"))]
    assert outside == [], "nothing leaves the page's own server"


def middle_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def test_a_whole_correction(editor, truth, tmp_path):
    """Load, click a false mask away, paint a missed object, follow it, undo, redo, reload, exclude, solve, accept."""
    session, page, balls = editor.session, editor.page, truth.dynamic.masks
    assert page.locator(".thumb").count() == 5 and "1 of 5" in page.locator("#where").inner_text()

    # The false mask is clicked away in one frame, then in all.
    red = editor.painted((100, 5))
    editor.click((100, 5))
    editor.shows("Saved: region stands still")
    assert not session.mask(0)[FALSE].any()
    eventually(lambda: np.abs(editor.painted((100, 5)).astype(int) - red).sum() > 40)
    editor.saved(lambda: page.get_by_role("button", name="Drop object 2").click())
    assert not any(session.mask(k)[FALSE].any() for k in range(5))

    # The ball that frames 3 and 4 miss is painted in frame 3 and followed.
    editor.frame(3)
    x, y = middle_of(balls[2])
    editor.keys("b", "m", *["]"] * 6)
    editor.drag((x - 5, y - 5), (x + 5, y - 5), (x + 6, y), (x - 6, y), (x - 6, y + 4), (x + 6, y + 5))
    assert agreement(session.mask(2), balls[2]) > 0.5
    editor.saved(lambda: editor.button("This object, all frames").click())
    editor.shows("Saved: all frames: moves")
    assert agreement(session.mask(3), balls[3]) > 0.5

    # Undo and redo, by keys and buttons.
    editor.saved(lambda: editor.keys("z"))
    editor.shows("Undone: all frames")
    assert agreement(session.mask(3), balls[3]) == 0
    editor.saved(lambda: editor.button("Redo").click())
    editor.saved(lambda: editor.keys("Control+z"))
    editor.saved(lambda: editor.keys("Shift+Z"))
    assert agreement(session.mask(3), balls[3]) > 0.5

    # A reload, and a new server, show all of it.
    editor.saved(lambda: editor.keys("q"))
    marks, steps = [session.mask(k).copy() for k in range(5)], session.history
    editor.open()
    assert "excluded" in page.locator(".thumb").nth(2).get_attribute("aria-label")
    assert page.locator(".thumb").nth(2).get_attribute("class") == "thumb excluded"
    again = make_desk(session.scene, tmp_path).session
    assert again.history == steps and all((again.mask(k) == marks[k]).all() for k in range(5))
    assert again.flags["excluded"] == {2}

    # Solve again, look at both, go back; once more, and accept.
    editor.button("Solve again").click()
    editor.button("Go back to the old").click()
    editor.shows("The dataset is as it was")
    editor.button("Solve again").click()
    page.wait_for_function("() => document.getElementById('side_after').naturalWidth > 0")
    assert "made by the test" in page.locator("#notes").inner_text()
    assert "Points" in page.locator("#figures").inner_text()
    editor.button("Accept the new").click()
    editor.shows("The new cameras are the dataset's now")
    assert editor.server.desk.helpers.remake.calls == ["solve", "go back", "solve", "accept"]
    assert page.locator("#compare").is_hidden()


def test_box_eraser_and_what_lies_between(editor):
    session, page = editor.session, editor.page
    editor.keys("x", "m")
    editor.drag((10, 40), (22, 52))
    editor.frame(5)
    editor.drag((50, 60), (62, 72))
    editor.frame(3)
    editor.button("Fill in between").click()
    page.locator("#ask_words").wait_for()
    assert "Frames 2 to 4" in page.locator("#ask_words").inner_text()
    editor.saved(lambda: editor.button("Do it").click())
    assert middle_of(session.marks[2] == MOVES) == pytest.approx((36, 56), abs=1)
    editor.saved(lambda: editor.keys("z"))
    editor.frame(4)
    editor.saved(lambda: editor.keys("i"))  # is not asked again
    editor.keys("e")
    editor.frame(1)
    editor.drag((8, 42), (26, 42))
    assert not (session.marks[0] == MOVES)[42].any() and (session.marks[0] == MOVES)[49].any()


def test_keys_alone_are_enough(editor):
    """The cross of the picture stands for a pointer."""
    session, page = editor.session, editor.page
    editor.keys("ArrowRight", "ArrowRight")
    page.wait_for_selector("#canvas[data-frame='2']")
    editor.keys("Home")
    page.wait_for_selector("#canvas[data-frame='0']")
    page.locator("#canvas").focus()
    editor.keys("b", "s")
    editor.saved(lambda: editor.keys("Shift+ArrowLeft", "Shift+ArrowUp", "Enter"))
    rows, columns = np.nonzero(session.marks[0] == STILL)
    height, width = session.shape
    assert columns.mean() < width / 2 - 1 and rows.mean() < height / 2 - 1
    assert page.evaluate("document.activeElement.id") == "canvas"
    editor.keys("x", "m", "Enter", *["Shift+ArrowRight"] * 4, *["Shift+ArrowDown"] * 4)
    editor.saved(lambda: editor.keys("Enter"))
    assert (session.marks[0] == MOVES).sum() >= 16
    editor.keys("Escape", "d")
    assert page.locator("[data-layer=changes]").get_attribute("aria-checked") == "true"
    editor.keys("h")
    assert page.locator("#opacity").input_value() == "0"
    editor.keys("h", " ")
    page.wait_for_selector("#canvas[data-frame='3']")
    editor.keys(" ")
    assert page.locator("#play").inner_text() == "Play"


def test_every_control_has_a_name_and_can_be_reached(editor):
    nameless = editor.page.evaluate(
        """() => [...document.querySelectorAll('button, input, canvas, progress, img')]
            .filter(e => !e.hidden && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length
                || e.getAttribute('alt') !== null)).map(e => e.outerHTML)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(60):
        editor.keys("Tab")
        reached.add(editor.page.evaluate("document.activeElement.id"))
    assert {"canvas", "solve", "play", "follow", "opacity", "exclude"} <= reached


def test_words_of_every_button_stand_out(editor):
    """Chosen, pressed and under the pointer: a contrast of 4.5 as WCAG 2.1 has it."""
    page = editor.page
    page.locator("[data-layer=changes]").click()  # the pointer stays on it
    editor.saved(lambda: editor.button("Keyframe").click())
    page.locator("[data-layer=changes]").hover()
    contrasts = page.evaluate(
        """() => { const light = colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(v => v / 255)
                .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
            return [...document.querySelectorAll('button:not(:disabled):not(.thumb)')].map(button => {
                const { color, backgroundColor } = getComputedStyle(button);
                const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
                return [button.textContent, (high + 0.05) / (low + 0.05)]; }); }"""
    )
    assert len(contrasts) > 15 and [own for own in contrasts if own[1] < 4.5] == []


def test_what_the_server_refuses_is_said_on_the_page(editor):
    editor.keys("a")
    editor.shows("first click or paint")
    editor.server.desk.session._store._folder = Path("/dev/null/corrections")
    editor.page.mouse.click(*editor.at((100, 5)))
    editor.shows("/dev/null/corrections")
    assert editor.page.locator("#status").get_attribute("class") == "bad"
    assert editor.session.history.last is None
    editor.errors = [words for words in editor.errors if "400" not in words]  # the browser's own words


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_cut_off(editor, size):
    page = editor.page
    page.set_viewport_size(size)
    editor.open()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    outside = page.evaluate(
        """() => [...document.querySelectorAll('button, input, h1, h2, p, output')].filter(e => {
            const box = e.getBoundingClientRect();
            return box.width && !e.closest('#strip') && (box.left < -1 || box.right > innerWidth + 1); }
        ).map(e => e.id || e.textContent)"""
    )
    assert outside == []
    box = page.locator("#canvas").bounding_box()
    assert box["width"] > 0.6 * size["width"] - 200 and box["y"] + box["height"] <= size["height"]


def test_a_finger_paints(context, scene, tmp_path):
    """On a phone: touch events draw, and the page does not scroll under them."""
    server = EditServer(make_desk(scene, tmp_path), 0)
    server.begin()
    phone = context.browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    try:
        editor = Editor(phone, server, PHONE)
        editor.page.get_by_role("radio", name="Brush").tap()
        editor.page.get_by_role("radio", name="It moves").tap()
        editor.saved(lambda: editor.page.touchscreen.tap(*editor.at((30, 30))))
        assert (editor.session.marks[0] == MOVES)[30, 30] and editor.errors == []
    finally:
        phone.close()
        server.shutdown()
        server.server_close()


def test_three_hundred_frames_stay_light(context, truth, tmp_path):
    """Only pictures near the eye are asked for."""
    scene, _ = make_scene(tmp_path / "store", (160, 120), 300)
    server = EditServer(make_desk(scene, tmp_path / "dataset"), 0)
    server.begin()
    try:
        editor = Editor(context, server, DESKTOP)
        eventually(lambda: sum("/thumb/" in url for url in editor.requests) >= 10)
        editor.keys("End")
        editor.page.wait_for_selector("#canvas[data-frame='299']")
        editor.page.wait_for_function(
            "() => document.querySelectorAll('.thumb')[299].querySelector('img').naturalWidth > 0"
        )
        assert sum("/thumb/" in url for url in editor.requests) < 90
        assert sum("/picture/" in url for url in editor.requests) < 9
        editor.page.close()
    finally:
        server.shutdown()
        server.server_close()
