"""What the README promises and shows is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMPARISON = README.partition("## What it does that django-storages'")[2].partition("\n## ")[0]
NAMED = re.findall(r"`([\w/]+\.py)::([\w:]+)`", COMPARISON)


@pytest.mark.parametrize(("path", "test"), NAMED, ids=["::".join(each) for each in NAMED])
def test_the_named_test_exists(path, test):
    body = ast.parse((ROOT / "tests" / path).read_text()).body
    for name in test.split("::"):
        found = [node for node in body if getattr(node, "name", None) == name]
        assert len(found) == 1, f"{name} in tests/{path}"
        body = found[0].body
    assert isinstance(found[0], ast.FunctionDef)
    assert name.startswith("test_")


def test_every_line_of_the_comparison_names_a_test():
    lines = [line for line in COMPARISON.splitlines() if line.startswith("| ")][1:]
    headings = [line for line in lines if re.fullmatch(r"\| \*\*.+\*\* \| \|", line)]
    assert len(lines) - len(headings) == len(NAMED) == len(set(NAMED)) > 20


def test_the_commands_are_those_that_run():
    """The test command is CONTRIBUTING's, which `.ci/run` calls."""
    command = re.search(r"^python3 -m venv .*bin/tox$", README, re.MULTILINE)[0]
    assert f"$ {command}\n" in (ROOT / "CONTRIBUTING.md").read_text()
    assert re.search(
        r'^python3 -m venv .*-e "\.\[demo\]".* -m netstorage\.demo$', README, re.MULTILINE
    )


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docker/README.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target
