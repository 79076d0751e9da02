"""The classes of `conditional_detr` as transformers' own: configurations, models and processors that inherit from its."""

from .auto_processor import *  # noqa: F403
from .image_processor import *  # noqa: F403
