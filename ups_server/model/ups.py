"""The models: the conditioned operator (`ups-mini`) and the paper's architecture (`ups-paper`).

Both read a problem once into a `Context` and then advance normalised superspace states (B, N, X...). The conditioned
operator puts the language model into the reading; the paper's puts it into every step. `baselines` are operators of
the same interface without a language model.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.model.body import masked_mean
from ups_server.model.conditioning import MAX_SHIFT, RATE_SCALE, Conditioner, Conditions, shown
from ups_server.model.config import UPSConfig
from ups_server.model.context import Context
from ups_server.model.embedder import FNOEmbedder, pooled
from ups_server.model.paper import CHANNEL_POINTS, MeanPoolPredictor
from ups_server.model.projection import gradient_part
from ups_server.model.superspace import coordinates
from ups_server.model.transport import carried, departure, propagate

if TYPE_CHECKING:
    pass
from ups_server.model.operator import TokenMix, UPSModel
from ups_server.model.paper import UPSPaper

DEFECT_SCALE = 100.0
"""A front that moves by a hundredth of the box moves the mean by a hundredth of its height."""


class UPS(UPSModel):
    """The conditioned operator: the language model reads once, a conditioned FNO steps.

    One step is a symmetric splitting, ``u_{t+1} = P(1/2) (I + N) P(1/2) u_t``: P is the exact solution operator of
    transport and diffusion with constant coefficients that are learned functions of the conditions; N is the FNO
    embedder with a linear predictor at every point (a local one, no bottleneck), in units of the family's increment.
    What it predicts is carried along characteristics, brought back towards the mean of the initial state, and projected
    where the velocity is free of divergence, each where the config has it. Outside of training a step is averaged over
    a symmetry of the equation.
    Tokens and predictor of the paper can take the place of ours, to measure what each is worth.
    """

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config, encoder, tokenizer)
        width, size = config.hidden_channels, self.body.size
        self.conditioner = Conditioner(config, size)
        self.embedder = FNOEmbedder(config)
        self.modulation = nn.Linear(config.condition_size, config.n_layers * 2 * width)
        self.tokenise = nn.Linear(width if config.token_kind == "patch" else CHANNEL_POINTS, size)
        heard = nn.Linear(size, config.condition_size)
        self.read_out = nn.Sequential(nn.LayerNorm(size), heard)
        local = config.predictor == "local"
        self.predictor = nn.Linear(width, config.slots) if local else MeanPoolPredictor(config, size)
        self.displace = nn.Linear(width, config.max_dimensions) if config.transport else None
        # Start as the unconditioned operator, persistence, and a body that is not heard yet.
        for layer in filter(None, (self.modulation, heard, self.displace, *self._last_layers())):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _last_layers(self) -> Iterator[nn.Linear]:
        if isinstance(self.predictor, MeanPoolPredictor):
            yield from self.predictor.last_layers()
        else:
            yield self.predictor

    @torch.no_grad()
    def silence_body(self) -> None:
        """The body is not heard until it is trained: what a stage without it leaves is a model with it."""
        heard = self.read_out[-1]
        for parameter in heard.parameters():
            parameter.zero_()

    @property
    def silent(self) -> bool:
        """Does what the body reads change nothing, whatever it is?"""
        return not any(parameter.any() for parameter in self.read_out[-1].parameters())

    def read(self, initial: Tensor, given: Conditions) -> Context:
        return self._read(initial, given, None)[0]

    def mixed_step(
        self, u: Tensor, initial: Tensor, given: Conditions, windows: int, mix: TokenMix
    ) -> tuple[Tensor, Tensor]:
        context, heard = self._read(initial, given, mix)
        if heard is None:
            raise RuntimeError("mixed tokens need the language model")
        return self(u, context.repeat(windows)), heard

    def _read(self, initial: Tensor, given: Conditions, mix: TokenMix | None) -> tuple[Context, Tensor | None]:
        """The context and, where the body takes part, the mean (B, E) of its output."""
        given = shown(given, self.config.metadata)
        names, symbols = self.metadata.mean(given.names), self._symbols(given)
        vector = self.conditioner(names, symbols, given)
        tokens, mask = self.metadata.tokens(given.texts)
        rows = {"mask": given.mask, "increment": given.increment, "metadata": tokens, "metadata_mask": mask}
        if given.static is not None:
            rows["static"] = given.static
        if self.config.defect or self.config.retention:
            rows["initial_means"] = initial.mean(tuple(range(2, initial.ndim)))
        if self.config.projection and given.solenoidal:
            rows |= {"mean": given.mean, "std": given.std, "per_std": 1 / given.std}
        if given.turn is not None and not self.training:
            rows["turn"] = given.turn
            if given.static_turn is not None:
                rows["static_turn"] = given.static_turn
        heard = None
        if self.use_body and mix is None and not torch.is_grad_enabled() and self.silent:
            vector = vector + 0.0  # as what is not heard would be added
        elif self.use_body:
            context = self._context(rows, vector, names, symbols, given)
            states = initial
            if context.averages:
                # Read together with the turned one, a problem is read as the turned one is.
                states, context = torch.cat([initial, context.turned(initial)]), context.with_turned
            _, state_tokens = self.advance(states, context)
            sequence, sequence_mask = self.mixed_sequence(state_tokens if mix is None else mix(state_tokens), context)
            heard = masked_mean(self.body(sequence, sequence_mask), sequence_mask)
            told = self.read_out(heard).unflatten(0, (-1, len(initial))).mean(0)
            # The conditioner's vector leads around the tokens: with it, what is in them would hardly be seen.
            vector = vector + told if mix is None else told
        return self._context(rows, vector, names, symbols, given), heard

    def _symbols(self, given: Conditions) -> Tensor:
        if given.coefficient_names:
            return self.metadata.mean(given.coefficient_names)
        return given.mask.new_zeros(0, self.body.size)

    def _context(
        self, rows: dict[str, Tensor], vector: Tensor, names: Tensor, symbols: Tensor, given: Conditions
    ) -> Context:
        config = self.config
        modulation = self.modulation(vector).reshape(-1, config.n_layers, 2, config.hidden_channels)
        velocity, diffusivity, drift = self.conditioner.rates(vector, names, symbols, given)
        operator = {"modulation": modulation, "velocity": velocity, "diffusivity": diffusivity, "drift": drift}
        carriers = self.conditioner.carriers(vector)
        if carriers is not None:
            operator["carriers"] = carriers
        if self.conditioner.retain is not None:
            operator["retained"] = self.conditioner.retain(vector)
        return Context({**rows, **operator}, given.periodic, given.offset, given.trained, given.mirrors)

    def forward(self, u: Tensor, context: Context) -> Tensor:
        if not context.averages:
            return self._stepped(u, context)[0]
        steps, _ = self._stepped(torch.cat([u, context.turned(u)]), context.with_turned)
        step, other = steps.chunk(2)
        return (step + context.turned(other)) / 2

    def advance(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        step, features = self._stepped(u, context)
        return step, self._tokens(features)

    def _stepped(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The next states (B, N, X...) and the features (B, X..., C) they were predicted from."""
        spread = (..., *(None,) * (u.ndim - 2))
        rates = self._half_rates(u, context)
        u = solenoidal(u, context)
        v = propagate(u, *rates, context.periodic) if rates else u
        features = self.embedder(self._inputs(v, context), context["modulation"], context.periodic, context.trained)
        step = self._predict(features)
        if self.config.increment:
            step = v + step * context["increment"][spread]
        step = self._carried(v, step, features, context)
        if rates:
            step = propagate(step, *rates, context.periodic)
        step = step * context["mask"][spread]
        if "retained" in context.rows:
            lost = context["initial_means"] - step.mean(tuple(range(2, step.ndim)))
            step = step + (context["retained"] * context["mask"] * lost)[spread]
        return solenoidal(step, context), features

    def _carried(self, v: Tensor, step: Tensor, features: Tensor, context: Context) -> Tensor:
        """The step (B, N, X...) carried by a flow that the states before and after it and the features tell."""
        if self.displace is None:
            return step
        axes, carriers = v.ndim - 2, context["carriers"]
        linear = torch.einsum("btan,btn...->ba...", carriers[:, :, :axes], torch.stack([v, step], dim=1))
        learned = RATE_SCALE * self.displace(features).movedim(-1, 1)
        displacement = (linear + learned[:, :axes]).clamp(-MAX_SHIFT, MAX_SHIFT)
        return carried(step, departure(displacement, context.periodic), context.periodic)

    def _predict(self, features: Tensor) -> Tensor:
        if isinstance(self.predictor, MeanPoolPredictor):
            moved: Tensor = self.predictor(features.movedim(-1, 1))
            return moved
        step: Tensor = self.predictor(features).movedim(-1, 1)
        return step

    def _half_rates(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor] | None:
        """Velocity and diffusivity (B, N, d) of half a step, None without the propagator."""
        if not self.config.propagator:
            return None
        means = u.mean(tuple(range(2, u.ndim)))
        velocity = context["velocity"] + torch.einsum("bndm,bm->bnd", context["drift"], means)
        return velocity.clamp(-MAX_SHIFT, MAX_SHIFT) / 2, context["diffusivity"] / 2

    def _inputs(self, v: Tensor, context: Context) -> Tensor:
        points = tuple(v.shape[2:])
        static = v.new_zeros(v.shape[0], self.config.static_slots, *points)
        if "static" in context.rows:
            static[:, : context["static"].shape[1]] = context["static"]
        place = coordinates(points, context.periodic, context.offset, self.config.max_dimensions, v)
        channels = [v, static, place.expand(v.shape[0], *place.shape)]
        if self.config.defect:
            moved = (context["initial_means"] - v.mean(tuple(range(2, v.ndim)))) * DEFECT_SCALE
            channels.append(moved[(..., *(None,) * len(points))].expand(-1, -1, *points))
        return torch.cat(channels, dim=1)

    def _tokens(self, features: Tensor) -> Tensor:
        """The means of the features over equal parts of the box, at any resolution, as tokens (B, l, E).

        A patch token holds all channels of one part, a channel token all parts of one channel.
        """
        features = features.movedim(-1, 1)
        if self.config.token_kind == "patch":
            tokens: Tensor = self.tokenise(pooled(features, self.config.tokens).movedim(1, -1))
        else:
            tokens = self.tokenise(pooled(features, CHANNEL_POINTS))
        return tokens


def solenoidal(u: Tensor, context: Context) -> Tensor:
    """The states (B, N, X...) without the gradient part of their velocity, of the samples where it has none."""
    if "per_std" not in context.rows:
        return u
    axes = u.ndim - 2
    mean, std, per_std = (
        context[name][(slice(None), slice(axes), *(None,) * axes)] for name in ("mean", "std", "per_std")
    )
    gradient = gradient_part(u[:, :axes] * std + mean, context.periodic)
    return torch.cat([u[:, :axes] - gradient * per_std, u[:, axes:]], dim=1)


OPERATORS: dict[str, type[UPSModel]] = {"conditioned": UPS, "paper": UPSPaper}


def build(config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> UPSModel:
    """The model with a language model that a config describes."""
    return OPERATORS[config.operator](config, encoder, tokenizer)
