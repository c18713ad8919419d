"""Makes examples/edit.jpg: the page of `easi3r edit` with some corrections, in headless Chromium.

    easi3r run --data examples/clip/clip.mp4 --output-dir out --weights tiny     (in the folder that holds `examples`)
    python examples/make_edit_picture.py [--dataset out] [--output examples/edit.jpg]

The dataset stays as it is. Needs playwright (in the extra `test`) and Chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from io import BytesIO
from pathlib import Path

import tyro
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from easi3r_ns.cli.edit import open_server

WINDOW = {"width": 1280, "height": 760}
STROKES = {
    "m": [[(0.2, 0.61), (0.28, 0.63), (0.29, 0.68)]],
    "s": [
        [(0.045, 0.7), (0.06, 0.79), (0.05, 0.85), (0.1, 0.86)],
        [(0.21, 0.9), (0.25, 0.86), (0.315, 0.8), (0.315, 0.66), (0.295, 0.59)],
    ],
}
"""Key of what is said -> strokes in the first frame, in shares of its width and height: the missing top of the ball,
and what is marked around it."""


def paint(page: Page, places: list[tuple[float, float]]) -> None:
    """Draw with the brush, and wait until it is saved."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    version = int(page.locator("#canvas").get_attribute("data-version") or 0)
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()
    page.wait_for_selector(f"#canvas[data-version='{version + 1}']")


def main(
    dataset: Path = Path("out"),
    output: Path = Path(__file__).parent / "edit.jpg",
    chromium: Path = Path("/usr/bin/chromium"),
) -> None:
    """Take the picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        copy = shutil.copytree(dataset, Path(folder) / dataset.resolve().name, symlinks=True)
        server = open_server(copy, 0)
        server.begin()
        page = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(viewport=WINDOW)
        page.goto(server.url)
        page.wait_for_selector("#canvas[data-frame='0']")
        for key in ("b", "]", "]", "d"):
            page.keyboard.press(key)
        for key, strokes in STROKES.items():
            page.keyboard.press(key)
            for places in strokes:
                paint(page, places)
        page.wait_for_function("() => !document.getElementById('verdict').textContent.startsWith('Being')")
        page.wait_for_load_state("networkidle")
        shot = page.screenshot()
        server.shutdown()
    Image.open(BytesIO(shot)).convert("RGB").save(output, quality=80, optimize=True, progressive=True)


if __name__ == "__main__":
    tyro.cli(main)
