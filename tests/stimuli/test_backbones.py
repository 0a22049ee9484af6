"""Features of images and videos by networks: weights that are real, the cache, hostile files, text in the same space."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.stimuli import backbones_media, backbones_models
from conform_bids.stimuli.backbones import Backbone, compute_features, load_backbone
from conform_bids.stimuli.backbones_media import read_frames, sampled_places
from conform_bids.stimuli.backbones_models import efficientnet_weights
from conform_bids.stimuli.backbones_progress import counted
from conform_bids.stimuli.features import FeatureCard, match_features
from conform_bids.stimuli.text_tower import GROUPS, class_names, classes_of, load_text_tower

DAISY = 985


@pytest.fixture(scope="module")
def network() -> Backbone:
    return load_backbone()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("flower", "china"):
        Image.fromarray(load_sample_image(f"{name}.jpg")).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in ("flower", "china")}


def _small(calls: list[int] | None = None, n_frames: int = 4) -> Backbone:
    """A network whose features are the mean colour, and a count of the frames that it was given."""

    def embed(batch: torch.Tensor) -> torch.Tensor:
        if calls is not None:
            calls.append(len(batch))
        return batch.mean(dim=(2, 3))

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image.resize((8, 8)), dtype=np.float32).transpose(2, 0, 1).copy())

    return Backbone(FeatureCard("timm:small", "mean", {"size": 8}), prepare, embed, n_frames=n_frames)


def _colours(folder: Path, n: int) -> dict[str, Path]:
    paths = {f"stim{k}": folder / f"{k}.png" for k in range(n)}
    for k, path in enumerate(paths.values()):
        Image.new("RGB", (20, 10), (10 * k, 100, 255 - 10 * k)).save(path)
    return paths


def _video(path: Path, colours: list[int], codec: str = "mpeg4") -> Path:
    with av.open(path, mode="w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for value in colours:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_weights_and_preprocessing_are_real(network: Backbone, photographs: dict[str, Path], tmp_path: Path) -> None:
    table = compute_features(network, photographs, cache=tmp_path, stream=io.StringIO())
    weights = efficientnet_weights()
    logits = table.values @ weights["_fc.weight"].numpy().T + weights["_fc.bias"].numpy()
    best = np.argsort(-logits, axis=1)
    assert best[0, 0] == DAISY and class_names()[DAISY][0] == "daisy"
    assert class_names()[best[1, 0]][0] == "palace"  # a roof of the Summer Palace
    assert table.values.shape == (2, 1280) and table.card.model == "efficientnet-lite0"
    # all that the card says of the preprocessing is in its hash
    assert table.card.preprocessing["mean"] == 127 and table.card.preprocessing["frames"] == network.n_frames
    assert (table.values >= 0).all()  # after a ReLU
    one = compute_features(network, photographs, batch_size=1, stream=io.StringIO())
    np.testing.assert_allclose(one.values, table.values, rtol=1e-3, atol=1e-4)


def test_text_meets_images(network: Backbone, photographs: dict[str, Path]) -> None:
    table = compute_features(network, photographs, stream=io.StringIO())
    tower = load_text_tower(table.card)
    queries = tower.embed(["flower", "building", "dog"]) - tower.bank().mean(axis=0)
    scores = table.values @ queries.T
    assert scores.argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(np.linalg.norm(tower.embed(["church", "pizza"]), axis=1), 1.0, rtol=1e-5)
    assert tower.bank().shape == (1000, 1280)
    assert tower.meaning("dogs") == "Chihuahua, Japanese spaniel, Maltese dog, Pekinese, Shih-Tzu and 113 more classes"


def test_documented_snippets_run(
    repository: Path, photographs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs" / "encode" / "features.md").read_text()
    shutil.copytree(photographs["flower"].parent, tmp_path / "stimuli")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out.startswith("(2, 1280) ") and len(blocks) == 2
    assert all(f"*{word}*" in page for word in GROUPS)


def test_broader_words_are_of_one_kind() -> None:
    for word, ranges in GROUPS.items():
        assert all(0 <= first <= last < 1000 for first, last in ranges)
        assert len(set(classes_of(word))) == sum(last - first + 1 for first, last in ranges), word
    assert set(classes_of("dog")) < set(classes_of("mammal")) < set(classes_of("animal"))
    assert set(classes_of("fruit")) < set(classes_of("food")) and classes_of("hay")[0] not in classes_of("food")


def test_words_of_the_classifier() -> None:
    assert len(class_names()) == 1000
    assert classes_of("Golden_Retriever") == (207,) == classes_of("n02099601")
    assert classes_of("crane") == (134, 517)  # the bird and the machine
    assert 934 not in classes_of("dog") and len(classes_of("dog")) == 118
    assert classes_of("pizzas") == classes_of("pizza") == (963,)
    assert classes_of("mushroom")[0] == 947
    with pytest.raises(UsageError, match=r"near to it: .*daisy"):
        classes_of("daisyy")
    with pytest.raises(UsageError, match="names of ImageNet's classes"):
        classes_of("qqqqqqqq")
    with pytest.raises(UsageError, match="no space that they share with text"):
        load_text_tower(FeatureCard("timm:vit_base_patch14_dinov2"))


def test_cache(tmp_path: Path) -> None:
    files = _colours(tmp_path, 7)
    (tmp_path / "copy.png").write_bytes(files["stim0"].read_bytes())
    calls: list[int] = []
    first = compute_features(
        _small(calls), {**files, "copy": tmp_path / "copy.png"}, cache=tmp_path / "cache", batch_size=3, stream=io.StringIO()
    )
    assert sum(calls) == 7 and max(calls) == 3  # a copy is not computed
    np.testing.assert_array_equal(first.values[7], first.values[0])
    calls.clear()
    log = io.StringIO()
    again = compute_features(_small(calls), dict(reversed(files.items())), cache=tmp_path / "cache", batch_size=3, stream=log)
    assert calls == [] and log.getvalue() == ""
    np.testing.assert_array_equal(again.values, first.values[:7][::-1])
    # another preprocessing is another cache
    other = replace(_small(calls), card=FeatureCard("timm:small", "mean", {"size": 9}))
    compute_features(other, files, cache=tmp_path / "cache", stream=io.StringIO())
    assert sum(calls) == 7 and len(list((tmp_path / "cache").iterdir())) == 2


def test_a_run_that_was_cut_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = _colours(tmp_path, 6)
    calls: list[int] = []
    whole = _small(calls)

    def embed(batch: torch.Tensor) -> torch.Tensor:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole.embed(batch)

    with pytest.raises(KeyboardInterrupt):
        compute_features(replace(whole, embed=embed), files, cache=tmp_path / "cache", batch_size=2, stream=io.StringIO())
    calls.clear()
    log = io.StringIO()
    compute_features(whole, files, cache=tmp_path / "cache", batch_size=2, stream=log)
    assert calls == [2]
    assert log.getvalue().splitlines() == ["features: timm:small: 4/6 stimuli", "features: timm:small: 6/6 stimuli"]
    # a file of the cache that broke is computed again
    calls.clear()
    for shard in (tmp_path / "cache").rglob("*.h5"):
        shard.write_bytes(shard.read_bytes()[:100])
    compute_features(whole, files, cache=tmp_path / "cache", stream=io.StringIO())
    assert sum(calls) == 6 and "computed again" in caplog.text


def test_a_cache_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    table = compute_features(_small(), _colours(tmp_path, 2), cache=tmp_path / "cache", stream=io.StringIO())
    assert len(table) == 2 and caplog.text.count("cannot be kept for later runs") == 1


def test_batch_size_does_not_matter(tmp_path: Path) -> None:
    files = {**_colours(tmp_path, 5), "film": _video(tmp_path / "film.mp4", [10] * 10 + [200] * 10)}
    tables = [compute_features(_small(), files, batch_size=size, stream=io.StringIO()) for size in (1, 3, 100)]
    for table in tables[1:]:
        np.testing.assert_allclose(table.values, tables[0].values, rtol=1e-5)
    matched = match_features(tables[0], ["any name"], [tables[0].sha256[2]])
    np.testing.assert_array_equal(matched.values[0], tables[0].values[2])


@pytest.mark.parametrize(("extension", "codec"), [(".mp4", "mpeg4"), (".avi", "mpeg4"), (".mkv", "mpeg4")])
def test_features_of_a_video_are_the_mean_over_its_frames(extension: str, codec: str, tmp_path: Path) -> None:
    path = _video(tmp_path / f"film{extension}", [10] * 10 + [200] * 30, codec)
    frames = read_frames(path, 4)
    assert np.allclose([np.asarray(frame).mean() for frame in frames], [10, 200, 200, 200], atol=6)
    table = compute_features(_small(), {"film": path}, stream=io.StringIO())
    np.testing.assert_allclose(table.values, np.full((1, 3), (10 + 3 * 200) / 4), atol=6)


def test_sampled_places() -> None:
    assert sampled_places(40, 4) == [5, 15, 25, 35]
    assert sampled_places(3, 4) == [0, 1, 2]


def test_animations_transparency_and_depth(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 80, 160, 240)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert [np.asarray(frame).max() for frame in read_frames(tmp_path / "a.gif", 2)] == [80, 240]
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (np.asarray(read_frames(tmp_path / "clear.png", 1)[0]) == 128).all()
    Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(read_frames(tmp_path / "deep.png", 1)[0]).max() in (127, 128)
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="32 bits"):
        read_frames(tmp_path / "float.tif", 1)


def test_broken_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = _colours(tmp_path, 3)
    broken = {"cut": tmp_path / "cut.png", "text": tmp_path / "text.jpg", "film": tmp_path / "film.mp4"}
    broken["cut"].write_bytes(files["stim1"].read_bytes()[:-30])
    broken["text"].write_text("no image")
    broken["film"].write_bytes(b"\0" * 100)
    with pytest.raises(UnusableInputError, match=r"3 of 6 stimulus files cannot be decoded: .*cut\.png.*text\.jpg.*film\.mp4") as caught:
        compute_features(_small(), {**broken, **files}, cache=tmp_path / "cache", stream=io.StringIO())
    assert caught.value.exit_code == 65
    calls: list[int] = []
    table = compute_features(_small(calls), {**broken, **files}, cache=tmp_path / "cache", faults="set-aside", stream=io.StringIO())
    assert table.stim_ids == tuple(files) and calls == []  # the sound ones were kept
    assert "3 of 6 stimulus files cannot be used" in caplog.text
    with pytest.raises(MissingInputError, match=r"1 of 2 stimulus files cannot be read: .*gone\.png"):
        compute_features(_small(), {"stim0": files["stim0"], "gone": tmp_path / "gone.png"}, stream=io.StringIO())


def test_hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(ValueError, match="neither an image nor a video"):
        read_frames(tmp_path / "vector.eps", 1)
    # a list of other files under a video's name is not followed
    _video(tmp_path / "real.mp4", [10] * 4)
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/real.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mkv").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/real.mp4'\n")
    for name in ("list.mp4", "concat.mkv"):
        with pytest.raises(ValueError, match="cannot be decoded"):
            read_frames(tmp_path / name, 1)
    monkeypatch.setattr(backbones_media, "LARGEST_PIXELS", 1000)
    Image.new("L", (200, 200)).save(tmp_path / "large.png")
    for name in ("large.png", "real.mp4"):
        with pytest.raises(ValueError, match=r"declares .* pixels"):
            read_frames(tmp_path / name, 1)
    monkeypatch.setattr(backbones_media, "LARGEST_PIXELS", 10**9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="more pixels than are decoded"):
        read_frames(tmp_path / "large.png", 1)


def test_progress_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        with counted("net", 3, 1, stream=stream) as advance:
            advance()
    assert "features: net" in stream.getvalue() and "2/3" in stream.getvalue()


def test_progress_in_a_log_says_a_line_now_and_then() -> None:
    log, now = io.StringIO(), [0.0]
    with counted("net", 100, stream=log, clock=lambda: now[0]) as advance:
        for _ in range(100):
            now[0] += 1.0
            advance()
    assert log.getvalue().splitlines() == [f"features: net: {n}/100 stimuli" for n in (0, 30, 60, 90, 100)]


@pytest.mark.parametrize("name", ["resnet", "clip:ViT", "timm:", "open_clip"])
def test_unknown_backbones(name: str) -> None:
    with pytest.raises(UsageError, match="there are efficientnet-lite0, open_clip:"):
        load_backbone(name)


@pytest.mark.parametrize(
    ("name", "package"), [("open_clip:a/b", "open_clip_torch"), ("timm:a", "timm"), ("transformers:a", "transformers")]
)
def test_absent_packages(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    with pytest.raises(MissingInputError, match=rf"needs the package {package}.*pip install 'conform\[features\]'"):
        load_backbone(name)


def _module(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


class _Colour(torch.nn.Module):
    """Stands for a network of another package."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"tag": "in1k", "license": "mit"}
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.mean(dim=(2, 3)) * self.weight

    def encode_image(self, batch: torch.Tensor) -> torch.Tensor:
        return self(batch)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.float()


def _prepare(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1).copy())


def _tokens(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(text), text.count("a"), 1] for text in texts])


def _offline(*_: object, **__: object) -> None:
    raise OSError("We couldn't connect to 'https://huggingface.co'\nmore")


def test_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def create(name: str, **options: object) -> _Colour:
        asked.append((name, options))
        return _Colour()

    _module(monkeypatch, "timm", list_models=lambda: ["resnet18", "resnet50"], create_model=create)
    configuration = {"input_size": (3, 10, 20), "crop_pct": 0.9}
    _module(monkeypatch, "timm.data", resolve_model_data_config=lambda _: configuration, create_transform=lambda **_: _prepare)
    backbone = load_backbone("timm:resnet18.a1_in1k")
    assert asked == [("resnet18.a1_in1k", {"pretrained": True, "num_classes": 0})]
    assert backbone.card.licence == "mit" and backbone.card.preprocessing["input_size"] == [3, 10, 20]
    files = _colours(tmp_path, 2)
    np.testing.assert_allclose(compute_features(backbone, files, stream=io.StringIO()).values, [[0, 100, 255], [10, 100, 245]])
    with pytest.raises(UsageError, match="no 'resnet19'; near to it: resnet18"):
        load_backbone("timm:resnet19")
    monkeypatch.setattr(sys.modules["timm"], "create_model", _offline)
    with pytest.raises(
        MissingInputError, match=r"could not be fetched \(We couldn't connect.*timm\.create_model\('resnet18', pretrained=True\)"
    ):
        load_backbone("timm:resnet18")


class _Planted:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


def test_pickles_among_weights_are_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save({"weight": _Planted(tmp_path / "planted")}, tmp_path / "weights.bin")

    def create(name: str, **options: object) -> object:
        return torch.load(tmp_path / "weights.bin", weights_only=False)

    _module(monkeypatch, "timm", list_models=lambda: ["resnet18"], create_model=create)
    _module(monkeypatch, "timm.data")
    with pytest.raises(MissingInputError, match="could not be fetched"):
        load_backbone("timm:resnet18")
    assert not (tmp_path / "planted").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _module(
        monkeypatch,
        "open_clip",
        list_models=lambda: ["ViT-B-32"],
        list_pretrained_tags_by_model=lambda name: ["openai"] if name == "ViT-B-32" else [],
        create_model_and_transforms=lambda name, pretrained: (_Colour(), None, _prepare),
        get_tokenizer=lambda name: _tokens,
    )
    backbone = load_backbone("open_clip:ViT-B-32/openai")
    table = compute_features(backbone, _colours(tmp_path, 2), stream=io.StringIO())
    np.testing.assert_allclose(table.values, [[0, 100, 255], [10, 100, 245]])
    tower = load_text_tower(table.card)
    rows = tower.embed(["a dog", "banana"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)
    assert not np.allclose(rows[0], rows[1]) and tower.meaning("a dog") == "a dog" and tower.bank().shape == (200, 3)
    with pytest.raises(UsageError, match="no 'ViT-B-31'; near to it: ViT-B-32"):
        load_backbone("open_clip:ViT-B-31/openai")
    with pytest.raises(UsageError, match="no 'laion'"):
        load_backbone("open_clip:ViT-B-32/laion")
    monkeypatch.setattr(sys.modules["open_clip"], "create_model_and_transforms", _offline)
    with pytest.raises(MissingInputError, match=r"open_clip\.create_model\('ViT-B-32', pretrained='openai'\)"):
        load_backbone("open_clip:ViT-B-32/openai")


class _Tokens(torch.nn.Module):
    """Stands for a vision transformer: a class token before the patches."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self._shape = shape
        if shape == "class token":
            self.cls_token = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        pooled = pixel_values.mean(dim=(2, 3))
        if self._shape == "map":
            return SimpleNamespace(last_hidden_state=pixel_values)
        return SimpleNamespace(last_hidden_state=torch.stack([pooled, pooled * 3], dim=1))


class _Joint(_Tokens):
    def get_image_features(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=pixel_values.mean(dim=(2, 3)) * 5)


@pytest.mark.parametrize(
    ("network", "factor", "layer"),
    [
        (_Tokens("class token"), 1, "class token of the last layer"),
        (_Tokens("patches"), 2, "mean of the last layer over positions"),
        (_Tokens("map"), 1, "mean of the last layer over positions"),
        (_Joint("class token"), 5, "image embedding"),
    ],
    ids=["class-token", "patches", "map", "joint"],
)
def test_transformers(network: torch.nn.Module, factor: int, layer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, object] = {}
    info: dict[str, list[str]] = {"missing_keys": ["pooler.dense.weight"]}

    class Processor:
        def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
            return {"pixel_values": _prepare(images)[None]}

        def to_dict(self) -> dict[str, object]:
            return {"size": {"height": 8}, "resample": Image.Resampling.BICUBIC}

    def load(name: str, **options: object) -> tuple[torch.nn.Module, dict[str, list[str]]]:
        asked.update(options, name=name)
        return network, info

    processors, models = SimpleNamespace(from_pretrained=lambda *_, **__: Processor()), SimpleNamespace(from_pretrained=load)
    _module(monkeypatch, "transformers", AutoImageProcessor=processors, AutoModel=models)
    backbone = load_backbone("transformers:facebook/dinov2-base")
    assert asked["use_safetensors"] is True and asked["trust_remote_code"] is False
    assert backbone.card.layer == layer and backbone.card.preprocessing["size"] == {"height": 8}
    values = compute_features(backbone, _colours(tmp_path, 1), stream=io.StringIO()).values
    np.testing.assert_allclose(values, factor * np.array([[0, 100, 255]]), rtol=1e-5)
    info["missing_keys"] = ["encoder.layer.0.weight"]
    with pytest.raises(MissingInputError, match=r"no weights for encoder\.layer\.0"):
        load_backbone("transformers:facebook/dinov2-base")
    monkeypatch.setattr(processors, "from_pretrained", _offline)
    with pytest.raises(MissingInputError, match="copy the cache"):
        load_backbone("transformers:facebook/dinov2-base")


def test_frames_of_a_video_are_said_in_the_card() -> None:
    assert load_backbone().card.preprocessing["frames"] == backbones_models.N_FRAMES


def test_a_movie_with_a_frame_far_away_is_not_decoded_for_years(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames a billion seconds apart would be a billion intervals."""
    frames = [SimpleNamespace(time=time, to_image=lambda: None) for time in (0.0, 1.0, 1e9)]
    monkeypatch.setattr(backbones_media, "_video_stream", lambda container: None)
    container = SimpleNamespace(decode=lambda stream: iter(frames))
    with pytest.raises(ValueError, match=r"a frame at 1e\+09 s"):
        list(backbones_media._at_even_times(container, 2.0))
