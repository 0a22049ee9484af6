"""The `incontext` engine: a transformer that reads a unit's context and writes its weights, in blocks of units.

Trained by `conform_bids.encode.numerics.incontext_fit.fit_incontext`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.encode.numerics.mixture import Basis
from conform_bids.encode.numerics.population import Adapted, Context, FloatArray
from conform_bids.encode.numerics.transformer import InContextTransformer, Shape

__all__ = ["Calibration", "InContextModel", "read_out_attention"]

BLOCK_BYTES = 300_000_000
COPIES = 12
"""Arrays of the size of all tokens that a block of the network holds at once, about."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Squared error of the network on units whose truth is known: draws from the mixture prior that it was trained on.

    Attributes
    ----------
    n_context : (n_sizes,) array
        Rising.
    share : (n_sizes, n_bins) array
        Mean signal share that the network expected, in bins of equally many units; rising in each row.
    error : (n_sizes, n_bins) array
        Mean squared error of the noiseless response to stimuli outside the context.
    """

    n_context: FloatArray
    share: FloatArray
    error: FloatArray

    def variance(self, n_context: int, share: FloatArray) -> FloatArray:
        """Expected squared error of units, (n_units,): linear in the share, and between sizes in their logarithm; constant beyond."""
        rows = np.stack([np.interp(share, own, error) for own, error in zip(self.share, self.error, strict=True)])
        sizes = np.log(self.n_context)
        place = np.clip(np.interp(np.log(n_context), sizes, np.arange(len(sizes))), 0, len(sizes) - 1)
        low = min(int(place), max(len(sizes) - 2, 0))
        high = min(low + 1, len(sizes) - 1)
        return np.asarray(rows[low] + (place - low) * (rows[high] - rows[low]))


@dataclass(frozen=True, eq=False)
class InContextModel:
    """A trained transformer.

    Attributes
    ----------
    basis : Basis
        Features to the embeddings of tokens, whose mean squared norm is one over the training people's stimuli; linear, so that weights
        of embeddings are weights of features.
    spread : (n_dimensions, n_dimensions) array
        Covariance of the embeddings over the training people's stimuli.
    network : InContextTransformer
    calibration : Calibration, optional
        Without it there is no posterior variance.
    losses : (n_steps,) array
        Of the training.
    settings : mapping
        Of the training, for the record.
    device : str
        That contexts are computed on.
    """

    basis: Basis
    spread: FloatArray
    network: InContextTransformer
    calibration: Calibration | None
    losses: FloatArray
    settings: Mapping[str, Any]
    device: str = "cpu"
    name: str = "incontext"

    def embed(self, features: FloatArray) -> torch.Tensor:
        """Embeddings of stimuli on the device, (n, n_dimensions).

        Raises
        ------
        ValueError
            If features are of another number.
        """
        rows = np.asarray(features)
        if rows.ndim != 2 or rows.shape[1] != len(self.basis.centre):
            raise ValueError(f"the model knows {len(self.basis.centre)} features, the context has shape {rows.shape}")
        return torch.from_numpy(self.basis.apply(rows, np.float32)[:, :-1]).contiguous().to(self.device)

    def inputs(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (k, n_dimensions) and responses (V, k) of a context.

        Raises
        ------
        ValueError
            If the context is empty, of another number of features, or not finite.
        """
        responses = np.asarray(context.responses)
        if len(context.features) == 0 or len(context.features) != len(responses):
            raise ValueError(f"a context needs as many rows of features as of responses: {len(context.features)} and {len(responses)}")
        if not (np.isfinite(context.features).all() and np.isfinite(responses).all()):
            raise ValueError("the context has values that are not finite")
        units = torch.from_numpy(np.ascontiguousarray(responses.T, dtype=np.float32))
        return self.embed(np.asarray(context.features)), units.to(self.device)

    def blocks(self, n_context: int, n_units: int) -> list[slice]:
        """Units that fit in memory at once."""
        shape = self.network.shape
        wide = max(3 * shape.width, 2 * shape.hidden, shape.n_features + 1)
        step = max(1, BLOCK_BYTES // (4 * COPIES // 3 * wide * (n_context + shape.n_registers)))
        return [slice(i, min(i + step, n_units)) for i in range(0, n_units, step)]

    def adapt(self, context: Context, queries: FloatArray | None = None) -> Adapted:
        """Weights of every unit; see `PopulationModel.adapt`.

        ``signal_share`` is the variance of the predictions over the training people's stimuli: a mean over the posterior explains as much
        as it varies. The posterior variance is not the network's own, which writes weights only: it is the squared error that the network
        made on simulated units with as many context stimuli and the same expected share, spread over queries by their squared norm.

        Raises
        ------
        ValueError
            If the context does not fit the model.
        """
        x, y = self.inputs(context)
        kind = np.asarray(context.responses).dtype
        kind = kind if kind == np.float32 else np.dtype(np.float64)
        own = np.empty((x.shape[1] + 1, len(y)), dtype=np.float32)
        self.network.eval()
        with torch.inference_mode():
            for units in self.blocks(len(x), len(y)):
                weights, bias = self.network(x.expand(units.stop - units.start, -1, -1), y[units])
                own[:-1, units], own[-1, units] = weights.T.cpu().numpy(), bias.cpu().numpy()
        of_features, offsets = self.basis.weights_of_features(own.astype(kind))
        share = np.clip(np.einsum("dv,de,ev->v", own[:-1], self.spread, own[:-1], optimize=True), 0, 1)
        variance = None
        if queries is not None and self.calibration is not None:
            size = (self.embed(queries) ** 2).sum(dim=1).cpu().numpy()
            variance = (size[:, None] * self.calibration.variance(len(x), share)).astype(kind)
        return Adapted(of_features, offsets, share.astype(kind), variance)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
        """Arrays and settings; see `from_state`."""
        arrays = {f"network.{name}": value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}
        arrays |= {"centre": self.basis.centre, "projection": self.basis.projection, "spread": self.spread, "losses": self.losses}
        if self.calibration is not None:
            arrays |= {f"calibration.{name}": value for name, value in asdict(self.calibration).items()}
        return arrays, {"engine": self.name, "shape": asdict(self.network.shape), "training": dict(self.settings)}

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any], device: str = "cpu") -> InContextModel:
        """The model that gave this state, on a device.

        Raises
        ------
        ValueError
            When there are more blocks than weights.
        """
        shape = Shape(**settings["shape"])
        own = {name.removeprefix("network."): torch.from_numpy(np.array(v)) for name, v in arrays.items() if name.startswith("network.")}
        if shape.n_blocks > len(own):
            raise ValueError(f"{shape.n_blocks} blocks, of which {len(own)} arrays of weights cannot be")
        with torch.device("meta"):  # takes no memory for what a file says of its size
            network = InContextTransformer(shape)
        network.load_state_dict(own, assign=True)
        table = {name.removeprefix("calibration."): values for name, values in arrays.items() if name.startswith("calibration.")}
        return cls(
            basis=Basis(arrays["centre"], arrays["projection"]),
            spread=arrays["spread"],
            network=network.to(device).eval(),
            calibration=Calibration(**table) if table else None,
            losses=arrays["losses"],
            settings=settings["training"],
            device=device,
        )


def read_out_attention(model: InContextModel, context: Context) -> FloatArray:
    """Which context stimuli the network looks at when it writes a unit's weights.

    Attention of the token that is read out in the last block, mean of the heads, over the context's stimuli alone (what goes to the
    registers is left out).

    Parameters
    ----------
    model : InContextModel
    context : Context

    Returns
    -------
    (n_context, n_units) array
        Each column sums to one.

    Raises
    ------
    ValueError
        If the context does not fit the model.
    """
    x, y = model.inputs(context)
    found = np.empty((len(x), len(y)), dtype=np.float32)
    model.network.eval()
    with torch.inference_mode():
        for units in model.blocks(len(x), len(y)):
            shares = model.network.read_out_attention(x.expand(units.stop - units.start, -1, -1), y[units])
            shares = shares[:, model.network.shape.n_registers :]
            found[:, units] = (shares / shares.sum(dim=1, keepdim=True)).T.cpu().numpy()
    return found
