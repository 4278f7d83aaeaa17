"""Draw `report.png` anew, the page of a real report, with Chromium: `python docs/_pictures/report.py`."""

import subprocess
import tempfile
from pathlib import Path

from poolagg import Collect, Report, Sum, aggregate


def steps_to_one(n):
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


report = Report()
aggregate(steps_to_one, range(1, 100_000), {"sum": Sum(), "all": Collect()}, watch=report, workers=2)
with tempfile.TemporaryDirectory() as folder:
    page = Path(folder, "run.html")
    report.save(page)
    picture = Path(__file__).with_suffix(".png")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--window-size=900,630", f"--user-data-dir={folder}/profile", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
