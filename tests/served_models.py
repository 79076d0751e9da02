"""Small models to be served, and pictures to be sent."""

import io
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from PIL import Image
from small_models import randomise

from conditional_detr import ConditionalDetrImageProcessor
from conditional_detr.serve.limits import Limits
from conditional_detr.serve.run import HttpServer, bound_socket

NAMES = ["cat", "<img src=x onerror=alert(1)>", "é 日本"]  # as users may call classes


def save(model, folder):
    randomise(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # scores of every size for every class, as trained models give
        for name, parameter in model.named_parameters():
            if "class_labels_classifier" in name:
                parameter.normal_(0, 0.1, generator=generator)
    model.config.id2label = dict(enumerate(NAMES))
    model.save_pretrained(folder)
    ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


def picture(width=90, height=60, kind="JPEG", seed=0):
    """The bytes of a picture file; another seed, another picture."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(file, kind)
    return file.getvalue()


@contextmanager
def held(detector):
    """The model waits in the block: the first batch has begun once `begun` is set."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        assert go_on.wait(60)

    handle = detector.model.register_forward_pre_hook(wait)
    try:
        yield begun
    finally:
        handle.remove()
        go_on.set()


@contextmanager
def served(app):
    """A real server of an app in a thread, for as long as the block lasts: its port, and what stops it. Requests that it has
    are answered at the end."""
    listener, heard = bound_socket("127.0.0.1", 0), threading.Event()
    server = HttpServer(app, Limits(), heard.set)
    thread = threading.Thread(target=server.serve_on, args=(listener,))
    thread.start()
    try:
        assert heard.wait(60)
        yield listener.getsockname()[1], partial(setattr, server, "should_exit", True)
    finally:
        server.should_exit = True
        thread.join()
