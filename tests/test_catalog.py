"""Model folders as the catalog sees them."""

import json
from pathlib import Path

import pytest

from ups_server.catalog import Catalog, ModelCard, read_card, shipped_folder
from ups_server.errors import UserError
from ups_server.pde import families


def write_model(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True)
    config = {
        "model_type": "ups",
        "name": folder.name,
        "version": 3,
        "resolution": 128,
        "hidden_channels": 48,
        "families": {"burgers": {"dt": 0.05, "coefficients": {"nu": {"low": 0.001, "high": 0.5}}, "ndim": 1}},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    write_model(tmp_path / "shipped" / "alpha")
    (tmp_path / "shipped" / "alpha" / "README.md").write_text("# alpha")
    (tmp_path / "shipped" / "alpha" / "scores.json").write_text('{"nrmse": 0.1}')
    write_model(tmp_path / "data" / "models" / "beta")
    write_model(tmp_path / "data" / "models" / "alpha", version=9)
    (tmp_path / "data" / "models" / "empty").mkdir()
    return Catalog(tmp_path / "data", tmp_path / "shipped")


def test_both_folders_are_listed_and_the_shipped_one_wins(catalog: Catalog) -> None:
    assert [card.id for card in catalog.models()] == ["alpha", "beta", "numerical", "persistence"]
    alpha = catalog.model("alpha")
    assert (alpha.version, alpha.readme, alpha.scores, alpha.kind) == ("3", "# alpha", {"nrmse": 0.1}, "learned")
    assert Path(alpha.source).is_dir()
    assert alpha.support("burgers").coefficients["nu"].contains(0.5)
    assert not alpha.support("burgers").coefficients["nu"].contains(0.6)


def test_a_model_appears_without_a_restart(catalog: Catalog, tmp_path: Path) -> None:
    write_model(tmp_path / "data" / "models" / "gamma")
    assert catalog.model("gamma").name == "gamma"


def test_a_card_is_read_again_where_a_file_of_it_is_another(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()

    def counted(folder: Path) -> ModelCard:
        read.append(folder.name)
        return read_card(folder)

    monkeypatch.setattr("ups_server.catalog.read_card", counted)
    folder = tmp_path / "data" / "models" / "beta"
    assert catalog.model("beta").readme is None
    assert catalog.model("beta") is catalog.model("beta")
    assert read == ["beta"]
    (folder / "README.md").write_text("# beta")
    assert catalog.model("beta").readme == "# beta"
    (folder / "part").write_text("# ateb")  # as long; files are replaced whole
    (folder / "part").replace(folder / "README.md")
    assert catalog.model("beta").readme == "# ateb"
    (folder / "README.md").unlink()
    assert catalog.model("beta").readme is None
    assert read == ["beta"] * 4


@pytest.mark.parametrize("model_id", ["absent", "empty", "", ".", "..", "../shipped/alpha", "/etc", "alpha/../beta"])
def test_an_id_is_never_a_path(catalog: Catalog, model_id: str) -> None:
    with pytest.raises(UserError) as caught:
        catalog.model(model_id)
    assert caught.value.code == "unknown_model"
    assert "alpha" in caught.value.expected


def test_a_family_it_does_not_know(catalog: Catalog) -> None:
    with pytest.raises(UserError) as caught:
        catalog.model("alpha").support("advection")
    assert caught.value.code == "family_not_in_model"


def test_a_broken_folder_is_left_out(catalog: Catalog, tmp_path: Path) -> None:
    for name, text in {"torn": "{", "list": "[]", "bare": "{}"}.items():
        (tmp_path / "data" / "models" / name).mkdir()
        (tmp_path / "data" / "models" / name / "config.json").write_text(text)
    assert [card.id for card in catalog.models()] == ["alpha", "beta", "numerical", "persistence"]
    with pytest.raises(UserError) as caught:
        catalog.model("torn")
    assert caught.value.code == "invalid_model"


def test_built_in_solvers_know_every_family(catalog: Catalog) -> None:
    for model_id in ("numerical", "persistence"):
        card = catalog.model(model_id)
        assert set(card.families) == set(families())
        assert card.support("burgers").dt == families()["burgers"].dt


def test_the_shipped_folder_exists() -> None:
    assert shipped_folder().is_dir()


def test_adapted_models_say_where_they_come_from_and_can_be_removed(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "models" / "tuned"
    write_model(folder)
    origin = {
        "parent": "alpha", "parent_version": "9", "family": "burgers", "data_fingerprint": "ab12", "n_trajectories": 3,
        "alignment": "none", "tuning": "full", "steps": 10, "seed": 0, "job": "ft-1",
    }  # fmt: skip
    (folder / "adaptation.json").write_text(json.dumps(origin))
    card = catalog.model("tuned")
    assert card.adaptation is not None
    assert (card.adaptation.parent, card.adaptation.job) == ("alpha", "ft-1")
    catalog.delete("tuned")
    assert not folder.exists()
    assert "tuned" not in [model.id for model in catalog.models()]
    for kept in ("alpha", "numerical"):
        with pytest.raises(UserError) as caught:
            catalog.delete(kept)
        assert caught.value.code == "not_deletable"


def test_a_folder_that_is_being_written_is_no_model(catalog: Catalog, tmp_path: Path) -> None:
    write_model(tmp_path / "data" / "models" / ".tuned.part")
    assert ".tuned.part" not in [model.id for model in catalog.models()]
    with pytest.raises(UserError):
        catalog.model(".tuned.part")


def test_requests_that_name_no_model_get_the_better_shipped_one(catalog: Catalog, tmp_path: Path) -> None:
    write_model(tmp_path / "shipped" / "plane", preferred=["shallow_water"])
    write_model(tmp_path / "data" / "models" / "own", preferred=["burgers"])
    assert catalog.default("alpha", "shallow_water") == "plane"
    assert catalog.default("alpha", "burgers") == "alpha", "a model of the data folder does not put itself forward"
    assert catalog.default("alpha", None) == "alpha"
    assert (catalog.defaults("alpha"), catalog.defaults("beta")) == ({"shallow_water": "plane"}, {})
    assert catalog.default("beta", "shallow_water") == "beta", "who chooses a default has it for every family"
    assert catalog.default("numerical", "shallow_water") == "numerical"
