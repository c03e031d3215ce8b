"""A reference text of one's own: a file, or a folder with a file a subject."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.align.conftest import FixedTarget
from ups_server.align.distances import MMDAlignment
from ups_server.align.labels import passages, source_task
from ups_server.align.text import FEWEST_SENTENCES, ReferenceText, reference_text
from ups_server.errors import UserError
from ups_server.model.operator import UPSModel
from ups_server.train.config import Stage, TrainConfig
from ups_server.train.run import check_config

LINES = [f"A beta of {number} is the velocity." for number in range(FEWEST_SENTENCES)]


@dataclass(frozen=True)
class OwnTarget(FixedTarget):
    path: Path | None = None

    @property
    def text(self) -> ReferenceText:
        return reference_text(self.path)


def test_a_file_is_one_subject_and_empty_lines_are_none(tmp_path: Path) -> None:
    file = tmp_path / "news.txt"
    file.write_text("\n\n".join(LINES) + "\n")
    found = reference_text(file)
    assert found.texts == tuple(LINES)
    assert found.subjects == ("news",)


def test_a_folder_has_a_file_a_subject(tmp_path: Path) -> None:
    for name, part in (("waves", LINES[:100]), ("flows", LINES[100:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
    (tmp_path / "licence.md").write_text("not a sentence of it")
    found = reference_text(tmp_path)
    assert found.subjects == ("flows", "waves")
    assert found.about("waves") == tuple(LINES[:100])
    assert len(found.sentences) == len(LINES)


def test_states_are_matched_to_the_text_that_is_given(model: UPSModel, tmp_path: Path) -> None:
    file = tmp_path / "news.txt"
    file.write_text("\n".join(LINES))
    features = torch.randn(8, model.body.size, generator=torch.Generator().manual_seed(0))
    losses = []
    for target in (FixedTarget(), OwnTarget(path=file)):
        method = MMDAlignment()
        method.prepare(model, target)
        losses.append(float(method.loss(features, target.rows)))
    assert losses[0] != losses[1]


def test_labels_need_several_subjects(model: UPSModel, tmp_path: Path) -> None:
    file = tmp_path / "news.txt"
    file.write_text("\n".join(LINES))
    for needs in (lambda text: source_task(model, text), lambda text: passages(model, text, 4)):
        with pytest.raises(UserError) as caught:
            needs(reference_text(file))
        assert (caught.value.code, caught.value.got) == ("reference_text_unlabelled", ["news"])


def test_what_is_no_text_is_refused_before_any_work(tmp_path: Path) -> None:
    short, binary = tmp_path / "short.txt", tmp_path / "binary.txt"
    short.write_text("\n".join(LINES[:-1]))
    binary.write_bytes(b"\xff\xfe\x00" * 400)
    for path, code in (
        (tmp_path / "absent", "reference_text_missing"),
        (short, "reference_text_too_short"),
        (binary, "reference_text_unreadable"),
    ):
        config = TrainConfig(name="own", families={}, stage1=Stage(), stage2=Stage(), reference_text=path)
        with pytest.raises(UserError) as caught:
            check_config(config)
        assert caught.value.code == code


def test_a_recipe_names_it_from_where_it_stands(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: own, families: {}, stage1: {}, stage2: {}, reference_text: texts}")
    assert TrainConfig.load(recipe).reference_text == tmp_path / "texts"
