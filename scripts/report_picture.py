"""The picture of a page of report.py for the README: `python scripts/report_picture.py PAGE PICTURE`.

Needs a browser (apt-get install chromium) and playwright.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1360, 1290


def main(page: Path, picture: Path) -> None:
    """Open the page with the means over the seeds, the best first, and save what a large screen shows."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        opened.goto(page.absolute().as_uri())
        opened.check("input[value=settings]")
        opened.get_by_role("columnheader", name="best").get_by_role("button").click()
        opened.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
