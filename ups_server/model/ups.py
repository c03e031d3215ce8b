"""The models: the conditioned operator (`ups-mini`) and the paper's architecture (`ups-paper`).

Both read a problem once into a `Context` and then advance normalised superspace states (B, N, X...). The conditioned
operator puts the language model into the reading; the paper's puts it into every step. `baselines` are operators of
the same interface without a language model. A process that imports this keeps the memory that it frees.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ups_server.allocation import keep_freed_memory
from ups_server.model.body import LLMBody, masked_mean
from ups_server.model.characteristics import carried, departure
from ups_server.model.conditioning import MAX_SHIFT, RATE_SCALE, Conditioner, Conditions, shown
from ups_server.model.config import UPSConfig
from ups_server.model.context import Context
from ups_server.model.embedder import FNOEmbedder
from ups_server.model.metadata import MetadataEncoder
from ups_server.model.predictor import CHANNEL_POINTS, MeanPoolPredictor, pooled
from ups_server.model.projection import gradient_part
from ups_server.model.spectral import propagate
from ups_server.model.superspace import coordinates

if TYPE_CHECKING:
    from ups_server.model.adapters import AdapterSettings
    from ups_server.model.own import OwnWeights

keep_freed_memory()

DEFECT_SCALE = 100.0
"""A front that moves by a hundredth of the box moves the mean by a hundredth of its height."""


TokenMix = Callable[[Tensor], Tensor]
"""State tokens (B, l, E) -> as many tokens, some of them taken from elsewhere."""


class Operator(nn.Module, ABC):
    """One step of a PDE, ``u_{t+1} = G(u_t, metadata)``, on normalised superspace states.

    Attributes:
        use_body: does the language model take part? Never where there is none.
        own: of families with weights of their own, how these deviate from the model's (`model.own`).
        adapters: of a model whose weights are those of another and low-rank adapters.
        shares: whose weights they are, kept alive for the next model that shares them.
    """

    def __init__(self, config: UPSConfig) -> None:
        super().__init__()
        self.config = config
        self.use_body = False
        self.own: dict[str, OwnWeights] = {}
        self.adapters: AdapterSettings | None = None
        self.shares: tuple[nn.Module, ...] = ()

    @abstractmethod
    def read(self, initial: Tensor, given: Conditions) -> Context:
        """Reads problems once: initial states (B, N, X...) and conditions -> their context."""

    @abstractmethod
    def forward(self, u: Tensor, context: Context) -> Tensor:
        """One step: states (B, N, X...) -> next states (B, N, X...)."""


class UPSModel(Operator):
    """Unified PDE solver: an operator around a pretrained language model."""

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config)
        self.body = LLMBody(encoder)
        words = encoder.get_input_embeddings()
        if not isinstance(words, nn.Embedding):
            raise TypeError(f"{type(encoder).__name__} has no word embeddings")
        self.metadata = MetadataEncoder(tokenizer, words)
        self.use_body = config.body

    @abstractmethod
    def advance(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """One step: states (B, N, X...) -> (next states (B, N, X...), state tokens (B, l, E) for the alignment)."""

    @abstractmethod
    def mixed_step(
        self, u: Tensor, initial: Tensor, given: Conditions, windows: int, mix: TokenMix
    ) -> tuple[Tensor, Tensor]:
        """One step in which the body reads mixed tokens, and alone says what it read: no path leads around it.

        Args: states u (R W, N, X...) of W windows of each of R trajectories; initial (R, N, X...) and conditions of
            these. Returns the next states, and the mean (B, E) of what the body made of each mixed sequence.
        """

    def forward(self, u: Tensor, context: Context) -> Tensor:
        return self.advance(u, context)[0]

    @final
    def sequence_features(self, tokens: Tensor, context: Context) -> Tensor:
        """Sequence-mean features (B, E) of the mixed sequence as it enters the body, metadata tokens excluded.

        These are matched to the features of reference text in stage 1; the metadata tokens are text already and
        would match trivially.
        """
        embedded = self.body.embed(*self.mixed_sequence(tokens, context))
        return embedded[:, -tokens.shape[1] :].mean(1)

    @final
    def mixed_sequence(self, tokens: Tensor, context: "Context") -> tuple[Tensor, Tensor]:
        """Metadata tokens in front of the state tokens (B, l, E), and the mask of the whole."""
        mask = torch.cat([context["metadata_mask"], tokens.new_ones(tokens.shape[:2])], dim=1)
        return torch.cat([context["metadata"], tokens], dim=1), mask

    @final
    def text_features(self, texts: tuple[str, ...]) -> Tensor:
        """Sequence-mean features (B, E) of texts as they enter the body, padding excluded."""
        tokens, mask = self.metadata.tokens(texts)
        return masked_mean(self.body.embed(tokens, mask), mask)


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


class UPSPaper(UPSModel):
    """The paper's architecture: FNO channels are the tokens, the body runs in every step, a mean-pooled linear
    predictor gives the absolute next state. A 1-D state is broadcast to n x n; the weights are tied to n, and states
    on other grids are interpolated to it and back.

    Source: thesis 6.1.3. Metadata in front, positions and layer norm once, padding masked.
    """

    def __init__(self, config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from neuralop.models import FNO

        super().__init__(config, encoder, tokenizer)
        ndim, points = config.max_dimensions, config.resolution**config.max_dimensions
        self.embedder = FNO(
            n_modes=(2 * config.n_modes,) * ndim,
            in_channels=config.slots + ndim,
            out_channels=config.tokens,
            hidden_channels=config.hidden_channels,
            n_layers=config.n_layers,
            positional_embedding=None,
        )
        self.tokenise = nn.Linear(points, self.body.size)
        self.predictor = nn.Linear(self.body.size, config.slots * points)

    def read(self, initial: Tensor, given: Conditions) -> Context:
        given = shown(given, self.config.metadata)
        tokens, mask = self.metadata.tokens(given.texts)
        return Context(
            {"metadata": tokens, "metadata_mask": mask, "mask": given.mask}, given.periodic, given.offset, given.trained
        )

    def advance(self, u: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        step, tokens, _ = self._advance(u, context, None)
        return step, tokens

    def mixed_step(
        self, u: Tensor, initial: Tensor, given: Conditions, windows: int, mix: TokenMix
    ) -> tuple[Tensor, Tensor]:
        step, _, heard = self._advance(u, self.read(initial, given).repeat(windows), mix)
        return step, heard

    def _advance(self, u: Tensor, context: Context, mix: TokenMix | None) -> tuple[Tensor, Tensor, Tensor]:
        """Next states, state tokens, and the mean (B, E) of what the body made of the sequence."""
        n, ndim = self.config.resolution, self.config.max_dimensions
        given, missing = tuple(u.shape[2:]), ndim - (u.ndim - 2)
        u = interpolated(u, (n,) * len(given))
        square = u[(..., *(None,) * missing)].expand(*u.shape, *(n,) * missing)
        place = coordinates((n,) * (ndim - missing), (False,) * (ndim - missing), (0.5,) * (ndim - missing), ndim, u)
        place = place[(..., *(None,) * missing)].expand(ndim, *(n,) * ndim)
        features = self.embedder(torch.cat([square, place.expand(u.shape[0], *place.shape)], dim=1))
        tokens = self.tokenise(features.flatten(2))
        sequence, mask = self.mixed_sequence(tokens if mix is None else mix(tokens), context)
        hidden = self.body(sequence, mask) if self.use_body else self.body.embed(sequence, mask)
        heard = masked_mean(hidden, mask)
        step = self.predictor(heard).reshape(-1, self.config.slots, *(n,) * ndim)
        step = step[(slice(None), slice(None), *(slice(None),) * (ndim - missing), *(0,) * missing)]
        return interpolated(step, given) * context["mask"][(..., *(None,) * (step.ndim - 2))], tokens, heard


def interpolated(u: Tensor, points: tuple[int, ...]) -> Tensor:
    """Cell-centred values (B, C, X...) on another grid of the same box, linearly; as they are where it is theirs."""
    if tuple(u.shape[2:]) == points:
        return u
    return F.interpolate(u, points, mode="linear" if len(points) == 1 else "bilinear")


OPERATORS: dict[str, type[UPSModel]] = {"conditioned": UPS, "paper": UPSPaper}


def build(config: UPSConfig, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> UPSModel:
    """The model with a language model that a config describes."""
    return OPERATORS[config.operator](config, encoder, tokenizer)
