"""The viewer in headless Chromium: the page loads, the canvas shows the scene, inputs move it, the console stays quiet.

Needs Chromium and playwright; WebGL is drawn in software.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.look import Look
from easi3r_ns.view.player import Player
from tests.support.dataset_scene import make_scene

pytestmark = pytest.mark.slow

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
OF_VISER = "computeBoundingSphere(): Computed radius is NaN"
"""What viser 0.2.7 itself says about its empty page."""
PATIENCE_MS = 120_000
"""Longest wait for anything. No test relies on something being quick: each waits for what it wants to see."""
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"
"""The panel comes to its width at once, not over a second in which the canvas beside it shrinks."""
RESOLUTION = "window.devicePixelRatio*(.2+.8*"
"""Where viser 0.2.7 lowers the resolution of a page that it draws slowly, in its compiled script."""
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"
"""Resolves when the page has drawn twice, however long that takes."""
CALM = 3
"""Pictures in a row that must agree."""


def chromium() -> str:
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    path = os.environ.get("EASI3R_NS_CHROMIUM", found)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set EASI3R_NS_CHROMIUM to one")
    return path


class Page:
    """A browser's page with the viewer; keeps what its console says and where it connects."""

    def __init__(self, page, player: Player) -> None:
        self.page, self.player, self.errors, self.requests = page, player, [], []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.route("**/assets/index-*.js", self._at_full_resolution)
        page.goto(player.url)
        page.add_style_tag(content=STILL)
        for part in ("[role=slider]", "canvas[data-engine]"):
            page.wait_for_selector(part, state="attached")
        self.box = self._settled_box()

    @staticmethod
    def _at_full_resolution(route) -> None:
        """Serve viser's script with a resolution that does not follow the load of the machine."""
        answer = route.fetch()
        script = answer.text()
        assert script.count(RESOLUTION) == 1, "viser's script has changed: look for AdaptiveDpr in it"
        route.fulfill(response=answer, body=script.replace(RESOLUTION, "window.devicePixelRatio*(1+0*"))

    def _settled_box(self) -> dict[str, float]:
        """Where the 3D view is once that no longer changes; all pictures are of this place, and so of one size."""
        seen = [self._box()]
        for _ in _until_tired():
            seen.append(self._box())
            if len(seen) > 2 * CALM and all(box == seen[-1] for box in seen[-2 * CALM :]):
                return seen[-1]
        raise AssertionError(f"the canvas does not come to rest: {seen[-5:]}")

    def _box(self) -> dict[str, float]:
        self.page.evaluate(DRAWN)
        time.sleep(0.1)
        return self.page.locator("canvas[data-engine]").bounding_box()

    def canvas(self) -> np.ndarray:
        """(h, w, 3) int16 the 3D view in blocks of 8 x 8 pixels."""
        self.page.evaluate(DRAWN)
        encoded = np.frombuffer(self.page.screenshot(clip=self.box), np.uint8)
        shown = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
        size = shown.shape[1] // 8, shown.shape[0] // 8
        return cv2.resize(shown, size, interpolation=cv2.INTER_AREA).astype(np.int16)

    def rested(self, wanted: Callable[[np.ndarray], bool] = lambda picture: True) -> np.ndarray:
        """The canvas once it is as wanted, not blank, and no longer changes."""
        pictures, changes = [self.canvas()], []
        for _ in _until_tired():
            time.sleep(0.2)
            now = self.canvas()
            changes.append((round(share_drawn(now), 4), round(share_changed(now, pictures[-1]), 4)))
            pictures = [*pictures[1 - CALM :], now]
            calm = len(pictures) == CALM and all(share_changed(now, before) < CHANGED / 2 for before in pictures)
            if calm and share_drawn(now) > 0 and self._box() == self.box and wanted(now):
                return now
        raise AssertionError(f"not as wanted, blank, or no rest; (drawn, changed): {changes[-5:]}, {self._box()}")

    def button(self, name: str):
        return self.page.get_by_role("button", name=name)

    def check(self, label: str) -> None:
        """Click the checkbox beside a label."""
        row = self.page.get_by_text(label, exact=True).locator("xpath=ancestor::*[.//input[@type='checkbox']][1]")
        row.locator("input[type=checkbox]").first.click(force=True)


CHANGED = 0.002
"""Share of the blocks that differ, at least, in two pictures that are not the same."""


def _until_tired():
    end = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end:
        yield


def eventually(condition: Callable[[], bool]) -> bool:
    return any(condition() or time.sleep(0.05) for _ in _until_tired())


def unlike(*others: np.ndarray) -> Callable[[np.ndarray], bool]:
    return lambda picture: all(share_changed(picture, other) > CHANGED for other in others)


def nearer(wanted: np.ndarray, than: np.ndarray) -> Callable[[np.ndarray], bool]:
    """Whether a picture is like ``wanted``: less than half of what ``than`` differs from it."""
    return lambda picture: share_changed(picture, wanted) < share_changed(than, wanted) / 2


def share_drawn(picture: np.ndarray) -> float:
    return float((np.abs(picture - 255).sum(axis=2) > 30).mean())


def share_changed(one: np.ndarray, other: np.ndarray) -> float:
    """0 to 1; pictures of different sizes have nothing in common."""
    if one.shape != other.shape:
        return 1.0
    return float((np.abs(one - other).sum(axis=2) > 60).mean())


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = chromium()
    scene, _ = make_scene(tmp_path_factory.mktemp("store"), (320, 213))
    config = ViewConfig(max_static_points=15_000)
    player = Player(scene, build_clouds(scene, config), config, port=0)
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(WEBGL))
        yield Page(browser.new_page(viewport={"width": 800, "height": 400}, accept_downloads=True), player)
        browser.close()
    player.stop()


@pytest.fixture
def page(opened):
    """The page as it was opened."""
    yield opened
    opened.player._set_playing(False)
    panel, first = opened.player._panel, Look(min_confidence=3.0)

    def reset() -> bool:
        # What the browser sent last may still be on its way: it would come after the first try.
        for name in ("frame", "trail", "point_size", "color", "static", "moving", "cameras", "masks", "trajectory"):
            getattr(panel, name).value = getattr(first, name)
        opened.page.evaluate(DRAWN)
        return panel.look() == first

    assert eventually(reset)
    opened.button("Back to the first view").click()


def test_pictures_of_different_sizes_have_nothing_in_common():
    one = np.zeros((5, 6, 3), np.int16)
    assert share_changed(one, np.zeros((5, 7, 3), np.int16)) == 1 and share_changed(one, one.copy()) == 0


def shows_the_ball(picture: np.ndarray) -> bool:
    ball = (picture[..., 0] > 160) & (picture[..., 1] < 110) & (picture[..., 2] < 110)
    return int(ball.sum()) >= 3


def test_the_canvas_shows_the_scene(page):
    picture = page.rested(lambda now: share_drawn(now) > 0.15 and shows_the_ball(now))
    assert picture.reshape(-1, 3).std(axis=0).min() > 10


def test_the_slider_moves_the_picture_and_back(page):
    first = page.rested(shows_the_ball)
    page.page.locator("[role=slider]").first.focus()
    page.page.keyboard.press("End")
    last = page.rested(unlike(first))
    assert page.player._panel.frame.value == 4
    page.page.keyboard.press("Home")
    page.rested(nearer(first, than=last))
    assert page.player._panel.frame.value == 0


@pytest.mark.parametrize("label", ["static", "moving"])
def test_checkboxes_switch(page, label):
    before = page.rested(shows_the_ball)
    page.check(label)
    without = page.rested(unlike(before))
    assert share_drawn(without) <= share_drawn(before)
    page.check(label)
    page.rested(nearer(before, than=without))


@pytest.mark.long
def test_point_size_and_colour(page):
    before = page.rested(shows_the_ball)
    page.player._panel.point_size.value = 6.0
    page.rested(unlike(before))
    page.player._panel.point_size.value = 1.4
    page.player._panel.color.value = "score"
    dark = page.rested(lambda now: now.mean() < before.mean() - 10)
    assert dark.mean() < before.mean() - 10


def test_no_point_is_confident_enough(page):
    """Empty clouds are no error."""
    full = page.rested(shows_the_ball)
    panel, lowest = page.player._panel, page.player._panel._low
    panel._low = 99.0
    try:
        page.player._changed.set()
        page.rested(lambda now: share_drawn(now) < share_drawn(full) / 2)
    finally:
        panel._low = lowest
    panel.frame.value = 1
    again = page.rested(lambda now: share_drawn(now) > share_drawn(full) / 2)
    assert share_drawn(again) > share_drawn(full) / 2


def test_looking_through_a_camera_shows_its_photo(page):
    before = page.rested(shows_the_ball)
    page.player._panel.cameras.value = "none"
    page.button("Look through this camera").click()
    inside = page.rested(lambda now: share_drawn(now) > 0.5 and unlike(before)(now))
    page.button("Back to the first view").click()
    page.player._panel.cameras.value = "current"
    again = page.rested(nearer(before, than=inside))
    assert share_changed(again, inside) > CHANGED


def test_play_and_pause(page):
    seen, slider = set(), page.page.locator("[role=slider]").first
    page.button("Play").click()
    assert eventually(lambda: seen.add(slider.get_attribute("aria-valuenow")) or len(seen) >= 3)
    page.button("Pause").click()
    page.button("Play").wait_for()
    assert eventually(lambda: not page.player._playing.is_set())


@pytest.mark.long
def test_recording_comes_as_a_download(page, tmp_path):
    import av

    page.player._panel.seconds.value = 1
    with page.page.expect_download(timeout=PATIENCE_MS) as download:
        page.button("Record mp4").click()
    target = tmp_path / download.value.suggested_filename
    download.value.save_as(target)
    with av.open(str(target)) as file:
        frames = [frame.to_ndarray(format="rgb24").astype(np.int16) for frame in file.decode(video=0)]
    assert target.name == "turntable.mp4" and len(frames) == 30
    assert share_drawn(frames[0]) > 0.04 and share_changed(frames[0], frames[15]) > CHANGED


def test_the_console_stays_quiet_and_nothing_leaves_the_machine(opened):
    """Last: about all that was done above."""
    assert [error for error in opened.errors if OF_VISER not in error] == []
    outside = [url for url in opened.requests if not url.startswith((opened.player.url, "blob:", "data:"))]
    assert outside == []
