"""The `unrolled` engine: a network that learns how to do the inference that a mixture prior does by formula.

The posterior of a unit depends on a context only through its moments ``X'X``, ``X'y``, ``y'y`` and its size, and all units of a person
share ``X'X``: so the unit is the token, not the stimulus. Rounds of a closed-form ridge step towards a prior mean of the unit's own, and a
network that looks at what came out and moves that mean and the penalty. ``X'(y - X w)`` is linear attention over the context's stimuli;
there is no softmax attention over them. The answer is an ordinary linear model. What the units of a person have in common, which no unit
tells by itself, is added in closed form (`conform_bids.encode.numerics.pooling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.mixture import Basis
from conform_bids.encode.numerics.pooling import PersonalMap, fit_personal_map
from conform_bids.encode.numerics.population import Adapted, Context, FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["NetworkSize", "UnrolledModel", "make_network", "moments"]

UNITS_AT_A_TIME = 4096
FLOOR = 1e-3
"""Of variances whose logarithm is taken."""
Moments = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True)
class NetworkSize:
    """Shape of the network: ``width`` of its stream, ``hidden`` of the gated layer, and rounds."""

    width: int = 192
    hidden: int = 384
    rounds: int = 4


def moments(features: FloatArray, responses: FloatArray) -> Moments:
    """``X'X`` (d, d), ``y'X`` (n_units, d) and ``y'y`` (n_units,) in float32, from float64 products of the features."""
    x = np.asarray(features, dtype=np.float64)
    y = np.asarray(responses, dtype=np.float32)
    return (x.T @ x).astype(np.float32), y.T @ x.astype(np.float32), np.einsum("iv,iv->v", y, y)


def make_network(n_dimensions: int, size: NetworkSize) -> torch.nn.Module:
    """The network of ``n_dimensions`` whitened features.

    Its forward takes ``gram`` (c, d, d), ``cross`` (c, v, d), ``energy`` (c, v) and ``n`` (c,) of c contexts of v units each, and gives
    weights (c, v, d) and the logarithm of the last penalty (c, v).
    """
    import torch
    from torch import nn

    d = n_dimensions

    class Block(nn.Module):
        """Stream (v, width) -> stream, by a normalised gated layer."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(size.width)
            self.into = nn.Linear(size.width, 2 * size.hidden)
            self.back = nn.Linear(size.hidden, size.width)

        def forward(self, stream: torch.Tensor) -> torch.Tensor:
            gate, value = self.into(self.norm(stream)).chunk(2, dim=-1)
            return stream + self.back(nn.functional.silu(gate) * value)

    class Unrolled(nn.Module):
        """Ridge steps, and between them a network that moves the prior mean and the penalty."""

        def __init__(self) -> None:
            super().__init__()
            self.start: nn.Parameter = nn.Parameter(torch.zeros(size.width))
            self.look = nn.ModuleList(nn.Linear(3 * d + 4, size.width) for _ in range(size.rounds + 1))
            self.blocks = nn.ModuleList(Block() for _ in range(size.rounds + 1))
            self.move = nn.ModuleList(nn.Linear(size.width, 2 * d + 1) for _ in range(size.rounds))
            self.last = nn.Linear(size.width, d)
            for layer in (*self.move, self.last):
                assert isinstance(layer, nn.Linear)
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
                if layer is not self.last:
                    nn.init.constant_(layer.bias[d : 2 * d], -2.0)  # gates begin nearly closed

        def forward(
            self, gram: torch.Tensor, cross: torch.Tensor, energy: torch.Tensor, n: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast(gram.device.type, enabled=False), torch.no_grad():
                values, vectors = torch.linalg.eigh(gram.double())
                values, vectors = values.clamp(min=0).float()[:, None], vectors.float()
                squares = vectors.transpose(1, 2) ** 2
                size_of = n.log()[:, None, None].expand(*cross.shape[:2], 1)
                spread = (energy / n[:, None]).clamp(min=FLOOR).log()[..., None]
            mean, penalty = torch.zeros_like(cross), torch.full_like(energy, 0.6931)[..., None]
            stream = self.start.expand(*cross.shape[:2], -1)
            for step, (look, block) in enumerate(zip(self.look, self.blocks, strict=True)):
                shrink = 1 / (values + penalty.exp())
                weights = mean + ((cross - mean @ gram) @ vectors * shrink) @ vectors.transpose(1, 2)
                known = (penalty.exp() * shrink) @ squares
                left = energy[..., None] + ((weights @ gram - 2 * cross) * weights).sum(-1, keepdim=True)
                error = (left / n[:, None, None]).clamp(min=FLOOR).log()
                stream = stream + look(torch.cat([weights, mean, known, penalty, error, size_of, spread], dim=-1))
                stream = block(stream)
                if step == len(self.move):
                    return weights + self.last(stream).float(), penalty[..., 0]
                moved = self.move[step](stream).float()
                mean = mean + moved[..., :d] + torch.sigmoid(moved[..., d : 2 * d]) * (weights - mean)
                penalty = (penalty + moved[..., 2 * d :]).clamp(-6, 9)
            raise AssertionError("the last round returns")

    return Unrolled()


@dataclass(frozen=True, eq=False)
class UnrolledModel:
    """A trained network; see `fit_unrolled`.

    Attributes
    ----------
    basis : Basis
        From features to principal components and a constant.
    whitening : (d, d) array
        Root of the second moment of units' weights in the basis: components times it have isotropic weights.
    size : NetworkSize
    weights : dict of arrays
        Of the network.
    variance_scale : float
        Of posterior variances, from the training people's errors.
    losses : (n_steps,) array
        Of training.
    pools : bool
        Whether all units of a person together correct what the network says of each (`conform_bids.encode.numerics.pooling`).
    """

    basis: Basis
    whitening: FloatArray
    size: NetworkSize
    weights: Mapping[str, npt.NDArray[Any]]
    variance_scale: float
    losses: FloatArray
    pools: bool = True
    name: str = "unrolled"

    def rows(self, features: FloatArray) -> FloatArray:
        """Whitened components of stimuli, (n, d)."""
        return np.asarray(self.basis.apply(np.asarray(features), np.float64) @ self.whitening)

    def network(self) -> torch.nn.Module:
        """The network with its weights."""
        import torch

        with torch.device("meta"):  # takes no memory for what a file says of its size
            network = make_network(len(self.whitening), self.size)
        network.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in self.weights.items()}, assign=True)
        return network.eval()

    def adapt(self, context: Context, queries: FloatArray | None = None) -> Adapted:
        """Weights of every unit; see `PopulationModel.adapt`.

        Raises
        ------
        ValueError
            If the context is empty, of another number of features, or not finite.
        """
        features, responses = np.asarray(context.features), np.asarray(context.responses)
        if features.ndim != 2 or features.shape[1] != len(self.basis.centre):
            raise ValueError(f"the model knows {len(self.basis.centre)} features, the context has shape {features.shape}")
        if len(features) == 0 or len(features) != len(responses):
            raise ValueError(f"a context needs as many rows of features as of responses: {len(features)} and {len(responses)}")
        if not (np.isfinite(features).all() and np.isfinite(responses).all()):
            raise ValueError("the context has values that are not finite")
        network, rows = self.network(), self.rows(features)
        sums = moments(rows, responses)
        found, penalties = _infer(network, sums, len(rows))
        personal = self.personal_map(network, rows, responses)
        found = found if personal is None else personal.apply(found)
        own = (self.whitening.astype(np.float32) @ found.T).astype(np.float32)
        weights_out, bias = self.basis.weights_of_features(own)
        share = np.minimum((own[:-1] ** 2).sum(axis=0), 1)
        variance = None if queries is None else self.variance(penalties, sums, found, len(features), queries)
        return Adapted(weights_out, bias, share, variance)

    def personal_map(self, network: torch.nn.Module, rows: FloatArray, responses: FloatArray) -> PersonalMap | None:
        """What all units together say about a person, of whitened components of the context and responses; None where that is nothing."""
        if not self.pools:
            return None
        return fit_personal_map(lambda x, y: _infer(network, moments(x, y), len(x))[0], rows, responses)

    def variance(self, penalty: FloatArray, sums: Moments, weights: FloatArray, n: int, queries: FloatArray) -> FloatArray:
        """Variance of the last ridge step, scaled so that it was right on average for training people, (n_queries, n_units)."""
        gram, cross, energy = sums
        values, vectors = np.linalg.eigh(np.asarray(gram, dtype=np.float64))
        squares = ((self.rows(queries) @ vectors) ** 2).astype(np.float32)
        shrink = 1 / (np.maximum(values, 0)[:, None] + penalty[None]).astype(np.float32)
        left = energy + ((weights @ gram - 2 * cross) * weights).sum(axis=1)
        return np.asarray(self.variance_scale * np.maximum(left / n, FLOOR) * (squares @ shrink))

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
        """Arrays and settings; see `from_state`."""
        arrays = {f"network/{name}": np.asarray(values) for name, values in self.weights.items()}
        arrays |= {"centre": self.basis.centre, "projection": self.basis.projection, "whitening": self.whitening, "losses": self.losses}
        return arrays, {"engine": self.name, "size": asdict(self.size), "variance_scale": self.variance_scale, "pools": self.pools}

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> UnrolledModel:
        """The model that gave this state.

        Raises
        ------
        ValueError
            When there are more rounds than weights.
        """
        weights = {name.removeprefix("network/"): values for name, values in arrays.items() if name.startswith("network/")}
        basis = Basis(arrays["centre"], arrays["projection"])
        size = NetworkSize(**settings["size"])
        if size.rounds > len(weights):
            raise ValueError(f"{size.rounds} rounds, of which {len(weights)} arrays of weights cannot be")
        scale, losses = float(settings["variance_scale"]), arrays["losses"]
        return cls(basis, arrays["whitening"], size, weights, scale, losses, bool(settings.get("pools", True)), str(settings["engine"]))


def _infer(network: torch.nn.Module, sums: Moments, n: int) -> tuple[FloatArray, FloatArray]:
    """Weights (n_units, d) and last penalty (n_units,) of each unit, from what `moments` gives of n stimuli."""
    import torch

    gram, cross, energy = sums
    answers, penalties = [], []
    with torch.inference_mode():
        for start in range(0, len(cross), UNITS_AT_A_TIME):
            part = slice(start, start + UNITS_AT_A_TIME)
            inputs = [torch.from_numpy(np.ascontiguousarray(array))[None] for array in (gram, cross[part], energy[part])]
            weights, penalty = network(*inputs, torch.tensor([float(n)]))
            answers.append(weights[0].numpy())
            penalties.append(penalty[0].exp().numpy())
    return np.concatenate(answers), np.concatenate(penalties)
