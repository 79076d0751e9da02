"""`Detector.explain` and `cdetr explain`: the parts add up to the model's own attention, and predictions stay as they are."""

import copy
import json

import numpy as np
import pytest
import torch
from small_models import FAMILIES, randomise, small_model

from conditional_detr import ConditionalDetrForSegmentation, ConditionalDetrImageProcessor
from conditional_detr.cli import main
from conditional_detr.explain.figures import AttentionFigures
from conditional_detr.explain.pictures import draw_explanation
from conditional_detr.models.deploy import prepare_for_inference
from conditional_detr.predict.attention import PARTS, Explanation
from conditional_detr.predict.detector import Detector
from conditional_detr.results.named import Detection

IMAGE = torch.randint(0, 256, (3, 75, 101), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def processor():
    return ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})


def detector_of(family="conditional_detr", dtype=torch.float64, **config):
    """With its object queries and decoder far from their small beginnings, so that attention is of all kinds."""
    model = randomise(small_model(family, **config))
    with torch.no_grad():
        for parameter in model.model.decoder.parameters():
            parameter.mul_(1.5)
    return Detector(model.to(dtype), processor())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("position", ["sine", "learned"])
def test_the_parts_add_up_to_the_attention_of_the_model(family, layer, position):
    detector = detector_of(family, decoder_layers=3, position_embedding_type=position)
    found = detector.explain(IMAGE, threshold=0.0, most=30, layer=layer)
    assert len(found) > 5
    pixels = detector.processor.preprocessing.normalize(detector.processor.preprocessing.resize(IMAGE)[None])
    with torch.inference_mode():
        output = detector.model(pixels.double(), output_attentions=True)
    weights = output.cross_attentions[layer][0].numpy()  # (h, Q, M)
    for explanation in found:
        combined = explanation.attention()
        assert combined.shape == (4, 8, 11)  # of 64 × 86 pixels, at stride 8
        np.testing.assert_allclose(combined.reshape(4, -1), weights[:, explanation.query], rtol=1e-9, atol=1e-15)
        assert explanation.layer == layer % 3
        assert max(np.ptp(explanation.spatial_scores), np.ptp(explanation.content_scores)) > 0.01
        if family == "conditional_detr":
            x, y = output_point(detector, explanation.query)
            np.testing.assert_allclose(explanation.reference_point, (x * 101, y * 75), rtol=1e-6)
        else:
            assert explanation.reference_point is None


def output_point(detector, query):
    decoder, queries = detector.model.model.decoder, detector.model.model.query_position_embeddings.weight
    return decoder.reference_points(queries[None])[0, query].sigmoid().tolist()


def test_the_place_of_conditional_detr_is_the_reference_points_alone():
    """In the first layer spatial scores hang on the query and the cell, not on the picture; DETR's later ones do."""
    detector = detector_of(decoder_layers=2)
    by_query = {e.query: e.spatial_scores for e in detector.explain(IMAGE, 0.0, 100, layer=0)}
    others = {e.query: e.spatial_scores for e in detector.explain(255 - IMAGE, 0.0, 100, layer=0)}
    shared = by_query.keys() & others.keys()
    assert shared
    for query in shared:
        np.testing.assert_allclose(by_query[query], others[query], rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_explained_is_what_is_detected(family):
    detector = detector_of(family, torch.float32)
    before = detector(IMAGE, threshold=0.001)
    explained = detector.explain(IMAGE, threshold=0.001)
    assert [e.detection for e in explained] == before == detector(IMAGE, threshold=0.001)
    assert len(before) > 2
    assert [e.detection for e in detector.explain(IMAGE, threshold=0.001, most=2)] == before[:2]
    assert detector.explain(IMAGE, threshold=1.0) == []
    layer = detector.model.model.decoder.layers[-1]
    assert not layer._forward_pre_hooks and not layer.self_attn_layer_norm._forward_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_prepared_to_predict_says_the_same(family):
    plain = detector_of(family, torch.float32)
    fast = Detector(copy.deepcopy(plain.model), processor())
    prepare_for_inference(fast.model, torch.device("cpu"))
    for a, b in zip(plain.explain(IMAGE, 0.0, 3), fast.explain(IMAGE, 0.0, 3), strict=True):
        assert a.query == b.query
        for part in PARTS:
            np.testing.assert_allclose(a.attention(part), b.attention(part), rtol=1e-3, atol=1e-5)
            assert b.attention(part).dtype == np.float32


def test_a_segmentation_model_explains_its_boxes():
    model = randomise(ConditionalDetrForSegmentation(detector_of().model.config))
    assert Detector(model, processor()).explain(IMAGE, threshold=0.0, most=2)[0].detection.run_lengths is None


def test_what_cannot_be_is_one_line():
    detector = detector_of()
    for options, message in (
        ({"layer": 2}, "layer is 2; the decoder has 2, 0 to 1, or -1 for the last"),
        ({"layer": -3}, "layer is -3"),
        ({"most": 0}, "most is 0"),
        ({"threshold": 2}, "threshold must be a number from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.explain(IMAGE, **options)


def explanation_of(box, spatial, point=(50.0, 50.0)):
    return Explanation(
        Detection("cat", 0.9, box, 0), (100, 200), 3, 1, point, np.zeros_like(spatial), np.asarray(spatial, np.float32)
    )


def peak(row, column, rows=10, columns=20):
    """Scores that are attention on one cell."""
    scores = np.full((1, rows, columns), -50.0, np.float32)
    scores[0, row, column] = 50
    return scores


def test_figures_name_the_side_that_a_head_looks_at():
    box = (45.0, 15.0, 85.0, 55.0)  # centre (65, 35), as that of row 3 and column 6; cells are of 10 pixels
    for row, column, side, offset in (
        (3, 3, "left", (-1.5, 0)),
        (3, 7, "right", (0.5, 0)),
        (1, 6, "top", (0, -1)),
        (6, 6, "bottom", (0, 1.5)),
        (3, 6, "inside", (0, 0)),
    ):
        figures = AttentionFigures()
        figures.add([explanation_of(box, peak(row, column))])
        (head,) = figures.heads()
        assert head.looks_at == side and (head.x, head.y) == pytest.approx(offset, abs=1e-3)
        assert head.spread == pytest.approx(0, abs=1e-3) and head.growth is None and head.correlation is None


def test_figures_say_how_attention_grows_with_the_object():
    figures = AttentionFigures()
    cells = np.mgrid[0:10, 0:20][:, None]
    for half in (10.0, 20.0, 40.0):
        deviation = half / 2 / 10  # in cells
        scores = -((cells[0] - 4.5) ** 2 + (cells[1] - 9.5) ** 2) / (2 * deviation**2)
        figures.add([explanation_of((100 - half, 50 - half, 100 + half, 50 + half), scores.astype(np.float32))])
    (head,) = figures.heads()
    assert head.growth == pytest.approx(0.25, rel=0.1) and head.correlation > 0.99 and head.looks_at == "inside"
    assert json.loads(json.dumps(figures.to_dict()))["detections"] == 3
    assert AttentionFigures().to_dict() == {"detections": 0, "combined": [], "spatial": [], "content": []}


def test_the_picture_is_bright_where_attention_is():
    explanation = explanation_of((40.0, 20.0, 80.0, 60.0), np.concatenate([peak(2, 4), peak(7, 15)]))
    sheet = np.asarray(draw_explanation(torch.zeros(3, 100, 200, dtype=torch.uint8), explanation)).astype(int)
    assert sheet.shape == (2 * 22 + 3 * (96 + 4), 84 + 2 * (192 + 4), 3)
    for head, (row, column) in enumerate([(2, 4), (7, 15)]):
        tile = sheet[44 + 100 :][:96, 84 + head * 196 :][:, :192].sum(2)  # the row of spatial attention
        at = round((row + 0.5) * 9.6), round((column + 0.5) * 9.6)
        assert tile[at] > 500 and tile[at[0], (at[1] + 96) % 192] < 50


def test_the_command_writes_arrays_pictures_and_figures(scenes, tmp_path, capsys):
    model = randomise(small_model())
    model.save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    images = [str(path) for path in sorted((scenes / "images/val").iterdir())[:2]]
    arguments = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--threads", "1"]
    assert main(["explain", *arguments, "--images", *images, "--threshold", "0.001", "--detections", "2",
                 "--json", str(tmp_path / "figures.json")]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "looks at" in said and "4 detections in 2 images" in said
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    stem = names[0].partition("-")[0]
    assert len(names) == 6 and names[:3] == [f"{stem}-1.jpg", f"{stem}-2.jpg", f"{stem}.npz"]
    with np.load(tmp_path / "out" / f"{stem}.npz") as saved:
        assert saved["boxes"].shape == (2, 4) and saved["combined"].shape == (2, 4, 8, 8)
        np.testing.assert_allclose(saved["combined"].sum((2, 3)), 1, rtol=1e-5)
    assert len(json.loads((tmp_path / "figures.json").read_text())["spatial"]) == 4
    assert main(["explain", *arguments, "--images", *images, "--threshold", "1"]) == 0
    assert "no detection above 1: lower --threshold" in capsys.readouterr().out
    assert main(["explain", *arguments, "--images", *images, "--detections", "0"]) == 2
