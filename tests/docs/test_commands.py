"""Every command line of the documents composes: its groups, options, keys and values exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

from documents import DOCUMENTS, ROOT, label

SCRIPT = """
import gc, json, sys
from diffusion_fw.config import application, compose
from diffusion_fw.registry import ConfigError, discovery

gc.disable()  # halves the time of composing
application.MAX_CHECKED_JOBS = 1  # the first job of a sweep
discovery.load_plugins("plugins")
compose.store_components()
for where, program, arguments in json.load(sys.stdin):
    if arguments[:1] in (["--help"], ["--cfg"], ["--hydra-help"], ["-sc"]):
        continue  # they print, and run nothing
    try:
        application.check_command_line(program, arguments)
    except ConfigError as error:
        print(f"{where}: {program}.py {' '.join(arguments)}: {error}")
"""
COMMAND = re.compile(r"^python (train|sample|evaluate)\.py(.*)$", flags=re.MULTILINE)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(program, arguments) of each command, in blocks and in lines; a transcript's, after "$ ", may be a mistake."""
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    inline = "\n".join(" ".join(code.split()) for code in re.findall(r"(?<!`)`(python [^`]+)`", text))
    return [(program, shlex.split(rest, comments=True)) for program, rest in COMMAND.findall(f"{blocks}\n{inline}")]


def test_the_reader_joins_lines_and_leaves_out_comments_and_transcripts():
    block = "```\npython train.py a=1 \\\n    'b=[1,2]'  # why\n$ python train.py c=1\n```\n"
    text = f"{block}or `python sample.py\nd=2`.\n"
    assert commands(text) == [("train", ["a=1", "b=[1,2]"]), ("sample", ["d=2"])]


def test_every_command_line_composes():
    # The commands of the guide to plugins name its examples, which test_plugin_guide.py runs.
    documents = [path for path in DOCUMENTS if path.name != "plugins.md"]
    found = [[label(path), *command] for path in documents for command in commands(path.read_text())]
    assert len(found) > 40
    unique = list({json.dumps(command[1:]): command for command in found}.values())
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(unique),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
