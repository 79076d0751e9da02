"""Data sets of small pictures in the formats that people have, as wrong as a test wants them."""

from PIL import Image


def picture(path, width=40, height=30, colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour or (sum(path.stem.encode()) % 256, 0, 0)).save(path)
    return path


def voc_xml(path, objects, size=(40, 30), filename=None, extra=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>\n"
        for name, box, difficult in objects
    )
    path.write_text(
        f"<annotation>\n<filename>{filename or path.stem + '.jpg'}</filename>\n<size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>\n{extra}{rows}</annotation>\n"
    )


def yolo_set(root, labels, split="train", names="[cat, dog]", **yaml):
    """`labels`: text of the label file by the stem of its picture."""
    for stem, text in labels.items():
        picture(root / "images" / split / f"{stem}.jpg")
        file = root / "labels" / split / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            file.write_text(text)
    lines = {"train": "images/train", "val": f"images/{split}", **yaml}
    (root / "data.yaml").write_text(f"names: {names}\n" + "".join(f"{k}: {v}\n" for k, v in lines.items() if v))
    return root


def voc_set(root, split="train"):
    picture(root / split / "a.jpg")
    voc_xml(root / split / "a.xml", [("cat", (1, 1, 10, 12), False), ("dog", (5, 6, 40, 30), True)])
    picture(root / split / "b.jpg")
    voc_xml(root / split / "b.xml", [])
    return root
