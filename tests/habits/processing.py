"""Image processors: from pictures and annotations to batches, and from outputs to results."""

import json

import numpy as np
import pytest
import torch
from PIL import Image


def one_picture(processor, image):
    batch = processor(image, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 64, 85) and batch["pixel_mask"].shape == (1, 64, 85)


def pictures_of_several_sizes(processor, image):
    batch = processor(images=[image, image.rotate(90, expand=True)], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 85, 85) and batch["pixel_mask"][1, 0, -1] == 0


def arrays_and_tensors(processor, image):
    array = np.asarray(image)
    expected = processor(image, return_tensors="pt").pixel_values
    for one in (array, array.transpose(2, 0, 1), torch.from_numpy(array.transpose(2, 0, 1).copy())):
        torch.testing.assert_close(processor(one, return_tensors="pt").pixel_values, expected)


def by_attribute_and_to_a_device(processor, image):
    batch = processor(image, return_tensors="pt").to("cpu")
    assert batch.pixel_values is batch["pixel_values"] and set(batch) == {"pixel_values", "pixel_mask"}


def is_a_batch_of_transformers(processor, image):
    from transformers import BatchFeature

    assert isinstance(processor(image, return_tensors="pt"), BatchFeature)


def is_a_processor_of_transformers(processor):
    from transformers.image_processing_utils import BaseImageProcessor

    assert isinstance(processor, BaseImageProcessor)


def to_another_type(processor, image):
    assert processor(image, return_tensors="pt").to(torch.float16).pixel_values.dtype == torch.float16


def numpy_batches(processor, image):
    pytest.importorskip("numpy")
    assert np.asarray(processor(image, return_tensors="pt")["pixel_values"]).dtype == np.float32


def annotations_of_one_picture(processor, image, annotation):
    label = processor(images=image, annotations=annotation, return_tensors="pt")["labels"][0]
    assert (
        label["class_labels"].tolist() == [1]
        and label["boxes"].shape == (1, 4)
        and label["orig_size"].tolist() == [48, 64]
    )
    torch.testing.assert_close(label["boxes"][0], torch.tensor([18 / 64, 18 / 48, 20 / 64, 16 / 48]))


def annotations_of_several(processor, image, annotation):
    batch = processor(images=[image, image], annotations=[annotation, annotation], return_tensors="pt")
    assert len(batch["labels"]) == 2 and batch["labels"][1]["image_id"].item() == 7


def names_of_labels(processor, image, annotation):
    label = processor(images=image, annotations=annotation, return_tensors="pt")["labels"][0]
    assert {"size", "image_id", "class_labels", "boxes", "area", "iscrowd", "orig_size"} <= set(label)


def switched_off(processor, image):
    batch = processor(image, do_resize=False, do_rescale=False, do_normalize=False, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 48, 64) and batch["pixel_values"].max() > 2


def another_size_in_a_call(processor, image):
    size = {"height": 32, "width": 32}
    assert processor(image, size=size, return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)


def greatest_sides(Processor, image):
    processor = Processor(size={"max_height": 40, "max_width": 40})
    assert processor(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 30, 40)


def padded_to_a_size(Processor, image):
    processor = Processor(size={"max_height": 40, "max_width": 40}, do_pad=True, pad_size={"height": 40, "width": 40})
    batch = processor([image, image], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 40, 40) and batch["pixel_mask"].sum() == 2 * 30 * 40


def no_padding(processor, image):
    assert "pixel_mask" not in processor(image, do_pad=False, return_tensors="pt")


def older_name_of_padding(Processor):
    assert Processor(pad_and_return_pixel_mask=False).do_pad is False


def own_mean(Processor, image):
    processor = Processor(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
    assert processor(image, return_tensors="pt")["pixel_values"].abs().max() <= 1


def defaults_of_the_class(Processor):
    assert Processor.model_input_names == ["pixel_values", "pixel_mask"]
    assert Processor().size["shortest_edge"] == 800 and Processor().size["longest_edge"] == 1333


def class_attributes(Processor):
    assert Processor.do_resize and Processor.do_pad and list(Processor.image_mean) == [0.485, 0.456, 0.406]


def attributes_set_later(processor, image):
    processor.do_resize = False
    assert processor(image, return_tensors="pt")["pixel_values"].shape[-2:] == (48, 64)


def printed(processor):
    assert "do_resize" in repr(processor) and json.loads(processor.to_json_string())["do_pad"]


def values_as_keywords_of_loading(Processor, folder):
    assert Processor.from_pretrained(folder, do_normalize=False).do_normalize is False


def auto_processor_with_its_older_switch(t, folder):
    assert t.AutoImageProcessor.from_pretrained(folder, use_fast=True).do_resize


def processor_under_older_names(t, folder):
    assert t.ConditionalDetrImageProcessorFast.from_pretrained(folder).do_pad


def processor_that_computes_in_pillow(t, folder, image):
    processor = t.ConditionalDetrImageProcessorPil.from_pretrained(folder)
    assert processor(image, return_tensors="pt")["pixel_values"].shape[1] == 3


def channels_last_said(processor, image):
    batch = processor(np.asarray(image), input_data_format="channels_last", return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 64, 85)


def one_channel(Processor, image):
    processor = Processor(image_mean=[0.5], image_std=[0.5], do_convert_rgb=False, size={"height": 32, "width": 32})
    batch = processor(np.asarray(image.convert("L"))[..., None], return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 1, 32, 32)


def four_channels(Processor, image):
    processor = Processor(image_mean=[0.5] * 4, image_std=[0.5] * 4, size={"height": 32, "width": 32})
    batch = processor(np.asarray(image.convert("RGBA")), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 4, 32, 32)


def one_step_resizing(processor):
    from transformers.image_utils import SizeDict

    made = processor.resize(torch.zeros(1, 3, 48, 64), SizeDict(height=24, width=32))
    assert made.shape == (1, 3, 24, 32)


def one_step_normalizing(processor):
    made = processor.normalize(torch.ones(1, 3, 4, 4), [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    torch.testing.assert_close(made, torch.ones(1, 3, 4, 4))


def one_step_rescaling(processor):
    torch.testing.assert_close(processor.rescale(torch.full((1, 3, 2, 2), 255.0), 1 / 255), torch.ones(1, 3, 2, 2))


def one_step_padding(processor):
    made = processor.pad(torch.ones(3, 4, 6), (8, 8))
    assert made[0].shape == (3, 8, 8)


def one_step_annotations(processor, image, annotation):
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    made = processor.prepare_annotation(pixels, annotation, format="coco_detection", input_data_format="channels_first")
    assert made["class_labels"].tolist() == [1] and made["boxes"].tolist() == [[8.0, 10.0, 28.0, 26.0]]


def detections(processor, output):
    found = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(48, 64), (48, 64)])
    assert len(found) == 2 and set(found[0]) == {"scores", "labels", "boxes"} and found[0]["boxes"].shape[1] == 4


def detections_with_sizes_in_a_tensor(processor, output):
    sizes = torch.tensor([[48, 64], [48, 64]])
    found = processor.post_process_object_detection(output, target_sizes=sizes, threshold=0.0)
    assert found[0]["boxes"].max() > 1


def detections_without_sizes(processor, output):
    assert processor.post_process_object_detection(output, threshold=0.0)[0]["boxes"].max() <= 2


def detections_of_a_pictures_size(processor, output, image):
    sizes = [image.size[::-1]] * 2
    assert len(processor.post_process_object_detection(output, 0.0, sizes)) == 2


def detections_of_ones_own_class(processor, output):
    class Mine:
        logits, pred_boxes = output.logits, output.pred_boxes

    assert len(processor.post_process_object_detection(Mine(), threshold=0.0, target_sizes=[(4, 4)] * 2)) == 2


def best_few(processor, output):
    found = processor.post_process_object_detection(output, threshold=0.0, top_k=3)
    assert len(found[0]["scores"]) == 3


def wrong_number_of_sizes(processor, output):
    with pytest.raises(ValueError, match="target"):
        processor.post_process_object_detection(output, target_sizes=[(48, 64)])


def masks(t, processor, folder, pixels):
    output = t.ConditionalDetrForSegmentation.from_pretrained(folder)(pixels)
    found = processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=[(48, 64)] * 2)
    assert found[0]["segmentation"].shape == (48, 64) and isinstance(found[0]["segments_info"], list)


def class_maps(t, processor, folder, pixels):
    output = t.ConditionalDetrForSegmentation.from_pretrained(folder)(pixels)
    assert processor.post_process_semantic_segmentation(output, target_sizes=[(48, 64)] * 2)[0].shape == (48, 64)


def a_list_of_paths_opened(processor, image, tmp):
    image.save(tmp / "a.png")
    with Image.open(tmp / "a.png") as opened:
        assert processor(opened.convert("RGB"), return_tensors="pt")["pixel_values"].shape[0] == 1
