"""Makes examples/viewer.jpg: the viewer in headless Chromium, on the example clip with its exact depth and masks.

    python examples/make_viewer_picture.py [--output examples/viewer.jpg] [--chromium /usr/bin/chromium]

The clip is rendered anew (see render_clip.py), so that the picture shows the viewer and not the quality of some
weights. Needs playwright (in the extra `test`) and Chromium.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from playwright.sync_api import sync_playwright
from render_clip import shoot

from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.player import Player

SIZE = 384, 512
"""(H, W) of the rendered frames."""
WINDOW = {"width": 1280, "height": 720}
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
FULL_RESOLUTION = "const now = performance.now.bind(performance); performance.now = () => now() / 1000;"
"""viser lowers its resolution where drawing takes long; to a page whose clock is slow nothing takes long."""


def true_scene() -> Scene:
    """The example clip as a perfect reconstruction would have it."""
    clip = shoot(SIZE)
    count, (height, width) = len(clip), SIZE
    return Scene(
        images=clip.images,
        T_world_cam=np.linalg.inv(Z_UP_FROM_OPENCV_WORLD) @ clip.T_world_cam,
        focals=np.full(count, clip.focal),
        principal_point=clip.principal_point,
        depth=clip.depth,
        confidence=np.full(clip.depth.shape, 10.0, np.float32),
        dynamic=DynamicMasks(clip.moving, np.zeros((count, 4, 4), np.float32), float("nan"), "user"),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=clip.times,
        indices=np.arange(count),
        names=("clip.mp4",) * count,
        source_paths=(Path("clip.mp4"),) * count,
    )


def main(output: Path = Path(__file__).parent / "viewer.jpg", chromium: Path = Path("/usr/bin/chromium")) -> None:
    """Take the picture."""
    scene, config = true_scene(), ViewConfig(trail=20, trail_step=6)
    player = Player(scene, build_clouds(scene, config), config, port=0)
    shot = output.with_suffix(".png")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(WEBGL))
        page = browser.new_page(viewport=WINDOW)
        page.set_default_timeout(300_000)
        page.add_init_script(FULL_RESOLUTION)
        page.goto(player.url)
        page.wait_for_selector("[role=slider]", state="attached")
        time.sleep(30)
        page.screenshot(path=shot)
        browser.close()
    player.stop()
    Image.open(shot).convert("RGB").save(output, quality=85, optimize=True)
    shot.unlink()


if __name__ == "__main__":
    tyro.cli(main)
