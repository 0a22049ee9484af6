"""The in-context transformer: some (stimulus, response) pairs of a unit in, the unit's linear encoding model out.

A network that writes the weights of another (a hypernetwork), after BraInCoRL: one unit is one sequence, one context stimulus one token.
Nothing in it depends on the order of the stimuli or on their number. Shapes: B units, T context stimuli, R registers, E features, D width.

References
----------
Yu et al. (2025). Meta-learning an in-context transformer model of human higher visual cortex. arXiv:2505.15813.
Darcet et al. (2024). Vision transformers need registers. arXiv:2309.16588.
Shazeer (2020). GLU variants improve transformer. arXiv:2002.05202.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PAPER_WIDTHS", "InContextTransformer", "Shape", "paper_shape", "small_shape"]

SLOPE = 0.1
"""Of the leaky rectifier."""
INITIAL_SCALE = 0.02
PAPER_WIDTHS: Mapping[int, int] = {512: 560, 768: 800, 1152: 1200}
"""Width by the number of features, as published: for CLIP, DINO and SigLIP."""


@dataclass(frozen=True)
class Shape:
    """Of the network.

    Attributes
    ----------
    n_features : int
        E, of a stimulus' embedding.
    width : int
        D, of a token inside the network.
    n_blocks : int
    n_heads : int
        They share the width, which has to be a multiple.
    hidden : int
        Of the blocks' gated MLPs.
    n_registers : int
        R, learned tokens in front of the context; the first is read out.

    Raises
    ------
    ValueError
        If heads do not share the width evenly, or there is nothing to read out.
    """

    n_features: int
    width: int
    n_blocks: int
    n_heads: int
    hidden: int
    n_registers: int = 4

    def __post_init__(self) -> None:
        if self.width % self.n_heads:
            raise ValueError(f"{self.n_heads} heads cannot share a width of {self.width}")
        if min(self.n_features, self.n_blocks, self.n_registers) < 1:
            raise ValueError("a network needs a feature, a block and a register at least")


def paper_shape(n_features: int) -> Shape:
    """The published network: 20 blocks, 10 heads; 97,074,852 parameters for the 512 features of CLIP.

    For numbers of features that were not published, the width is that of the next larger number, and 1,200 above 1,152.
    """
    width = next((width for most, width in PAPER_WIDTHS.items() if n_features <= most), max(PAPER_WIDTHS.values()))
    return Shape(n_features, width=width, n_blocks=20, n_heads=10, hidden=2048)


def small_shape(n_features: int) -> Shape:
    """A network of the same kind that a CPU can train: width 64, 3 blocks, 4 heads; 0.2 million numbers for 64 features.

    Larger ones are slower by more than they learn, in the minutes that a CPU has.
    """
    return Shape(n_features, width=64, n_blocks=3, n_heads=4, hidden=168)


class ResidualMLP(nn.Module):
    """Norm, rectifier, linear, twice, beside a linear bypass: (..., n_in) to (..., n_out)."""

    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(n_in)
        self.expand = nn.Linear(n_in, hidden)
        self.norm_hidden = nn.LayerNorm(hidden)
        self.contract = nn.Linear(hidden, n_out)
        self.bypass = nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        y = self.expand(functional.leaky_relu(self.norm_in(x), SLOPE))
        y = self.contract(functional.leaky_relu(self.norm_hidden(y), SLOPE))
        return torch.add(y, self.bypass(x))


class Attention(nn.Module):
    """Softmax attention of several heads over a set; queries grow with the logarithm of its size.

    Softmax over more tokens flattens: the largest of T equal logits' shares falls as 1 / T. Queries are multiplied by ln(T), registers
    counted, so that a network trained on some numbers of stimuli stays as sharp with others.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads = shape.n_heads
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)
        self.project = nn.Linear(shape.width, shape.width)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, n_heads, T, D / n_heads)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def _queries(self, x: Tensor, n_out: int) -> Tensor:
        return self._heads(self.query(math.log(x.shape[1]) * x[:, :n_out]))

    def forward(self, x: Tensor, n_out: int) -> Tensor:
        """What the first ``n_out`` tokens take from all: (B, T, D) to (B, n_out, D)."""
        taken = functional.scaled_dot_product_attention(self._queries(x, n_out), self._heads(self.key(x)), self._heads(self.value(x)))
        y: Tensor = self.project(taken.transpose(1, 2).flatten(2))
        return y

    def shares(self, x: Tensor, n_out: int) -> Tensor:
        """The softmax itself, (B, n_heads, n_out, T); each row sums to one."""
        q, k = self._queries(x, n_out), self._heads(self.key(x))
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)


class SwiGLU(nn.Module):
    """Gated MLP of a block, (B, T, D) to (B, T, D)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.hidden)
        self.expand = nn.Linear(shape.width, shape.hidden)
        self.contract = nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """A gate times a linear map, back to the width."""
        y: Tensor = self.contract(functional.silu(self.gate(x)) * self.expand(x))
        return y


class Block(nn.Module):
    """Attention and MLP, each behind a norm (pre-norm) and added to the tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(shape.width)
        self.attention = Attention(shape)
        self.norm_mlp = nn.LayerNorm(shape.width)
        self.mlp = SwiGLU(shape)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, n_out: int) -> Tensor:
        """(B, T, D) to the first ``n_out`` tokens, (B, n_out, D)."""
        x = x[:, :n_out] + self.dropout(self.attention(self.norm_attention(x), n_out))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class InContextTransformer(nn.Module):
    """See the module.

    Parameters
    ----------
    shape : Shape
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = ResidualMLP(shape.n_features + 1, 2 * shape.width, shape.width)
        self.registers = nn.Parameter(torch.empty(shape.n_registers, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_blocks))
        self.read_out = ResidualMLP(shape.width, 2 * shape.width, shape.n_features + 1)
        self._initialise()

    def _initialise(self) -> None:
        """Small normal weights; what is added to the tokens is smaller the more blocks add; the first read-out is nearly zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.registers, std=INITIAL_SCALE)
        depth = 1 / math.sqrt(2 * len(self.blocks))
        with torch.no_grad():
            for name, parameter in self.blocks.named_parameters():
                if name.endswith(("attention.project.weight", "mlp.contract.weight")):
                    parameter.mul_(depth)
            for layer in (self.read_out.contract, self.read_out.bypass):
                layer.weight.mul_(INITIAL_SCALE)

    def set_dropout(self, share: float) -> None:
        """Share of what attention and MLPs add to the tokens that is dropped in training; none until this is called."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    @property
    def n_parameters(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _tokens(self, features: Tensor, responses: Tensor) -> Tensor:
        """Registers and the context's tokens [embedding; response], (B, R + T, D)."""
        context = self.embed(torch.cat([features, responses.unsqueeze(-1)], dim=-1))
        registers = self.registers.to(context.dtype).expand(len(context), -1, -1)
        return torch.cat([registers, context], dim=1)

    def forward(self, features: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Encoding models of units.

        Parameters
        ----------
        features : (B, T, E) tensor
            Of unit norm, or of a mean squared norm of one.
        responses : (B, T) tensor
            z-scored.

        Returns
        -------
        weights : (B, E) tensor
        bias : (B,) tensor
        """
        x = self._tokens(features, responses)
        for place, block in enumerate(self.blocks):
            last = place == len(self.blocks) - 1
            x = block(x, n_out=1 if last else x.shape[1])  # one token is read out: the last block need not make the others
        read: Tensor = self.read_out(x[:, 0]).float()
        return read[:, :-1], read[:, -1]

    def read_out_attention(self, features: Tensor, responses: Tensor) -> Tensor:
        """How the token that is read out shares its attention in the last block, mean of the heads, (B, R + T): registers first."""
        x = self._tokens(features, responses)
        *earlier, last = self.blocks
        for block in earlier:
            x = block(x, n_out=x.shape[1])
        assert isinstance(last, Block)
        return last.attention.shares(last.norm_attention(x), n_out=1).mean(dim=1)[:, 0]
