"""Photograph the page of a running service, with its built-in samples, into docs/images.

python scripts/page_screenshots.py http://127.0.0.1:3000
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = CHECKOUT / "docs/images"
SHOTS = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390)}


def main(url: str) -> None:
    """One picture a shot."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (scheme, width) in SHOTS.items():
            with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}) as context:
                page = context.new_page()
                page.goto(url)
                expect(page.locator("#model")).to_contain_text("version")
                page.get_by_role("button", name="picture of a horse").click()
                if name != "phone":
                    page.get_by_label("Keep results side by side").check()
                    page.get_by_role("button", name="photograph of a cat").click()
                    page.get_by_label("Method").first.select_option("layercam")
                    page.get_by_label("Block").first.select_option("all")
                expect(page.locator("article[aria-busy=true]")).to_have_count(0)
                picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
                picture.quantize(256).save(FOLDER / f"page-{name}.png", optimize=True)  # a third of the bytes
        browser.close()


main(sys.argv[1])
