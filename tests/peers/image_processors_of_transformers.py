"""What a family adds to transformers' common tests of image processors. `test_their_tests.py` copies this file among
transformers' tests, once for each family, and runs it there, as it is and with its classes imported from this package;
alone it does nothing.
"""

import unittest
from types import SimpleNamespace

import torch

from ...test_image_processing_common import (
    AnnotationFormatTestMixin,
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)


class Tester(ImageProcessingTester):
    def __init__(self, parent, **options):
        size = {"shortest_edge": 18, "longest_edge": 1333}
        half = [0.5, 0.5, 0.5]
        defaults = dict(size=size, image_mean=half, image_std=half, do_pad=True, do_resize=True, num_labels=5)
        super().__init__(parent, **{**defaults, **options})

    def prepare_post_process_semantic_segmentation_inputs(self):
        classes = self.num_labels + (".detr." in __name__)
        logits, masks = torch.randn(self.batch_size, 6, classes), torch.randn(self.batch_size, 6, 12, 16)
        expected = {"num_labels": self.num_labels, "height": 12, "width": 16}
        return {"outputs": SimpleNamespace(logits=logits, pred_masks=masks)}, expected


class SharedTests(
    PostProcessSemanticSegmentationTestMixin, AnnotationFormatTestMixin, ImageProcessingTestMixin, unittest.TestCase
):
    image_processor_tester_class = Tester
