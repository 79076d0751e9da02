"""What habits find around them: small models, their files, a picture with annotations."""

import copy
import importlib
import inspect
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from small_models import SMALL

from conditional_detr import ConditionalDetrConfig, ConditionalDetrForObjectDetection, ConditionalDetrImageProcessor

GROUPS = ("loading", "saving", "configuration", "modelling", "outputs", "training", "processing", "ecosystem")
TINY = {
    "backbone": "test_resnet",  # timm's smallest with four stages, which masks need
    "encoder_attention_heads": 8,  # a mask head divides by 8
    "decoder_attention_heads": 8,
}
NAMES = {0: "cat", 1: "dog", 2: "bird"}


def habits():
    """(group, function) of all of them."""
    for group in GROUPS:
        module = importlib.import_module(f"habits.{group}")
        for function in list(vars(module).values()):
            if inspect.isfunction(function) and function.__module__ == module.__name__ and function.__name__[0] != "_":
                yield group, function


def save_checkpoint(folder):
    """A model of random weights and its processor, as both libraries read them."""
    torch.manual_seed(0)
    values = {**SMALL, "backbone_norm": "frozen", "output_stride": 32, "id2label": NAMES, **TINY}
    ConditionalDetrForObjectDetection(ConditionalDetrConfig(**values)).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    ConditionalDetrImageProcessor(size=size).save_pretrained(folder)


class World:
    """Of one habit: everything is made when it is asked for, and anew."""

    loaded = {}  # module -> its model, to be copied

    def __init__(self, module, folder, tmp):
        self.t, self.folder, self.tmp = importlib.import_module(module), str(folder), tmp

    def call(self, habit):
        habit(**{name: getattr(self, name) for name in inspect.signature(habit).parameters})

    @property
    def Model(self):
        return self.t.ConditionalDetrForObjectDetection

    @property
    def Config(self):
        return self.t.ConditionalDetrConfig

    @property
    def Processor(self):
        return self.t.ConditionalDetrImageProcessor

    @cached_property
    def config(self):
        return self.Config.from_pretrained(self.folder)

    @cached_property
    def model(self):
        if self.t not in self.loaded:
            self.loaded[self.t] = self.Model.from_pretrained(self.folder)
        return copy.deepcopy(self.loaded[self.t])

    @cached_property
    def processor(self):
        return self.Processor.from_pretrained(self.folder)

    @cached_property
    def image(self):
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))

    @cached_property
    def annotation(self):
        box = [8.0, 10.0, 20.0, 16.0]
        one = {"image_id": 7, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "id": 1}
        return {"image_id": 7, "annotations": [one]}

    @cached_property
    def pixels(self):
        return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    @cached_property
    def labels(self):
        return [
            {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.4, 0.5, 0.3, 0.4], [0.6, 0.3, 0.2, 0.2]])},
            {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])},
        ]

    @cached_property
    def output(self):
        with torch.no_grad():
            return self.model(self.pixels)

    @cached_property
    def samples(self):
        """A data set as Trainer takes it."""
        label = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
        pixels = torch.zeros(3, 64, 64)
        return [{"pixel_values": pixels, "pixel_mask": torch.ones(64, 64), "labels": label}] * 4
