"""A training run of a few seconds."""

from small_models import SMALL

from conditional_detr.data.augmentation import Augmentation
from conditional_detr.train.recipe import Recipe


def small_recipe(data, output, model=None, **values):
    defaults = dict(
        data=str(data),
        output=str(output),
        model={**SMALL, "auxiliary_loss": True, **(model or {})},
        image_size=64,
        max_size=128,
        augmentation=Augmentation(scales=[48, 64], max_size=128, crop=0.5, crop_scales=[64], crop_min=32, crop_max=48),
        epochs=2,
        batch_size=8,
        lr=1e-3,
        backbone_lr=1e-3,
        workers=0,
        log_steps=1,
        tensorboard=False,
    )
    return Recipe(**{**defaults, **values})
