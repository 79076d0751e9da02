"""The code blocks of the documents run, in order, in one folder a document: as their readers would run them.

A block that is not run says why, in a comment before it that readers of the page do not see:
`<!-- not run: why -->`, or `<!-- not run (pip): why -->` for the lines alone that begin so. What a block needs (a data
set, a model, photographs) is there under the name it uses, small; `cdetr train` gets options that make training small.

Libraries for this (Sybil, pytest-markdown-docs, pytest-examples) run Python and leave commands alone, which half of these
blocks are.
"""

import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_models import SMALL, randomise, small_config, small_model

from conditional_detr import ConditionalDetrForSegmentation, ConditionalDetrImageProcessor
from conditional_detr.cli import main
from conditional_detr.data.scenes import generate_scenes
from conditional_detr.train.recipe import option_names

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *(file for file in (ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md") if file.is_file()),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCED = re.compile(
    r"(?:^<!-- not run(?: \((?P<start>.+?)\))?: (?P<reason>.+?) -->\n)?^```(?P<language>\S*).*?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NOT_CODE = ("text", "bibtex")
SIZES = dict(image_size=64, max_size=96, epochs=1, batch_size=4, workers=0, tensorboard=False, preflight=False)
AUGMENTATION = dict(scales=[64], max_size=96, crop=0.0)
MODEL = {**SMALL, "auxiliary_loss": True, "use_pretrained_backbone": False}
# What a block of Python says, and what is said in its place.
IN_SMALL = {"docs/training.md": ("epochs=40)", "model=MODEL, augmentation=AUGMENTATION, **SIZES)")}


@dataclass
class Block:
    document: str
    line: int
    language: str
    code: str
    reason: str | None
    start: str  # of the lines that the reason is for; "" for all

    @property
    def runs(self):
        return self.reason is None or bool(self.start)


@dataclass
class Reader:
    """Who follows a document: a folder, and the names that earlier blocks of Python gave."""

    folder: Path
    names: dict = field(default_factory=lambda: {"__name__": "__main__"})
    done: int = 0  # the line of the last block that was begun


def blocks_of(file):
    text, document = file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
    for found in FENCED.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        if found["language"] not in NOT_CODE:
            yield Block(document, line, found["language"], found["code"], found["reason"], found["start"] or "")


BLOCKS = [block for file in DOCUMENTS for block in blocks_of(file)]


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """(document) -> its reader, in a folder with everything that the documents name."""
    made = {}

    def reader(document):
        if document not in made:
            made[document] = Reader(tmp_path_factory.mktemp("reader"))
            _furnish(made[document].folder)
        return made[document]

    return reader


def _furnish(folder):
    for name in ("path/to/coco", "coco", "bccd", "runs/demo/data"):
        generate_scenes(folder / name, {"train": 8, "val": 4, "test": 4}, size=64)
    for split in ("train", "val"):  # as COCO names its files
        coco, year = folder / "coco", f"{split}2017"
        (coco / f"annotations/{split}.json").rename(coco / f"annotations/instances_{year}.json")
        (coco / f"annotations/panoptic_{split}.json").rename(coco / f"annotations/panoptic_{year}.json")
        (coco / f"panoptic/{split}").rename(coco / f"annotations/panoptic_{year}")
        (coco / f"images/{split}").rename(coco / year)
    shutil.copytree(folder / "bccd/images/val", folder / "photos")
    Image.open(folder / "photos/000001.png").save(folder / "photo.jpg")
    panoptic = ConditionalDetrForSegmentation(small_config(is_thing=[True, True, False]))
    models = {
        "runs/demo/model": small_model(id2label=dict(enumerate(("circle", "square", "triangle")))),
        "runs/demo_panoptic/model": panoptic,
        "microsoft/conditional-detr-resnet-50": small_model(),
    }
    for name, model in models.items():
        randomise(model).save_pretrained(folder / name)
        ConditionalDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder / name)


def in_small(words):
    """Options of `cdetr train` that make it train small, whatever the recipe."""
    values = {
        **SIZES,
        **{f"model.{k}": v for k, v in MODEL.items()},
        **{f"augmentation.{k}": v for k, v in AUGMENTATION.items()},
    }
    if "finetune" in words:
        values["init_from"] = "microsoft/conditional-detr-resnet-50"
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()]


def run(block, reader):
    if block.language == "python":
        code = block.code
        if block.document in IN_SMALL:
            assert code.count(IN_SMALL[block.document][0]) == 1
            code = code.replace(*IN_SMALL[block.document])
        reader.names.update(MODEL=MODEL, AUGMENTATION=AUGMENTATION, SIZES=SIZES)
        exec(compile("\n" * (block.line - 1) + code, block.document, "exec"), reader.names)
        return
    assert block.language == "bash", (
        f"{block.document}:{block.line} is of no language: python, bash, or text if it is no code"
    )
    for line in block.code.splitlines():
        words = shlex.split(line, comments=True)
        if not words or (block.start and line.startswith(block.start)):
            continue
        assert words[0] == "cdetr", f"{block.document}:{block.line}: {line!r} is run by nothing here: say why"
        try:
            code = main([*words[1:], *(in_small(words) if words[1] == "train" and "--help" not in words else [])])
        except SystemExit as stopped:  # --help
            code = stopped.code
        assert code == 0, line


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.document}:{block.line}")
def test_a_code_block_runs(block, readers, monkeypatch):
    if not block.runs:
        pytest.skip(block.reason)
    reader = readers(block.document)
    monkeypatch.chdir(reader.folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    try:
        for earlier in BLOCKS:  # alone, too, a block finds what those before it leave
            if earlier.document == block.document and earlier.runs and reader.done < earlier.line <= block.line:
                reader.done = earlier.line
                run(earlier, reader)
    finally:
        torch.set_num_threads(threads)


def test_reasons_stand_before_a_block():
    for file in DOCUMENTS:
        text = file.read_text(encoding="utf-8")
        assert text.count("<!-- not run") == sum(block.reason is not None for block in blocks_of(file)), file


# Commands within a line of text or a table, which are not run: `cdetr COMMAND …`, also behind torchrun.
INLINE = re.compile(r"`(?:cdetr|torchrun [^`]*?-m conditional_detr(?:\.cli)?) ([a-z]\w*(?: [a-z]\w*)?)([^`]*)`")
BY_DEFAULT = {"data": "data generate"}


def test_commands_within_the_text_have_the_options_that_they_are_shown_with(capsys):
    known, wrong = {}, []
    for file in DOCUMENTS:
        for command, arguments in INLINE.findall(file.read_text(encoding="utf-8")):
            command = BY_DEFAULT.get(command, command)
            if command not in known:
                with pytest.raises(SystemExit):
                    main([*command.split(), "--help"])
                known[command] = set(re.findall(r"--[a-z_.0-9]+", capsys.readouterr().out))
                known[command] |= {f"--{name}" for name in option_names()} if command == "train" else set()
            given = set(re.findall(r"--[a-z_.0-9]+", arguments))
            wrong += [(file.name, command, option) for option in sorted(given - known[command])]
    assert wrong == [] and known.keys() >= {"train", "eval", "predict"}
