"""What documents and comments refer to is in the repository."""

import ast
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"\b(?:docs|tests|benchmarks|examples)/[\w./-]+\.(?:md|py|sh)\b")
LINKED = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")


def texts():
    yield from (ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "hubconf.py", "Makefile"))
    for folder, suffix in (("src", "py"), ("docs", "md"), ("examples", "*"), ("benchmarks", "*")):
        yield from (file for file in (ROOT / folder).rglob(f"*.{suffix}") if "__pycache__" not in file.parts)


@pytest.mark.parametrize("file", list(texts()), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_that_a_text_names_are_here(file):
    text = file.read_text(encoding="utf-8")
    assert [name for name in NAMED.findall(text) if not (ROOT / name).is_file()] == []
    if file.suffix == ".md":
        assert [link for link in LINKED.findall(text) if not (file.parent / link).exists()] == []


def test_traps_that_a_text_numbers_are_in_the_table():
    table = (ROOT / "docs/correctness.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE))
    for file in texts():
        for numbers in re.findall(r"\btraps? ((?:\d+(?:, | and )?)+)", file.read_text(encoding="utf-8")):
            assert set(re.findall(r"\d+", numbers)) <= known, file


def test_tests_that_the_table_names_are_here():
    table = (ROOT / "docs/correctness.md").read_text(encoding="utf-8")
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", table) if f"def {name}(" not in tests] == []


DOTTED = re.compile(r"(?<!`)`([a-z_]\w*(?:\.\w+)+)(?:\([^`]*\))?`")
FILE_ENDING = re.compile(
    r"\.(?:bin|css|csv|html|jpg|js|json|jsonl|md|mp4|onnx|pt2|pth|py|png|safetensors|sh|toml|txt|xml|yaml)$"
)
# What stands before the dot where a name is not one of this package's modules: libraries, and objects in examples.
ELSEWHERE = {
    "accelerator", "argparse", "backbone_config", "coremltools", "detection", "executorch", "huggingface_hub", "json",
    "litert_torch", "nn", "onnxruntime", "outputs", "self", "torch",
}  # fmt: skip
ALSO_ELSEWHERE = {"models.build_model", "transformers.Trainer"}
# Objects that are called the same everywhere, and their classes.
OBJECTS = {"config": "config.DetectionConfig", "recipe": "recipe.Recipe"}


@pytest.fixture(scope="module")
def names():
    """The dotted name of everything in the package: modules, what they define, and the members of classes."""
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        found.add(module)
        found |= {f"{module}.{name}" for name in defined(ast.parse(file.read_text(encoding="utf-8")).body)}
    return found


def defined(body):
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}.{member}" for member in defined(node.body))
        elif isinstance(node, FUNCTION):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("file", list(texts()), ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_and_functions_that_a_text_names_are_here(file, names):
    named = {name for name in DOTTED.findall(file.read_text(encoding="utf-8")) if not FILE_ENDING.search(name)}
    named = {name for name in named - ALSO_ELSEWHERE if name.partition(".")[0] not in ELSEWHERE}
    assert {name for name in named if not _is_known(name, names)} == set()


def _is_known(name, names):
    first, _, rest = name.partition(".")
    meant = {name, f"{OBJECTS[first]}.{rest}"} if first in OBJECTS else {name}
    return any(f".{known}".endswith(f".{one}") for known in names for one in meant)


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function):
    spec = function.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return {argument.arg for argument in every if argument}


def described(docstring):
    """The names under "Args:", where a line `a, b: …` describes several."""
    section = re.search(r"^Args:\n((?:(?: .*)?\n)+)", f"{docstring}\n", re.MULTILINE)
    lines = re.findall(r"^ {4}(\S[^:]*):", section[1], re.MULTILINE) if section else []
    return [name.lstrip("*") for line in lines for name in re.sub(r" \(.*\)", "", line).split(", ")]


@pytest.mark.parametrize("file", sorted((ROOT / "src").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_parameters_that_a_docstring_describes_are_there(file):
    wrong = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, FUNCTION | ast.ClassDef):
            continue
        known = parameters(node) if isinstance(node, FUNCTION) else set()
        for part in getattr(node, "body", []):
            if isinstance(node, ast.ClassDef) and isinstance(part, ast.AnnAssign):
                known.add(part.target.id)
            if isinstance(node, ast.ClassDef) and isinstance(part, FUNCTION) and part.name in ("__init__", "forward"):
                known |= parameters(part)
        wrong += [(node.name, name) for name in described(ast.get_docstring(node) or "") if name not in known]
    assert wrong == []


PACKAGE = ROOT / "src/conditional_detr"
NOT_YET = {"export/", "src/conditional_detr/"}  # a room to come, and the package itself


def test_files_and_functions_of_the_architecture_are_here(names):
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    every = text + (ROOT / "docs/model.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`([\w/]+(?:\.py|/))`", every)) - NOT_YET
    assert {file for file in files if not (PACKAGE / file).exists() and not (ROOT / file).exists()} == set()
    hops = re.findall(r"^\| `([\w/]+)\.py` \| `([\w.]+)` \|", text, re.MULTILINE)
    assert len(hops) > 20
    hops += [(file, name) for name, file in re.findall(r"`([\w.]+)`,? (?:in|of) `([\w/]+)\.py`", text)]
    named = {f"conditional_detr.{file.replace('/', '.')}.{name}".replace(".__init__.", ".") for file, name in hops}
    assert named - names == set()


def test_the_architecture_names_every_room():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {f"{file.parent.name}/" for file in PACKAGE.glob("*/__init__.py")}
    grounds = {file.name for file in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert {name for name in rooms | grounds if f"`{name}`" not in text} == set()


QUOTED = re.compile(r"(?<!`)`([A-Za-z]\w*)`")
IS_CODE = re.compile(r"\w_\w|[a-z][A-Z]")
OF_LIBRARIES = {"FeatureListNet"}  # timm's


def test_names_that_docstrings_and_comments_quote_occur_in_the_code():
    code, quoted = set(), {}
    for folder in ("src", "tests", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            with tokenize.open(file) as lines:
                for token in tokenize.generate_tokens(lines.readline):
                    text = token.string
                    if token.type == tokenize.NAME:
                        code.add(text)
                    elif token.type == tokenize.COMMENT or text.startswith('"""'):
                        quoted |= {name: file for name in QUOTED.findall(text) if IS_CODE.search(name)}
                    elif token.type == tokenize.STRING:
                        code.update(re.findall(r"\w+", text))
    assert {name: str(file) for name, file in quoted.items() if name not in code | OF_LIBRARIES} == {}
