"""Training reducers on a tokenizer: the decoder sees only what a restorer makes of the reduced latents.

    latents -> reducer -> M tokens -> restorer -> latents -> decoder -> pixels
               trained               trained                frozen

The result is a tokenizer like any other: it trains with a recipe, and checkpoints, exports and evaluations work as always.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from smalti.reducers.base import Grid, Kind, Reduced, Reducer, fill_dropped, gather_tokens
from smalti.reducers.positions import resize_table, sincos_table
from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.bottlenecks.base import Bottleneck
from smalti.tokenizers.checkpoints import load
from smalti.tokenizers.configurable import Configurable
from smalti.tokenizers.tokenizer import Tokenizer

_TABLE_SIDE = 16
"""Side of the table of positions, which is resized to the grid."""


_PLACES = 16
"""Positions of a token that have a linear map of their own; further ones share the last map."""


class LatentRestorer(Configurable):
    """Reconstructs a grid of latents from reduced tokens.

        latent = linear map of the position's own token + network that attends to all tokens

    The first, second, ... position that a token represents has a linear map of its own, so that a token can hold what
    differs between its positions. The network starts at zero. A reducer that assigns no positions to its tokens has no
    linear part.

    Args:
        token_dim: channels of the reduced tokens.
        channels: channels C of the latents.
        width: width of the network, a multiple of 4 and of `heads`.
        heads: number of heads.
        layers: number of layers of attention and MLP.
    """

    def __init__(self, token_dim: int, channels: int, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.width = width
        self.token = nn.Linear(token_dim, width)
        self.own = nn.Linear(token_dim, width)
        layer: Callable[[], nn.Module] = lambda: nn.TransformerDecoderLayer(  # noqa: E731
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.ModuleList(layer() for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.places = nn.Linear(token_dim, _PLACES * channels)

    def forward(self, reduced: Reduced, grid: Grid) -> Tensor:
        """Return latents (B, H * W, C)."""
        tokens = reduced.tokens
        memory = self.token(tokens)
        side = int(memory.shape[1] ** 0.5) + 1  # tokens have no positions of their own: number them
        memory = memory + sincos_table(self.width, side, memory)[: memory.shape[1]]
        table = resize_table(sincos_table(self.width, _TABLE_SIDE, memory), _TABLE_SIDE, grid)
        x = table.expand(len(tokens), -1, -1)
        linear: Tensor | None = None
        if reduced.assignment is not None:
            assignment = fill_dropped(reduced.assignment, grid)
            own = gather_tokens(tokens, assignment)
            x = x + self.own(own)
            linear = self._linear(own, assignment)
        for layer in self.layers:
            x = layer(x, memory, memory_key_padding_mask=~reduced.mask())
        restored = self.out(self.norm(x))
        return restored if linear is None else restored + linear

    def _linear(self, own: Tensor, assignment: Tensor) -> Tensor:
        """Return (B, N, C): the linear map of each position's token for its place among the positions of the token."""
        same = assignment[:, :, None] == assignment[:, None]  # (B, N, N)
        place = same.tril(-1).sum(-1).clamp_max(_PLACES - 1)
        weight = self.places.weight.unflatten(0, (_PLACES, -1))
        bias = self.places.bias.unflatten(0, (_PLACES, -1))
        maps = torch.einsum("bnd,pcd->bnpc", own, weight) + bias
        return maps.take_along_dim(place[:, :, None, None], 2).squeeze(2)


class ProjectedReducer(Reducer):
    """A reducer behind a linear layer, so that its width does not depend on the tokenizer.

    Args:
        channels: channels C of the latents.
        width: channels that the reducer expects.
        reducer: the reducer.
    """

    learned = True

    def __init__(self, channels: int, width: int, reducer: Reducer) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.reducer = reducer
        self.dim = getattr(reducer, "dim", width)

    @property
    def kind(self) -> Kind:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the reducer does to the tokens."""
        return self.reducer.kind

    @property
    def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The optional inputs that the reducer requires."""
        return self.reducer.needs

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Project the tokens, and reduce them."""
        return self.reducer.reduce(self.project(tokens), grid, saliency=saliency, keys=keys)


class ReducedDecoder(Decoder):
    """A frozen decoder behind a reducer and a restorer, which are trained. Every time step is reduced on its own.

    Args:
        decoder: the decoder of a trained tokenizer.
        reducer: the reducer. It must not need saliency.
        restorer: reconstructs the latents from the reduced tokens.
    """

    def __init__(self, decoder: Decoder, reducer: Reducer, restorer: LatentRestorer) -> None:
        super().__init__()
        self.decoder = decoder.requires_grad_(requires_grad=False).eval()
        self.reducer = reducer
        self.restorer = restorer
        self.in_dim, self.generative = decoder.in_dim, decoder.generative

    def train(self, mode: bool = True) -> ReducedDecoder:
        """Set training or evaluation mode. The decoder stays in evaluation mode."""
        super().train(mode)
        self.decoder.eval()
        return self

    @property
    def last_layer(self) -> nn.Module:
        """The last layer that is trained."""
        return self.restorer.out

    def restore(self, latents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the latents (B, C, t, h, w) that the decoder sees, for the latents of each grid."""
        restored = []
        for z in latents:
            batch, _, t, height, width = z.shape
            maps = z.movedim(1, -1).reshape(batch * t, height * width, -1)
            x = self.restorer(self.reducer.reduce(maps, (height, width)), (height, width))
            restored.append(x.reshape(batch, t, height, width, -1).movedim(-1, 1))
        return tuple(restored)

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode what is left of the latents. See `Decoder.forward`."""
        return self.decoder(self.restore(latents), generator, state)


def reduced(
    tokenizer: Path,
    reducer: Reducer,
    reducer_width: int | None = None,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
    branch: str | None = None,
) -> Tokenizer:
    """Build a tokenizer whose decoder sees reduced latents only, for a recipe. The tokenizer's own weights are frozen.

    Args:
        tokenizer: an exported folder or a checkpoint.
        reducer: the reducer, such as `SpatialResampler`.
        reducer_width: channels that the reducer expects, to which a linear layer projects the latents; None if these are
            the channels of the latents.
        width: width of the restorer.
        heads: heads of the restorer.
        layers: layers of the restorer.
        branch: "discrete" or "continuous" to select one branch of a joint tokenizer; None for the tokenizer as it is.

    Raises:
        SmaltiError: there is no tokenizer at this path.
    """
    base = load(tokenizer)
    if branch is not None:
        base = base.as_discrete() if branch == "discrete" else base.as_continuous()
    bottleneck = cast(Bottleneck, base.bottleneck)
    channels = bottleneck.out_dim
    if reducer_width is not None:
        reducer = ProjectedReducer(channels, reducer_width, reducer)
    restorer = LatentRestorer(getattr(reducer, "dim", channels), channels, width, heads, layers)
    return Tokenizer(base.encoder, bottleneck, ReducedDecoder(cast(Decoder, base.decoder), reducer, restorer))
