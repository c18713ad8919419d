"""The viewer in headless Chromium: the page loads, the canvas shows the scene, inputs move it, the console stays quiet.

Needs Chromium and playwright; WebGL is drawn in software.
"""

from __future__ import annotations

import os
import shutil
import time

import cv2
import numpy as np
import pytest

from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.look import Look
from easi3r_ns.view.player import Player

from .dataset_scene import make_scene

pytestmark = pytest.mark.slow

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
OF_VISER = "computeBoundingSphere(): Computed radius is NaN"
"""What viser 0.2.7 itself says about its empty page."""
PATIENCE_MS = 120_000


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
        page.goto(player.url)
        page.wait_for_selector("[role=slider]", state="attached")

    def canvas(self) -> np.ndarray:
        """(h, w, 3) int16 the 3D view in blocks of 8 x 8 pixels: viser lowers its resolution where it draws slowly."""
        box = self.page.locator("canvas[data-engine]").bounding_box()
        clip = {name: box[name] for name in ("x", "y", "width", "height")}
        encoded = np.frombuffer(self.page.screenshot(clip=clip), np.uint8)
        shown = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
        size = shown.shape[1] // 8, shown.shape[0] // 8
        return cv2.resize(shown, size, interpolation=cv2.INTER_AREA).astype(np.int16)

    def rested(self, changed_from: np.ndarray | None = None) -> np.ndarray:
        """The canvas once it differs from an earlier picture, is not blank and no longer changes."""
        end, before, changes = time.monotonic() + PATIENCE_MS / 1000, self.canvas(), []
        while time.monotonic() < end:
            time.sleep(0.3)
            now = self.canvas()
            changes.append((share_drawn(now), share_changed(now, before)))
            new = changed_from is None or share_changed(now, changed_from) > CHANGED
            if new and share_drawn(now) > 0 and share_changed(now, before) < CHANGED / 2:
                return now
            before = now
        raise AssertionError(f"no change, blank, or no rest; (drawn, changed): {changes[-5:]}")

    def button(self, name: str):
        return self.page.get_by_role("button", name=name)

    def check(self, label: str) -> None:
        """Click the checkbox beside a label."""
        row = self.page.get_by_text(label, exact=True).locator("xpath=ancestor::*[.//input[@type='checkbox']][1]")
        row.locator("input[type=checkbox]").first.click(force=True)


CHANGED = 0.002
"""Share of the blocks that differ, at least, in two pictures that are not the same."""


def share_drawn(picture: np.ndarray) -> float:
    return float((np.abs(picture - 255).sum(axis=2) > 30).mean())


def share_changed(one: np.ndarray, other: np.ndarray) -> float:
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
    for name in ("frame", "trail", "point_size", "color", "static", "moving", "cameras", "masks", "trajectory"):
        getattr(panel, name).value = getattr(first, name)
    opened.button("Back to the first view").click()
    assert panel.look() == first


def test_the_canvas_shows_the_scene(page):
    picture = page.rested()
    assert share_drawn(picture) > 0.15
    assert picture.reshape(-1, 3).std(axis=0).min() > 10
    ball = (picture[..., 0] > 160) & (picture[..., 1] < 110) & (picture[..., 2] < 110)
    assert ball.sum() >= 3, "the red ball is not seen"


def test_the_slider_moves_the_picture_and_back(page):
    first = page.rested()
    page.page.locator("[role=slider]").first.focus()
    page.page.keyboard.press("End")
    last = page.rested(changed_from=first)
    assert page.player._panel.frame.value == 4
    page.page.keyboard.press("Home")
    again = page.rested(changed_from=last)
    assert share_changed(again, first) < share_changed(last, first) / 2


@pytest.mark.parametrize("label", ["static", "moving"])
def test_checkboxes_switch(page, label):
    before = page.rested()
    page.check(label)
    without = page.rested(changed_from=before)
    assert share_drawn(without) <= share_drawn(before)
    page.check(label)
    again = page.rested(changed_from=without)
    assert share_changed(again, before) < share_changed(without, before) / 2


def test_point_size_and_colour(page):
    before = page.rested()
    page.player._panel.point_size.value = 6.0
    larger = page.rested(changed_from=before)
    page.player._panel.point_size.value = 1.4
    page.player._panel.color.value = "score"
    dark = page.rested(changed_from=larger)
    assert dark.mean() < before.mean() - 10


def test_no_point_is_confident_enough(page):
    """Empty clouds are no error."""
    full = page.rested()
    panel = page.player._panel
    page.player._stage.show(Look(frame=0, min_confidence=99.0))
    empty = page.rested(changed_from=full)
    assert share_drawn(empty) < share_drawn(full) / 2
    panel.frame.value = 1
    assert share_drawn(page.rested(changed_from=empty)) > share_drawn(full) / 2


def test_looking_through_a_camera_shows_its_photo(page):
    before = page.rested()
    page.player._panel.cameras.value = "none"
    page.button("Look through this camera").click()
    inside = page.rested(changed_from=before)
    assert share_drawn(inside) > 0.5
    page.button("Back to the first view").click()
    page.player._panel.cameras.value = "current"
    again = page.rested(changed_from=inside)
    assert share_changed(again, before) < share_changed(inside, before) / 2


def test_play_and_pause(page):
    page.button("Play").click()
    seen, end = set(), time.monotonic() + PATIENCE_MS / 1000
    while len(seen) < 3 and time.monotonic() < end:
        seen.add(page.page.locator("[role=slider]").first.get_attribute("aria-valuenow"))
    page.button("Pause").click()
    assert len(seen) >= 3
    page.button("Play").wait_for()
    assert not page.player._playing.is_set()


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
