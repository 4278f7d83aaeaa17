"""Draw `k_means.png` anew, what the example finds, with matplotlib: `python docs/_pictures/k_means.py`."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt

found = runpy.run_path(str(Path(__file__).parents[2] / "examples/k_means.py"), run_name="__main__")
points, centres = found["points"][::100], found["centres"]
nearest = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
figure, axes = plt.subplots(figsize=(5, 3.6))
axes.scatter(*points.T, c=nearest, cmap="tab10", vmax=9, s=3, linewidths=0)
axes.scatter(*centres.T, marker="x", color="black", s=60)
axes.set_aspect("equal")
axes.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110, bbox_inches="tight")
