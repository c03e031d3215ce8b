"""The conditioned operator, `ups-mini`: the language model reads once, a conditioned FNO steps.

A problem is read into a `Context`, and normalised superspace states (B, N, X...) advance under it.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.errors import UserError
from ups_server.model.body import masked_mean
from ups_server.model.conditioning import Conditions, Description, OperatorConditioner, with_metadata, zero
from ups_server.model.config import UPSConfig
from ups_server.model.constraints import MeanCorrection, Projection
from ups_server.model.context import Coefficients, Context, Symmetry
from ups_server.model.embedder import FNOEmbedder, pooled
from ups_server.model.operator import TokenMix, UPSModel
from ups_server.model.superspace import given_channels
from ups_server.model.transport import Propagator, Rates, Transport, propagate

CHANNEL_POINTS = 64
"""Parts of the box that a channel token holds; a square number, so that it works in two dimensions too."""
DEFECT_SCALE = 100.0
"""A front that moves by a hundredth of the box moves the mean by a hundredth of its height."""


@dataclass(frozen=True)
class StepCoefficients(Coefficients):
    """What the steps of a problem have in common, each where the config has it.

    Attributes:
        modulation: (B, L, 2, C) scale and shift of every Fourier layer.
        rates: of the linear part. advection: (B, 2, d, N), see `Transport`.
        initial_means: (B, N) of the state that was read. mean_share: (B, N), see `MeanCorrection`.
        projection: of velocities free of divergence.
    """

    modulation: Tensor
    rates: Rates | None
    advection: Tensor | None
    initial_means: Tensor | None
    mean_share: Tensor | None
    projection: Projection | None

    def turned(self, symmetry: Symmetry) -> Self:
        if self.initial_means is None:
            return self
        return replace(self, initial_means=symmetry.of(self.initial_means))


class UPS(UPSModel):
    """One step is a symmetric splitting, ``u_{t+1} = P(1/2) (I + N) P(1/2) u_t``: P is the exact solution operator of
    transport and diffusion with constant coefficients that are learned functions of the conditions; N is the FNO
    embedder with a linear predictor at every point (a local one, no bottleneck), in units of the family's increment.
    What it predicts is carried along characteristics, brought back towards the mean of the initial state, and projected
    where the velocity is free of divergence, each where the config has it. Outside of training a step is averaged over
    a symmetry of the equation.
    Tokens and predictor of the paper can take the place of ours, to measure what each is worth.
    """

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config, encoder, tokenizer)
        space, step = config.superspace, config.step
        channels, size = config.embedder.hidden_channels, config.conditioner.size
        words, hidden = self.body.word_size, self.body.size
        # Start as the unconditioned operator, persistence, and a body that changes nothing yet.
        self.conditioner = OperatorConditioner(config.conditioner, space, words)
        self.embedder = FNOEmbedder(config.embedder, space)
        self.modulation = zero(nn.Linear(size, config.embedder.n_layers * 2 * channels))
        self.tokenise = nn.Linear(channels if config.reading.token_kind == "patch" else CHANNEL_POINTS, words)
        self.read_out = nn.Sequential(nn.LayerNorm(hidden), zero(nn.Linear(hidden, size)))
        self.predictor = MeanPoolPredictor(config, hidden) if step.predictor == "mean_pool" else local(channels, config)
        self.propagator = Propagator(space, size) if step.propagator else None
        self.transport = Transport(space, size, channels) if step.transport else None
        self.mean_correction = MeanCorrection(space, size) if step.mean_correction else None

    @torch.no_grad()
    def ignore_body(self) -> None:
        """Has the body change nothing until it is trained: what a stage without it leaves is a model with it."""
        for parameter in self.read_out[-1].parameters():
            parameter.zero_()

    @property
    def ignores_body(self) -> bool:
        """Does what the body reads change nothing, whatever it is?"""
        return not any(parameter.any() for parameter in self.read_out[-1].parameters())

    def read(self, initial: Tensor, given: Conditions) -> Context:
        return self._read(initial, given, None)[0]

    def mixed_step(
        self, u: Tensor, initial: Tensor, given: Conditions, windows: int, mix: TokenMix
    ) -> tuple[Tensor, Tensor]:
        context, features = self._read(initial, given, mix)
        if features is None:
            raise RuntimeError("mixed tokens need the language model")
        return self(u, context.repeat(windows)), features

    def _read(self, initial: Tensor, given: Conditions, mix: TokenMix | None) -> tuple[Context, Tensor | None]:
        """The context and, where the body takes part, the mean (B, E) of its output."""
        given = with_metadata(given, self.config.conditioner.metadata)
        symbols = given.mask.new_zeros(0, self.body.word_size)
        if given.coefficient_names:
            symbols = self.metadata.mean(given.coefficient_names)
        problem = self.conditioner(self.metadata.mean(given.names), symbols, given)
        if not self.use_body:
            return self._context(problem, initial, given), None
        if mix is None and not torch.is_grad_enabled() and self.ignores_body:
            # As what changes nothing would be added.
            return self._context(replace(problem, vector=problem.vector + 0.0), initial, given), None
        features = self._body_features(initial, self._context(problem, initial, given), mix)
        read = self.read_out(features).unflatten(0, (-1, len(initial))).mean(0)
        # The conditioner's vector leads around the tokens: with it, what is in them would hardly be seen.
        vector = problem.vector + read if mix is None else read
        return self._context(replace(problem, vector=vector), initial, given), features

    def _body_features(self, initial: Tensor, context: Context, mix: TokenMix | None) -> Tensor:
        """What the body makes of metadata and the tokens of a first step, its mean over the sequence (B, E)."""
        states = initial
        if context.symmetry is not None:
            # Read together with the turned one, a problem is read as the turned one is: (2 B, E).
            states, context = torch.cat([initial, context.symmetry.of(initial)]), context.with_turned
        _, tokens = self.advance(states, context)
        sequence, mask = self.mixed_sequence(tokens if mix is None else mix(tokens), context)
        return masked_mean(self.body(sequence, mask), mask)

    def _context(self, problem: Description, initial: Tensor, given: Conditions) -> Context:
        config, vector = self.config, problem.vector
        tokens, mask = self.metadata.tokens(given.texts)
        means = config.embedder.defect or config.step.mean_correction
        projected = config.step.projection and given.solenoidal
        shape = (-1, config.embedder.n_layers, 2, config.embedder.hidden_channels)
        coefficients = StepCoefficients(
            modulation=self.modulation(vector).reshape(shape),
            rates=None if self.propagator is None else self.propagator(problem),
            advection=None if self.transport is None else self.transport.advection(vector),
            initial_means=initial.mean(tuple(range(2, initial.ndim))) if means else None,
            mean_share=None if self.mean_correction is None else self.mean_correction.share(vector, given.mask),
            projection=Projection(given.mean, given.std, 1 / given.std) if projected else None,
        )
        return replace(
            given.context(),
            metadata=tokens,
            metadata_mask=mask,
            symmetry=None if self.training else given.symmetry,
            coefficients=coefficients,
        )

    def forward(self, u: Tensor, context: Context) -> Tensor:
        symmetry = context.symmetry
        if symmetry is None:
            return self._stepped(u, context)[0]
        steps, _ = self._stepped(torch.cat([u, symmetry.of(u)]), context.with_turned)
        step, other = steps.chunk(2)
        return (step + symmetry.of(other)) / 2

    def advance(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        step, features = self._stepped(u, context)
        return step, self._tokens(features)

    def tokenised(self, u: Tensor, context: Context) -> Tensor:
        return self.advance(u, context)[1]

    def _stepped(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The next states (B, N, X...) and the features (B, X..., C) they were predicted from."""
        known, periodic = context.coefficients, context.periodic
        if not isinstance(known, StepCoefficients) or context.increment is None:
            raise TypeError("the context was read by another operator")
        spread = (..., *(None,) * (u.ndim - 2))
        half_step = None if known.rates is None else known.rates.half_a_step(u)
        if known.projection is not None:
            u = known.projection.of(u, periodic)
        v = u if half_step is None else propagate(u, *half_step, periodic)
        features = self.embedder(self._inputs(v, context, known), known.modulation, periodic, context.trained)
        step = self._predict(features)
        if self.config.step.increment:
            step = v + step * context.increment[spread]
        if self.transport is not None and known.advection is not None:
            step = self.transport(v, step, features, known.advection, periodic)
        if half_step is not None:
            step = propagate(step, *half_step, periodic)
        step = step * context.mask[spread]
        if self.mean_correction is not None and known.initial_means is not None:
            step = self.mean_correction(step, known.initial_means, known.mean_share)
        if known.projection is not None:
            step = known.projection.of(step, periodic)
        return step, features

    def _predict(self, features: Tensor) -> Tensor:
        if isinstance(self.predictor, MeanPoolPredictor):
            moved: Tensor = self.predictor(features.movedim(-1, 1))
            return moved
        step: Tensor = self.predictor(features).movedim(-1, 1)
        return step

    def _inputs(self, v: Tensor, context: Context, known: StepCoefficients) -> Tensor:
        channels = given_channels(v, context, self.config.superspace)
        if self.config.embedder.defect and known.initial_means is not None:
            points = tuple(v.shape[2:])
            moved = (known.initial_means - v.mean(tuple(range(2, v.ndim)))) * DEFECT_SCALE
            channels.append(moved[(..., *(None,) * len(points))].expand(-1, -1, *points))
        return torch.cat(channels, dim=1)

    def _tokens(self, features: Tensor) -> Tensor:
        """The means of the features over equal parts of the box, at any resolution, as tokens (B, l, E).

        A patch token holds all channels of one part, a channel token all parts of one channel.
        """
        features = features.movedim(-1, 1)
        if self.config.reading.token_kind == "patch":
            tokens: Tensor = self.tokenise(pooled(features, self.config.reading.tokens).movedim(1, -1))
        else:
            tokens = self.tokenise(pooled(features, CHANNEL_POINTS))
        return tokens


def local(channels: int, config: UPSConfig) -> nn.Linear:
    """The predictor that is linear at every point."""
    return zero(nn.Linear(channels, config.superspace.slots))


class MeanPoolPredictor(nn.Module):
    """The paper's predictor: each channel a token ``n^d -> e``, the mean over the sequence, linear ``e -> N n^d``.

    A GELU stands where the paper has the language model in every step: without it the mean of linear tokens would be
    the token of the mean channel. The weights belong to the grids of the families, as the paper's do.

    Source: thesis 6.1.3.
    """

    def __init__(self, config: UPSConfig, size: int) -> None:
        super().__init__()
        self.slots = config.superspace.slots
        self.tokenise = nn.ModuleDict()
        self.expand = nn.ModuleDict()
        for n, ndim in config.grids:
            self.tokenise[_key((n,) * ndim)] = nn.Linear(n**ndim, size)
            self.expand[_key((n,) * ndim)] = zero(nn.Linear(size, self.slots * n**ndim))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, X...) -> step (B, N, X...).

        Raises:
            UserError: ``resolution_mismatch`` on a grid it was not trained on.
        """
        points = tuple(features.shape[2:])
        if _key(points) not in self.tokenise:
            raise UserError(
                "resolution_mismatch", "the mean-pool predictor is tied to the grids it was trained on",
                got=_key(points), expected=sorted(self.tokenise),
            )  # fmt: skip
        tokens = F.gelu(self.tokenise[_key(points)](features.flatten(2)))
        step: Tensor = self.expand[_key(points)](tokens.mean(1)).reshape(-1, self.slots, *points)
        return step


def _key(points: tuple[int, ...]) -> str:
    return "x".join(map(str, points))
