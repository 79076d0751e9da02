"""Many images: how they share batches, canvases and graphs. Counted, since a clock would only be noisy."""

import numpy as np
import pytest
import torch
from PIL import Image
from same_detections import assert_same_detections
from small_models import randomise, small_model

from conditional_detr import ConditionalDetrImageProcessor
from conditional_detr.images.read import read_image
from conditional_detr.models.deploy import GPU_CANVAS_STEP, prepare_for_inference
from conditional_detr.predict import memory
from conditional_detr.predict.batches import PreparedBatch, batches_of_canvases, canvas_of
from conditional_detr.predict.run import run_batches
from conditional_detr.predict.stream import Source, detect


def photograph_sizes(count=50):
    """Of photographs as they come: both orientations, some aspect ratios exact, some cropped by hand."""
    rng = np.random.default_rng(0)
    ratios = [4 / 3, 3 / 2, 16 / 9, 1.0, 640 / 427, 500 / 375]
    sizes = []
    for _ in range(count):
        ratio = ratios[rng.integers(len(ratios))] if rng.random() < 0.5 else rng.uniform(1, 2)
        long = int(rng.integers(300, 2000))
        short = max(1, round(long / ratio))
        sizes.append((short, long) if rng.random() < 0.7 else (long, short))
    return sizes


def test_batches_of_photographs_hold_no_padding():
    processor = ConditionalDetrImageProcessor()
    canvases = np.array([canvas_of(size, processor.preprocessing) for size in photograph_sizes(500)])
    batches = batches_of_canvases(canvases.tolist(), 8, torch.device("cuda"))
    assert all(len(np.unique(canvases[batch], axis=0)) == 1 for batch in batches)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert max(map(len, batches)) == 8


def test_a_cpu_takes_large_images_alone_and_small_ones_together():
    """Counted in pixels: beyond its caches a CPU is slower by batches."""
    batches = batches_of_canvases([(800, 1066)] * 3 + [(96, 96)] * 3, 8, torch.device("cpu"))
    assert sorted(map(sorted, batches)) == [[0], [1], [2], [3, 4, 5]]


def test_canvases_for_recorded_graphs_are_few_and_hold_little_padding():
    processor = ConditionalDetrImageProcessor()
    every = {
        canvas_of((h, w), processor.preprocessing, GPU_CANVAS_STEP)
        for a in range(50, 1400, 3)
        for h, w in ((a, 1400), (1400, a), (1400, 1400))
    }
    assert len(every) <= 41
    sizes = photograph_sizes(500)
    real = sum(h * w for h, w in (canvas_of(size, processor.preprocessing) for size in sizes))
    computed = sum(h * w for h, w in (canvas_of(size, processor.preprocessing, GPU_CANVAS_STEP) for size in sizes))
    assert 1 < computed / real < 1.09


def test_a_stream_of_photographs_is_few_graphs_without_breaks():
    """The first size has a graph of its own; then heights and widths become variables, and for batches their size."""
    torch._dynamo.reset()
    graphs = []
    processor = ConditionalDetrImageProcessor(size={"shortest_edge": 224, "longest_edge": 373})

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = randomise(small_model(output_stride=32))
    prepare_for_inference(model, torch.device("cpu"))
    model.compile(backend=backend, fullgraph=True)
    with torch.inference_mode():
        for size in photograph_sizes(50):
            model(torch.zeros(1, 3, *canvas_of(size, processor.preprocessing)))
        assert len(graphs) <= 2
        for count in (2, 3, 4):
            model(torch.zeros(count, 3, 224, 298))
    assert len(graphs) <= 3


@pytest.fixture
def sources(tmp_path):
    made = []
    for i, (width, height) in enumerate([(64, 64), (80, 60), (64, 64), (50, 90), (64, 64)]):
        Image.effect_noise((width, height), 60 + i).convert("RGB").save(tmp_path / f"{i}.png")
        made.append(Source(tmp_path / f"{i}.png", (height, width)))
    return made


@pytest.mark.numeric
@pytest.mark.parametrize("workers", [0, 1])
def test_the_pipeline_gives_each_image_once_as_alone(sources, workers):
    model = randomise(small_model(output_stride=16)).double().eval()
    processor = ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    done = []
    found = dict(detect(model, processor, sources, threshold=0.0, batch_size=2, workers=workers, progress=done.append))
    assert sorted(found) == list(range(5)) and sum(done) == 5
    for index, source in enumerate(sources):
        image = processor.preprocessing.resize(read_image(source.path))
        batch = PreparedBatch([image], [source.size], [index])
        ((_, (alone,)),) = run_batches(model, processor.preprocessing, [batch], threshold=0.0)
        assert found[index].scores.dtype == "float64"
        assert_same_detections(vars(found[index]), vars(alone), score=1e-9, box=1e-7)


def test_a_damaged_image_is_reported_beside_the_others(sources):
    sources[2].path.write_bytes(sources[2].path.read_bytes()[:500])
    model = small_model(output_stride=16).eval()
    processor = ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    options = dict(threshold=0.0, batch_size=2, workers=0)
    found = dict(detect(model, processor, sources, skip_bad=True, **options))
    assert [isinstance(found[i], str) for i in range(5)] == [False, False, True, False, False]
    with pytest.raises(OSError, match=r"2\.png.*--skip_bad_images"):
        list(detect(model, processor, sources, **options))


def test_an_image_too_large_for_memory_is_named_before_any_is_read(tmp_path):
    sources = [Source(tmp_path / "absent.jpg", (480, 640)), Source(tmp_path / "map.tif", (200_000, 300_000))]
    processor = ConditionalDetrImageProcessor(do_resize=False)
    with pytest.raises(ValueError, match=r"map\.tif: an image of 200000×300000 pixels"):
        list(detect(small_model().eval(), processor, sources, threshold=0.5, batch_size=2, workers=0))


def test_what_a_container_has_taken_is_not_free(monkeypatch, tmp_path):
    """Pages of files are counted as taken, and are free all the same."""
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    outside = memory.free_memory(torch.device("cpu"))
    if outside is None:
        pytest.skip("this system does not say what is free")
    for name, text in (
        ("max", "900000\n"),
        ("current", "600000\n"),
        ("stat", "anon 400000\nfile 200000\nfile_mapped 7\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text, encoding="utf-8")
    assert memory.free_memory(torch.device("cpu")) == 500_000
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert memory.free_memory(torch.device("cpu")) > 900_000
