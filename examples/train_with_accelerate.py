"""Fine-tune with a training loop of your own and Accelerate: any number of processes, mixed precision.

    accelerate launch examples/train_with_accelerate.py --data path/to/coco --output runs/accelerate

`--init` takes a folder, an original `.pth` file or a hub name, of either family.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from coco_batches import Collate, Pictures, classes_of
from torch.utils.data import DataLoader

from conditional_detr import AutoImageProcessor, AutoModelForObjectDetection
from conditional_detr.data.splits import read_split
from conditional_detr.evaluate.evaluation import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a COCO data set")
    parser.add_argument("--init", default="microsoft/conditional-detr-resnet-50")
    parser.add_argument("--output", default="runs/accelerate")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=None, help="stop after so many steps, whatever the epochs")
    parser.add_argument("--batch_size", type=int, default=4, help="images of a process")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    options = parser.parse_args()

    set_seed(0)
    accelerator = Accelerator(mixed_precision=options.precision)
    train, val = read_split(options.data, "train"), read_split(options.data, "val")
    processor = AutoImageProcessor.from_pretrained(options.init)
    model = AutoModelForObjectDetection.from_pretrained(
        options.init, **classes_of(train), auxiliary_loss=True, attention_dropout=0.1, activation_dropout=0.1
    )
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": options.lr / 10},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, weight_decay=1e-4)
    loader = DataLoader(
        Pictures(train, flip=True),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        collate_fn=Collate(processor),
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    model.train()
    epochs = (batch for _ in range(options.epochs) for batch in loader)
    for step, batch in enumerate(itertools.islice(epochs, options.steps)):
        loss = model(**batch).loss  # divided by the objects of all processes
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        if step % 10 == 0:
            accelerator.print(f"step {step}: loss {loss.item():.3f}")

    detector = accelerator.unwrap_model(model)
    scores = evaluate(detector, processor, val, batch_size=options.batch_size, workers=options.workers)
    metrics = {name: scores.summary[name] for name in ("AP", "AP50", "AP75")} if scores else {}
    accelerator.print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    detector.save_pretrained(
        options.output,
        is_main_process=accelerator.is_main_process,
        state_dict=accelerator.get_state_dict(model),
        dataset=Path(options.data).name,
        metrics=metrics,
    )
    if accelerator.is_main_process:
        processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
