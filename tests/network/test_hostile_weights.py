"""Weight folders of strangers: every field times every value that does not belong there, and files of other kinds."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from easi3r_ns.core.errors import CheckpointError
from easi3r_ns.network import checkpoint, sources, weights
from easi3r_ns.network.config import DUSt3RConfig
from tests.network.test_weights import MODEL_TEXT, PUBLISHED, SMALL_CONFIG, needs_safe_pth, save_pth

OWN = json.loads(json.dumps(vars(SMALL_CONFIG)))
DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]
BAD = {
    "null": None,
    "no text": "",
    "text": "x",
    "a number as text": "16",
    "an open bracket": "(",
    "a deep bracket": "(" * 500,
    "a call": "(__import__('os').mkdir('executed'),)",
    "a minus before text": "(-'x', 1)",
    "a minus before a tuple": "(-(1, 2), 1)",
    "long text": "x" * 100_000,
    "a fraction": 1.5,
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "empty list": [],
    "list": [1, 2],
    "list of text": ["a", "b", "c", "d"],
    "list of huge": [10**9] * 4,
    "list of null": [None] * 4,
    "object": {"a": 1},
    "true": True,
    "zero": 0,
    "negative": -4,
    "large": 10**6,
    "huge": 2**64,
    "endless": 10**4000,
    "deep": DEEP,
}
ALLOWED = {
    "rope_stretch": {"a fraction"},
    "mlp_ratio": {"a fraction"},
    "square": {"true"},
    "absolute_position": {"true"},
    "norm_im2_in_dec": {"true"},
    "_dpt_head_overrides": {"null"},
    "freeze": set(BAD),
    "landscape_only": set(BAD),
}
"""Values that mean something in a field, or fields without effect."""


def check(fields: dict[str, Any], name: str, kind: str) -> None:
    try:
        config = checkpoint.config_from_fields(fields, "config.json")
    except CheckpointError as error:
        text = str(error)
        assert text.startswith("config.json") and "\n" not in text and len(text) < 500, text[:600]
        return
    assert kind in ALLOWED.get(name, ()), config


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("fields", [OWN, PUBLISHED], ids=["own", "published"])
def test_no_value_of_another_kind_is_taken(fields: dict[str, Any], kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in fields:
        check({**fields, name: BAD[kind]}, name, kind)
    for name in PUBLISHED["_dpt_head_overrides"] if fields is PUBLISHED else ():
        check({**fields, "_dpt_head_overrides": {name: BAD[kind]}}, name, kind)
    assert not list(tmp_path.iterdir())


def test_every_field_has_bounds() -> None:
    """A field that is added without a check would accept one of these."""
    for name in vars(DUSt3RConfig()):
        for kind in ("null", "text", "object", "huge", "deep"):
            with pytest.raises(CheckpointError):
                checkpoint.config_from_fields({**OWN, name: BAD[kind]}, "x")


@pytest.mark.parametrize("kind", BAD)
def test_constructor_arguments_of_another_kind(kind: str) -> None:
    for name in ("img_size", "patch_size", "enc_depth", "dec_num_heads", "pos_embed", "conf_mode"):
        text = f"AsymmetricCroCo3DStereo(pos_embed='RoPE100', {name}={BAD[kind]!r})"
        with pytest.raises(CheckpointError) as caught:
            checkpoint.config_from_fields(checkpoint.parse_constructor(text, "a.pth"), "a.pth")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argument", ["-'x'", "-(1, 2)", "-[1]", "-None", "- -'x'", "+'x'", "~1", "not 1"])
def test_operators_before_what_is_no_number(argument: str) -> None:
    with pytest.raises(CheckpointError, match="is not a literal"):
        checkpoint.parse_constructor(f"AsymmetricCroCo3DStereo(img_size={argument})", "a.pth")


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "", '{"enc_depth": ' + "9" * 5000 + "}", b"\xff\xfe{}", "{" * 10],
    ids=["deep list", "deep object", "list", "null", "empty", "endless number", "no UTF-8", "cut"],
)
@pytest.mark.parametrize("name", ["config.json", "card.json"])
def test_json_that_is_no_object(content: str | bytes, name: str, tmp_path: Path) -> None:
    folder = whole(tmp_path)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=name) as caught:
        weights.describe(sources.resolve(str(folder)))
    assert "\n" not in str(caught.value)


def whole(folder: Path) -> Path:
    with torch.device("meta"):
        shapes = weights.DUSt3R(SMALL_CONFIG).state_dict()
    save_file({name: torch.zeros(value.shape) for name, value in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    return folder


@pytest.mark.parametrize("field", ["licence", "sha256", "graph", "flow_weight", "dynamic_score"])
def test_cards_of_another_kind(field: str, tmp_path: Path) -> None:
    folder = whole(tmp_path)
    taken = {"graph": (type(None), str), "flow_weight": (type(None), int, float), "licence": (object,)}
    for kind in ("null", "text", "long text", "NaN", "object", "true", "huge"):
        (folder / "card.json").write_text(json.dumps({field: BAD[kind]}))
        try:
            weights.describe(sources.resolve(str(folder)))
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 900
        else:
            assert isinstance(BAD[kind], taken.get(field, ()))


@needs_safe_pth
@pytest.mark.parametrize(
    "tensors",
    [
        {"enc_norm.bias": torch.zeros(32, device="meta")},
        {"enc_norm.bias": torch.zeros(4, 4).to_sparse()},
        {"enc_norm.bias": "text"},
        {"enc_norm.bias": None},
        {1: torch.zeros(2)},
        [torch.zeros(2)],
        "text",
        None,
    ],
    ids=["meta", "sparse", "text", "null", "a number as a name", "list", "no dict", "nothing"],
)
def test_state_dicts_of_other_things(tensors: Any, tmp_path: Path) -> None:
    path = save_pth(tmp_path / "a.pth", tensors)
    with pytest.raises(CheckpointError, match="a.pth"):
        weights.describe(sources.resolve(str(path)))


@needs_safe_pth
def test_all_tensors_on_the_meta_device(tmp_path: Path) -> None:
    config = checkpoint.config_from_fields(checkpoint.parse_constructor(MODEL_TEXT, "x"), "x")
    with torch.device("meta"):
        state = weights.DUSt3R(config).state_dict()
    path = save_pth(tmp_path / "a.pth", state)
    with pytest.raises(CheckpointError, match="no tensors with values of their own"):
        weights.load_backbone(str(path))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = whole(tmp_path)
    state = {name: torch.zeros(value.shape) for name, value in weights.DUSt3R(SMALL_CONFIG).state_dict().items()}
    state["enc_norm.bias"] = state["enc_norm.bias"].to(dtype)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="enc_norm.bias hold no floating-point"):
        weights.load_backbone(str(folder))


@needs_safe_pth
@pytest.mark.parametrize("args", [None, "text", {"model": 3}, argparse.Namespace(), argparse.Namespace(model=3)])
def test_arguments_of_another_kind(args: Any, tmp_path: Path) -> None:
    torch.save({"args": args, "model": {}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="config.json"):
        weights.describe(sources.resolve(str(tmp_path / "a.pth")))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "config.json"])
def test_pipes_do_not_hang(name: str, tmp_path: Path) -> None:
    folder = whole(tmp_path)
    (folder / name).unlink(missing_ok=True)
    if name == "model.pth":
        (folder / "model.safetensors").unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError):
        weights.load_backbone(str(folder))
