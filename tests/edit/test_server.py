"""The server of the page: what it answers, and attacks that it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.edit import guard
from easi3r_ns.edit.server import LOOPBACK, EditServer, page_files
from tests.edit.conftest import FALSE, Pretended, make_desk


@pytest.fixture(scope="module")
def server(scene, tmp_path_factory):
    running = EditServer(make_desk(scene, tmp_path_factory.mktemp("dataset")), 0)
    running.begin()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def clean(request):
    """Every test begins without corrections."""
    yield
    if "server" in request.fixturenames:
        while request.getfixturevalue("server").desk.session.undo().what:
            pass


def host_of(server: EditServer) -> str:
    return f"{LOOPBACK}:{server.server_address[1]}"


def raw(server: EditServer, request: bytes) -> tuple[int, bytes]:
    """Status and all that comes back, without the cleaning that clients do."""
    with socket.create_connection((LOOPBACK, server.server_address[1]), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    answer = b"".join(parts)
    return int(answer.split(b" ", 2)[1]) if answer else 0, answer


def ask(
    server: EditServer, method: str, path: str, body: bytes | None = None, token: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of a request that the page could make, changed by ``headers``; '' leaves one out."""
    given = {"Host": host_of(server)}
    if method == "POST":
        given |= {"Origin": f"http://{host_of(server)}", "Content-Type": "application/json"}
        given |= {"Content-Length": str(len(body or b""))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(LOOPBACK, server.server_address[1], timeout=60)
    connection.putrequest(method, f"/{server.token if token is None else token}/{path}", skip_host=True)
    for name, value in given.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def post(server: EditServer, name: str, **body: object) -> tuple[int, dict]:
    status, _, content = ask(server, "POST", name, json.dumps(body).encode())
    return status, json.loads(content)


def get(server: EditServer, name: str) -> dict:
    status, _, content = ask(server, "GET", name)
    assert status == 200
    return json.loads(content)


def pixels(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_page_and_its_files(server):
    status, headers, content = ask(server, "GET", "")
    assert (
        status == 200 and b"<title>easi3r edit</title>" in content and headers["Content-Type"].startswith("text/html")
    )
    for name in page_files():
        assert name == "index.html" or f'"{name}"'.encode() in b"".join(
            a.content for a in page_files().values()
        ).replace(b'"./', b'"'), name
        assert ask(server, "GET", name)[0] == 200
    assert b"http" not in content.replace(b"http-equiv", b""), "nothing is loaded from elsewhere"


def test_every_answer_forbids_what_is_not_ours(server):
    for path in ("", "state", "picture/0", "nothing"):
        headers = ask(server, "GET", path)[1]
        assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in str(headers)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_pictures_have_their_frame(server, scene):
    picture = pixels(ask(server, "GET", "picture/1")[2])
    assert picture.shape[:2] == (200, 320)
    found, marks = (pixels(ask(server, "GET", f"{kind}/1?v=0")[2]) for kind in ("found", "marks"))
    assert (found == scene.dynamic.objects[1]).all() and set(np.unique(marks)) == {128}
    assert pixels(ask(server, "GET", "thumb/1")[2]).shape[0] == 90
    assert "immutable" in ask(server, "GET", "marks/1?v=0")[1]["Cache-Control"]
    assert ask(server, "GET", "marks/1")[1]["Cache-Control"] == "no-store"


def test_a_click_changes_the_frame_and_says_so(server):
    status, answer = post(server, "click", frame=0, places=[[100, 5]], value="still")
    assert status == 200 and answer["undo"] == "region stands still" and answer["changed"]["0"]["corrected"]
    assert answer["changed"]["0"]["version"] > 0
    assert (pixels(ask(server, "GET", "marks/0")[2])[FALSE] == 255).all()
    state = get(server, "state")
    assert state["frames"][0] == answer["changed"]["0"] and state["size"] == [128, 80]
    assert [own["id"] for own in state["objects"]] == [1, 2] and state["frames"][1]["score"] == 0.25


HOSTILE = [
    "../../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "page/index.html",
    "../server.py",
    "server.py",
    "index.html/..",
    "./index.html",
    "picture/../state",
    "picture/-1",
    "picture/5",
    "picture/00",
    "picture/1e1",
    "picture/1/2",
    "picture/99999999999999999999",
    "picture/٣",
    "thumb/0%00",
    "marks/0;x",
    "corrections.json",
    "scene/scene.json",
    "before.svg",
    "__init__",
    "C:\\Windows\\win.ini",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_no_path_leads_anywhere_else(server, path):
    request = f"GET /{server.token}/{path} HTTP/1.1\r\nHost: {host_of(server)}\r\nConnection: close\r\n\r\n"
    status, answer = raw(server, request.encode())
    assert status == 404 and b"root:" not in answer and b"Traceback" not in answer


@pytest.mark.parametrize(
    "path", ["/", "/state", "/../TOKEN/state", "/x/TOKEN/state", "/?TOKEN/state", "*", "/TOKEN0/state"]
)
def test_without_the_token_nothing_is_told(server, path):
    line = path.replace("TOKEN", server.token)
    status, answer = raw(server, f"GET {line} HTTP/1.1\r\nHost: {host_of(server)}\r\n\r\n".encode())
    assert status in (400, 403) and b"frames" not in answer


def test_tokens_are_random():
    assert len({guard.new_token() for _ in range(50)}) == 50 and len(guard.new_token()) == 32


@pytest.mark.parametrize("token", ["", "0" * 32, "\u00e9" * 16])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wrong_token_is_refused(server, method, token):
    path = f"/{token}/state".encode("utf-8", "replace")
    extra = f"Origin: http://{host_of(server)}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    head = b" HTTP/1.1\r\nHost: " + host_of(server).encode() + b"\r\n" + extra.encode() + b"\r\n{}"
    assert raw(server, method.encode() + b" " + path + head)[0] in (400, 403)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example:80", "[::1]:80", "", "0.0.0.0:80"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_leads_here_is_not_ours(server, method, host):
    """DNS rebinding: the browser believes that it talks to the page's own server."""
    headers = {"Host": host, **({"Origin": f"http://{host}"} if method == "POST" else {})}
    assert ask(server, method, "undo" if method == "POST" else "state", b"{}", **headers)[0] == 403


def test_this_machine_has_two_names(server):
    host = f"localhost:{server.server_address[1]}"
    assert ask(server, "GET", "state", Host=host)[0] == 200
    assert ask(server, "POST", "undo", b"{}", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1",
        "https://HOST",
        "http://HOST.evil.example",
        "http://localhost:1",
    ],
)
def test_another_page_may_not_ask(server, origin):
    origin = origin.replace("HOST", host_of(server))
    before = server.desk.session.history
    assert (
        ask(
            server,
            "POST",
            "box",
            json.dumps({"frame": 0, "places": [[1, 1], [9, 9]], "value": "moves"}).encode(),
            Origin=origin,
        )[0]
        == 403
    )
    assert ask(server, "GET", "state", Origin=origin)[0] == 403
    assert server.desk.session.history == before


def test_a_change_needs_an_origin(server):
    assert ask(server, "POST", "undo", b"{}", Origin="")[0] == 403
    assert ask(server, "POST", "undo", b"{}", Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(server, "GET", "state", Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(server, "GET", "", Sec_Fetch_Site="none")[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_page_is_no_change(server, kind):
    assert ask(server, "POST", "undo", b"{}", Content_Type=kind)[0] == 415


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "HEAD", "PROPFIND", "get"])
def test_other_methods_do_not_exist(server, method):
    assert raw(server, f"{method} /{server.token}/state HTTP/1.1\r\nHost: {host_of(server)}\r\n\r\n".encode())[0] == 501


@pytest.mark.parametrize(
    ("length", "status"),
    [
        ("99999999999", 413),
        ("262145", 413),
        ("9" * 400, 413),
        ("-1", 411),
        ("", 411),
        ("1e3", 411),
        ("+5", 411),
        ("²", 411),
    ],
)
def test_a_huge_body_is_not_read(server, length, status):
    began = time.monotonic()
    head = f"Content-Length: {length}\r\n" if length else ""
    request = (
        f"POST /{server.token}/undo HTTP/1.1\r\nHost: {host_of(server)}\r\nOrigin: http://{host_of(server)}\r\n"
        f"Content-Type: application/json\r\n{head}\r\n"
    )
    assert raw(server, request.encode("latin-1", "replace") + b"{" * 1000)[0] == status
    assert time.monotonic() - began < 20


def test_a_body_in_pieces_is_refused(server):
    assert ask(server, "POST", "undo", b"0\r\n\r\n", Transfer_Encoding="chunked", Content_Length="")[0] == 411


def test_what_follows_a_refusal_is_no_request(server):
    """A body that looks like a request is not taken for one."""
    hidden = f"POST /{server.token}/undo HTTP/1.1\r\nHost: {host_of(server)}\r\n\r\n"
    request = f"POST /x/undo HTTP/1.1\r\nHost: {host_of(server)}\r\nContent-Length: {len(hidden)}\r\n\r\n{hidden}"
    assert raw(server, request.encode())[1].count(b"HTTP/1.1 ") == 1


def test_long_paths_and_heads_are_refused(server):
    assert (
        raw(server, f"GET /{server.token}/{'a' * 500} HTTP/1.1\r\nHost: {host_of(server)}\r\n\r\n".encode())[0] == 403
    )
    assert raw(server, f"GET /{'a' * 70000} HTTP/1.1\r\n\r\n".encode())[0] == 414
    many = "".join(f"X-{k}: 1\r\n" for k in range(200))
    assert raw(server, f"GET /{server.token}/state HTTP/1.1\r\n{many}\r\n".encode())[0] == 431


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("click", b"", "no JSON"),
        ("click", b"[" * 100000, "no JSON"),
        ("click", b"\xff\xfe", "no JSON"),
        ("click", b"[]", "no object"),
        ("click", b'{"frame": 0}', "places"),
        ("click", b'{"frame": 5, "places": [[1, 1]], "value": "moves"}', "frame = 5"),
        ("click", b'{"frame": true, "places": [[1, 1]], "value": "moves"}', "frame = True"),
        ("click", b'{"frame": "../0", "places": [[1, 1]], "value": "moves"}', "frame = '../0'"),
        ("click", b'{"frame": 0, "places": [[NaN, 1]], "value": "moves"}', "no number"),
        ("click", b'{"frame": 0, "places": [[1e300, 1]], "value": "moves"}', "at most"),
        ("click", b'{"frame": 0, "places": [[1, 1, 1]], "value": "moves"}', "two numbers"),
        ("click", b'{"frame": 0, "places": [[1, 1]], "value": 0}', "value = 0"),
        ("click", b'{"frame": 0, "places": [[1, 1]], "value": ["moves"]}', "one of"),
        ("brush", b'{"frame": 0, "places": [[1, 1]], "value": "moves", "radius": 1e9}', "radius"),
        ("brush", b'{"frame": 0, "places": [], "value": "moves", "radius": 1}', "places"),
        ("box", b'{"frame": 0, "places": [[1, 1]], "value": "moves"}', "places"),
        ("object", b'{"frame": 0, "object": 7, "value": "still"}', "no object 7"),
        ("flag", b'{"frame": 0, "name": "scene", "on": true}', "excluded or keyframes"),
        ("flag", b'{"frame": 0, "name": "excluded", "on": 1}', "true or false"),
        ("interpolate", b'{"frame": 0}', "before this one"),
        ("follow", b'{"frame": 0}', "first click"),
        ("accept", b"{}", "no new cameras"),
    ],
)
def test_wrong_changes_are_refused_in_one_line(server, name, body, said):
    status, _, content = ask(server, "POST", name, body)
    error = json.loads(content)["error"]
    assert status == 400 and said in error and "\n" not in error
    assert server.desk.session.history.last is None


@pytest.mark.parametrize("name", ["", "nothing", "state", "_open", "click/0", "../click"])
def test_unknown_changes(server, name):
    assert ask(server, "POST", name, b"{}")[0] == 404


def test_nothing_of_the_folder_is_touched_but_corrections(server):
    dataset = Path(server.desk.session.dataset)
    post(server, "box", frame=0, places=[[1, 1], [9, 9]], value="moves")
    assert {path.name for path in dataset.iterdir()} == {"corrections"}


def test_only_this_machine_is_listened_to(server):
    assert server.server_address[0] == LOOPBACK


def done(server: EditServer) -> dict:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        job = get(server, "job")
        if not job["running"]:
            return job
        time.sleep(0.02)
    raise AssertionError("the job does not end")


def test_following_is_a_job(server):
    post(server, "box", frame=2, places=[[10, 10], [20, 20]], value="moves")
    assert post(server, "follow", frame=2) == (200, {})
    job = done(server)
    assert (job["name"], job["error"], job["done"], job["total"]) == ("follow", "", 4, 4)
    assert job["result"] == {"what": "all frames: moves", "frames": 4}
    assert all(own["corrected"] for own in get(server, "state")["frames"])


def test_solving_again_then_back_or_accepted(server):
    assert post(server, "solve")[0] == 200
    assert done(server)["error"] == ""
    solved = get(server, "state")["solved"]
    assert ["Points", "10", "12"] in solved["figures"] and solved["notes"] == ["made by the test"]
    for side in ("before", "after"):
        status, headers, content = ask(server, "GET", f"{side}.svg?t=1")
        assert status == 200 and headers["Content-Type"] == "image/svg+xml" and content.startswith(b"<svg")
    assert post(server, "solve")[0] == 400
    before = get(server, "state")["round"]
    assert post(server, "back") == (200, {}) and get(server, "state")["solved"] is None
    post(server, "solve")
    done(server)
    assert post(server, "accept") == (200, {})
    state = get(server, "state")
    assert state["solved"] is None and state["round"] == before + 1
    assert server.desk.helpers.remake.calls == ["solve", "go back", "solve", "accept"]


def test_one_job_at_a_time_and_it_can_be_stopped(scene, tmp_path):
    go = threading.Event()

    class Slow(Pretended):
        def solve(self, log):
            with log.stage("bundle adjustment", 1000) as advance:
                for _ in range(1000):
                    go.wait(60)
                    advance(1)
            raise AssertionError("it was not stopped")

    own = EditServer(make_desk(scene, tmp_path, remake=Slow(scene)), 0)
    own.begin()
    try:
        post(own, "solve")
        assert post(own, "solve")[0] == 409 and post(own, "accept")[0] == 409
        assert post(own, "box", frame=0, places=[[1, 1], [9, 9]], value="moves")[0] == 200
        post(own, "stop")
        go.set()
        job = done(own)
        assert job["error"] == "stopped" and get(own, "state")["solved"] is None
        assert get(own, "state")["undo"] == "box: moves"
    finally:
        own.shutdown()
        own.server_close()


def test_a_job_that_fails_says_why(scene, tmp_path, caplog):
    class Failing(Pretended):
        def solve(self, log):
            raise ValueError("a mistake")

    own = EditServer(make_desk(scene, tmp_path, remake=Failing(scene)), 0)
    own.begin()
    try:
        post(own, "solve")
        assert "ValueError: a mistake" in done(own)["error"]
    finally:
        own.shutdown()
        own.server_close()


def test_a_dataset_that_cannot_be_solved_again_says_why(scene, tmp_path):
    own = EditServer(make_desk(scene, tmp_path, remake=None, why_not="other people's cameras"), 0)
    own.begin()
    try:
        assert get(own, "state")["why_not"] == "other people's cameras"
        assert post(own, "solve") == (400, {"error": "other people's cameras"})
    finally:
        own.shutdown()
        own.server_close()
