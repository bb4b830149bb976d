"""The plugin that turns skips into failures, run on a suite of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="needs Django >= 7.0")
def test_of_another_django():
    pass

@pytest.mark.xfail(strict=True)
def test_known_failure():
    assert False
"""


def run(folder, suite, **env):
    """Run a suite under the plugin; give its exit code and what it printed."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_suite.py").write_text(suite)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NETSTORAGE_", "PYTEST_"))}
    kept["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "tests.no_skips"]
    command += ["-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=kept | env, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_expected_skips_pass(tmp_path):
    code, output = run(tmp_path, SUITE, NETSTORAGE_CI="1")
    assert code == 0, output
    assert "1 passed, 1 skipped, 1 xfailed" in output


@pytest.mark.parametrize(
    "skip",
    [
        "def test_it():\n    pytest.skip('no server')",
        "@pytest.mark.skip(reason='no server')\ndef test_it(): pass",
        "@pytest.mark.skipif(True, reason='no server')\ndef test_it(): pass",
        "@pytest.fixture\ndef server(): pytest.skip('no server')\ndef test_it(server): pass",
        "pytest.skip('no server', allow_module_level=True)",
        "no_server = pytest.importorskip('no_server')",
    ],
    ids=["call", "mark", "skipif", "fixture", "module", "import"],
)
def test_every_other_skip_fails(tmp_path, skip):
    code, output = run(tmp_path, f"{SUITE}\n{skip}\n", NETSTORAGE_CI="1")
    assert code != 0, output
    assert "unexpected skip" in output
    assert "no server" in output or "no_server" in output


def test_a_machine_may_name_what_it_lacks(tmp_path):
    suite = f"{SUITE}\ndef test_it():\n    pytest.skip('Docker does not answer')\n"
    code, output = run(
        tmp_path, suite, NETSTORAGE_CI="1", NETSTORAGE_EXPECTED_SKIPS="no fish; no; Docker "
    )
    assert code == 0, output


def test_without_the_variable_skips_are_skips(tmp_path):
    suite = f"{SUITE}\ndef test_it():\n    pytest.skip('no server')\n"
    for env in ({}, {"NETSTORAGE_CI": "0"}):
        code, output = run(tmp_path, suite, **env)
        assert code == 0, output
        assert "2 skipped" in output
