"""Published weights in and out.

    python -m diffusion_fw.interop import SOURCE --out model.ckpt [KEY=VALUE ...]
    python -m diffusion_fw.interop export CHECKPOINT --to FORMAT --out PLACE
    python -m diffusion_fw.interop formats

SOURCE is a file of weights, a folder of diffusers, or hub:OWNER/NAME. FORMAT is diffusers, safetensors, program (of
torch.export), or one of the formats. A checkpoint that was imported works in sample.py, evaluate.py and init_from.
KEY=VALUE states what the weights leave open, such as network.num_heads=4 schedule=cosine schedule.num_steps=4000
shape=[3,64,64] data=cifar10 data.root=...
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffusion_fw.interop.exporting import export
from diffusion_fw.interop.formats import formats
from diffusion_fw.interop.published import describe, import_published, parse
from diffusion_fw.interop.source import read_source
from diffusion_fw.registry import ConfigError, RegistrationError, discovery


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_fw.interop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser("import", help="make a checkpoint of published weights")
    reading.add_argument("source", help="a file of weights, a folder of diffusers, or hub:OWNER/NAME")
    reading.add_argument("given", nargs="*", metavar="KEY=VALUE", help="what the weights leave open")
    reading.add_argument("--out", type=Path, help="the checkpoint to write")
    reading.add_argument("--format", help="the format, where it is not recognised")
    reading.add_argument("--dry-run", action="store_true", help="print what would be imported, and write nothing")
    reading.add_argument("--force", action="store_true", help="replace an existing file")
    writing = commands.add_parser("export", help="write a checkpoint's model for another code base")
    writing.add_argument("checkpoint", help="a checkpoint, or a folder that save_pretrained wrote")
    writing.add_argument("--to", required=True, help="checkpoint, diffusers, safetensors, program, or a format")
    writing.add_argument("--out", type=Path, required=True, help="the file or folder to write; it may not exist yet")
    writing.add_argument("--raw-weights", action="store_true", help="the trained weights instead of the first average")
    commands.add_parser("formats", help="list the formats")
    # argparse takes words after an option for unknown ones.
    parsed, rest = parser.parse_known_args()
    if parsed.command != "import" or any(word.startswith("-") for word in rest):
        return parser.parse_args()
    parsed.given += rest
    return parsed


def _table(title: str, rows: dict[str, str]) -> None:
    table = Table("", escape(title))
    for key, value in rows.items():
        table.add_row(key, escape(value))
    Console().print(table)


def _import(given: argparse.Namespace) -> None:
    if given.out is None and not given.dry_run:
        raise ConfigError("import needs --out CHECKPOINT, the file to write, or --dry-run")
    if given.out is not None and given.out.exists() and not given.force and not given.dry_run:
        raise ConfigError(f"--out {given.out} exists; give another file, or --force to replace it")
    imported = import_published(read_source(given.source), parse(given.given), name=given.format)
    _table(given.source, describe(imported))
    if not given.dry_run:
        imported.save(given.out)
        print(f"written: {given.out}; draw from it with python sample.py checkpoint={given.out}")


def main() -> None:
    """The program; exit code 1 and one message for a mistake of the user."""
    given = _arguments()
    try:
        discovery.load_plugins()
        if given.command == "import":
            _import(given)
        elif given.command == "export":
            print(export(given.checkpoint, given.to, given.out, raw_weights=given.raw_weights))
        else:
            _table("", {name: inspect.getdoc(type(item)) or "" for name, item in formats().items()})
    except (ConfigError, RegistrationError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except OSError as error:
        sys.exit(f"ConfigError: --out {given.out} cannot be written: {error.filename}: {error.strerror or error}")


if __name__ == "__main__":
    main()
