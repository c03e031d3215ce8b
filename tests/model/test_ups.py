from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.small_models import SMALL, card, make
from ups_server.errors import UserError
from ups_server.model.body import MAX_TOKENS, load_tokenizer, pretrained_body
from ups_server.model.checkpoint import WEIGHTS_FILE, from_pretrained, save_pretrained
from ups_server.model.conditioning import Conditions, conditions, value_features
from ups_server.model.config import UPS_PAPER, KnownFamily, UPSConfig
from ups_server.model.cross_modal import PAPER_LIFTING
from ups_server.model.operator import Operator, UPSModel
from ups_server.model.superspace import check_card, lift, lower, nrmse, state_nrmse
from ups_server.model.transport import RATE_SCALE, carried, departure
from ups_server.model.ups import UPS, StepCoefficients
from ups_server.pde.grid import BoundaryCondition, BoundaryKind

PERIODIC = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
WALLS = BoundaryCondition(((BoundaryKind.DIRICHLET, BoundaryKind.CAUCHY),))
PLANE = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 2)
PAPER = UPS_PAPER.changed(hidden_channels=8, n_layers=2, n_modes=4, tokens=6, resolution=32)


def given(
    count: int, nu: list[float] | None = None, boundary: BoundaryCondition = PERIODIC, entry: KnownFamily | None = None,
    config: UPSConfig = SMALL,
) -> Conditions:  # fmt: skip
    return conditions(config, entry or card(), {"nu": nu or [0.01] * count}, boundary, (0.5,), torch.ones(count, 8, 1))


def state(count: int, n: int = 32) -> Tensor:
    torch.manual_seed(3)
    x = torch.arange(n) / n
    waves = torch.stack([torch.sin(2 * torch.pi * (k % 3 + 1) * x + k) for k in range(count)])
    return torch.nn.functional.pad(waves[:, None], (0, 0, 0, 3))


@torch.no_grad()
def step(model: Operator, u: Tensor, conditioned: Conditions) -> Tensor:
    following: Tensor = model(u, model.read(u, conditioned))
    return following


def test_new_operator_is_persistence(language_model: Path) -> None:
    model = UPS(SMALL, pretrained_body(language_model), load_tokenizer(language_model))
    u = state(2)
    torch.testing.assert_close(step(model, u, given(2)), u, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("boundary", [PERIODIC, WALLS])
def test_batched_equals_single(small: UPSModel, boundary: BoundaryCondition) -> None:
    u, nu = state(3), [0.001, 0.01, 0.5]
    batched = step(small, u, given(3, nu, boundary))
    singles = [step(small, u[i : i + 1], given(1, nu[i : i + 1], boundary)) for i in range(3)]
    torch.testing.assert_close(batched, torch.cat(singles), atol=1e-5, rtol=1e-4)


def test_equivariant_under_shifts_of_a_periodic_box(small: UPSModel) -> None:
    u, conditioned = state(2), given(2)
    with torch.no_grad():
        # One context for both: its patch tokens see where a shifted state lies.
        context = small.read(u, conditioned)
        torch.testing.assert_close(small(u.roll(5, -1), context), small(u, context).roll(5, -1), atol=1e-5, rtol=1e-4)


def test_walls_break_the_symmetry(small: UPSModel) -> None:
    u, conditioned = state(1), given(1, boundary=WALLS)
    with torch.no_grad():
        context = small.read(u, conditioned)
        assert not torch.allclose(small(u.roll(5, -1), context), small(u, context).roll(5, -1), atol=1e-3)


@torch.no_grad()
def test_a_mean_that_is_retained_whole_does_not_drift(language_model: Path) -> None:
    model = make(SMALL, language_model)
    assert isinstance(model, UPS)
    assert model.mean_correction is not None
    torch.nn.init.zeros_(model.mean_correction.of_problem.weight)
    drifts = []
    for share in (0.0, 0.5, 1.0):
        torch.nn.init.constant_(model.mean_correction.of_problem.bias, share)
        u = state(2)
        drifts.append((step(model, u, given(2)) - u)[:, 0].mean(-1))
    assert drifts[0].abs().min() > 1e-3
    torch.testing.assert_close(drifts[1], drifts[0] / 2, atol=1e-6, rtol=1e-4)
    assert drifts[2].abs().max() < 1e-6


def test_missing_slots_stay_zero(small: UPSModel) -> None:
    assert step(small, state(2), given(2))[:, 1:].abs().max() == 0


def test_coefficient_text_boundary_and_state_are_used(small: UPSModel) -> None:
    u = state(1)
    with torch.no_grad():
        base = small(u, small.read(u, given(1)))
        changed = [
            given(1, [0.3]),
            replace(given(1), texts=("1D advection",)),
            replace(given(1), boundary=given(1).boundary * 0),
        ]
        outputs = [small(u, small.read(u, conditioned)) for conditioned in changed]
        outputs.append(small(u, small.read(0.5 * u, given(1))))
    assert all((output - base).abs().max() > 1e-6 for output in outputs)


def test_body_is_left_out_when_it_does_not_take_part(small: UPSModel) -> None:
    u, other = state(1), replace(given(1), texts=("1D advection",))
    small.use_body = False
    try:
        torch.testing.assert_close(step(small, u, given(1)), step(small, u, other))
    finally:
        small.use_body = True


@pytest.mark.parametrize("n", [16, 40, 64, 96])
def test_other_resolutions(small: UPSModel, n: int) -> None:
    out = step(small, state(2, n), given(2))
    assert out.shape == (2, 4, n)
    assert out.isfinite().all()


def test_finer_grid_gives_the_same_smooth_function(small: UPSModel) -> None:
    with torch.no_grad():
        coarse, fine = state(1, 32), state(1, 96)
        # Only the state tokens' averages differ between the grids.
        context = small.read(coarse, given(1))
        torch.testing.assert_close(small(coarse, context), small(fine, context)[..., ::3], atol=2e-3, rtol=1e-2)


def test_two_dimensions_with_several_fields(small: UPSModel) -> None:
    entry = card(ndim=2, slots=(0, 1, 2, 3))
    walls = BoundaryCondition.uniform(BoundaryKind.NO_SLIP, 2)
    for boundary in (BoundaryCondition.uniform(BoundaryKind.PERIODIC, 2), walls):
        conditioned = conditions(SMALL, entry, {"nu": [0.1, 0.2]}, boundary, (0.5, 0.5), torch.ones(2, 8, 8, 4))
        out = step(small, torch.randn(2, 4, 32, 24), conditioned)
        assert out.shape == (2, 4, 32, 24)
        assert out.isfinite().all()


def test_fields_relative_to_their_level_are_measured_in_it() -> None:
    entry = card(slots=(0, 2))
    statistics = entry.statistics.model_copy(update={"relative": (entry.fields[1],)})
    entry = entry.model_copy(update={"statistics": statistics})
    physical = torch.rand(3, 16, 2) + 1.0
    scale = torch.tensor([1.0, 3.0, 50.0])
    scaled = physical * torch.stack([torch.ones(3), scale], dim=-1)[:, None]
    plain = conditions(SMALL, entry, {"nu": [0.1] * 3}, PERIODIC, (0.5,), physical)
    other = conditions(SMALL, entry, {"nu": [0.1] * 3}, PERIODIC, (0.5,), scaled)
    lifted = lift(scaled, entry, other)
    torch.testing.assert_close(lifted, lift(physical, entry, plain))
    torch.testing.assert_close(lower(lifted, entry, other), scaled)
    torch.testing.assert_close(other.levels - plain.levels, torch.stack([scale.log() * (k == 2) for k in range(4)], 1))
    with pytest.raises(UserError, match="positive"):
        conditions(SMALL, entry, {"nu": [0.1] * 3}, PERIODIC, (0.5,), -physical)


def test_levels_are_used(small: UPSModel) -> None:
    u = state(1)
    louder = replace(given(1), levels=torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
    assert (step(small, u, louder) - step(small, u, given(1))).abs().max() > 1e-6


def test_the_defect_of_the_mean_is_used(small: UPSModel) -> None:
    u = state(1)
    with torch.no_grad():
        context = small.read(u, given(1))
        known = context.coefficients
        assert isinstance(known, StepCoefficients)
        assert known.initial_means is not None
        moved = replace(context, coefficients=replace(known, initial_means=known.initial_means + 0.01))
        assert (small(u, context) - small(u, moved)).abs().max() > 1e-6


def test_the_state_is_carried_by_its_own_velocity(language_model: Path) -> None:
    config = SMALL.changed(propagator=False)
    model = UPS(config, pretrained_body(language_model), load_tokenizer(language_model))
    assert model.transport is not None
    with torch.no_grad():
        # Slot 0 of the state before the step, along the first axis: a unit carries by 1.5 boxes times RATE_SCALE.
        model.transport.of_problem.bias[0] = -1.5
    u = state(2)
    u[:, 1] = torch.randn(2, 32)
    conditioned = given(2, entry=card(slots=(0, 1)))
    expected = carried(u, departure(-1.5 * RATE_SCALE * u[:, :1], (True,)), (True,))
    torch.testing.assert_close(step(model, u, conditioned), expected, atol=1e-6, rtol=1e-5)
    assert (expected - u).abs().max() > 0.05


def test_strip_equals_broadcast(small: UPSModel) -> None:
    u = state(2)
    both = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 2)
    with torch.no_grad():
        context = small.read(u, given(2))
        square = replace(context, periodic=both.periodic)
        wide = small(u[..., None].expand(-1, -1, -1, 32), square)
        torch.testing.assert_close(wide, small(u, context)[..., None].expand_as(wide), atol=1e-4, rtol=1e-3)


def test_lower_undoes_lift() -> None:
    entry = card(slots=(0, 2))
    fields = torch.randn(3, 32, 2)
    conditioned = given(3, entry=entry)
    lifted = lift(fields, entry, conditioned)
    assert lifted[:, [1, 3]].abs().max() == 0
    torch.testing.assert_close(lower(lifted, entry, conditioned), fields)


def test_a_family_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="superspace"):
        check_card(SMALL, card(slots=(0, 4)))


def test_loss_is_relative_per_field_and_masked() -> None:
    target = torch.ones(2, 4, 8)
    prediction = target.clone()
    prediction[:, 0] *= 1.1
    prediction[:, 3] = 1e6
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(2, -1)
    assert nrmse(prediction, target, mask).item() == pytest.approx(0.05, rel=1e-4)
    prediction.requires_grad_()
    nrmse(prediction, prediction.detach(), mask).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_the_paper_s_loss_has_one_norm_a_state() -> None:
    rng = np.random.default_rng(0)
    target, prediction = rng.normal(size=(2, 3, 4, 6, 5))
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=float)
    target[:, 1] *= 1e-3  # a slot that is nearly nothing counts for as much
    expected = []
    for sample, wrong, left in zip(target, prediction, mask, strict=True):
        slots = np.flatnonzero(left)
        expected.append(np.linalg.norm((wrong - sample)[slots].ravel()) / np.linalg.norm(sample[slots].ravel()))
    given = (torch.from_numpy(values).float() for values in (prediction, target, mask))
    assert state_nrmse(*given).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_paper_s_loss_of_a_state_that_is_zero_is_finite() -> None:
    target, mask = torch.zeros(1, 2, 4), torch.ones(1, 2)
    prediction = torch.zeros(1, 2, 4, requires_grad=True)
    loss = state_nrmse(prediction, target, mask)
    loss.backward()
    assert loss == 0
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert state_nrmse(target + 1, target, mask).item() == pytest.approx(8**0.5)


def test_each_architecture_has_its_loss(small: UPSModel, language_model: Path) -> None:
    torch.manual_seed(0)
    target, mask = torch.randn(3, 4, 8), torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(3, -1)
    wrong = target + torch.randn_like(target)
    assert small.task_loss(wrong, target, mask) == nrmse(wrong, target, mask)
    paper = make(PAPER, language_model).task_loss(wrong, target, mask)
    assert paper == state_nrmse(wrong, target, mask)
    assert paper != nrmse(wrong, target, mask)


def test_static_fields_reach_the_paper_s_operator(language_model: Path) -> None:
    model = make(PAPER, language_model)
    u = torch.randn(2, 4, 16, 16)
    plain = conditions(PAPER, card(ndim=2), {"nu": [0.1] * 2}, PLANE, (0.5, 0.5), torch.ones(2, 8, 8, 1))
    outputs = [step(model, u, replace(plain, static=size * torch.randn(2, 1, 16, 16))) for size in (0, 1, 1)]
    assert (outputs[1] - outputs[0]).abs().max() > 1e-6
    assert (outputs[2] - outputs[1]).abs().max() > 1e-6
    torch.testing.assert_close(step(model, u, plain), outputs[0])


def test_checkpoints_of_the_paper_without_static_fields_load(language_model: Path, tmp_path: Path) -> None:
    model, u, conditioned = make(PAPER, language_model), state(2), given(2, config=PAPER)
    save_pretrained(model, tmp_path)
    stored = load_file(tmp_path / WEIGHTS_FILE)
    stored[PAPER_LIFTING] = stored[PAPER_LIFTING][:, : -PAPER.superspace.static_slots].contiguous()
    save_file(stored, tmp_path / WEIGHTS_FILE)
    loaded = from_pretrained(tmp_path).operator
    torch.testing.assert_close(step(loaded, u, conditioned), step(model, u, conditioned), atol=1e-2, rtol=1e-2)


def test_value_features_tell_zero_sign_and_size_apart() -> None:
    features = value_features(torch.tensor([0.0, 1.0, -1.0, 0.1, 1000.0]))
    assert features.isfinite().all()
    assert torch.cdist(features, features).fill_diagonal_(1).min() > 0.1


def test_checkpoint_round_trip(small: UPSModel, tmp_path: Path) -> None:
    save_pretrained(small, tmp_path / "model")
    loaded = from_pretrained(tmp_path / "model").operator
    u = state(2)
    # The language model is kept in half precision.
    torch.testing.assert_close(step(loaded, u, given(2)), step(small, u, given(2)), atol=1e-2, rtol=1e-2)
    save_pretrained(loaded, tmp_path / "again")
    first, second = (from_pretrained(tmp_path / name).operator for name in ("model", "again"))
    torch.testing.assert_close(step(first, u, given(2)), step(second, u, given(2)), atol=0, rtol=0)
    assert {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()} <= {
        ".json",
        ".safetensors",
        ".txt",
    }


def test_foreign_weights_are_refused(small: UPSModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model"):
        from_pretrained(tmp_path)
    save_pretrained(small, tmp_path)
    SMALL.changed(n_layers=1).save(tmp_path)
    with pytest.raises(UserError, match="weights"):
        from_pretrained(tmp_path)


def test_paper_preset(language_model: Path, tmp_path: Path) -> None:
    model = make(PAPER, language_model)
    u, conditioned = state(2), given(2, config=PAPER)
    out = step(model, u, conditioned)
    assert out.shape == u.shape
    with torch.no_grad():
        context = model.read(u, conditioned)
        _, tokens = model.advance(u, context)
    assert tokens.shape == (2, PAPER.reading.tokens, 32)
    singles = [step(model, u[i : i + 1], given(1, config=PAPER)) for i in range(2)]
    torch.testing.assert_close(out, torch.cat(singles), atol=1e-5, rtol=1e-4)
    save_pretrained(model, tmp_path)
    torch.testing.assert_close(step(from_pretrained(tmp_path).operator, u, conditioned), out, atol=1e-2, rtol=1e-2)


def test_padding_of_the_text_is_masked(small: UPSModel) -> None:
    u = state(2)
    mixed = replace(given(2), texts=("1D Burgers", "1D Burgers equation nu = 0.01"))
    short = replace(given(1), texts=("1D Burgers",))
    torch.testing.assert_close(step(small, u, mixed)[:1], step(small, u[:1], short), atol=1e-5, rtol=1e-4)


def variant(language_model: Path, **changes: object) -> UPSModel:
    return make(UPSConfig.model_validate(SMALL.model_dump() | changes), language_model)


def test_channel_tokens_one_per_channel_at_any_resolution(language_model: Path) -> None:
    model = variant(language_model, token_kind="channel")
    for u, conditioned in (
        (state(2), given(2)),
        (state(2, 96), given(2)),
        (
            torch.randn(2, 4, 32, 24),
            conditions(SMALL, card(ndim=2), {"nu": [0.1] * 2}, PLANE, (0.5, 0.5), torch.ones(2, 8, 8, 1)),
        ),
    ):
        with torch.no_grad():
            _, tokens = model.advance(u, model.read(u, conditioned))
        assert tokens.shape == (2, SMALL.embedder.hidden_channels, 32)
        assert step(model, u, conditioned).isfinite().all()


def test_channel_tokens_hold_the_places_of_a_channel(language_model: Path) -> None:
    model, u = variant(language_model, token_kind="channel"), state(1, 64)
    with torch.no_grad():
        context = model.read(u, given(1))
        tokens = [model.advance(shifted, context)[1] for shifted in (u, u.roll(7, -1))]
    # A patch token would move to its neighbour; a channel's places move inside it.
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3


def test_mean_pool_predictor_is_tied_to_its_grid_and_starts_as_persistence(language_model: Path) -> None:
    config = UPSConfig.model_validate(SMALL.model_dump() | {"predictor": "mean_pool"})
    model = UPS(config, pretrained_body(language_model), load_tokenizer(language_model))
    torch.testing.assert_close(step(model, state(2), given(2)), state(2), atol=1e-6, rtol=1e-5)
    filled = variant(language_model, predictor="mean_pool")
    u = state(2)
    changed = step(filled, u, given(2))
    assert changed.shape == u.shape
    assert (changed - u).abs().max() > 1e-4
    with pytest.raises(UserError, match="tied to the grids"):
        step(filled, state(2, 64), given(2))


def test_mean_pool_predictor_has_the_grids_of_its_families(language_model: Path) -> None:
    families = {"line": card().model_dump(), "plane": card(ndim=2).model_dump()}
    model = variant(language_model, predictor="mean_pool", families=families)
    conditioned = conditions(SMALL, card(ndim=2), {"nu": [0.1] * 2}, PLANE, (0.5, 0.5), torch.ones(2, 8, 8, 1))
    assert step(model, torch.randn(2, 4, 32, 32), conditioned).shape == (2, 4, 32, 32)


def test_paper_interpolates_other_grids_to_its_own_and_back(language_model: Path) -> None:
    model = make(PAPER, language_model)
    coarse, fine = state(2), state(2, 64)
    on_own = step(model, coarse, given(2, config=PAPER))
    on_fine = step(model, fine, given(2, config=PAPER))
    assert on_fine.shape == fine.shape
    # Both see nearly the same state on the model's own 32 points.
    pairs = on_fine.unflatten(-1, (32, 2)).mean(-1)
    torch.testing.assert_close(pairs, on_own, atol=0.2, rtol=0.1)


def test_repeated_conditions_are_those_of_every_state() -> None:
    one = given(2, [0.1, 0.2])
    many = one.repeat(3)
    assert many.texts == tuple(text for text in one.texts for _ in range(3))
    torch.testing.assert_close(many.coefficients[:, 0], torch.tensor([0.1] * 3 + [0.2] * 3))
    torch.testing.assert_close(many.mean, one.mean.repeat_interleave(3, 0))


def test_no_text_is_cut_silently(small: UPSModel) -> None:
    with pytest.raises(UserError) as caught:
        small.metadata.tokens(("Burgers " + "with a very long name " * 20,))
    assert (caught.value.code, caught.value.expected) == ("text_too_long", f"at most {MAX_TOKENS}")
