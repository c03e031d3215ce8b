"""PaRe: which tokens are replaced, by which, with which gradient, how many, and what the mixed loss is made of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.align.conftest import FixedTarget
from tests.small_models import SMALL, card, make
from ups_server.align import check_options, mixing
from ups_server.align.labels import passages
from ups_server.align.mixing import (
    GATES,
    SCHEDULES,
    UNGATED,
    at_random,
    cutmix,
    mixup,
    new_gate,
    replace_tokens,
    replaced_tokens,
    top_k,
)
from ups_server.align.pare import Mix, PatchReplacement
from ups_server.align.text import reference_text
from ups_server.errors import UserError
from ups_server.model.conditioning import Conditions, conditions
from ups_server.model.config import UPS_PAPER, UPSConfig
from ups_server.model.operator import UPSModel
from ups_server.model.superspace import nrmse
from ups_server.pde import BoundaryCondition, BoundaryKind


@dataclass(frozen=True)
class Batch:
    frames: torch.Tensor
    context: torch.Tensor
    conditions: Conditions
    windows: int


def batch(config: UPSConfig, trajectories: int = 3, windows: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(trajectories, 32, 1, generator=generator)
    periodic = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    given = conditions(config, card(), {"nu": [0.1] * trajectories}, periodic, (0.5,), first)
    frames = torch.zeros(trajectories * windows, 2, config.superspace.slots, 32)
    frames[:, :, 0] = torch.randn(trajectories * windows, 2, 32, generator=generator)
    context = torch.zeros(trajectories, config.superspace.slots, 32)
    context[:, 0] = first[..., 0]
    return Batch(frames, context, given, windows)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices without Gumbel noise."""
    monkeypatch.setattr(mixing, "gumbel", torch.zeros_like)


def test_k_falls_linearly_to_none() -> None:
    assert [replaced_tokens(4, done) for done in (0.0, 0.2, 0.25, 0.5, 0.75, 0.99, 1.0)] == [4, 3, 3, 2, 1, 0, 0]
    assert [replaced_tokens(16, step / 16) for step in range(17)] == list(range(16, -1, -1))


def test_top_k_is_hard_forward_and_soft_backward() -> None:
    keys = torch.tensor([[0.1, 2.0, -1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    chosen = top_k(keys, 2)
    torch.testing.assert_close(chosen.detach(), torch.tensor([[0.0, 1.0, 0.0, 1.0]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(chosen[0, 0], keys)
    first = keys.detach().softmax(1)
    second = (keys.detach() + (1 - first).log()).softmax(1)
    assert float(gradient[0, 0]) > 0 > float(gradient[0, 1])
    # By difference, of the relaxed choice: the hard one is constant.
    h = 1e-6
    moved = keys.detach() + torch.tensor([h, 0.0, 0.0, 0.0])
    higher = moved.softmax(1) + (moved + (1 - moved.softmax(1)).log()).softmax(1)
    assert float(gradient[0, 0]) == pytest.approx(float((higher - first - second)[0, 0]) / h, rel=1e-4)


def test_top_k_follows_a_permutation() -> None:
    keys = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    for k in range(10):
        torch.testing.assert_close(top_k(keys, k)[:, order], top_k(keys[:, order], k))
        assert torch.equal(top_k(keys, k).round().sum(1), torch.full((5,), float(k)))


def gate_by_first_component(size: int) -> torch.nn.Linear:
    gate = torch.nn.Linear(size, 1)
    with torch.no_grad():
        gate.weight.zero_()
        gate.bias.zero_()
        gate.weight[0, 0] = 1.0
    return gate


@pytest.mark.usefixtures("quiet")
def test_lowest_target_tokens_give_way_to_highest_source_tokens() -> None:
    target = torch.tensor([[3.0, 0.0], [-2.0, 1.0], [1.0, 2.0], [-1.0, 3.0]])
    source = torch.tensor([[0.5, -5.0], [2.0, -6.0], [-3.0, -7.0], [1.5, -8.0]])
    mix = Mix(gate_by_first_component(2), source[None], torch.tensor([7]), 2)
    torch.testing.assert_close(mix(target[None])[0], torch.stack([target[0], source[1], target[2], source[3]]))
    assert mix.labels.tolist() == [7]
    torch.testing.assert_close(
        Mix(gate_by_first_component(2), source[None], torch.tensor([7]), 4)(target[None])[0], source
    )
    assert torch.equal(Mix(gate_by_first_component(2), source[None], torch.tensor([7]), 0)(target[None])[0], target)


def test_the_gate_learns_through_the_choice() -> None:
    """Of two ways to lose half of the tokens the gate takes to the one that costs less."""
    torch.manual_seed(0)
    gate = torch.nn.Linear(2, 1)
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    source = torch.zeros(1, 4, 2)
    optimiser = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        mixed = Mix(gate, source, torch.tensor([0]), 2)(target)
        # Tokens (1, 0) are what counts.
        (target[..., 0] - mixed[..., 0]).square().sum().backward()
        optimiser.step()
    scores = gate(target).squeeze()
    assert float(scores[0].detach()) > float(scores[1].detach()) + 1


def test_replaced_one_by_one_in_order() -> None:
    target, source = torch.arange(4.0).reshape(1, 4, 1), 10 + torch.arange(4.0).reshape(1, 4, 1)
    keep, take = torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert replace_tokens(target, source, keep, take).flatten().tolist() == [12.0, 1.0, 2.0, 13.0]


def test_passages_are_whole_and_of_one_subject(model: UPSModel) -> None:
    texts, labels = passages(model, reference_text(), 4)
    assert texts.shape[1:] == (4, model.body.size)
    assert set(labels.tolist()) == set(range(10))
    words = model.metadata.embeddings.weight
    assert (torch.cdist(texts[:5].flatten(0, 1), words).min(1).values < 1e-4).all()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("done", [0.0, 0.5, 0.75])
def test_mixed_loss_is_eq_1(model: UPSModel, target: FixedTarget, done: float) -> None:
    """Taken apart: the share of the source is k / N, the metadata tokens reach the body as they are."""
    method = PatchReplacement()
    method.prepare(model, target)
    data = batch(SMALL)
    read = []
    hook = model.body.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach()))
    torch.manual_seed(0)
    loss = method.mixed_loss(model, data, done)
    hook.remove()
    context = model.read(data.context, data.conditions)
    assert context.metadata is not None
    words = int(context.metadata.shape[1])
    assert torch.equal(read[0][:, :words], context.metadata)
    share = {0.0: 1.0, 0.5: 0.5, 0.75: 0.25}[done]
    replaced = sum(
        bool((torch.cdist(token[None], model.metadata.embeddings.weight) < 1e-4).any()) for token in read[0][0, words:]
    )
    assert replaced == share * SMALL.reading.tokens
    state = method.state()
    k = replaced_tokens(SMALL.reading.tokens, done)
    gate = torch.nn.Linear(model.body.size, 1)
    gate.load_state_dict({name: state[f"gate.{name}"] for name in ("weight", "bias")})
    mix = Mix(gate, *passages(model, reference_text(), SMALL.reading.tokens), k)
    torch.manual_seed(0)
    step, pooled = model.mixed_step(data.frames[:, 0], data.context, data.conditions, 2, mix)
    on_source = F.cross_entropy(F.linear(pooled, state["head.weight"], state["head.bias"]), mix.labels)
    on_target = nrmse(step, data.frames[:, 1], data.conditions.mask.repeat_interleave(2, 0))
    torch.testing.assert_close(loss, (1 - share) * on_target + share * on_source)


def test_gradient_reaches_gate_source_head_and_model(language_model: Path, target: FixedTarget) -> None:
    for config in (
        SMALL,
        UPS_PAPER.changed(resolution=16, hidden_channels=8, n_modes=4, tokens=4),
    ):
        model = make(config, language_model)
        method = PatchReplacement()
        method.prepare(model, target)
        torch.manual_seed(0)
        method.mixed_loss(model, batch(config), 0.5).backward()
        assert set(method.parameters()) == {"gate.weight", "gate.bias", "head.weight", "head.bias"}
        for name, parameter in method.parameters().items():
            assert parameter.grad is not None, name
            # The bias of the gate shifts all scores; through the sigmoid that is no equal shift.
            assert float(parameter.grad.abs().max()) > 0, name
        grown = [name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0]
        assert any(name.startswith("body.encoder.encoder") for name in grown)
        assert any(name.startswith("tokenise") for name in grown)


def test_the_mix_is_visible_and_alone(model: UPSModel) -> None:
    """The prediction depends on the mixed tokens, and equal tokens make the conditioner's numbers invisible."""
    data = batch(SMALL)
    same = torch.ones(3, SMALL.reading.tokens, model.body.size)
    first, _ = model.mixed_step(data.frames[:, 0], data.context, data.conditions, 2, lambda tokens: same)
    other, _ = model.mixed_step(data.frames[:, 0], data.context, data.conditions, 2, lambda tokens: tokens)
    assert float((first - other).detach().abs().max()) > 1e-5


def test_gate_and_head_are_the_state(model: UPSModel, target: FixedTarget) -> None:
    first, second = PatchReplacement(), PatchReplacement()
    first.prepare(model, target)
    second.prepare(model, target)
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))
    with torch.no_grad():
        for parameter in first.parameters().values():
            parameter.add_(1.0)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))
    assert np.isfinite(float(second.state()["gate.bias"]))


def test_schedules_fall_from_all_to_none() -> None:
    """The ablation of Table 4: three gradual ones, and two that are not."""
    shares = {name: [SCHEDULES[name](step / 8) for step in range(9)] for name in ("linear", "piecewise", "exponential")}
    np.testing.assert_allclose(shares["linear"], np.linspace(1, 0, 9), atol=1e-12)
    np.testing.assert_allclose(shares["piecewise"], [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0])
    # A geometric sequence but for the shift that takes its end to zero.
    ratios = np.diff(shares["exponential"])[1:] / np.diff(shares["exponential"])[:-1]
    np.testing.assert_allclose(ratios, np.full(7, np.exp(-3 / 8)))
    assert shares["exponential"][0] == 1
    assert shares["exponential"][-1] == pytest.approx(0, abs=1e-12)
    assert [replaced_tokens(8, done, "constant") for done in (0.0, 0.5, 1.0)] == [4, 4, 4]
    torch.manual_seed(0)
    drawn = [replaced_tokens(8, 0.5, "random") for _ in range(400)]
    assert set(drawn) == set(range(8))
    torch.manual_seed(0)
    assert drawn == [replaced_tokens(8, 0.5, "random") for _ in range(400)]


def rows_of(target: torch.Tensor, source: torch.Tensor, mixed: torch.Tensor) -> tuple[list[bool], list[int]]:
    """Which places kept their token, and from where in the source the others have theirs; a token is its number."""
    kept = [bool(torch.equal(a, b)) for a, b in zip(mixed, target, strict=True)]
    origin = [int((source == token).all(-1).nonzero()[0]) for token, own in zip(mixed, kept, strict=True) if not own]
    return kept, origin


def test_random_replacement_has_equal_chances() -> None:
    """k of N places, each as often as any other, filled in order by k source tokens, each as often as any other."""
    torch.manual_seed(0)
    target = torch.arange(6.0)[None, :, None].expand(3000, 6, 2)
    source = 10 + torch.arange(6.0)[None, :, None].expand(3000, 6, 2)
    mixed = at_random(target, source, 2)
    foreign = mixed[..., 0] >= 10
    assert torch.equal(foreign.sum(1), torch.full((3000,), 2))
    np.testing.assert_allclose(foreign.float().mean(0), np.full(6, 1 / 3), atol=0.03)
    origin = mixed[..., 0][foreign].unflatten(0, (3000, 2)) - 10
    assert bool((origin[:, 0] < origin[:, 1]).all())
    np.testing.assert_allclose(
        torch.bincount(origin.flatten().long(), minlength=6) / 6000, np.full(6, 1 / 6), atol=0.02
    )


def test_mixup_is_the_weighted_mean() -> None:
    target, source = torch.randn(2, 3, 8, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixup(target, source, 2), 0.75 * target + 0.25 * source)


def test_cutmix_takes_a_block_in_its_place() -> None:
    torch.manual_seed(0)
    target = torch.arange(6.0)[None, :, None].expand(500, 6, 2)
    source = 10 + torch.arange(6.0)[None, :, None].expand(500, 6, 2)
    firsts = set()
    for mixed in cutmix(target, source, 2):
        kept, origin = rows_of(target[0], source[0], mixed)
        assert [index for index, own in enumerate(kept) if not own] == origin
        assert origin[1] == origin[0] + 1
        firsts.add(origin[0])
    assert firsts == set(range(5))
    torch.testing.assert_close(cutmix(target, source, 6), source)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_gate_and_schedule_trains_the_model_and_the_gate(
    language_model: Path, target: FixedTarget, gate: str, schedule: str
) -> None:
    model = make(UPS_PAPER.changed(resolution=16, hidden_channels=8, n_modes=4, tokens=4), language_model)
    method = PatchReplacement(gate=gate, schedule=schedule)
    method.prepare(model, target)
    torch.manual_seed(1)
    method.mixed_loss(model, batch(model.config), 0.25).backward()
    gates = {name: value for name, value in method.parameters().items() if name.startswith("gate.")}
    assert len(gates) == (2 if gate == "linear" else 4)
    assert all(value.grad is not None and float(value.grad.abs().max()) > 0 for value in gates.values())
    grown = [name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0]
    assert any(name.startswith("body.encoder.encoder") for name in grown)


@pytest.mark.parametrize("how", UNGATED)
def test_ways_without_a_gate_train_head_and_model(language_model: Path, target: FixedTarget, how: str) -> None:
    model = make(UPS_PAPER.changed(resolution=16, hidden_channels=8, n_modes=4, tokens=4), language_model)
    method = PatchReplacement(mix=how)
    method.prepare(model, target)
    assert set(method.parameters()) == {"head.weight", "head.bias"}
    data = batch(model.config)
    torch.manual_seed(0)
    loss = method.mixed_loss(model, data, 0.5)
    loss.backward()
    grown = [name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0]
    assert any(name.startswith("body.encoder.encoder") for name in grown)
    assert any(name.startswith("tokenise") for name in grown)
    # Eq. 1, taken apart: half of the tokens are the source's.
    state = method.state()
    mix = Mix(None, *passages(model, reference_text(), 4), 2, how)
    torch.manual_seed(0)
    step, pooled = model.mixed_step(data.frames[:, 0], data.context, data.conditions, 2, mix)
    on_source = F.cross_entropy(F.linear(pooled, state["head.weight"], state["head.bias"]), mix.labels)
    on_target = model.task_loss(step, data.frames[:, 1], data.conditions.mask.repeat_interleave(2, 0))
    torch.testing.assert_close(loss, 0.5 * on_target + 0.5 * on_source)
    text = torch.randn(9, 4, model.body.word_size)
    other = Mix(None, text, torch.zeros(9, dtype=torch.long), 4, how)(torch.zeros(3, 4, model.body.word_size))
    assert all(float((row - text).abs().flatten(1).amax(1).min()) < 1e-6 for row in other)


def test_gates_score_tokens_one_by_one() -> None:
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    for kind in GATES:
        gate = new_gate(kind, 6).eval()
        scores = gate(tokens)
        assert scores.shape == (2, 5, 1)
        torch.testing.assert_close(gate(tokens[:, 2:3]), scores[:, 2:3])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"mix": "mixup", "gate": "mlp"}, "alignment_option_unused"),
        ({"mix": "random", "gate": "linear"}, "alignment_option_unused"),
        ({"mix": "shuffle"}, "alignment_option_not_offered"),
        ({"schedule": "cosine"}, "alignment_option_not_offered"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, str], code: str) -> None:
    with pytest.raises(UserError) as caught:
        check_options("pare", options)
    assert caught.value.code == code


def test_options_of_the_ablation_are_taken() -> None:
    for mix in ("replacement", *UNGATED):
        for schedule in SCHEDULES:
            check_options("pare", {"mix": mix, "schedule": schedule})
    for gate in GATES:
        check_options("pare", {"gate": gate})
