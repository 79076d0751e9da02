"""What transformers' common tests of models ask for: a small configuration and inputs. `test_their_tests.py` copies this
file among transformers' tests, once for each family, and runs it there, as it is and with its classes imported from this
package; alone it does nothing.
"""

import unittest

import torch
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    ConditionalDetrForSegmentation,
    ConditionalDetrModel,
    DetrConfig,
    DetrForObjectDetection,
    DetrForSegmentation,
    DetrModel,
    ResNetConfig,
)
from transformers.testing_utils import torch_device

from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, floats_tensor

IMAGES, SIDE, OBJECTS, QUERIES, LABELS = 2, 64, 3, 12, 9


class Sizes:
    """What `ModelTesterMixin` reads of a model's own tester."""

    hidden_size, num_hidden_layers, num_attention_heads, num_queries = 32, 2, 8, QUERIES
    batch_size, num_labels, is_training, seq_length = IMAGES, LABELS, True, QUERIES
    encoder_seq_length, decoder_seq_length = (SIDE // 32) ** 2, QUERIES

    def __init__(self, config_class):
        self.config_class = config_class

    def get_config(self):
        backbone = ResNetConfig(
            embedding_size=10,
            hidden_sizes=[10, 20, 32, 40],
            depths=[1, 1, 2, 1],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        sizes = dict(encoder_layers=2, decoder_layers=2, encoder_ffn_dim=4, decoder_ffn_dim=4)
        heads = dict(encoder_attention_heads=8, decoder_attention_heads=8)
        return self.config_class(
            d_model=32, num_queries=QUERIES, num_labels=LABELS, use_timm_backbone=False, backbone_config=backbone,
            **sizes, **heads,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self):
        pixels = floats_tensor([IMAGES, 3, SIDE, SIDE])
        return self.get_config(), {
            "pixel_values": pixels,
            "pixel_mask": torch.ones(IMAGES, SIDE, SIDE, device=torch_device),
        }


class Common(ModelTesterMixin):
    is_encoder_decoder = True
    test_missing_keys = False
    zero_init_hidden_state = True

    def setUp(self):
        self.model_tester = Sizes(self.config_class)
        self.config_tester = ConfigTester(self, config_class=self.config_class, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and "For" in model_class.__name__:
            label = {
                "class_labels": torch.ones(OBJECTS, dtype=torch.long, device=torch_device),
                "boxes": torch.full((OBJECTS, 4), 0.5, device=torch_device),
                "masks": torch.ones(OBJECTS, SIDE, SIDE, device=torch_device),
            }
            inputs["labels"] = [dict(label) for _ in range(IMAGES)]
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()


class SharedTests(Common, unittest.TestCase):
    if ".detr." in __name__:
        config_class = DetrConfig
        all_model_classes = (DetrModel, DetrForObjectDetection, DetrForSegmentation)
    else:
        config_class = ConditionalDetrConfig
        all_model_classes = (ConditionalDetrModel, ConditionalDetrForObjectDetection, ConditionalDetrForSegmentation)
