"""The viewer's server: free ports, this machine only, its own pages only, panel to look, playback, a clean end."""

from __future__ import annotations

import copy
import socket
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.errors import InputError
from easi3r_ns.view.clouds import build_clouds
from easi3r_ns.view.config import ViewConfig
from easi3r_ns.view.look import Look
from easi3r_ns.view.player import Player
from easi3r_ns.view.server import LOOPBACK, SitePages, free_port, url_of
from tests.support.dataset_scene import make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("store"), (320, 213))[0]


@pytest.fixture(scope="module")
def player(scene):
    running = Player(scene, build_clouds(scene, ViewConfig()), ViewConfig(trail=1), port=0)
    yield running
    running.stop()


def answer(port: int, path: str) -> bytes:
    """The raw answer to a request, without the cleaning that clients do."""
    with socket.create_connection((LOOPBACK, port), timeout=120) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\nConnection: close\r\n\r\n".encode())
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def wait_for(condition, seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def test_a_taken_port_gives_way():
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(LOOPBACK, port) < port + 100
    assert free_port(LOOPBACK, 0) > 0


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.7", "999.1.1.1", "a..b"])
def test_an_impossible_host_is_refused(host):
    with pytest.raises(InputError, match=f"--host {host}"):
        free_port(host, 8080)


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_impossible_port_is_refused(port):
    with pytest.raises(InputError, match=f"--port {port}"):
        free_port(LOOPBACK, port)


def test_urls():
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80" == url_of("0.0.0.0", 80)
    assert url_of("::1", 80) == "http://[::1]:80" == url_of("::", 80)
    assert url_of("scene.example", 9000) == "http://scene.example:9000"


def test_serves_its_page_to_this_machine_only(player):
    with urllib.request.urlopen(player.url, timeout=120) as response:
        page = response.read().decode()
    assert "<title>easi3r</title>" in page and '<div id="root">' in page and "/assets/index-" in page
    assert "googletagmanager" not in page and "gtag" not in page
    if not Path("/proc/net/tcp").exists():
        pytest.skip("which addresses are listened at is read from /proc")
    listening = {line.split()[1] for line in open("/proc/net/tcp") if line.split()[3] == "0A"}
    assert f"0100007F:{player.port:04X}" in listening and f"00000000:{player.port:04X}" not in listening


@pytest.mark.parametrize("path", ["/../../../../../../../../../../../../etc/passwd", "/assets/../../../__init__.py"])
def test_serves_no_file_outside_its_pages(player, path):
    assert answer(player.port, path).startswith(b"HTTP/1.1 404")
    assert answer(player.port, "/logo.svg").startswith(b"HTTP/1.1 200")


def test_site_pages(tmp_path):
    root = tmp_path / "build"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    head = "<head><script async\nsrc='https://a/gtag/js'></script><script>kept()</script><title>V</title></head>"
    (root / "index.html").write_text(head)
    (root / "a.js").write_text("code")
    (root / "link").symlink_to(tmp_path / "secret")
    pages = SitePages(root)
    page = (pages / "index.html").read_bytes().decode()
    assert "gtag" not in page and "kept()" in page and "<title>easi3r</title>" in page
    assert (pages / "a.js").read_bytes() == b"code"
    for name in ("../secret", "a/../../secret", "link", ".", "..", "missing", str(tmp_path / "secret")):
        assert not (pages / name).exists(), name


def test_the_share_button_opens_no_tunnel(player):
    assert player._server.request_share_url() is None
    assert player._server._share_tunnel is None


def test_panel_makes_the_look(player, scene):
    panel = player._panel
    assert panel.look() == Look(frame=1, trail=1, min_confidence=3.0)
    panel.frame.value, panel.color.value, panel.masks.value = 3, "time", True
    try:
        assert panel.look() == Look(frame=3, trail=1, min_confidence=3.0, color="time", masks=True)
        assert wait_for(lambda: "/moving/00003" in player._nodes._shown and "/moving/00001" not in player._nodes._shown)
    finally:
        panel.frame.value, panel.color.value, panel.masks.value = 1, "photo", False
    assert wait_for(lambda: "/moving/00001" in player._nodes._shown)


@pytest.mark.parametrize("bounds", [(2.51, 17.3), (1.1, 1.9), (0.0, 400.0), (9.99999, 10.0), (0.0, 0.0)])
def test_confidence_slider_reaches_from_all_points_to_few(player, bounds):
    panel = copy.copy(player._panel)
    slider = panel.confidence = panel._confidence_slider(player._server.gui, bounds)
    assert panel.confidence_floor == slider.value <= bounds[0] + 0.05
    assert slider.disabled == (bounds[1] - bounds[0] < 0.01)
    assert panel.look().min_confidence == panel._low
    slider.value = bounds[1]
    assert slider.disabled or panel.look().min_confidence == pytest.approx(bounds[1])
    slider.remove()


def test_play_goes_round(player):
    panel, seen = player._panel, set()
    panel.speed.value = 30.0
    player._set_playing(True)
    try:
        assert panel.pause.visible and not panel.play.visible
        assert wait_for(lambda: seen.add(panel.frame.value) or seen == {0, 1, 2, 3, 4})
    finally:
        player._set_playing(False)
    assert panel.play.visible and not panel.pause.visible
    stopped_at = panel.frame.value  # the very moment: no step is under way any more
    time.sleep(0.2)
    assert panel.frame.value == stopped_at
    panel.frame.value = 1


def test_a_step_that_waits_while_the_pause_comes_is_not_taken(player):
    panel = player._panel
    before = panel.frame.value
    with player._stepping:
        player._playing.set()
        time.sleep(0.2)  # the player has seen it, and waits for its turn
        player._playing.clear()
    time.sleep(0.2)
    assert panel.frame.value == before


def test_one_frame(scene):
    one = {name: getattr(scene, name)[:1] for name in ("images", "T_world_cam", "focals", "depth", "confidence")}
    rest = {name: getattr(scene, name)[:1] for name in ("times", "indices", "names", "source_paths")}
    dynamic = replace(scene.dynamic, masks=scene.dynamic.masks[:1], score=scene.dynamic.score[:1])
    single = replace(scene, **one, **rest, dynamic=dynamic)
    player = Player(single, build_clouds(single, ViewConfig()), ViewConfig(trail=4), port=0)
    try:
        assert player._panel.frame.disabled and player._panel.look() == Look(min_confidence=3.0)
        assert player._nodes._shown == {"/static", "/moving/00000", "/camera/00000"}
    finally:
        player.stop()


def test_nothing_but_cameras(scene):
    bare = replace(scene, depth=np.zeros_like(scene.depth), confidence=np.zeros_like(scene.confidence))
    player = Player(bare, build_clouds(bare, ViewConfig()), ViewConfig(), port=0)
    try:
        assert player._nodes._shown == {"/camera/00000", "/trajectory"}
        assert np.isfinite(player._track.home.position).all()
    finally:
        player.stop()


def test_stops_its_threads(scene):
    before = set(threading.enumerate())
    player = Player(scene, build_clouds(scene, ViewConfig()), ViewConfig(), port=0)
    player.stop()
    ours = {t for t in set(threading.enumerate()) - before if t._target in (player._refresh, player._play)}
    assert wait_for(lambda: not any(thread.is_alive() for thread in ours))
    assert wait_for(lambda: not answers(player.url))
