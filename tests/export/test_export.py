"""Exported files: they compute what their model computes, or are not written; and Detector runs them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from exported_models import NAMES, SIZE, certificate_of, saved
from PIL import Image
from same_detections import assert_same_detections
from small_models import FAMILIES

from conditional_detr import Detector
from conditional_detr.cli import main
from conditional_detr.data.splits import read_split
from conditional_detr.engines.files import exported_file
from conditional_detr.engines.formats import WRITERS, openvino_of_onnx
from conditional_detr.engines.graph import Interface
from conditional_detr.export.export import export, export_model
from conditional_detr.models.family import family_of
from conditional_detr.processors.auto_processor import IMAGE_PROCESSORS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), backbone="resnet10t", output_stride=16, decoder_layers=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate([(64, 64), (80, 60), (50, 90)]):
        Image.effect_noise(size, 60 + i).convert("RGB").save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def exported(tmp_path_factory, folder, pictures):
    """An ONNX file, with its certificate beside it."""
    output = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(folder, output, images=pictures)
    return output


def assert_detects_the_same(file, folder, pictures, **options):
    ours, theirs = (Detector.from_pretrained(model, device="cpu", **options) for model in (file, folder))
    for found, expected in zip(ours.detect(pictures, 0.0), theirs.detect(pictures, 0.0), strict=True):
        assert_same_detections(found, expected, score=1e-4, box=0.02)
    return ours


def test_the_certificate_says_what_was_compared(exported, pictures):
    certificate = certificate_of(exported)
    shapes = {(case["batch"], case["height"], case["width"]) for case in certificate["cases"]}
    assert len(shapes) >= 6 and {1, 5} <= {batch for batch, *_ in shapes}
    assert any(height % 2 and width % 2 for _, height, width in shapes)
    assert (2, 96, 160) not in shapes, "the shape that the graph was traced with proves nothing"
    assert {picture.name for picture in pictures} < {case["what"] for case in certificate["cases"]}
    assert set(certificate["largest_differences"]) == {"logits", "pred_boxes", "scores", "boxes"}
    assert max(certificate["largest_differences"].values()) <= certificate["bound"] * 100
    assert certificate["detections_compared"] > 100 and "onnxruntime" in certificate["versions"]


def test_sizes_and_batch_of_the_file_vary(exported):
    graph = onnx.load(exported).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    batch, channels, height, width = shapes["pixel_values"]
    assert channels == 3 and all(isinstance(name, str) and name for name in (batch, height, width))
    assert shapes["logits"] == [batch, 10, 3] and shapes["pred_boxes"] == [batch, 10, 4]


def test_the_file_says_what_other_programs_need(exported):
    entries = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert json.loads(entries["class_names"]) == list(NAMES.values()) and entries["family"] == "conditional_detr"
    assert entries["license"] == "cc-by-4.0" and json.loads(entries["preprocessing"])["size"] == SIZE


def test_a_detector_of_the_file_detects_what_the_model_detects(exported, folder, pictures):
    detector = assert_detects_the_same(exported, folder, pictures)
    assert detector.names == list(NAMES.values())
    assert_detects_the_same(exported, folder, pictures, image_size=48)


def test_images_of_several_sizes_on_one_canvas_are_computed_alone(exported, folder):
    model = Detector.from_pretrained(exported).model
    plain = family_of("conditional_detr").detector.from_pretrained(folder).eval()
    pixels, mask = torch.randn(2, 3, 70, 90), torch.zeros(2, 70, 90, dtype=torch.bool)
    mask[0, :70, :50] = mask[1, :33, :90] = True
    with torch.no_grad():
        expected = plain(pixels, mask)
    found = model(pixels, mask)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, atol=1e-4, rtol=0)


def test_openvino_detects_what_the_model_detects(exported, folder, pictures, tmp_path):
    pytest.importorskip("openvino")
    metadata = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    openvino_of_onnx(exported, metadata, tmp_path)
    detector = assert_detects_the_same(tmp_path, folder, pictures)
    assert detector.names == list(NAMES.values()) and "openvino" in detector.model.engine.name


def test_the_command_line_predicts_and_scores_with_the_file(exported, folder, scenes, pictures, tmp_path, capsys):
    where = str(pictures[0].parent)
    for model, output in ((exported, "a"), (folder, "b")):
        options = ["--output", str(tmp_path / output), "--threshold", "0", "--draw", "false", "--threads", "1"]
        assert main(["predict", "--model", str(model), "--images", where, *options]) == 0
        metrics = ["--metrics", str(tmp_path / f"{output}.json"), "--threads", "1"]
        assert main(["eval", "--model", str(model), "--data", str(scenes), *metrics]) == 0
    rows = [
        [json.loads(line)["detections"] for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in "ab"
    ]
    for ours, theirs in zip(*rows, strict=True):
        assert_same_detections(ours, theirs, score=1e-4, box=0.02)
    figures = [json.loads((tmp_path / f"{name}.json").read_text())["AP"] for name in "ab"]
    assert figures[0] == pytest.approx(figures[1], abs=1e-3)


WITHOUT_PYTORCH = """
import json, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "accelerate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from conditional_detr import Detector
from conditional_detr.cli import main
model, output, *pictures = sys.argv[1:]
detector = Detector.from_pretrained(model, image_size=48)
print(json.dumps([[d.to_dict() for d in found] for found in detector.detect(pictures, 0.0)]))
assert main(["predict", "--model", model, "--images", *pictures, "--output", output, "--threshold", "0"]) == 0
"""


def test_an_exported_detector_predicts_without_pytorch(exported, folder, pictures, tmp_path):
    command = [sys.executable, "-c", WITHOUT_PYTORCH, str(exported), str(tmp_path / "found"), *map(str, pictures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[0])
    model = Detector.from_pretrained(folder, device="cpu", image_size=48)
    for ours, theirs in zip(found, model.detect(pictures, 0.0), strict=True):
        assert_same_detections(ours, theirs, score=2e-3, box=0.1)  # Pillow's resizing rounds otherwise than PyTorch's
    rows = [json.loads(line) for line in (tmp_path / "found" / "predictions.jsonl").read_text().splitlines()]
    assert [len(row["detections"]) for row in rows] == [30] * len(pictures)
    assert all(Image.open(row["picture"]).size >= (64, 64) for row in rows)


def test_an_exported_model_is_served_and_answers_what_it_detects(exported, pictures):
    testclient = pytest.importorskip("starlette.testclient")
    pytest.importorskip("fastapi")
    from conditional_detr.serve.app import make_app

    detector = Detector.from_pretrained(exported)
    with testclient.TestClient(make_app(detector, "exported")) as client:
        files = [("files", (path.name, path.read_bytes(), "image/png")) for path in pictures]
        results = client.post("/v1/detect?threshold=0.1", files=files).json()["results"]
        explained = client.post("/v1/explain?threshold=0.1", files=files[:1])
    for result, expected in zip(results, detector.detect(pictures, 0.1), strict=True):
        assert_same_detections(result["detections"], expected, score=1e-4, box=0.02)
    assert explained.status_code == 422 and "model's folder" in explained.json()["detail"]


@pytest.fixture
def broken(monkeypatch, exported):
    """(change) -> the exporter writes the file of `exported`, changed, as if it had made a mistake."""

    def install(change):
        def write(graph, metadata, folder, opset, finish=None):
            model = onnx.load(exported)
            change(model.graph)
            onnx.save(model, folder / "model.onnx")
            return folder / "model.onnx"

        monkeypatch.setitem(WRITERS, "onnx", write)

    return install


def another_weight(graph):
    weight = next(one for one in graph.initializer if len(one.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] += 0.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def frozen_batch(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize("change", [another_weight, frozen_batch])
def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(change, broken, folder, tmp_path, capsys):
    broken(change)
    (tmp_path / "mine.onnx").write_text("what was there")
    code = main(["export", "--model", str(folder), "--output", str(tmp_path / "mine.onnx"), "--threads", "1"])
    assert code == 1 and "Nothing was written" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.onnx"]
    assert (tmp_path / "mine.onnx").read_text() == "what was there"


def test_a_score_before_and_after_is_in_the_certificate(broken, folder, scenes, tmp_path):
    broken(lambda graph: None)
    export(folder, tmp_path / "model.onnx", data=read_split(str(scenes), "val", "detection"))
    figures = certificate_of(tmp_path / "model.onnx")["data"]
    assert figures["before"]["AP"] == pytest.approx(figures["after"]["AP"], abs=1e-3)


def test_files_that_are_no_exported_model_are_named(exported, tmp_path, capsys):
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "junk.onnx").write_text("hello")
    with pytest.raises(ValueError, match="other.onnx holds another model"):
        Detector.from_pretrained(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="junk.onnx cannot be opened by ONNX Runtime"):
        Detector.from_pretrained(tmp_path / "junk.onnx")
    with pytest.raises(OSError, match="none.onnx does not exist"):
        Detector.from_pretrained(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="may run code"):
        Detector.from_pretrained(tmp_path / "program.pt2")


def test_what_an_exported_file_cannot_do_is_said(exported, pictures):
    detector = Detector.from_pretrained(exported)
    with pytest.raises(ValueError, match="explain with the model's folder"):
        detector.explain(pictures[0])
    with pytest.raises(ValueError, match="leave the precision at fp32"):
        Detector.from_pretrained(exported, dtype="bfloat16")
    with pytest.raises(ValueError, match="compile"):
        Detector.from_pretrained(exported, compile=True)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"format": "tflite"}, "format is 'tflite'; it is onnx, openvino, torch"),
        ({"dtype": "int4"}, "dtype is 'int4'; it is float32, float16, int8"),
        ({"dtype": "int8"}, "give a data set (--data) that the model is good at"),
        ({"dtype": "int8", "format": "torch"}, "that is for onnx and openvino"),
        ({"opset": 11}, "opset is 11; it is 20 to 23"),
        ({"top_k": 0}, "top_k is 0"),
        ({"format": "torch"}, "a file of torch ends in .pt2"),
        ({"format": "openvino"}, "give a folder"),
    ],
)
def test_arguments_that_mean_nothing_are_said_before_anything_is_loaded(options, part, tmp_path):
    with pytest.raises(ValueError, match=re.escape(part)):
        export("no/such/model", tmp_path / "model.onnx", **options)


def test_an_engine_that_is_not_installed_is_named_with_its_extra(exported, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"onnxruntime is not installed: pip install 'conditional-detr\[onnx\]'"):
        Detector.from_pretrained(exported)


def test_a_folder_with_a_model_of_transformers_is_no_exported_one(folder, tmp_path):
    assert exported_file(folder) is None and exported_file(tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("format", "dtype", "interface"),
    [
        ("onnx", "float32", Interface(mask=True)),
        ("onnx", "float32", Interface(normalize=True, top_k=7)),
        ("onnx", "float16", Interface()),
        ("openvino", "float32", Interface(mask=True, normalize=True)),
        ("openvino", "float16", Interface()),
        ("torch", "float32", Interface(mask=True, top_k=5)),
    ],
)
@pytest.mark.parametrize("masks", [False, True])
def test_every_format_and_option_passes(family, format, dtype, interface, masks, tmp_path, pictures):
    if format == "openvino":
        pytest.importorskip("openvino")
    folder = saved(tmp_path / "model", family, masks)
    kind = family_of(family).segmenter if masks else family_of(family).detector
    output = tmp_path / {"onnx": "a.onnx", "openvino": "a", "torch": "a.pt2"}[format]
    processor = IMAGE_PROCESSORS[family].from_pretrained(folder)
    export_model(
        kind.from_pretrained(folder),
        processor,
        output,
        format=format,
        dtype=dtype,
        interface=interface,
        images=pictures,
    )
    assert certificate_of(output)["detections_compared"] > 100
    if format != "torch" and dtype == "float32" and not interface.top_k:
        assert_detects_the_same(output, folder, pictures)


@pytest.mark.slow
def test_detections_within_the_graph_are_the_detectors(folder, pictures, tmp_path):
    import onnxruntime

    export(folder, tmp_path / "model.onnx", normalize=True, top_k=4)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = Image.open(pictures[0]).convert("RGB")
    arrays = {"images": np.asarray(image).transpose(2, 0, 1)[None], "target_sizes": np.array([image.size[::-1]])}
    scores, labels, boxes = session.run(["scores", "labels", "boxes"], arrays)
    expected = Detector.from_pretrained(folder, device="cpu")(pictures[0], 0.0)[:4]
    assert labels[0].tolist() == [one.class_id for one in expected]
    assert scores[0] == pytest.approx([one.score for one in expected], abs=1e-4)
    assert boxes[0] == pytest.approx(np.array([one.box for one in expected]), abs=0.02)


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_is_said(tmp_path):
    pytest.importorskip("timm")
    folder = saved(tmp_path / "model", backbone="swin_tiny_patch4_window7_224", output_stride=32)
    with pytest.raises(ValueError, match="cannot be exported"):
        export(folder, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_computes_a_model_in_memory(engine, folder, pictures):
    pytest.importorskip(engine)
    ours = Detector.from_pretrained(folder, engine=engine, image_size=48)
    theirs = Detector.from_pretrained(folder, device="cpu", image_size=48)
    assert engine in ours.model.engine.name
    for found, expected in zip(ours.detect(pictures, 0.0), theirs.detect(pictures, 0.0), strict=True):
        assert_same_detections(found, expected, score=2e-3, box=0.1)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"engine": "tensorrt"}, "engine is 'tensorrt'; it is openvino, onnxruntime, or none for PyTorch"),
        ({"engine": "openvino", "compile": True}, "compile is PyTorch's"),
        ({"engine": "onnxruntime", "device": "cuda"}, "on the CPU here, not on cuda"),
    ],
)
def test_engines_that_mean_nothing_are_said(options, part, folder, exported):
    with pytest.raises(ValueError, match=part):
        Detector.from_pretrained(folder, **options)
    with pytest.raises(ValueError, match="is an exported model, which has no (compile, )?engine"):
        Detector.from_pretrained(exported, **options)
