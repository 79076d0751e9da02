"""Post-processing of masks, against transformers', pycocotools' and results computed by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from pycocotools import mask as coco_mask
from small_models import small_config
from torch import Tensor
from torch.nn import functional
from transformers.models.detr.image_processing_detr import compute_segments

from conditional_detr import ConditionalDetrForSegmentation
from conditional_detr.classes import SigmoidClasses, SoftmaxClasses
from conditional_detr.processors.image_processor import ConditionalDetrImageProcessor, DetrImageProcessor
from conditional_detr.results import segments
from conditional_detr.results.segments import MaskPredictions, instance_masks, map_runs, merge_panoptic

pytestmark = pytest.mark.numeric

CLASSES = 6
PROCESSORS = [ConditionalDetrImageProcessor(), DetrImageProcessor()]
SIZES = [None, [(48, 64), (30, 20), (33, 50)], torch.tensor([[24, 32], [7, 5], [60, 90]])]


def random_outputs(seed: int, sigmoid: bool = False, queries: int = 20) -> SimpleNamespace:
    """Three images of round masks; in the last no query has an object."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, queries, CLASSES if sigmoid else CLASSES + 1, generator=generator)
    if sigmoid:
        logits -= 3
        logits[2] -= 20
    else:
        logits[2, :, -1] += 20
    y, x, radius = 16 * torch.rand(3, 3, queries, 1, 1, generator=generator)
    distance = ((torch.arange(12.0)[:, None] - y) ** 2 + (torch.arange(16.0) - x) ** 2).sqrt()
    masks = 4 * (radius / 3 + 1 - distance) + torch.randn(3, queries, 12, 16, generator=generator)
    boxes = torch.rand(3, queries, 4, generator=generator)
    return SimpleNamespace(logits=logits.double(), pred_masks=masks.double(), pred_boxes=boxes.double())


def is_sigmoid(processor: Any) -> bool:
    return isinstance(processor.classes, SigmoidClasses)


def assert_same_maps(results: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for result, wanted in zip(results, expected, strict=True):
        assert result["segments_info"] == wanted["segments_info"]
        assert result["segmentation"].dtype == wanted["segmentation"].dtype
        assert torch.equal(result["segmentation"], wanted["segmentation"])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("thresholds", [{}, {"threshold": 0.9}, {"threshold": 0.3, "mask_threshold": 0.25}])
@pytest.mark.parametrize("overlap", [0.8, 0.3, 0.0])
def test_detr_segments_what_transformers_segments(sizes, thresholds, overlap, monkeypatch) -> None:
    monkeypatch.setattr(segments, "CHUNK", 7000)  # several masks at a time, and several times
    ours, theirs = DetrImageProcessor(), transformers.DetrImageProcessor()
    options = {**thresholds, "overlap_mask_area_threshold": overlap, "target_sizes": sizes}
    theirs_sizes = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    found = 0
    for seed in range(4):
        outputs = random_outputs(seed)
        expected = theirs.post_process_instance_segmentation(outputs, **{**options, "target_sizes": theirs_sizes})
        assert_same_maps(ours.post_process_instance_segmentation(outputs, **options), expected)
        found += sum(len(result["segments_info"]) for result in expected)
        for fused in (None, {1, 4}, set(range(CLASSES))):
            panoptic = {**options, "label_ids_to_fuse": fused}
            expected = theirs.post_process_panoptic_segmentation(outputs, **{**panoptic, "target_sizes": theirs_sizes})
            for result, wanted in zip(
                ours.post_process_panoptic_segmentation(outputs, **panoptic), expected, strict=True
            ):
                if not has_one_id_for_two(wanted):
                    assert_same_maps([result], [wanted])
    assert found > 8


def has_one_id_for_two(result: dict[str, Any]) -> bool:
    """Whether two objects, or two classes, have one id, as happens in transformers (its issue 23461)."""
    segments = {
        (item["id"], item["label_id"] if item["was_fused"] else row) for row, item in enumerate(result["segments_info"])
    }
    return len(segments) > len({item["id"] for item in result["segments_info"]})


def without_ids(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in item.items() if key != "id"} for item in result["segments_info"]]


def test_a_segment_after_fused_ones_has_an_id_of_its_own() -> None:
    # Four quarters: sky, car, sky, car. transformers gives the second car the first one's id.
    masks = torch.full((1, 4, 4, 4), -9.0)
    for query, (y, x) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        masks[0, query, y : y + 2, x : x + 2] = 9.0
    sky, car = [9.0, 0, 0], [0, 9.0, 0]
    outputs = SimpleNamespace(logits=torch.tensor([[sky, car, sky, car]]), pred_masks=masks)
    (wrong,) = transformers.DetrImageProcessor().post_process_panoptic_segmentation(outputs, label_ids_to_fuse={0})
    assert [item["id"] for item in wrong["segments_info"]] == [1, 2, 1, 2]
    (result,) = DetrImageProcessor().post_process_panoptic_segmentation(outputs, label_ids_to_fuse={0})
    assert [item["id"] for item in result["segments_info"]] == [1, 2, 1, 3]
    assert [item["was_fused"] for item in result["segments_info"]] == [True, False, True, False]
    assert result["segmentation"][::2, ::2].tolist() == [[1, 2], [1, 3]]


@pytest.mark.parametrize("sizes", SIZES)
def test_detr_classes_of_pixels_are_those_of_transformers(sizes, monkeypatch) -> None:
    monkeypatch.setattr(segments, "CHUNK", 7000)
    theirs_sizes = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    outputs = random_outputs(0)
    expected = transformers.DetrImageProcessor().post_process_semantic_segmentation(outputs, theirs_sizes, True)
    maps = DetrImageProcessor().post_process_semantic_segmentation(outputs, sizes)
    scored = DetrImageProcessor().post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    for class_map, result, wanted in zip(maps, scored, expected, strict=True):
        assert torch.equal(class_map, wanted.segmentation)
        assert torch.equal(result.segmentation, wanted.segmentation)
        torch.testing.assert_close(result.segmentation_scores, wanted.segmentation_scores)


def test_trap_3_conditional_detr_reads_every_class_by_sigmoid() -> None:
    outputs = random_outputs(1, sigmoid=True)
    scores, labels = outputs.logits.sigmoid().max(-1)
    results = ConditionalDetrImageProcessor().post_process_panoptic_segmentation(
        outputs, label_ids_to_fuse={CLASSES - 1}, target_sizes=[(48, 64)] * 3
    )
    for image, result in enumerate(results[:2]):
        kept = scores[image] > 0.5
        masks = outputs.pred_masks[image, kept].sigmoid()
        expected = compute_segments(
            masks, scores[image, kept], labels[image, kept], label_ids_to_fuse={CLASSES - 1}, target_size=(48, 64)
        )
        assert_same_maps([result], [dict(zip(("segmentation", "segments_info"), expected, strict=True))])
    assert CLASSES - 1 in {item["label_id"] for item in results[0]["segments_info"] + results[1]["segments_info"]}
    assert results[2]["segments_info"] == [] and (results[2]["segmentation"] == -1).all()

    # Two pixels, a query each; the second query has two classes, which softmax would not allow.
    pair = SimpleNamespace(
        logits=torch.tensor([[[-9.0, 9.0], [4.0, 3.0]]]), pred_masks=torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
    )
    (result,) = ConditionalDetrImageProcessor().post_process_semantic_segmentation(pair, None, True)
    assert result.segmentation.tolist() == [[1, 0]]
    assert result.segmentation_scores[:, 0, 1].tolist() == pytest.approx([0.982, 0.953], abs=1e-3)


def test_run_lengths_are_those_of_transformers() -> None:
    for seed in range(3):
        outputs = random_outputs(seed)
        results = DetrImageProcessor().post_process_instance_segmentation(outputs, return_coco_annotation=True)
        expected = transformers.DetrImageProcessor().post_process_instance_segmentation(
            outputs, return_coco_annotation=True
        )
        for result, wanted in zip(results[:2], expected[:2], strict=True):
            assert result["segmentation"] == [[int(value) for value in runs] for runs in wanted["segmentation"]]
        # Where there is no segment, transformers gives no run lengths but a map.
        assert results[2]["segmentation"] == [[1, 12 * 16]]
    assert map_runs(torch.tensor([[2, 2, 0], [0, 7, 2]])) == [[3, 2], [1, 2, 6, 1], [5, 1]]


def masks_of(outputs: Any, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    return instance_masks(MaskPredictions.of(outputs), outputs.pred_boxes, *arguments, **options)


def all_results(processor: Any, outputs: Any, sizes: list[tuple[int, int]]) -> list[list[Any]]:
    """Everything that is made of masks, an image at a time, as plain values."""
    classes = processor.classes
    things = [True, False, True, False, True, False][: classes.count(outputs.logits)]
    kinds = [
        processor.post_process_instance_segmentation(outputs, target_sizes=sizes),
        processor.post_process_panoptic_segmentation(outputs, label_ids_to_fuse={0, 1}, target_sizes=sizes),
        [{"map": class_map} for class_map in processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)],
        masks_of(outputs, classes, sizes, threshold=0.5),
        merge_panoptic(MaskPredictions.of(outputs), classes, sizes, things, threshold=0.5),
    ]
    plain = [
        [{k: v.tolist() if isinstance(v, Tensor) else v for k, v in one.items()} for one in kind] for kind in kinds
    ]
    return [list(image) for image in zip(*plain, strict=True)]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_an_image_gives_the_same_alone_and_padded_in_a_batch(processor) -> None:
    outputs = random_outputs(2, is_sigmoid(processor))
    cells, sizes = [(12, 10), (7, 16), (12, 16)], [(48, 40), (30, 60), (50, 61)]
    padded = outputs.pred_masks.clone()
    for image, (height, width) in enumerate(cells):
        padded[image, :, height:] = 99.0
        padded[image, :, :, width:] = float("nan")
    batch = SimpleNamespace(**{**vars(outputs), "pred_masks": padded}, mask_sizes=torch.tensor(cells))
    together = all_results(processor, batch, sizes)
    for image, (height, width) in enumerate(cells):
        alone = SimpleNamespace(
            logits=outputs.logits[[image]],
            pred_boxes=outputs.pred_boxes[[image]],
            pred_masks=outputs.pred_masks[[image], :, :height, :width],
        )
        assert all_results(processor, alone, [sizes[image]]) == [together[image]]
    unresized = processor.post_process_instance_segmentation(batch)
    assert [tuple(result["segmentation"].shape) for result in unresized] == cells


@pytest.mark.parametrize("processor", PROCESSORS)
def test_masks_of_the_queries_needed_give_what_all_masks_give(processor) -> None:
    outputs = random_outputs(3, is_sigmoid(processor))
    logits = outputs.logits
    best = (logits.sigmoid() if is_sigmoid(processor) else logits.softmax(-1)[..., :-1]).amax(-1)
    needed = [(scores > 0.5).nonzero()[:, 0].flip(0) for scores in best]  # in another order than that of queries
    assert len(needed[0]) != len(needed[1])
    count = max(len(queries) for queries in needed) + 1
    indices = torch.stack([functional.pad(queries, (0, count - len(queries)), value=-1) for queries in needed])
    masks = outputs.pred_masks.take_along_dim(indices.clamp(min=0)[:, :, None, None], dim=1)
    masks[indices < 0] = 50.0  # means nothing
    some = SimpleNamespace(**{**vars(outputs), "pred_masks": masks}, mask_query_indices=indices)

    sizes = [(48, 64), (30, 20), (33, 50)]
    results, expected = all_results(processor, some, sizes), all_results(processor, outputs, sizes)
    for result, wanted in zip(results, expected, strict=True):
        del result[2], wanted[2]  # classes of pixels are summed over the queries that have masks
        assert result == wanted
    class_maps = processor.post_process_semantic_segmentation(some)
    for image, queries in enumerate(needed):
        chosen = queries.sort().values
        alone = SimpleNamespace(
            logits=outputs.logits[[image]][:, chosen], pred_masks=outputs.pred_masks[[image]][:, chosen]
        )
        assert torch.equal(processor.post_process_semantic_segmentation(alone)[0], class_maps[image])


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("mask_threshold", [0.5, 0.8])
def test_each_detection_has_its_querys_mask(processor, mask_threshold, monkeypatch) -> None:
    monkeypatch.setattr(segments, "CHUNK", 7000)
    outputs = random_outputs(4, is_sigmoid(processor))
    sizes = [(48, 64), (30, 20), (7, 90)]
    options = {"threshold": 0.3, "target_sizes": sizes, "top_k": 30}
    results = masks_of(outputs, processor.classes, mask_threshold=mask_threshold, **options)
    expected = processor.post_process_object_detection(outputs, **options)
    found = []
    for image, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        for name, values in wanted.items():
            assert torch.equal(result[name], values)
        assert len(result["masks"]) == len(wanted["scores"])
        logits = outputs.logits[image]
        probabilities = logits.sigmoid() if is_sigmoid(processor) else logits.softmax(-1)
        full = functional.interpolate(outputs.pred_masks[[image]], sizes[image], mode="bilinear")[0].sigmoid()
        for score, label, mask in zip(result["scores"], result["labels"], result["masks"], strict=True):
            (query,) = (probabilities[:, label] == score).nonzero()[:, 0].tolist()
            assert isinstance(mask["counts"], str) and mask["size"] == list(sizes[image])
            pixels = torch.from_numpy(coco_mask.decode(mask)).bool()
            sure = (full[query] - mask_threshold).abs() > 1e-5
            assert torch.equal(pixels[sure], (full[query] > mask_threshold)[sure])
            found.append((image, query))
    assert len(found) > 20
    if is_sigmoid(processor):
        assert len(set(found)) < len(found)  # a query detected with two classes


@pytest.mark.parametrize("sigmoid", [True, False])
def test_what_has_no_mask_is_not_detected(sigmoid: bool) -> None:
    outputs, classes = random_outputs(0, sigmoid), SigmoidClasses() if sigmoid else SoftmaxClasses()
    whole = masks_of(outputs, classes, [(48, 64)] * 3, threshold=0.3, top_k=10_000)
    kept = SimpleNamespace(
        **{**vars(outputs), "logits": outputs.logits[:, :3], "pred_boxes": outputs.pred_boxes[:, :3]}
    )
    kept.pred_masks = outputs.pred_masks[:, :3]
    expected = masks_of(kept, classes, [(48, 64)] * 3, threshold=0.3, top_k=10_000)
    outputs.mask_query_indices = torch.arange(3).expand(3, 3)
    outputs.pred_masks = outputs.pred_masks[:, :3]
    found = masks_of(outputs, classes, [(48, 64)] * 3, threshold=0.3, top_k=10_000)
    for some, same in zip(found, expected, strict=True):
        assert some["masks"] == same["masks"] and torch.equal(some["scores"], same["scores"])
    assert 0 < len(found[0]["scores"]) < len(whole[0]["scores"])


def test_tied_scores_of_bfloat16_do_no_harm() -> None:
    """300 queries whose scores tie by the hundred: models and detections may break ties otherwise."""
    torch.manual_seed(0)
    model = ConditionalDetrForSegmentation(small_config(num_queries=300, num_labels=8)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(1, 3, 64, 64), mask_score_threshold=0.0, mask_limit=100)
    (found,) = masks_of(outputs, SigmoidClasses(), [(64, 64)], threshold=0.0)
    assert len(found["masks"]) == len(found["scores"]) == 100


def panoptic_case(masks: list[str], labels: list[int], scores: list[float]) -> SimpleNamespace:
    """Sigmoid classes; masks drawn as rows of digits, the logit of each pixel."""
    drawn = [[[float(digit) for digit in row] for row in mask.split()] for mask in masks]
    logits = torch.full((1, len(labels), 4), -9.0)
    logits[0, range(len(labels)), labels] = torch.tensor(scores).logit()
    return SimpleNamespace(logits=logits, pred_masks=torch.tensor([drawn]))


THINGS = [True, True, False, False]


def test_panoptic_merging_by_hand() -> None:
    outputs = panoptic_case(
        [
            "99990000 99990000 00000000 00000000",  # stuff 2
            "00000000 00000000 88880000 88880000",  # thing 0
            "00000000 00000000 00000000 00000999",  # thing 1, 3 pixels: left out, query 4 gets them
            "99999999 99999999 99999999 99999999",  # too unsure
            "00007777 00007777 00007777 00007777",  # stuff 2 again
            "00000000 00000000 00008880 00000000",  # thing 0, 3 pixels too
        ],
        labels=[2, 0, 1, 3, 2, 0],
        scores=[0.9, 0.95, 0.99, 0.8, 0.97, 0.9],
    )
    (result,) = merge_panoptic(MaskPredictions.of(outputs), SigmoidClasses(), [(4, 8)], THINGS)
    assert result["segmentation"].dtype == torch.int32
    assert result["segmentation"].tolist() == [[1] * 8] * 2 + [[2] * 4 + [1] * 4] * 2
    assert [item.pop("score") for item in result["segments_info"]] == pytest.approx([0.97, 0.95])
    assert result["segments_info"] == [
        {"id": 1, "label_id": 2, "isthing": False, "area": 24},
        {"id": 2, "label_id": 0, "isthing": True, "area": 8},
    ]
    (result,) = merge_panoptic(MaskPredictions.of(outputs), SigmoidClasses(), [(4, 8)], THINGS, min_pixels=2)
    assert [item["area"] for item in result["segments_info"]] == [18, 8, 3, 3]
    assert result["segmentation"][2:].tolist() == [[2, 2, 2, 2, 4, 4, 4, 1], [2, 2, 2, 2, 1, 3, 3, 3]]


def test_panoptic_merging_counts_pixels_of_the_target() -> None:
    outputs = panoptic_case(["90 00", "09 99"], labels=[0, 1], scores=[0.9, 0.9])
    (small,) = merge_panoptic(MaskPredictions.of(outputs), SigmoidClasses(), [(2, 2)], THINGS)
    assert small["segments_info"] == [] and not small["segmentation"].any()  # neither has more than 4
    (large,) = merge_panoptic(MaskPredictions.of(outputs), SigmoidClasses(), [(8, 8)], THINGS)
    ids = large["segmentation"]
    assert [item["area"] for item in large["segments_info"]] == [(ids == 1).sum(), (ids == 2).sum()]
    assert ids[0, 0] == 1 and ids[7, 7] == 2 and 4 < (ids == 1).sum() <= 16
    (equal,) = merge_panoptic(
        MaskPredictions.of(panoptic_case(["55 55", "55 55"], [0, 1], [0.9, 0.99])), SigmoidClasses(), [(4, 4)], THINGS
    )
    assert [(item["label_id"], item["area"]) for item in equal["segments_info"]] == [(0, 16)]  # the first of equals


def test_panoptic_merging_reads_detrs_last_class_as_no_object() -> None:
    outputs = random_outputs(5)
    results = merge_panoptic(
        MaskPredictions.of(outputs), SoftmaxClasses(), [(48, 64)] * 3, [True] * 3 + [False] * 3, threshold=0.6
    )
    scores, labels = outputs.logits.softmax(-1).max(-1)
    for image, result in enumerate(results[:2]):
        kept = ((scores[image] > 0.6) & (labels[image] < CLASSES)).nonzero()[:, 0]
        full = functional.interpolate(outputs.pred_masks[[image]][:, kept], (48, 64), mode="bilinear")[0]
        label_map = torch.tensor([0] + [item["label_id"] for item in result["segments_info"]])[result["segmentation"]]
        assert (result["segmentation"] > 0).all()
        assert torch.equal(label_map, labels[image, kept][full.softmax(0).argmax(0)])
        stuff = [item["label_id"] for item in result["segments_info"] if not item["isthing"]]
        assert len(stuff) == len(set(stuff))
        assert {item["label_id"] for item in result["segments_info"] if item["isthing"]} <= {0, 1, 2}
    assert results[2]["segments_info"] == [] and not results[2]["segmentation"].any()


@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_does_not_fit_is_named(processor) -> None:
    outputs = random_outputs(0)
    methods = [
        processor.post_process_instance_segmentation,
        processor.post_process_semantic_segmentation,
        processor.post_process_panoptic_segmentation,
    ]
    for method in methods:
        with pytest.raises(ValueError, match="target_sizes must have one .* the 3 images, got 2"):
            method(outputs, target_sizes=[(4, 4)] * 2)
        with pytest.raises(ValueError, match=r"must be \(height, width\) of each image, got \[480, 640\]"):
            method(outputs, target_sizes=[480, 640])
        with pytest.raises(ValueError, match="no pred_masks: use a ...ForSegmentation model"):
            method(SimpleNamespace(logits=outputs.logits))
        with pytest.raises(ValueError, match="5 masks for 20 queries need mask_query_indices"):
            method(SimpleNamespace(logits=outputs.logits, pred_masks=outputs.pred_masks[:, :5]))
    with pytest.raises(ValueError, match="is_thing must have one value for each of the model's 6 classes, got 2"):
        merge_panoptic(MaskPredictions.of(outputs), SoftmaxClasses(), [(4, 4)] * 3, [True, False])
