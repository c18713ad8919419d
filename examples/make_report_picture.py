"""Makes examples/report.jpg: the top of the report of a run, in headless Chromium.

    easi3r run --data examples/clip/clip.mp4 --output-dir out --weights tiny     (in the folder that holds `examples`)
    python examples/make_report_picture.py [--report out/report.html] [--output examples/report.jpg]

Needs playwright (in the extra `test`) and Chromium.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import tyro
from PIL import Image
from playwright.sync_api import sync_playwright

WINDOW = {"width": 1120, "height": 926}
"""The verdict, the figures and the first row of frames."""


def main(
    report: Path = Path("out/report.html"),
    output: Path = Path(__file__).parent / "report.jpg",
    chromium: Path = Path("/usr/bin/chromium"),
) -> None:
    """Take the picture."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW)
        page.goto(report.resolve().as_uri())
        shot = page.screenshot()
        browser.close()
    Image.open(BytesIO(shot)).convert("RGB").save(output, quality=80, optimize=True, progressive=True)


if __name__ == "__main__":
    tyro.cli(main)
