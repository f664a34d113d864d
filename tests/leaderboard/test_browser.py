"""The page in a real browser."""

import os
import shutil
from pathlib import Path

import pytest
from fedbench.leaderboard import render

CHROMIUM = shutil.which("chromium")


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1200, 900), (390, 844)], ids=["desktop", "phone"])
def test_page(demo, tmp_path, size, scheme):
    from playwright import sync_api as playwright

    index = render(demo, "demo", tmp_path / "out")[0]
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--headless"])
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        messages, requests = [], []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(index.as_uri())

        assert page.title() == "A demonstration · FedBench"
        assert requests == [index.as_uri()]
        for details in page.query_selector_all("summary"):
            details.click()
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]

        # A table scrolls in its own container, which the keyboard reaches.
        table = page.locator(".scroll").first
        table.focus()
        assert table.evaluate("element => element === document.activeElement")

        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in light[4:-1].split(",")) > 384) == (scheme == "light")
        if "FEDBENCH_SCREENSHOTS" in os.environ:
            path = Path(os.environ["FEDBENCH_SCREENSHOTS"], f"{size[0]}-{scheme}.png")
            page.screenshot(path=path, full_page=True)
        assert messages == []
        browser.close()
