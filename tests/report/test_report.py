"""`cdetr report` says what `cdetr eval` says, and more, in a page that a browser opens and that needs nothing else."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from small_models import randomise, small_model

from conditional_detr import cli
from conditional_detr.models.family import family_of
from conditional_detr.processors.auto_processor import image_processor_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "img", "br", "link", "input", "hr"}
NASTY = "<script>document.title='run'</script>"


def save_model(folder, names, seed=0, family="conditional_detr", masks=False, **values):
    torch.manual_seed(seed)
    values = dict(num_labels=len(names), id2label=dict(enumerate(names)), **values)
    model = small_model(family, **values)
    if masks:
        model = family_of(family).segmenter(model.config)
    randomise(model, seed).save_pretrained(folder)
    image_processor_of(type(model.config))(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


def names_of(data, split="val"):
    return [c["name"] for c in json.loads((data / f"annotations/{split}.json").read_text())["categories"]]


def report(*arguments, output):
    code = cli.main(["report", *map(str, arguments), "--output", str(output), "--workers", "0", "--threads", "1"])
    assert code == 0
    return json.loads((output / "report.json").read_text()), (output / "report.html").read_text()


@pytest.fixture(scope="module")
def made(scenes_and_models, tmp_path_factory):
    """A report of two models on generated scenes, with the log of a run beside one."""
    data, model, other = scenes_and_models
    rows = [{"kind": "train", "step": 1, "epoch": 0.5, "loss_ce": 1.0, "loss_bbox": 0.5, "loss_giou": 0.7}]
    (model.parent / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "not a row\n")
    output = tmp_path_factory.mktemp("report")
    return *report("--model", model, "--data", data, "--compare", other, "--resamples", 50, output=output), output


@pytest.fixture(scope="module")
def scenes_and_models(scenes, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    models = [save_model(runs / str(seed) / "model", names_of(scenes), seed) for seed in (0, 1)]
    return scenes, *models


class Tags(HTMLParser):
    """The tags of a page, whether they close each other, and what it would load."""

    def __init__(self):
        super().__init__()
        self.open, self.names, self.ids, self.loads, self.links = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.names.append(tag)
        self.ids += [own["id"]] if "id" in own else []
        self.loads += [own[name] for name in ("src", "srcset", "data", "poster") if own.get(name)]
        if tag == "link" or (tag in ("use", "image") and "xlink:href" in own):
            self.loads.append(own.get("href") or own.get("xlink:href"))
        self.links += [own["href"]] if tag == "a" and "href" in own else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open.pop() == tag


def tags_of(html):
    tags = Tags()
    tags.feed(html)
    return tags


def test_its_figures_are_those_of_eval(scenes_and_models, made, tmp_path):
    data, model, _ = scenes_and_models
    arguments = ["eval", "--model", model, "--data", data, "--metrics", tmp_path / "m.json", "--workers", "0"]
    assert cli.main([str(a) for a in arguments]) == 0
    expected = json.loads((tmp_path / "m.json").read_text())
    classes = expected.pop("per_class")
    found, _, _ = made
    assert {name: row["value"] for name, row in found["figures"].items()} == expected
    for name, row in classes.items():
        assert found["per_class"][name]["objects"] == row["objects"]
        assert {figure: one["value"] for figure, one in found["per_class"][name]["figures"].items()} == {
            figure: row[figure] for figure in ("AP", "AP50")
        }


def test_the_json_holds_all_there_is(made):
    found, _, _ = made
    assert set(found) == {
        "model", "data", "task", "figures", "bootstrap", "per_class", "boxes", "confusion", "mistakes", "by_size",
        "by_objects", "suspected_labels", "speed", "run", "comparison", "learning_curve",
    }  # fmt: skip
    assert set(found["boxes"]) == {"tide", "calibration", "threshold", "class_thresholds", "precision_at_recall"}
    names = list(found["per_class"])
    assert sorted(found["confusion"]["classes"]) == sorted(names)
    assert [len(row) for row in found["confusion"]["matrix"]] == [len(names) + 1] * (len(names) + 1)
    for every in found["boxes"]["precision_at_recall"].values():
        assert all(values is None or len(values) == 101 for values in every.values())
    assert found["bootstrap"] == {"resamples": 50, "confidence": 0.95, "over": "images"}
    assert sum(row["images"] for row in found["by_objects"]) == found["data"]["images"] == 10
    assert sum(row["objects"] for row in found["by_size"]) == found["data"]["objects"]
    assert found["speed"]["images_per_second"] > 0 and found["model"]["parameters"] > 0
    assert [row["step"] for row in found["run"]] == [1]


def test_a_model_does_not_differ_from_itself(scenes_and_models, tmp_path):
    data, model, _ = scenes_and_models
    found, _ = report("--model", model, "--data", data, "--compare", model, "--resamples", 20, output=tmp_path / "r")
    for row in [*found["comparison"]["figures"].values(), *found["comparison"]["per_class"].values()]:
        assert row["difference"] in (0, None) and row["low"] in (0, None) and not row["clear"]
    assert "cannot be told from chance" in found["comparison"]["verdict"]


def test_the_page_is_whole_and_loads_nothing(made):
    _, html, _ = made
    tags = tags_of(html)
    assert tags.open == []
    outside = [source for source in tags.loads if source.removeprefix("#") not in tags.ids]
    assert outside and all(source.startswith("data:image/jpeg;base64,") for source in outside)
    assert "script" not in tags.names and "link" not in tags.names and "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert len(tags.ids) == len(set(tags.ids))
    assert {link.removeprefix("#") for link in tags.links} <= set(tags.ids)


def rendered(page, folder):
    """The page as a browser understands it, and what it complains of."""
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--enable-logging=stderr",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_shows_every_section_of_a_page_with_names_that_are_html(scenes_and_models, tmp_path):
    scenes, _, _ = scenes_and_models
    data = tmp_path / "data"
    shutil.copytree(scenes / "images/val", data / "images/val")
    content = json.loads((scenes / "annotations/val.json").read_text())
    content["categories"][0]["name"] = NASTY
    content["images"][0]["file_name"] = old = "<img src=x onerror=run()>.png"
    first = sorted((data / "images/val").iterdir())[0]
    first.rename(data / "images/val" / old)
    (data / "annotations").mkdir()
    (data / "annotations/val.json").write_text(json.dumps(content))
    names = [c["name"] for c in content["categories"]]
    model = save_model(tmp_path / "<b>run</b>" / "model", names)
    _, html = report("--model", model, "--data", data, "--resamples", 10, output=tmp_path / "r")
    assert "<script" not in html and "<img src=x" not in html and "<b>run" not in html
    assert "&lt;script&gt;" in html and "&lt;img src=x" in html
    page, complaints = rendered(tmp_path / "r/report.html", tmp_path / "browser")
    assert complaints == []
    title = re.search("<title>(.*?)</title>", page)[1]
    assert title.startswith(str(tmp_path).replace("&", "&amp;"))  # no script has changed it
    assert page.count("<section") == html.count("<section") >= 10
    assert page.count("<svg") == html.count("<svg")


def test_bad_input_is_one_line(scenes_and_models, tmp_path, capsys):
    data, model, _ = scenes_and_models
    strange = save_model(tmp_path / "strange", ["zebra"])
    empty = tmp_path / "empty"
    (empty / "annotations").mkdir(parents=True)
    shutil.copytree(data / "images/val", empty / "images/val")
    content = json.loads((data / "annotations/val.json").read_text())
    (empty / "annotations/val.json").write_text(json.dumps({**content, "annotations": []}))
    cases = {
        ("--model", strange, "--data", data): "the model has no class called",
        ("--model", model, "--data", data, "--compare", strange): f"{strange}: the model has no class called",
        ("--model", model, "--data", empty): "has no annotations, so nothing can be scored",
        ("--model", model, "--data", data, "--split", "holiday"): "has no 'holiday' split",
        ("--model", model, "--data", data, "--output", data / "report"): "in the data set's folder",
        ("--model", model, "--data", data, "--resamples", -1): "--resamples is -1",
        ("--model", strange, "--data", data, "--learning_curve", "true"): "has no recipe.yaml beside it",
    }
    for arguments, message in cases.items():
        output = () if "--output" in arguments else ("--output", tmp_path / "none")
        assert cli.main(["report", *map(str, (*arguments, *output)), "--workers", "0"]) in (1, 2)
        error = capsys.readouterr().err.strip()
        assert error.startswith("cdetr: ") and "\n" not in error and message in error
    assert not (tmp_path / "none" / "report.html").exists() and not (data / "report").exists()


def test_a_segmentation_model_is_reported_for_its_masks_too(scenes_and_models, tmp_path):
    data, _, _ = scenes_and_models
    model = save_model(tmp_path / "model", names_of(data), masks=True)
    found, html = report("--model", model, "--data", data, "--resamples", 10, output=tmp_path / "r")
    assert found["task"] == "instance" and set(found["masks"]) == set(found["boxes"])
    assert {"AP", "mask_AP"} <= set(found["figures"]) and "mask_AP" in found["per_class"][names_of(data)[0]]["figures"]
    tags = tags_of(html)
    assert "<h3>Masks</h3>" in html and tags.open == [] and len(tags.ids) == len(set(tags.ids))


@pytest.mark.slow
def test_panoptic_models_have_pq_of_each_class(scenes_and_models, tmp_path):
    data, _, _ = scenes_and_models
    names = [c["name"] for c in json.loads((data / "annotations/panoptic_val.json").read_text())["categories"]]
    things = [c["isthing"] for c in json.loads((data / "annotations/panoptic_val.json").read_text())["categories"]]
    model = save_model(tmp_path / "model", names, masks=True, is_thing=[bool(thing) for thing in things])
    found, html = report("--model", model, "--data", data, "--resamples", 10, output=tmp_path / "r")
    assert found["task"] == "panoptic" and {"PQ", "SQ", "RQ", "PQ_stuff"} <= set(found["figures"])
    assert found["figures"]["PQ"]["low"] is None  # images are not resampled for it, and the page says so
    assert "PQ, SQ and RQ have none" in html and set(found["per_class"]) == set(names)
    assert found["confusion"]["classes"] == [n for n, thing in zip(names, things, strict=True) if thing]


def test_images_that_cannot_be_read_are_left_out_of_the_pictures(scenes_and_models, tmp_path):
    scenes, model, _ = scenes_and_models
    data = tmp_path / "data"
    shutil.copytree(scenes, data, ignore=shutil.ignore_patterns("panoptic", "train*"))
    for path in sorted((data / "images/val").iterdir())[:9]:
        path.write_bytes(b"no picture")
    last = sorted((data / "images/val").iterdir())[-1]
    assert Image.open(last).size == (64, 64)
    found, html = report(
        "--model", model, "--data", data, "--resamples", 10, "--skip_bad_images", "true", output=tmp_path / "r"
    )
    assert set(re.findall(r'alt="[^"]* of ([^"]+)"', html)) <= {last.name}
    assert found["data"]["images"] == 10
