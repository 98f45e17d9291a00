"""Encoders of text: what they ignore, what they tell apart, and what they never read or run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.conditions import text
from diffusion_fw.registry import ConfigError
from diffusion_fw.text_encoders.hashing import Hashing, embedding, words_of


def cosine(first, second):
    return float(torch.nn.functional.cosine_similarity(embedding(first, 1024), embedding(second, 1024), dim=0))


def test_the_same_text_has_the_same_vectors_whatever_stands_beside_it():
    encoder = Hashing()
    alone, among = encoder(["a red heart"]), encoder(["nothing", "a red heart", ""])
    assert torch.equal(alone.value[0], among.value[1])
    assert torch.equal(alone.told[0], among.told[1])
    embedding.cache_clear()
    assert torch.equal(encoder(["a red heart"]).value, alone.value)


def test_a_word_has_its_vector_at_its_place():
    found = Hashing(length=4)(["red heart", "heart red"])
    assert torch.equal(found.value[0, :2], found.value[1, :2].flip(0))
    assert not torch.equal(found.value[0, 0], found.value[0, 1])
    assert found.told.tolist() == [[True, True, False, False]] * 2
    assert not found.value[:, 2:].any()


@pytest.mark.parametrize(("first", "second"), [("heart", "hearts"), ("circle", "circles"), ("smiling", "smile")])
def test_related_words_are_closer_than_others(first, second):
    """Words without common parts have independent vectors, whose cosines have standard deviation 1/32."""
    others = ["banana", "october", "jupiter", "wolf", "tractor"]
    assert cosine(first, second) > 0.2
    assert max(abs(cosine(first, other)) for other in others) < 0.125


def test_vectors_have_the_length_of_standard_normal_ones():
    lengths = Hashing(size=100)(["red", "a", "extraordinarily"]).value[:, 0].norm(dim=1)
    torch.testing.assert_close(lengths[[0, 2]], torch.full((2,), 10.0))
    # A word of one letter has the one part that is itself, <a>.
    assert 7 < lengths[1] < 13


@pytest.mark.parametrize("other", ["café noir", "CAFÉ  NOIR!", "cafe, noir.", "Cafe\u0301 (noir)"])
def test_case_accents_and_punctuation_are_ignored(other):
    assert torch.equal(Hashing()([other]).value, Hashing()(["cafe noir"]).value)


def test_letters_of_other_scripts_are_words():
    assert words_of("Красное сердце") == ["красное", "сердце"]
    assert words_of("赤い ハート 3") == ["赤い", "ハート", "3"]


@pytest.mark.parametrize("caption", ["", "  ", "?!", "\n"])
def test_a_caption_without_words_is_told_nothing(caption):
    found = Hashing(length=3)([caption, "red"])
    assert found.told.tolist() == [[False] * 3, [True, False, False]]
    assert not found.value[0].any()


def test_no_captions_are_an_empty_batch_of_the_right_shape():
    assert Hashing(length=3, size=8)([]).value.shape == (0, 3, 8)


def test_words_beyond_the_length_are_cut_off():
    found = Hashing(length=2, size=16)(["one two three", "one two"])
    assert found.value.shape == (2, 2, 16)
    assert found.told.all()
    assert torch.equal(found.value[0], found.value[1])


def test_the_fingerprint_changes_with_every_setting():
    prints = {Hashing(**given).fingerprint() for given in ({}, {"length": 13}, {"size": 65}, {"length": 1, "size": 8})}
    assert len(prints) == 4
    assert Hashing(12, 64).fingerprint() == Hashing().fingerprint()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The condition text, with a cache of its own and a count of the captions that were embedded."""
    monkeypatch.setattr(text, "default_cache", lambda: tmp_path / "cache")
    embedded = []

    class Counting(Hashing):
        def __call__(self, captions):
            embedded.extend(captions)
            return super().__call__(captions)

    return dfw.build("condition", "text", encoder=Counting()), embedded, tmp_path / "cache"


def test_embeddings_are_read_from_the_cache_the_second_time(source):
    condition, embedded, folder = source
    first = condition.embedded(("a dog", "a cat"))
    again = condition.embedded(("a dog", "a cat"))
    assert embedded == ["a dog", "a cat"]
    assert torch.equal(first.value, again.value)
    assert torch.equal(first.told, again.told)
    assert len(list(folder.iterdir())) == 1


def test_other_settings_or_captions_are_another_file(source):
    condition, embedded, folder = source
    condition.embedded(("a dog",))
    condition.embedded(("a dog", "a cat"))
    wider = replace(condition, encoder=Hashing(size=32))
    assert wider.embedded(("a dog",)).value.shape == (1, 12, 32)
    assert len(list(folder.iterdir())) == 3
    assert embedded == ["a dog", "a dog", "a cat"]


def test_a_damaged_file_of_the_cache_is_made_again(source, caplog):
    condition, embedded, folder = source
    first = condition.embedded(("a dog",))
    (file,) = folder.iterdir()
    file.write_bytes(b"nothing of the kind")
    assert torch.equal(condition.embedded(("a dog",)).value, first.value)
    assert embedded == ["a dog", "a dog"]
    assert "is damaged" in caplog.text


def test_captions_that_examples_share_are_embedded_once(source):
    condition, embedded, _ = source

    class Captioned:
        def captions(self, split):
            return ["a dog", "a cat", "a dog", ""] if split == "train" else ["a wolf"]

    table = condition.table(Captioned(), "train")
    assert embedded == ["a dog", "a cat", ""]
    assert table.called([2, 1]) == ["a dog", "a cat"]
    told = table.rows([2, 0, 3])
    assert torch.equal(told.value[0], told.value[1])
    assert told.told.any(1).tolist() == [True, True, False]
    assert len(table) == 4


# Of the package transformers.

WORDS = ["<unk>", "<pad>", "<s>", "</s>", "a", "red", "heart", "blue", "circle", "large"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """pretrained(kind) -> the folder of a tiny text encoder with random weights, and a tokenizer of ten words."""
    transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    marks = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    size |= {"vocab_size": len(WORDS), "max_position_embeddings": 20, "pad_token_id": 1}
    ends = {"bos_token_id": 2, "eos_token_id": 3}
    narrow = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}

    def write(kind):
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        if kind == "clip":
            transformers.CLIPTextModel(transformers.CLIPTextConfig(**size, **ends)).save_pretrained(folder)
        elif kind == "bert":
            transformers.BertModel(transformers.BertConfig(**size)).save_pretrained(folder)
        else:
            transformers.T5EncoderModel(transformers.T5Config(**narrow, pad_token_id=1)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.mark.parametrize("kind", ["clip", "bert", "t5"])
def test_a_folder_of_transformers_gives_the_last_hidden_states(pretrained, kind, monkeypatch):
    import transformers

    monkeypatch.setattr("socket.socket.connect", lambda *given: pytest.fail("it asks for something elsewhere"))
    encoder = dfw.build("text_encoder", "transformers", folder=str(pretrained(kind)), length=6, batch_size=2)
    found = encoder(["a red heart", "", "a large blue circle a large blue circle"])
    assert (encoder.size, found.value.shape, found.value.dtype) == (16, (3, 6, 16), torch.float32)
    assert found.told.sum(1).tolist() == [5, 0, 6]
    # The model alone, on the one caption without anything beside it.
    name = {"clip": "CLIPTextModel", "bert": "BertModel", "t5": "T5EncoderModel"}[kind]
    model = getattr(transformers, name).from_pretrained(encoder.folder).eval()
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([[2, 4, 5, 6, 3]])).last_hidden_state[0]
    torch.testing.assert_close(found.value[0, :5], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(["a red heart"]).value[0, :5], alone, rtol=1e-4, atol=1e-5)
    assert not found.value.requires_grad


def test_a_fingerprint_is_of_the_weights_and_the_length_but_not_of_the_place(pretrained, tmp_path):
    import shutil

    folder = pretrained("bert")
    shutil.copytree(folder, tmp_path / "copy")
    build = lambda folder, **given: dfw.build("text_encoder", "transformers", folder=str(folder), **given)  # noqa: E731
    own = build(folder).fingerprint()
    assert build(tmp_path / "copy").fingerprint() == own
    assert build(folder, length=5).fingerprint() != own
    assert build(folder, batch_size=1).fingerprint() == own
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert build(tmp_path / "copy").fingerprint() != own


def test_weights_that_could_run_code_are_not_read(pretrained, tmp_path):
    """A pickle in the place of safetensors, and a module of the folder that the config names."""
    folder = pretrained("bert")
    ran = tmp_path / "it_ran"
    (folder / "model.safetensors").unlink()
    (folder / "custom.py").write_text(f"open({str(ran)!r}, 'w')\nclass Model: pass\n")
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch " + str(ran).encode() + b"'\ntR.")
    encoder = dfw.build("text_encoder", "transformers", folder=str(folder), length=6)
    with pytest.raises(ConfigError, match=r"^text_encoder\.folder=.*bert"):
        encoder(["a"])
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "custom.Model", "AutoModel": "custom.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"^text_encoder\.folder="):
        _ = dfw.build("text_encoder", "transformers", folder=str(folder)).size
    assert not ran.exists()


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_that_is_no_text_encoder_is_named(tmp_path, made):
    folder = tmp_path / "somewhere"
    if made:
        folder.mkdir()
    encoder = dfw.build("text_encoder", "transformers", folder=str(folder))
    for use in (encoder.fingerprint, lambda: encoder.size, lambda: encoder(["a"])):
        with pytest.raises(ConfigError, match=r"^text_encoder\.folder=.*somewhere has no config\.json"):
            use()


def test_without_the_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "diffusion-fw\[transformers\]"'):
        _ = dfw.build("text_encoder", "transformers", folder=str(tmp_path)).size
