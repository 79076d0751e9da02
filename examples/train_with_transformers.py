"""Fine-tune with `transformers.Trainer`.

    python examples/train_with_transformers.py --data path/to/coco --output runs/trainer

`--init` takes a folder, an original `.pth` file or a hub name, of either family.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from coco_batches import Collate, Pictures, classes_of
from transformers import Trainer, TrainingArguments

from conditional_detr.data.splits import read_split
from conditional_detr.evaluate.evaluation import evaluate
from conditional_detr.transformers import AutoImageProcessor, AutoModelForObjectDetection


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a COCO data set")
    parser.add_argument("--init", default="microsoft/conditional-detr-resnet-50")
    parser.add_argument("--output", default="runs/trainer")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many steps, whatever the epochs")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

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
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.output,
            num_train_epochs=options.epochs,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            max_grad_norm=0.1,
            dataloader_num_workers=options.workers,
            remove_unused_columns=False,  # the collator needs the pictures
            eval_strategy="epoch",
            prediction_loss_only=True,
            logging_steps=10,
            report_to="none",
        ),
        data_collator=Collate(processor),
        train_dataset=Pictures(train, flip=True),
        eval_dataset=Pictures(val, flip=False),
        processing_class=processor,
        optimizers=(torch.optim.AdamW(groups, lr=options.lr, weight_decay=1e-4), None),
    )
    trainer.train()

    scores = evaluate(model, processor, val, batch_size=options.batch_size, workers=options.workers)
    metrics = {name: scores.summary[name] for name in ("AP", "AP50", "AP75")} if scores else {}
    print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    if trainer.is_world_process_zero():
        model.save_pretrained(options.output, dataset=Path(options.data).name, metrics=metrics)
        processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
