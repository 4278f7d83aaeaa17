"""What a release consists of: the same bytes from every build, links that work on PyPI, a conda recipe, all Pythons."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec

import extras
import pytest
import yaml
from packaging.requirements import Requirement
from pages import fenced
from paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]


def build(tree, folder):
    """Build the sdist, and the wheel from it, as `python -m build` does; return both, by their names."""
    for backend in ("build", "hatchling", "hatch_fancy_pypi_readme"):
        if find_spec(backend) is None:
            extras.missing(backend.replace("_", "-"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    built = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=50)
    assert built.returncode == 0, built.stderr
    return {file.name: file for file in folder.iterdir()}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The sdist and the wheel of this checkout."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def test_a_build_from_the_sdist_gives_the_same_bytes(packages, tmp_path):
    """In another folder, from files with other times and modes."""
    name = f"poolagg-{PROJECT['version']}"
    with tarfile.open(packages[f"{name}.tar.gz"]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    for file in (tmp_path / name).rglob("*.py"):
        file.chmod(0o600)
        os.utime(file, (1_000_000_000, 1_000_000_000))
    again = build(tmp_path / name, tmp_path / "dist")
    assert again.keys() == packages.keys() == {f"{name}.tar.gz", f"{name}-py3-none-any.whl"}
    assert {name: file.read_bytes() for name, file in again.items()} == {
        name: file.read_bytes() for name, file in packages.items()
    }


def test_links_of_the_front_page_work_on_pypi(packages):
    """The package's description is README with addresses on GitHub, of files that the release's tag has."""
    [wheel] = [file for name, file in packages.items() if name.endswith(".whl")]
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"poolagg-{PROJECT['version']}.dist-info/METADATA"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = metadata.get_payload(decode=True).decode("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert fenced(page) == fenced(readme)
    tag = f"poolagg/poolagg/(?:blob/)?v{re.escape(PROJECT['version'])}"
    here = re.compile(rf"https://(?:github|raw\.githubusercontent)\.com/{tag}/(.*)")
    links = re.findall(r"(!?)\[[^]]*\]\(([^)\s]+)\)", readme)
    shown = re.findall(r"(!?)\[[^]]*\]\(([^)\s]+)\)", page)
    assert [(image, here.sub(r"\1", target)) for image, target in shown] == links
    for image, target in shown:
        assert target.startswith("https://raw." if image else "https://"), target
        assert not (found := here.fullmatch(target)) or (ROOT / found[1]).exists(), target


def test_the_conda_recipe_requires_what_the_package_requires():
    """The same version, Python, build backend, dependencies and command."""
    recipe = yaml.safe_load((ROOT / ".ci/conda-forge/recipe.yaml").read_text("utf-8"))
    assert recipe["context"]["version"] == PROJECT["version"]
    assert f">={recipe['context']['python_min']}" == PROJECT["requires-python"]
    needs = recipe["requirements"]
    assert needs["host"] == ["python ${{ python_min }}.*", "pip", *PYPROJECT["build-system"]["requires"]]
    python, *others = needs["run"]
    assert python == "python >=${{ python_min }}"
    assert list(map(Requirement, others)) == list(map(Requirement, PROJECT["dependencies"]))
    commands = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == commands
    assert recipe["about"]["license"] == PROJECT["license"]


def test_the_suite_runs_on_every_python_that_the_package_names():
    """On Linux, macOS and Windows."""
    named = {text.rpartition(" :: ")[2] for text in PROJECT["classifiers"] if " :: Python :: 3." in text}
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text("utf-8"))
    matrix = workflow["jobs"]["suite"]["strategy"]["matrix"]
    assert set(matrix["python"]) == named
    assert matrix["system"] == ["ubuntu", "macos", "windows"]
