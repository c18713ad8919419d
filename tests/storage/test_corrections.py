"""Corrections by hand on disk: they come back as they were, in any picture program's PNG, and damage is one line."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.storage import corrections as module
from easi3r_ns.storage.corrections import (
    AS_FOUND,
    FILE,
    MOVES,
    STILL,
    Corrections,
    frame_sources,
    nearest_level,
    read_corrections,
    write_corrections,
)

SIZE = (40, 30)


def painted() -> np.ndarray:
    marks = np.full((30, 40), AS_FOUND, dtype=np.uint8)
    marks[5:15, 5:15], marks[20:25, 20:30] = MOVES, STILL
    return marks


def some() -> Corrections:
    strokes = [{"tool": "brush", "points": [[1, 2], [3.5, 4]], "frame": "frame_00002"}, ["undo", None, "ü"]]
    sources = {"frame_00002": ("a.mp4", 7, None), "frame_00004": ("a.mp4", 21, None), "frame_00009": ("b.mp4", 3, 2)}
    return Corrections(SIZE, {"frame_00002": painted()}, strokes, ("frame_00004",), ("frame_00009",), sources)


def same(one: Corrections, other: Corrections) -> bool:
    np.testing.assert_equal(dict(one.marks), dict(other.marks))
    parts = ("size", "excluded", "keyframes")
    return all(getattr(one, p) == getattr(other, p) for p in parts) and list(one.strokes) == list(other.strokes)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write_corrections(tmp_path / "corrections", some())
    back = read_corrections(tmp_path / "corrections")
    assert same(back, some()) and back.sources == some().sources and back.fingerprint() == some().fingerprint()
    assert sorted(file.name for file in (tmp_path / "corrections").iterdir()) == [FILE, "frame_00002.png"]
    with Image.open(tmp_path / "corrections" / "frame_00002.png") as image:
        assert image.mode == "L" and set(np.unique(np.asarray(image))) == {0, 128, 255}


def test_only_what_changes_a_dataset_is_in_the_fingerprint() -> None:
    whole = some()
    assert Corrections(SIZE, whole.marks, (), whole.excluded, (), whole.sources).fingerprint() == whole.fingerprint()
    for other in (
        Corrections(SIZE, whole.marks, (), (), (), whole.sources),
        Corrections(SIZE, {"frame_00002": 255 - painted()}, (), whole.excluded, (), whole.sources),
        Corrections(SIZE, whole.marks, (), whole.excluded, (), {**whole.sources, "frame_00002": ("a.mp4", 8, None)}),
    ):
        assert other.fingerprint() != whole.fingerprint()


def test_images_that_are_taken_back_go_and_those_of_the_user_stay(tmp_path: Path) -> None:
    folder = tmp_path / "corrections"
    write_corrections(folder, some())
    Image.fromarray(painted()).save(folder / "frame_00005.png")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert sorted(read_corrections(folder).marks) == ["frame_00002", "frame_00005"]
    write_corrections(folder, Corrections(SIZE))
    assert sorted(file.name for file in folder.iterdir()) == [FILE, "frame_00005.png", "notes.txt"]


def test_only_changed_images_are_written(tmp_path: Path) -> None:
    names = ("frame_00001", "frame_00002")
    write_corrections(tmp_path, Corrections(SIZE, dict.fromkeys(names, painted())))
    before = {name: (tmp_path / f"{name}.png").stat().st_ino for name in names}
    other = np.where(painted() == MOVES, STILL, AS_FOUND).astype(np.uint8)
    write_corrections(tmp_path, Corrections(SIZE, {names[0]: painted(), names[1]: other}), changed=names)
    assert (tmp_path / f"{names[0]}.png").stat().st_ino == before[names[0]]
    np.testing.assert_array_equal(read_corrections(tmp_path).marks[names[1]], other)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "half size", "soft"])
def test_any_picture_program_may_paint_them(tmp_path: Path, mode: str) -> None:
    image, expected = Image.fromarray(painted()), painted()
    if mode == "half size":
        image = image.resize((80, 60), Image.Resampling.NEAREST)
        expected = expected.repeat(2, axis=0).repeat(2, axis=1)
    elif mode == "soft":
        image = Image.fromarray(
            np.where(painted() == MOVES, 30, np.where(painted() == STILL, 200, 160)).astype(np.uint8)
        )
    elif mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(((painted() != AS_FOUND) * 255).astype(np.uint8)))
    else:
        image = image.convert(mode)
    image.save(tmp_path / "frame_00003.png")
    np.testing.assert_array_equal(read_corrections(tmp_path).marks["frame_00003"], expected)


def test_levels_count_as_the_nearest_of_three() -> None:
    levels = np.array([0, 64, 65, 128, 191, 192, 255])
    assert nearest_level(levels).tolist() == [0, 0, 128, 128, 128, 255, 255]


def bomb(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_json(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        (folder / FILE).write_text(json.dumps(facts | changes), encoding="utf-8")

    return spoil


def with_image(write: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "frame_00002.png").unlink()
        write(folder / "frame_00002.png")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (with_json(version=2), "is of version 2, this program reads 1"),
        (with_json(version="1"), "is of version '1'"),
        (with_json(size=[40]), "not the width and height"),
        (with_json(size=[0, 30]), "0x30 pixels cannot be"),
        (with_json(size=[10**6, 10**6]), "cannot be"),
        (with_json(size=[80, 30]), "frame_00002 is 40x30, the images are 80x30"),
        (with_json(frames=["../../etc/passwd"]), "no name of a frame"),
        (with_json(frames="frame_00002"), "frames is 'frame_00002', not a list"),
        (with_json(frames=["frame_00002", "frame_00003"]), "frame_00003.png is missing"),
        (with_json(excluded=[["frame_00002"]]), "no name of a frame"),
        (with_json(strokes={}), "strokes is {}, not a list"),
        (with_json(sources={"frame_00002": [1, 2]}), "not a source and an index"),
        (with_json(sources=[1]), "not a source and an index"),
        (lambda folder: (folder / FILE).write_text("{", encoding="utf-8"), "is damaged"),
        (lambda folder: (folder / FILE).write_text("[" * 100_000, encoding="utf-8"), "is damaged"),
        (lambda folder: (folder / FILE).write_text("[1]", encoding="utf-8"), "names no version"),
        (lambda folder: (folder / FILE).write_bytes(b"\xff\xfe"), "is damaged"),
        (with_image(lambda file: file.write_bytes(b"GIF89a")), "no readable PNG"),
        (with_image(lambda file: file.write_bytes(bomb(30_000))), "frame_00002.png has|no readable PNG"),
        (with_image(lambda file: file.write_bytes(bomb(2000))), "no readable PNG"),
        (with_image(lambda file: file.mkdir()), "no plain file"),
        (with_image(lambda file: Image.fromarray(painted().T).save(file)), "is 30x40, the images are 40x30"),
        (with_image(lambda file: Image.new("RGB", SIZE, (200, 20, 20)).save(file)), "has colours"),
        (with_image(lambda file: Image.fromarray(painted().astype(np.uint16) * 257).save(file)), "no 8-bit picture"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    write_corrections(tmp_path / "own", some())
    spoil(tmp_path / "own")
    with pytest.raises(InputError, match=said) as caught:
        read_corrections(tmp_path / "own")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corrections(tmp_path, some())
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="more than"):
        read_corrections(tmp_path)
    with pytest.raises(InputError, match="the strokes of"):
        write_corrections(tmp_path / "other", some())
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    write_corrections(tmp_path / "own", some())
    for name in (FILE, "frame_00002.png"):
        kept = (tmp_path / "own" / name).rename(tmp_path / name)
        (tmp_path / "own" / name).symlink_to(kept)
        with pytest.raises(InputError, match="no plain file"):
            read_corrections(tmp_path / "own")
        (tmp_path / "own" / name).unlink()
        os.mkfifo(tmp_path / "own" / name)
        with pytest.raises(InputError, match="no plain file"):
            read_corrections(tmp_path / "own")
        (tmp_path / "own" / name).unlink()
        kept.rename(tmp_path / "own" / name)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    with pytest.raises(InputError, match="no link"):
        read_corrections(tmp_path / "link")
    with pytest.raises(OutputError, match="no folder of its own"):
        write_corrections(tmp_path / "link", some())


def test_a_link_in_the_place_of_an_image_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    (tmp_path / "own").mkdir()
    try:
        (tmp_path / "own" / "frame_00002.png").symlink_to(mine)
    except OSError:
        pytest.skip("no links here")
    write_corrections(tmp_path / "own", some())
    assert mine.read_bytes() == b"mine" and not (tmp_path / "own" / "frame_00002.png").is_symlink()


def dataset(folder: Path, *frames: tuple[str, str, int]) -> Path:
    folder.mkdir(exist_ok=True)
    entries = [{"file_path": f"images/{stem}.png", "source": source, "frame_index": i} for stem, source, i in frames]
    (folder / "transforms.json").write_text(json.dumps({"frames": entries}), encoding="utf-8")
    return folder


def test_the_dataset_beside_them_tells_which_frames_they_are(tmp_path: Path) -> None:
    out = dataset(tmp_path / "out", ("frame_00001", "a.mp4", 0), ("frame_00002", "a.mp4", 4), ("x_view3", "p.jpg", 0))
    assert frame_sources(out) == {
        "frame_00001": ("a.mp4", 0, None),
        "frame_00002": ("a.mp4", 4, None),
        "x_view3": ("p.jpg", 0, 3),
    }
    (out / "corrections").mkdir()
    Image.fromarray(painted()).save(out / "corrections" / "frame_00002.png")
    assert read_corrections(out / "corrections").sources == {"frame_00002": ("a.mp4", 4, None)}
    Image.fromarray(painted()).save(out / "corrections" / "frame_00007.png")
    with pytest.raises(InputError, match="has no frame frame_00007"):
        read_corrections(out / "corrections")


def test_names_follow_their_frames_into_another_dataset(tmp_path: Path) -> None:
    out = dataset(tmp_path / "out", ("frame_00001", "a.mp4", 7), ("frame_00002", "a.mp4", 30))
    names = {source: name for name, source in frame_sources(out).items()}
    moved = some().renamed(names)
    assert list(moved.marks) == ["frame_00001"] and moved.excluded == ("left_out_00001",)
    assert moved.fingerprint() == some().fingerprint()
    write_corrections(out / "corrections", moved)
    back = read_corrections(out / "corrections")
    assert back.sources["left_out_00001"] == ("a.mp4", 21, None) and same(back, moved)
