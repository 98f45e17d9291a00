"""Text of strangers, such as the names in a file, is safe to show on a terminal."""

from __future__ import annotations

import logging
import pickle

import pytest

import diffusion_fw as dfw
from diffusion_fw.registry import RegistrationError, printable
from diffusion_fw.registry.messages import LONGEST_MESSAGE, PrintableRecord

ESCAPES = {"\x1b[2J": r"\x1b[2J", "\x07": r"\x07", "\r": r"\r", "\x9b": r"\x9b", "\u202e": r"\u202e", "\x00": r"\x00"}


@pytest.mark.parametrize(("given", "shown"), ESCAPES.items())
def test_a_character_that_moves_the_cursor_is_shown_as_an_escape(given, shown):
    assert printable(f"a{given}b\nc") == f"a{shown}b\nc"
    record = PrintableRecord("name", logging.WARNING, "file", 1, "left out: %s", (given,), None)
    assert record.getMessage() == f"left out: {shown}"
    for kind in (dfw.ConfigError, RegistrationError):
        assert str(kind(given)) == shown


def test_other_text_stays_as_it_is():
    text = "data.path=/daten/ümlaut 写真 🙂: no such folder; give 'data.path=...'\n\tnext"
    assert printable(text.replace("\t", "")) == text.replace("\t", "")


@pytest.mark.parametrize("length", [LONGEST_MESSAGE + 1, 10**7])
def test_a_message_of_megabytes_keeps_its_beginning_and_its_end(length):
    shown = printable(f"checkpoint=a: {'x' * length}; choose another")
    assert len(shown) < LONGEST_MESSAGE + 100
    assert shown.startswith("checkpoint=a: xx")
    assert shown.endswith("xx; choose another")


def test_an_error_survives_the_way_between_processes():
    error = dfw.ConfigError("seed=\x1b: must be int")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == r"seed=\x1b: must be int"


def test_a_refusal_says_once_which_component_it_is_of():
    with pytest.raises(dfw.ConfigError, match=r"^network=unet needs sequences"):
        dfw.build("network", "unet", shape=(2,))
    with pytest.raises(dfw.ConfigError, match=r"^grid=karras: grid\.sigma_max"):
        dfw.build("grid", "karras", sigma_min=3.0, sigma_max=2.0)
