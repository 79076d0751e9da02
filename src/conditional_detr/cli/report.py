"""`cdetr report`: what a model is good at and where it fails, as a page and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_device,
    add_image_size,
    add_model,
    add_panoptic_threshold,
    add_speed,
    add_split,
    add_task,
    add_threads,
    add_workers,
    check_task,
    image_size_of,
    speed_of,
    values_of,
)
from .parser import CommandParser
from .progress import progress
from .threads import use_threads
from .usage import UsageError

if TYPE_CHECKING:
    from ..predict.detector import Detector
    from ..report.figures import Report


def run(arguments: list[str]) -> None:
    values = values_of(_parser(), arguments)
    check_task(values)
    if values["resamples"] < 0:
        raise UsageError(f"--resamples is {values['resamples']}; it is a number of resamples, or 0 to choose")
    data, output = Path(values["data"]).resolve(), Path(values["output"]).resolve()
    if output == data or data in output.parents:
        raise UsageError(
            f"--output is {values['output']}, in the data set's folder, where nothing is written; name one outside"
        )
    use_threads(values["threads"])
    _report(values)


def _parser() -> CommandParser:
    parser = CommandParser(
        "report",
        "Evaluate a model and look at what it finds from all sides: figures with intervals, what each kind of mistake costs, "
        "thresholds, calibration, the worst images, labels that look wrong. Writes a page, report.html, and report.json.",
    )
    add_model(parser)
    parser.add_argument("--data", type=str, required=True, help="folder of a data set: COCO, YOLO, Pascal VOC, …")
    add_split(parser)
    parser.add_argument("--output", type=str, default="report", help="folder to write to")
    parser.add_argument(
        "--compare", type=str, default="", help="another model, to say whether it differs by more than chance"
    )
    add_task(parser)
    add_panoptic_threshold(parser)
    parser.add_argument(
        "--resamples",
        type=int,
        default=0,
        help="bootstrap resamples of the images; 0: as many as a minute allows, at most 1,000",
    )
    parser.add_argument(
        "--learning_curve",
        type=bool,
        default=False,
        help="also train at 25 and 50 %% of the data with the model's recipe, and say what more images would bring: takes as "
        "long as two or three trainings",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="images of a batch")
    add_workers(parser)
    add_speed(parser)
    add_threads(parser)
    add_image_size(parser)
    add_device(parser)
    parser.add_argument(
        "--skip_bad_images", type=bool, default=False, help="count unreadable images instead of stopping"
    )
    return parser


def _report(values: dict[str, Any]) -> None:
    from ..data.splits import read_split
    from ..messages import printable
    from ..predict.detector import Detector
    from ..report.learning_curve import learning_curve, plan
    from ..report.make import FIGURES, PAGE, make_report, write_report
    from ..workers import worker_count

    output = Path(values["output"])
    planned = None
    if values["learning_curve"]:
        planned = plan(Path(values["model"]), values["data"], values["shares"], output)

    options = {"device": values["device"] or None, **speed_of(values), **image_size_of(values)}
    detector = Detector.from_pretrained(values["model"], **options)
    other = None
    if values["compare"]:
        other = Detector.from_pretrained(values["compare"], **options), values["compare"]
    task, skip_bad = values["task"] or detector.model.task, values["skip_bad_images"]
    dataset = read_split(values["data"], values["split"], task, skip_bad, values["shares"])
    print("\n".join(dataset.summary()))

    def report_on(detector: Detector, model: str, other: tuple[Detector, str] | None = None) -> Report:
        with progress("evaluating", len(dataset) * (2 if other else 1), True) as advance:
            return make_report(
                detector,
                model,
                dataset,
                data_name=f"{values['data']} ({values['split']})",
                other=other,
                resamples=values["resamples"],
                progress=advance,
                batch_size=values["batch_size"],
                workers=worker_count(values["workers"], detector.model.device.type),
                skip_bad=skip_bad,
                panoptic_threshold=values["panoptic_threshold"],
            )

    report = report_on(detector, values["model"], other)
    if planned is not None:
        print(planned.describe())
        report.learning_curve = learning_curve(
            planned, report, lambda model: report_on(Detector.from_pretrained(model, **options), str(model))
        )
    write_report(report, output)
    low, high = report.intervals().get("AP") or (-1.0, -1.0)
    print(
        f"{report.metrics.describe()}; 95 % of {report.resamples:,} resamples of the images have AP {low:.3f} to {high:.3f}"
    )
    if report.comparison is not None:
        print(f"against {values['compare']}: {report.comparison['verdict']}")
    print(f"page {printable(output / PAGE)}, figures {printable(output / FIGURES)}")
