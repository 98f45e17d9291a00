"""Every command line of the documents composes: its groups, options, keys and values exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

from documents import DOCUMENTS, ROOT, label
from test_plugin_guide import write_examples

SCRIPT = """
import json, sys
from diffusion_fw.config import compose
from diffusion_fw.registry import ConfigError, discovery

compose.MAX_CHECKED_JOBS = 2
discovery.load_plugins("plugins")
compose.store_components()
for where, program, arguments in json.load(sys.stdin):
    try:
        compose.check_command_line(program, arguments)
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


def test_every_command_line_composes(tmp_path):
    found = [[label(path), *command] for path in DOCUMENTS for command in commands(path.read_text())]
    assert len(found) > 50
    unique = list({json.dumps(command[1:]): command for command in found}.values())
    write_examples(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(unique),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DIFFUSION_FW_PLUGINS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
