"""Training compiles into one graph, whatever sizes a stream of batches has: a count, not a clock."""

import pytest
import torch
from small_models import FAMILIES, small_model
from torch._dynamo.testing import CompileCounter


@pytest.mark.parametrize("family", FAMILIES)
def test_twelve_canvases_and_one_graph(family):
    torch._dynamo.reset()  # graphs are counted over all models of a process
    counter = CompileCounter()
    model = small_model(family, backbone_norm="frozen", auxiliary_loss=True).train()
    model.compile(backend=counter, dynamic=True, fullgraph=True)  # a break in the graph would raise
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}] * 2
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        height, width = torch.randint(40, 120, (2,), generator=generator).tolist()
        mask = torch.ones(2, height, width, dtype=torch.int64)
        mask[1, height // 2 :] = 0
        model(torch.randn(2, 3, height, width), mask, labels=labels).loss.backward()
    assert counter.frame_count == 1
