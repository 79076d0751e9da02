"""The page in a browser, end to end: a real server, a real model, a real picture."""

import json
import shutil

import pytest
from PIL import Image
from served_models import NAMES, picture, served
from starlette.testclient import TestClient

from conditional_detr import Detector
from conditional_detr.serve.app import make_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# A camera that shows a test picture, which pages may use without asking.
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def test_the_page_loads_nothing_from_elsewhere(detector):
    with TestClient(make_app(detector, "demo")) as client:
        answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "/* page." not in answer.text and "innerHTML" not in answer.text


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser):
    """(port) -> the page and what it says is wrong; it must reach no other server."""
    contexts = []

    def opened(port, **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page, wrong = context.new_page(), []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if f"127.0.0.1:{port}" not in request.url and not request.url.startswith(("blob:", "data:")) else None)  # fmt: skip
        page.goto(f"http://127.0.0.1:{port}/")
        return page, wrong

    yield opened
    for context in contexts:
        context.close()


def send(page, *files):
    named = [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in files]
    page.set_input_files("#files", named)
    page.wait_for_selector("#stage[aria-busy=false]")


def shown(page):
    """How many boxes are drawn; the list beside the picture has as many."""
    drawn = int(page.get_attribute("#canvas", "data-shown"))
    assert page.locator("#found li").count() == drawn
    return drawn


def until(page, condition):
    """Wait for it; Playwright's own waiting evaluates text within the page, which its policy forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def choose(page, threshold):
    page.locator("#threshold").fill(str(threshold))


def test_as_many_boxes_are_shown_as_the_server_finds(detector, open_page):
    found = detector(picture(), 0.05)
    with served(make_app(detector, "demo")) as (port, _):
        page, wrong = open_page(port)
        send(page, ("<b>one</b>.jpg", picture()))
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        for threshold in (0.05, 0.5, 0.3, 0.9):
            choose(page, threshold)
            expected = [d for d in found if d.score >= threshold]
            assert shown(page) == len(expected)
            assert page.locator("#found .name").all_inner_texts() == [d.label for d in expected]
        choose(page, 0.05)
        assert {d.label for d in found} == set(NAMES)
        for name in NAMES:  # each switch takes its class away, and gives it back
            line = page.locator("#classes label").filter(has_text=name)
            line.locator("input").uncheck()
            assert shown(page) == sum(d.label != name for d in found)
            line.locator("input").check()
        page.click("#none")
        assert shown(page) == 0
        page.click("#all")
        assert requests == [] and wrong == []  # the server was not asked again
        assert page.locator("#found img, #classes img").count() == 0  # names are text, whatever is in them


@pytest.mark.slow
def test_pointing_and_the_keyboard_tell_what_a_box_is(detector, open_page):
    best = detector(picture(), 0.05)[0]
    with served(make_app(detector, "demo")) as (port, _):
        page, wrong = open_page(port, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        send(page, ("one.jpg", picture()))
        choose(page, round(best.score - 0.005, 2))
        frame = page.locator("#canvas").bounding_box()
        x, y = ((low + high) / 2 for low, high in zip(best.box[:2], best.box[2:], strict=True))
        x, y = min(max(x, 1), 89), min(max(y, 1), 59)
        page.mouse.move(frame["x"] + x / 90 * frame["width"], frame["y"] + y / 60 * frame["height"])
        assert page.locator("#tip").is_visible() and best.label in page.locator("#tip").inner_text()
        page.focus("#save-json")
        page.keyboard.press("Shift+Tab")
        assert page.locator("#found button.lit").count() == 1
        with page.expect_response(lambda answer: "/v1/explain" in answer.url) as explained:
            page.keyboard.press("Enter")
        assert explained.value.ok and page.locator("#found button[aria-pressed=true]:focus").count() == 1
        page.locator("#status", has_text="above").wait_for()
        assert page.locator("#found button[aria-pressed=true]:focus").count() == 1  # the keyboard's place is kept
        assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth") and wrong == []


@pytest.mark.slow
def test_what_is_shown_can_be_downloaded_and_bad_pictures_are_said(detector, open_page, tmp_path):
    with served(make_app(detector, "demo", token="letmein")) as (port, _):
        page, _ = open_page(port)
        page.wait_for_selector("#ask[open]")
        page.fill("#token", "letmein")
        page.keyboard.press("Enter")
        send(page, ("one.jpg", picture()), ("bad.jpg", b"no picture"), ("two.jpg", picture(60, 90)))
        choose(page, 0.2)
        with page.expect_download() as saved:
            page.click("#save-json")
        results = json.loads(saved.value.path().read_text())["results"]
        expected = detector.detect([picture(), picture(60, 90)], 0.2)
        assert [(r["file"], len(r["detections"])) for r in results] == [
            ("one.jpg", len(expected[0])),
            ("two.jpg", len(expected[1])),
        ]
        with page.expect_download() as saved:
            page.click("#save-picture")
        assert Image.open(saved.value.path()).size == (90, 60)
        page.locator("#strip button").nth(1).click()
        assert page.inner_text("#status") == "bad.jpg: not an image of a known format"


@pytest.mark.slow
def test_masks_are_drawn_where_they_are(mask_model_folder, open_page):
    detector = Detector.from_pretrained(mask_model_folder, device="cpu")
    found = detector(picture(), 0.05)
    with served(make_app(detector, "masks")) as (port, _):
        page, wrong = open_page(port)
        send(page, ("one.jpg", picture()))
        choose(page, 0.05)
        assert shown(page) == len(found) and wrong == [] and page.locator("#masks").is_visible()
        areas = page.evaluate(
            """() => visible(current).map((d) => {
                const canvas = maskCanvas(d), pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                return [...pixels].filter((value, i) => i % 4 === 3 && value > 0).length;
            })"""
        )
        assert areas == [int(d.mask.sum()) for d in found] and sum(areas) > 0


@pytest.mark.slow
def test_pictures_are_dropped_pasted_and_taken_with_the_camera(detector, open_page):
    given = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${kind}.jpg`, { type: kind === "text" ? "text/plain" : "image/jpeg" }));
        const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true })
            : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    with served(make_app(detector, "demo")) as (port, _):
        page, wrong = open_page(port)
        assert page.evaluate(given, ["text", [1, 2]]) and "no picture" in page.inner_text("#status")
        for number, kind in enumerate(("drop", "paste"), 1):
            data = picture(90, 60 + number)
            page.evaluate(given, [kind, list(data)])
            until(page, f"pictures.length === {number} && !!pictures.at(-1).detections")
            page.wait_for_selector("#stage[aria-busy=false]")
            choose(page, 0.05)
            assert shown(page) == len(detector(data, 0.05)) and page.evaluate("current.name") == f"{kind}.jpg"
        page.click("#camera")
        page.wait_for_selector("#live", state="visible")
        page.click("#take")
        until(page, "pictures.length === 3 && !!pictures[2].detections")
        page.wait_for_selector("#stage[aria-busy=false]")
        taken = page.evaluate("[current.name, current.width, current.height, part('video').videoWidth]")
        assert taken[0] == "camera 3.jpg" and taken[1] == taken[3] > 0 and shown(page) > 0
        track = page.evaluate_handle("stream.getTracks()[0]")
        page.click("#leave")
        assert page.locator("#live").is_hidden() and track.evaluate("track => track.readyState") == "ended"
        assert wrong == []
