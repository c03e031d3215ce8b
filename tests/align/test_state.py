"""What a method gathers between batches is its state: with it, another goes on as the first would have."""

import pytest
import torch

from tests.align.conftest import FixedTarget
from ups_server.align.base import Alignment
from ups_server.align.distances import OTDDAlignment
from ups_server.align.recraft import RecraftAlignment
from ups_server.model.operator import UPSModel


@pytest.mark.parametrize("method", [OTDDAlignment, RecraftAlignment])
def test_queues_are_the_state(method: type[Alignment], model: UPSModel, target: FixedTarget) -> None:
    first, second = method(), method()
    features = torch.randn(2, 12, model.body.size, generator=torch.Generator().manual_seed(0))
    for one in (first, second):
        one.prepare(model, target)
    first.loss(features[0], target.rows, features[0])
    second.load_state(first.state())
    values = []
    for one in (first, second):
        torch.manual_seed(3)
        values.append(float(one.loss(features[1], target.rows, features[1])))
    assert values[0] == values[1]
