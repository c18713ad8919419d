"""What the viewer costs: python -m tests.bench.bench_view [--frames 100] [--chromium /usr/bin/chromium]

A rendered clip of 288 x 512 pixels with exact depth is opened in headless Chromium and scrubbed with the arrow keys.
CPU seconds, not wall time: WebGL is drawn in software, in the process ``gpu-process``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.training.scenes import render_clip
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.player import Player

SIZE = 288, 512
MAX_STEPS = 60
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")


def true_scene(num_frames: int) -> Scene:
    """A clip as a perfect reconstruction would have it."""
    clip, (height, width) = render_clip(3, num_frames, *SIZE), SIZE
    return Scene(
        images=clip.images,
        T_world_cam=np.linalg.inv(clip.T_world_cam[0]) @ clip.T_world_cam,
        focals=np.full(num_frames, clip.focal),
        principal_point=clip.principal_point,
        depth=clip.depth,
        confidence=np.full(clip.depth.shape, 5.0, np.float32),
        dynamic=DynamicMasks(clip.moving, np.zeros((num_frames, 18, 32), np.float32), 0.5),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=clip.times,
        indices=np.arange(num_frames),
        names=("clip.mp4",) * num_frames,
        source_paths=(Path("clip.mp4"),) * num_frames,
    )


def cpu_by_process(session) -> dict[str, float]:
    """CPU seconds of every kind of process of the browser."""
    seconds: dict[str, float] = {}
    for process in session.send("SystemInfo.getProcessInfo")["processInfo"]:
        seconds[process["type"]] = seconds.get(process["type"], 0.0) + process["cpuTime"]
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    steps = min(MAX_STEPS, options.frames - 1)
    scene, config, sizes = true_scene(options.frames), ViewConfig(), []
    start = time.process_time()
    clouds = build_clouds(scene, config)
    print(f"buffers: {time.process_time() - start:.1f} CPU s, {clouds.num_points:,} points")
    player = Player(scene, clouds, config, port=0)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=options.chromium, args=list(WEBGL))
        session = browser.new_browser_cdp_session()
        page = browser.new_page(viewport={"width": 640, "height": 360})
        page.set_default_timeout(300_000)
        page.on("websocket", lambda ws: ws.on("framereceived", lambda frame: sizes.append(len(frame))))
        page.goto(player.url)
        page.wait_for_selector("[role=slider]", state="attached")
        settled = -1
        while settled != len(sizes):
            settled = len(sizes)
            page.wait_for_timeout(5000)
        print(f"sent: {sum(sizes) / 1e6:.1f} MB; {time.process_time() - start:.1f} CPU s since the start, in Python")
        page.evaluate("() => document.querySelector('[role=slider]').focus()")
        sizes.clear()
        before, started = cpu_by_process(session), time.process_time()
        for _ in range(steps):
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(100)
        page.wait_for_timeout(2000)
        after, python = cpu_by_process(session), time.process_time() - started
        each = {name: round(1000 * (after[name] - before.get(name, 0)) / steps, 1) for name in after}
        print(f"a step: {sum(sizes) / steps:.0f} bytes; CPU ms: {each}, Python {1000 * python / steps:.1f}")
        browser.close()
    player.stop()


if __name__ == "__main__":
    main()
