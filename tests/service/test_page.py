"""The page, in a real browser, against a real service."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from services.detector.static import FOLDER
from tests.service.conftest import CHECKOUT, Process, encoded

SAMPLE = FOLDER / "samples/photo-cat.jpg"
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; installed first where that is possible."""
    if not shutil.which("chromium"):
        done = subprocess.run([CHECKOUT / "scripts/apt-install", "chromium"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"NOT TESTED, the page: no Chromium ({done.stderr.strip()})")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, service: Process) -> Iterator[Page]:
    """The page, its model known; what the browser complains of, the content security policy's refusals too, fails."""
    with browser.new_context(base_url=service.url) as context:
        opened = context.new_page()
        complaints: list[str] = []
        opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto("/")
        expect(opened.locator("#model")).to_contain_text("version 1")
        yield opened
        assert not [each for each in complaints if "status of 4" not in each]


def choose(page: Page, *files: Path) -> None:
    page.get_by_label("Drop, paste or choose images").set_input_files(files)


def result(page: Page, number: int = 0) -> Locator:
    """A result whose answer is there."""
    article = page.get_by_role("article").nth(number)
    expect(article).to_have_attribute("aria-busy", "false")
    return article


def heat(article: Locator) -> np.ndarray:
    """The heatmap's colours, as drawn."""
    read = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    return np.array(article.locator(".heat").evaluate(read)).reshape(32, 32, 4)


def test_it_shows_what_the_service_answers(page: Page, service: Process) -> None:
    answer = service.post("/classify", content=SAMPLE.read_bytes()).json()
    choose(page, SAMPLE)
    article = result(page)
    expect(article.locator(".label")).to_have_text(answer["label"])
    expect(article.locator(".probability")).to_contain_text(f"{answer['probability_real']:.3f}")
    expect(article.locator(".facts")).to_contain_text("version 1, tiny, trained on dataset 0000000000000000")
    assert heat(article)[..., :3].std() > 10
    assert article.locator(".seen").evaluate("image => image.naturalWidth") == 32


def test_another_method_block_or_label_draws_another_heatmap(page: Page) -> None:
    choose(page, SAMPLE)
    seen = [heat(result(page))]
    for name, value in (("Method", "layercam"), ("Block", "block1"), ("Speaks for", "REAL"), ("Speaks for", "FAKE")):
        result(page).get_by_label(name).select_option(value)
        article = result(page)
        expect(article.locator("code")).to_contain_text(value)
        seen.append(heat(article))
    assert len({each.tobytes() for each in seen}) >= 4  # one of the labels is the verdict's own


def test_the_slider_only_covers_and_asks_for_nothing(page: Page) -> None:
    choose(page, SAMPLE)
    slider = result(page).get_by_role("slider")
    page.on("request", lambda request: pytest.fail(f"asked for {request.url}"))
    slider.focus()
    slider.press("Home")
    expect(result(page).locator(".heat")).to_have_css("opacity", "0")
    slider.press("End")
    expect(result(page).locator(".heat")).to_have_css("opacity", "1")


def test_results_stand_side_by_side(page: Page) -> None:
    choose(page, SAMPLE)
    result(page).get_by_role("button", name="Duplicate").click()
    expect(page.get_by_role("article")).to_have_count(2)
    left, right = (result(page, k).bounding_box() for k in (0, 1))
    assert left["y"] == right["y"]
    choose(page, SAMPLE)
    expect(page.get_by_role("article")).to_have_count(1)
    page.get_by_label("Keep results side by side").check()
    choose(page, SAMPLE, FOLDER / "samples/photo-rocket.jpg")
    expect(page.get_by_role("article")).to_have_count(3)


def test_very_many_files_are_not_all_asked_about(page: Page) -> None:
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "explain_map" in request.url else None)
    choose(page, *[SAMPLE] * 12)
    expect(page.locator("#notice")).to_have_text("Only the first 8 of 12 images are shown.")
    for number in range(8):
        result(page, number)
    assert len(asked) == 8


def test_it_works_without_a_mouse(page: Page) -> None:
    page.keyboard.press("Tab")
    for _ in range(10):
        if page.evaluate("document.activeElement.dataset.sample"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(result(page)).to_be_focused()
    names = []
    while len(names) < 9:
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert names[:8] == ["twin", "close", "method", "block", "target", "opacity", "guided", "SUMMARY"]


def test_history_stays_in_the_browser_and_can_be_forgotten(page: Page) -> None:
    choose(page, SAMPLE)
    said = result(page).locator(".probability").inner_text()
    page.reload()
    page.get_by_role("button", name="photo-cat.jpg").click()
    expect(result(page).locator(".probability")).to_have_text(said)
    page.get_by_role("button", name="Forget all").click()
    page.reload()
    expect(page.locator("#model")).to_contain_text("version 1")
    expect(page.locator("#history")).to_be_hidden()


def test_a_refused_file_is_told_why(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("not an image")
    choose(page, file)
    expect(result(page).get_by_role("alert")).to_have_text("not a JPEG, PNG or WebP image")


def test_dropped_and_pasted_files_are_taken(page: Page) -> None:
    send = """([kind, field, data]) => {
        const files = new DataTransfer();
        files.items.add(new File([Uint8Array.from(data)], `${kind}.jpg`));
        const event = new (kind == "drop" ? DragEvent : ClipboardEvent)(kind, {[field]: files, bubbles: true});
        document.body.dispatchEvent(event);
    }"""
    for kind, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(send, [kind, field, list(SAMPLE.read_bytes())])
        expect(result(page).locator(".name")).to_have_text(f"{kind}.jpg")
        expect(result(page).locator(".label")).not_to_be_empty()


def test_the_shown_commands_work(page: Page, tmp_path: Path) -> None:
    file = tmp_path / 'it\'s a "photo".png'
    file.write_bytes(encoded(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), "PNG"))
    choose(page, file)
    article = result(page)
    article.get_by_text("The same from a terminal").click()
    commands = article.locator("code").inner_text()
    done = subprocess.run(["bash", "-ec", commands], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    said = article.locator(".label").inner_text()
    assert re.search(rf'"label":"{said}"', done.stdout)
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_labels_and_contrast_pass_axe_and_nothing_scrolls_sideways(
    browser: Browser, service: Process, scheme: str, width: str
) -> None:
    size = {"width": WIDTHS[width], "height": 900}
    # axe is injected; the page's own policy would rightly refuse it.
    with browser.new_context(base_url=service.url, color_scheme=scheme, viewport=size, bypass_csp=True) as context:
        page = context.new_page()
        page.goto("/")
        expect(page.locator("#model")).to_contain_text("version 1")
        choose(page, SAMPLE)
        result(page).get_by_text("The same from a terminal").click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
