"""Test that what the README says of the command line is so."""

import re
import shlex
from pathlib import Path

import pytest

from keras_rmsprop._command_line import program
from tests.tools import commands

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("## On the command line\n")[2].partition("\n## ")[0]


def test_compare_prints_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^python -m keras_rmsprop (.+)$", SECTION, re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    assert commands.succeeds(*shlex.split(command)) == shown


@pytest.mark.parametrize("name", program.commands)
def test_every_command_is_in_the_readme_with_options_that_it_has(name):
    used = re.findall(rf"`({name}(?: [^`]+)?)`", SECTION)
    assert used
    options = {option for each in program.commands[name].params for option in each.opts}
    words = {word for line in used for word in shlex.split(line) if word.startswith("--")}
    assert words <= options | {"--help"}
