"""Files in eight bits: what is computed in integers, that they find what the model finds, and that one which does not is refused."""

import ast
import json
import shutil

import pytest
from exported_models import NAMES, certificate_of, saved
from PIL import Image

from conditional_detr import Detector
from conditional_detr.cli import main
from conditional_detr.engines.formats import WRITERS
from conditional_detr.export import certificate
from conditional_detr.export import export as room
from conditional_detr.export.eight_bits import SCOPES, quantize

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), backbone="resnet10t", output_stride=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory, folder):
    """Pictures, annotated with the best of what the model finds in them: a data set that it is good at."""
    root, detector = tmp_path_factory.mktemp("data"), Detector.from_pretrained(folder, device="cpu")
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for number in range(4):
            path = root / "images" / split / f"{number}.png"
            Image.effect_noise((80, 64), 50 + 20 * number).convert("RGB").save(path)
            images.append({"id": number, "file_name": path.name, "width": 80, "height": 64})
            for found in detector(path, 0.0)[:8]:
                x0, y0, x1, y1 = found.box
                box = [x0, y0, x1 - x0, y1 - y0]
                of = {"id": len(annotations), "image_id": number, "category_id": found.class_id}
                annotations.append({**of, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": number, "name": name} for number, name in NAMES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module", autouse=True)
def written_once(folder, tmp_path_factory):
    """PyTorch's exporter takes seconds: what it wrote once is what every export here begins with."""
    path, write = tmp_path_factory.mktemp("plain"), WRITERS["onnx"]

    def again(graph, metadata, folder, opset, finish):
        plain = path / f"{len(graph.interface.inputs)}.onnx"
        if not plain.exists():
            write(graph, metadata, path, opset).rename(plain)
        shutil.copy(plain, folder / "model.onnx")
        finish(folder / "model.onnx")
        return folder / "model.onnx"

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WRITERS, "onnx", again)
        yield


def command(folder, data, output, **options):
    given = [f"--{name}={value}" for name, value in {"dtype": "int8", "threads": 1, **options}.items()]
    return main(["export", "--model", str(folder), "--data", str(data), "--output", str(output), *given])


@pytest.fixture(scope="module")
def exported(tmp_path_factory, folder, data):
    """Of random weights, whose scores lie close together: their order, and so AP, hangs on more than in trained models."""
    output = tmp_path_factory.mktemp("exported") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "LEAST_KEPT", 0.8)
        assert command(folder, data, output) == 0
    return output


def scopes_of(node):
    return next((ast.literal_eval(entry.value) for entry in node.metadata_props if entry.key == SCOPES), [])


def test_backbone_and_mlps_are_computed_in_integers_and_attention_and_heads_are_not(exported):
    graph = onnx.load(exported).graph
    integers = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    kinds = {"quantised": set(), "plain": set()}
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm", "Softmax"):
            last = " ".join(scopes_of(node))
            part = next(
                (p for p in (".backbone", ".mlp", "attn", "bbox_predictor", "classifier") if p in last), "other"
            )
            kinds["quantised" if node.input[1:2] and node.input[1] in integers else "plain"].add((part, node.op_type))
    assert kinds["quantised"] == {(".backbone", "Conv"), (".mlp", "MatMul")}
    assert {("attn", "Softmax"), ("attn", "MatMul"), ("bbox_predictor", "MatMul")} <= kinds["plain"]


def test_it_finds_what_the_model_finds_and_the_certificate_says_how_much(exported, data):
    said = certificate_of(exported)
    before, after = (said["data"][when]["AP"] for when in ("before", "after"))
    assert before > 0.5 and after >= 0.8 * before
    assert said["dtype"] == "int8" and said["bound"] is None
    assert Detector.from_pretrained(exported)(data / "images" / "val" / "0.png", 0.0)


def no_class_left(file, arrays):
    """Quantised, and its class logits pushed down, as coarse scales do."""
    quantize(file, arrays)
    model = onnx.load(file)
    bias = next(one for one in model.graph.initializer if one.name.endswith("class_labels_classifier.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * 0 - 200, bias.name))
    onnx.save(model, file)


def boxes_elsewhere(file, arrays):
    """Quantised, and its boxes moved."""
    quantize(file, arrays)
    model = onnx.load(file)
    bias = next(one for one in model.graph.initializer if one.name.endswith("bbox_predictor.layers.2.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 3, bias.name))
    onnx.save(model, file)


@pytest.mark.parametrize("broken", [no_class_left, boxes_elsewhere])
def test_one_that_finds_less_is_refused_and_leaves_nothing(broken, folder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room, "quantize", broken)
    assert command(folder, data, tmp_path / "model.onnx") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "finds less than the model: AP 0.0" in line and "Nothing was written" in line
    assert list(tmp_path.iterdir()) == []


def test_data_that_the_model_finds_nothing_in_is_refused(folder, data, tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        Image.new("RGB", (80, 64)).save(tmp_path / "images" / split / "0.png")
        content = json.loads((data / "annotations" / f"{split}.json").read_text())
        content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
        content["annotations"][0]["bbox"] = [0, 0, 1, 1]
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(content))
    assert command(folder, tmp_path, tmp_path / "model.onnx") == 1
    assert "the model itself finds nothing" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_openvino_and_masks_in_eight_bits(data, tmp_path):
    pytest.importorskip("openvino")
    folder = saved(tmp_path / "model", masks=True, backbone="resnet10t", output_stride=16)
    values = {"format": "openvino"}
    with pytest.MonkeyPatch.context() as patch:  # another model than the one that the data are good for
        patch.setattr(certificate, "LEAST_KEPT", 0.0)
        assert command(folder, data, tmp_path / "file", **values) == 0
    assert certificate_of(tmp_path / "file")["largest_differences"]["masks"] < 1
