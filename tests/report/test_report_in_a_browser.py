"""A report's page as a browser shows it: it can all be seen, on a desk and on a telephone, and nothing is fetched."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from poolagg import Report, Sum, ThreadPool, aggregate

MEASURE = """
<script>
const box = element => element.getBoundingClientRect();
const bars = [...document.querySelectorAll("svg rect")].filter(bar => box(bar).width > 0 && box(bar).height > 0);
const colours = new Set(bars.map(bar => getComputedStyle(bar).fill));
document.documentElement.dataset.measured = JSON.stringify({
  text: document.body.innerText,
  sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  bars: bars.length,
  coloured: colours.size,
  outside: bars.filter(bar => box(bar).right > box(bar.ownerSVGElement).right + 1).length,
  fetched: performance.getEntriesByType("resource").map(entry => entry.name),
  ink: getComputedStyle(document.body).color,
  back: getComputedStyle(document.body).backgroundColor,
});
</script>
"""
"""The questions of a test to the page; the page itself has no script."""


@pytest.fixture
def browser() -> str:
    """Chromium's program."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    why = "no Chromium here (Debian: apt-get install chromium)"
    return pytest.fail(why) if os.environ.get("POOLAGG_CI") else pytest.skip(why)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page, with what measures it."""

    def nap(x: int) -> int:
        time.sleep(0.002)
        return x

    report = Report()
    aggregate(nap, range(200), Sum(), pool=ThreadPool(2), watch=report)
    path = tmp_path_factory.mktemp("report") / "run.html"
    report.save(path)
    return path.read_text("utf-8").replace("</body>", f"{MEASURE}</body>")


def measured(browser: str, page: str, folder: Path, width: int, *options: str) -> dict[str, Any]:
    """Return the page's measures in a window of this width."""
    path = folder / "page.html"
    path.write_text(page, "utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *options]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom", path.as_uri()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        dom = process.communicate(timeout=50)[0].decode()
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a browser leaves processes that clear up after it
        except ProcessLookupError:
            pass
        process.wait()
    (found,) = re.findall(r'data-measured="([^"]*)"', dom)
    return json.loads(found.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.orphans
@pytest.mark.parametrize("width", [1400, 500], ids=["desk", "telephone"])
def test_all_of_a_page_is_to_be_seen(width: int, browser: str, page: str, tmp_path: Path) -> None:
    """Diagnosis, table, a timeline with bars for each worker; nothing sticks out, and nothing comes from elsewhere."""
    found = measured(browser, page, tmp_path, width)
    for said in ("200 items", "The map is the limit", "worker 0", "worker 1", "strategy", "Sum()", "ThreadPool"):
        assert said in found["text"]
    assert found["bars"] >= 10
    assert found["coloured"] >= 2
    assert (found["sideways"], found["outside"], found["fetched"]) == (0, 0, [])


@pytest.mark.orphans
def test_a_page_is_dark_for_who_likes_it_dark(browser: str, page: str, tmp_path: Path) -> None:
    light = measured(browser, page, tmp_path, 1000)
    dark = measured(browser, page, tmp_path, 1000, "--blink-settings=preferredColorScheme=0")
    brightness = lambda colour: sum(map(int, re.findall(r"\d+", colour)[:3]))
    assert brightness(light["back"]) > brightness(light["ink"])
    assert brightness(dark["back"]) < brightness(dark["ink"])
