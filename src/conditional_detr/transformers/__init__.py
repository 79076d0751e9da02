"""The classes of `conditional_detr` as transformers' own: configurations, models and processors that inherit from its."""

from .image_processor import *  # noqa: F403
