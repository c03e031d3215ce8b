"""An architecture is made of parts; what earlier versions wrote is read into them, and gives the same bits."""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from tests.small_models import SMALL
from ups_server.catalog import shipped_folder
from ups_server.model.checkpoint import from_pretrained
from ups_server.model.conditioning import conditions
from ups_server.model.config import CONFIG_FILE, UPS_MINI, EmbedderConfig, UPSConfig
from ups_server.model.superspace import lift, lower
from ups_server.pde import family
from ups_server.solvers.neural import as_static

RECORDED = Path(__file__).with_name("recorded_outputs.safetensors")
"""Two steps of ups-mini version 6 in every family, as the code made them when it was published."""


def test_a_setting_is_found_with_and_without_its_part() -> None:
    flat = UPSConfig.model_validate({"n_modes": 24, "retention": True, "condition_size": 7, "body_layers": 2})
    nested = UPSConfig.model_validate(
        {
            "embedder": {"n_modes": 24},
            "step": {"mean_correction": True},
            "conditioner": {"size": 7},
            "reading": {"layers": 2},
        }
    )
    assert flat == nested
    assert UPSConfig.model_validate_json(flat.model_dump_json()) == flat
    finer = UPS_MINI.changed(n_modes=24)
    assert finer == UPS_MINI.with_settings({"embedder": {"n_modes": 24}})
    assert finer.embedder == EmbedderConfig(**{**dict(UPS_MINI.embedder), "n_modes": 24})
    assert SMALL.changed() == SMALL


@torch.inference_mode()
def outputs(folder: Path) -> dict[str, torch.Tensor]:
    """Physical fields of two states of every family after two steps."""
    model, found = from_pretrained(folder), dict[str, torch.Tensor]()
    for name, card in model.config.families.items():
        n = 32 if card.ndim == 1 else 24
        axes = np.meshgrid(*((np.arange(n) + 0.5) / n,) * card.ndim, indexing="ij")
        level = {"compressible_ns_1d": 1.2, "compressible_ns_2d": 1.2}.get(name, 0.0)
        fields = [
            level * (f >= len(card.fields) - 2)
            + 0.3 * sum(np.sin(2 * np.pi * (x * (1 + f % 2)) + f + axis) for axis, x in enumerate(axes)) / 2
            for f in range(len(card.fields))
        ]
        state = np.stack(fields, -1) + (1.5 if name == "shallow_water" else 0.0)
        initial = np.stack([state, state[::-1] if card.ndim == 1 else state[:, ::-1]]).astype(np.float32)
        static = None
        if card.static_fields:
            forces = np.stack([np.cos(2 * np.pi * axes[0] + k) for k in range(len(card.static_fields))], -1)
            static = forces[None].repeat(2, 0).astype(np.float32)
        first = torch.from_numpy(initial)
        values = {key: [drawn.low, (drawn.low * drawn.high) ** 0.5] for key, drawn in card.coefficients.items()}
        boundary = family(name).boundary
        given = conditions(model.config, card, values, boundary, (0.5,) * card.ndim, first, as_static(static, card))
        operator = model.of_family(name).operator
        u = lift(first, card, given)
        context = operator.read(u, given)
        for _ in range(2):
            u = operator(u, context)
        found[name] = lower(u, card, given)
    return found


def test_the_shipped_model_answers_as_it_did(tmp_path: Path) -> None:
    shipped = shipped_folder() / "ups-mini"
    found = outputs(shipped)
    with safe_open(RECORDED, "pt") as stored:
        recorded = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        # Not to the bit: another processor's kernels add up in another order.
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)
    # The same model with its config as it would be written today.
    shutil.copytree(shipped, tmp_path / "today")
    config = UPSConfig.load(shipped)
    config.save(tmp_path / "today")
    assert (tmp_path / "today" / CONFIG_FILE).read_text() != (shipped / CONFIG_FILE).read_text()
    for name, values in outputs(tmp_path / "today").items():
        assert torch.equal(values, found[name]), name
