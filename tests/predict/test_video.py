"""Videos: every frame has its line and time, the drawn video is whole or says that it is not, and what is missing is one line."""

import builtins
import json
from fractions import Fraction

import numpy as np
import pytest

from conditional_detr import Detector
from conditional_detr.cli import main
from conditional_detr.predict.tracks import Tracker
from conditional_detr.predict.video import video_predictions
from conditional_detr.results.named import Detection

av = pytest.importorskip("av")

FRAMES, RATE = 11, 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Frames of odd sides, one colour each, at times that are not even."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    write(path, "mjpeg", FRAMES)
    return path


def write(path, codec, frames, container=None):
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 91, 67, "yuvj444p" if codec == "mjpeg" else "yuv420p"
        for i in range(frames):
            pixels = np.full((67, 91, 3), 20 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        if frames:
            file.mux(stream.encode())
        else:
            file.start_encoding()


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def frames_of(path):
    with av.open(str(path)) as file:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]


def test_every_nth_frame_has_a_line_what_detector_finds_in_it_and_its_place_in_the_drawn_video(
    model_folder, clip, tmp_path, capsys
):
    arguments = ["predict", "--model", str(model_folder), "--video", str(clip), "--output", str(tmp_path / "out")]
    arguments += [
        "--threads",
        "1",
        "--threshold",
        "0.01",
        "--draw_labels",
        "false",
        "--line_width",
        "1",
        "--batch_size",
        "3",
    ]
    assert main([*arguments, "--every", "4"]) == 0
    rows = lines(tmp_path / "out")
    assert [(row["frame"], row["time"]) for row in rows] == [(0, 0.0), (4, 0.4), (8, 0.8)]
    assert f"detections in 3 frames: {sum(len(row['detections']) for row in rows)}," in capsys.readouterr().out
    original, drawn = frames_of(clip), frames_of(tmp_path / "out/clip.mp4")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["clip.mp4", "predictions.jsonl"]
    assert [time for time, _ in drawn] == [0.0, 0.4, 0.8]
    detector = Detector.from_pretrained(model_folder, device="cpu")
    for row, (_, picture) in zip(rows, drawn, strict=True):
        pixels = original[row["frame"]][1]
        assert (row["height"], row["width"]) == pixels.shape[:2] == (67, 91)
        found = detector(pixels, 0.01)
        assert sorted(d["label"] for d in row["detections"]) == sorted(d.label for d in found)
        # Small frames are enlarged, and most of a frame keeps its colour under thin boxes.
        assert abs(float(np.median(picture)) - float(np.median(pixels))) < 12


def test_a_video_that_ends_early_keeps_what_was_found_and_says_so(model_folder, clip, tmp_path, capsys):
    damaged = tmp_path / "cut.avi"
    content = clip.read_bytes()
    damaged.write_bytes(content[: len(content) * 2 // 3])
    arguments = [
        "predict",
        "--model",
        str(model_folder),
        "--threads",
        "1",
        "--output",
        str(tmp_path / "out"),
        "--video",
    ]
    assert main([*arguments, str(damaged)]) == 1
    error = capsys.readouterr().err
    count = len(lines(tmp_path / "out"))
    assert 0 < count < FRAMES
    assert f"it ends after {count} of the {FRAMES} frames that it should have" in error
    assert f"{count} frames are in" in error
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["cut-partial.mp4", "predictions.jsonl"]
    assert len(frames_of(tmp_path / "out/cut-partial.mp4")) == count


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("absent.mp4", "absent.mp4: no such file"),
        (".", "a folder"),
        ("text.mp4", "not a video that FFmpeg can read"),
        ("empty.avi", "the video has no frames"),
        ("sound.wav", "there is no video in it"),
        ("977", "there is no camera 977"),
        ("rtsp://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x: cannot be opened"),
    ],
)
def test_what_is_no_video_is_one_line_and_nothing_is_written(source, said, model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    write(tmp_path / "empty.avi", "mjpeg", 0)
    with av.open("sound.wav", "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
    assert main(["predict", "--model", str(model_folder), "--video", source, "--output", "out", "--threads", "1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cdetr: ") and said in error
    assert not (tmp_path / "out").exists()


def test_a_stop_leaves_a_part_that_plays_and_a_drawn_video_never_overwrites_its_source(model_folder, clip, tmp_path):
    detector = Detector.from_pretrained(model_folder, device="cpu")
    rows = video_predictions(detector, str(clip), tmp_path / "out", batch_size=2)
    assert [next(rows)["frame"] for _ in range(4)] == [0, 1, 2, 3]
    rows.close()
    assert len(frames_of(tmp_path / "out/clip-partial.mp4")) == 4 == len(lines(tmp_path / "out"))
    write(tmp_path / "own.mp4", "mpeg4", 2)
    before = (tmp_path / "own.mp4").read_bytes()
    with pytest.raises(ValueError, match="this would overwrite the video"):
        next(video_predictions(detector, str(tmp_path / "own.mp4"), tmp_path))
    assert (tmp_path / "own.mp4").read_bytes() == before and not (tmp_path / "predictions.jsonl").exists()


@pytest.mark.parametrize("missing", ["av", "trackers"])
def test_a_missing_package_is_one_line_that_names_the_extra(missing, model_folder, clip, tmp_path, monkeypatch, capsys):
    usual = builtins.__import__

    def without(name, *more, **options):
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}")
        return usual(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    arguments = ["predict", "--model", str(model_folder), "--video", str(clip), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--track", "true", "--threads", "1"]) == 1
    assert "pip install conditional-detr[video]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --images or --video"),
        (["--images", "x.png", "--video", "y.mp4"], "not both"),
        (["--images", "x.png", "--track", "true"], "--track and --every are for --video"),
        (["--video", "y.mp4", "--every", "0"], "--every is 0"),
        (["--video", "y.mp4", "--write", "coco"], "leave out --write"),
        (["--video", "y.mp4", "--truth", "x"], "--truth is for --images"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(options, said, capsys):
    assert main(["predict", "--model", "absent", *options]) == 2
    assert said in capsys.readouterr().err


def test_objects_keep_their_numbers_though_one_is_unsure_for_a_while_or_gone_for_a_frame():
    pytest.importorskip("trackers")
    tracker = Tracker(0.5, rate=25)
    numbers = []
    for i in range(12):
        right = Detection("cat", 0.9 if i not in (5, 6) else 0.2, (10 + 4 * i, 10, 60 + 4 * i, 60), 0)
        left = Detection("dog", 0.8, (400 - 4 * i, 200, 460 - 4 * i, 280), 1)
        noise = Detection("cat", 0.15, (700, 10 * i, 720, 10 * i + 20), 0)
        given = [right, noise] if i == 8 else [left, noise, right] if i % 2 else [right, left, noise]
        found = dict(zip([(d.label, d.score > 0.15) for d in given], tracker.update(given), strict=True))
        assert found["cat", False] is None
        numbers.append((found["cat", True], found.get(("dog", True))))
    assert numbers[0] == (None, None)  # an object has a number once it is seen again
    assert {cat for cat, _ in numbers[1:]} == {0}
    assert {dog for i, (_, dog) in enumerate(numbers) if i not in (0, 8)} == {1}
    assert tracker.update([]) == []
