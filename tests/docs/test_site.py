"""The built manual: no warning, links that hold, two clicks to an answer, and its looks and search in a browser."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from urllib.parse import unquote, urldefrag, urljoin

import extras
import pytest
from paths import ROOT

WANTED = {
    "sum a list in parallel": "Sum()",
    "read progress": "progress=True",
    "skip bad items": 'on_error="skip"',
    "log from workers": "logging.getLogger",
    "continue after a crash": "kill -9",
    "group a CSV by key": "groupby",
    "find the first match": "First()",
    "use it in FastAPI": "FastAPI(lifespan=lifespan)",
}
"""What a newcomer looks for, and words of the answer."""

DRIVER = """
<body><script>
const nap = ms => new Promise(done => setTimeout(done, ms));
const load = (address, width) => new Promise(done => {
    document.querySelector("iframe")?.remove();
    const frame = document.createElement("iframe");
    frame.style = `width: ${width}px; height: 900px; border: 0`;
    frame.onload = () => done(frame.contentDocument);
    frame.src = address;
    document.body.append(frame);
});
const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
(async () => {
    const found = [];
    for (const address of PAGES) {
        const page = await load(address, 390);
        for (const width of [390, 1280]) {
            const root = page.documentElement;
            const fault = text => found.push(`${address} at ${width}: ${text}`);
            document.querySelector("iframe").style.width = `${width}px`;
            if (root.clientWidth > width || root.clientWidth < width - 30) fault(`is as wide as ${root.clientWidth}`);
            if (root.scrollWidth > root.clientWidth) fault("scrolls sideways");
            for (const image of page.images) if (!image.naturalWidth) fault(`no image ${image.src}`);
            if (width > 1000) for (const code of page.querySelectorAll(".highlight-python pre"))
                if (code.scrollWidth > code.clientWidth) fault(`code scrolls: ${code.innerText.slice(0, 60)}`);
            for (const theme of ["light", "dark"]) {
                page.body.dataset.theme = theme;
                const style = page.defaultView.getComputedStyle(page.body);
                const above = light(style.color) - light(style.backgroundColor);
                if (theme === "light" ? above > -400 : above < 400) fault(`hard to read when ${theme}`);
            }
        }
    }
    const results = await load("search.html?q=checkpoint", 1280);
    const links = () => [...results.querySelectorAll("ul.search li a")].map(link => link.href);
    const wanted = () => links().some(link => link.includes("tutorial/long-runs.html")); // one appears after the other
    for (let turn = 0; turn < 200 && !wanted(); turn++) await nap(50);
    fetch("/found", {method: "POST", body: JSON.stringify({found, searched: links()})});
})();
</script>
"""
"""Loads each page, makes it as wide as a telephone and as a desk, in both themes, and tells what is wrong with it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built manual: each docstring is valid, and Sphinx warns of nothing."""
    for package in ("furo", "myst_parser", "sphinx", "sphinx_copybutton"):
        if find_spec(package) is None:
            extras.missing(package.replace("_", "-"))
    folder = tmp_path_factory.mktemp("manual")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", ROOT / "docs", folder]
    built = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert built.stderr == ""
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """The text of each built page by its address."""
    return {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.html")}


@pytest.fixture
def browser():
    """Chromium's program."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    why = "no Chromium here (Debian: apt-get install chromium)"
    return pytest.fail(why) if os.environ.get("POOLAGG_CI") else pytest.skip(why)


def test_each_internal_link_and_anchor_leads_somewhere(site, pages):
    """In the built pages, those that the theme makes included; each image is there."""
    anchors = {address: set(re.findall(r'\bid="([^"]*)"', text)) for address, text in pages.items()}
    for address, text in pages.items():
        for target in re.findall(r'<a\b[^>]*?href="([^"]*)"|<img\b[^>]*?src="([^"]*)"', text):
            path, anchor = urldefrag(urljoin(address, unescape("".join(target))))
            if ":" in path:
                continue
            assert (site / unquote(path)).exists(), (address, target)
            assert not anchor or unquote(anchor) in anchors[path], (address, target)


@pytest.mark.parametrize("command", ["run", "check", "show"])
def test_the_reference_has_each_option_of_the_command_line(command, site):
    text = (site / "reference" / "command-line.html").read_text()
    help_of_command = subprocess.run(
        [sys.executable, "-m", "poolagg", command, "--help"], capture_output=True, text=True
    )
    options = set(re.findall(r"--[a-z-]+", help_of_command.stdout))
    assert "--help" in options
    assert options <= set(re.findall(r"--[a-z-]+", text))


@pytest.mark.parametrize("wanted", WANTED)
def test_a_newcomer_finds_it_within_two_clicks(wanted, pages):
    """The start page names it beside a link, and the page behind that answers."""
    row = re.search(rf'<p>{wanted}</p></td>\s*<td><p><a [^>]*href="([^"#]+)', pages["index.html"])
    answer = unescape(re.sub("<[^>]*>", "", pages[row[1]]))
    assert WANTED[wanted] in answer


@pytest.mark.orphans
def test_pages_fit_and_can_be_read_and_searched_in_a_browser(site, pages, browser, tmp_path):
    """On a telephone and on a desk, light and dark; a server without a network behind it is enough for the search."""
    (site / "driver.html").write_text(DRIVER.replace("PAGES", json.dumps(sorted(pages))), "utf-8")
    posted = queue.Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self):
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,950", "--remote-debugging-port=0"]
        command.append(f"http://127.0.0.1:{server.server_port}/driver.html")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        process = subprocess.Popen(command, **quiet)
        try:
            told = posted.get(timeout=50)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.shutdown()
            thread.join()
    assert not told["found"], "\n".join(told["found"])
    assert any("tutorial/long-runs.html" in link for link in told["searched"])
