"""evaluate.py with several metrics, with samples of files, and what its lines say."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.verification import verify
from diffusion_fw.config.application import check_command_line
from diffusion_fw.metrics.sample_set import seen
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs import results


@pytest.fixture
def evaluated(untrained, tmp_path):
    """evaluated(arguments) -> the lines of an evaluation of points."""
    checkpoint = untrained("data=moons", "network=mlp")
    own = [f"checkpoint={checkpoint}", "device=cpu", "sampler.steps=3", f"metric.cache_dir={tmp_path / 'cache'}"]

    def run(*arguments):
        # metric.num_samples belongs to metrics of samples alone.
        config = check_command_line("evaluate", [*own, *arguments, "results=null"])[0]
        evaluate(config, tmp_path)
        return json.loads((tmp_path / "evaluation.json").read_text())["results"]

    return run


def test_a_key_of_the_group_is_that_of_all_metrics_and_of_one_its_own():
    line = ["checkpoint=x", "metric=[fid,none]", "metric.num_samples=20", "metric.none.num_samples=9"]
    metric = check_command_line("evaluate", line)[0]["metric"]
    assert {name: section["num_samples"] for name, section in metric.items()} == {"fid": 20, "none": 9}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["metric=[]"], "metric=.*must be one or more of: .*fid"),
        (["metric.num_sample=3"], "did you mean 'num_samples'"),
        (["metric=[fid,fif]"], "no such metric - did you mean 'fid'"),
        (["metric.fid=3"], "metric.fid is a component"),
        (["metric=fid", "metric.steps=3"], "metric.steps: no such key"),
    ],
)
def test_mistakes_about_metrics_are_said(line, message):
    with pytest.raises(ConfigError, match=message):
        check_command_line("evaluate", ["checkpoint=x", *line])


def test_training_has_one_metric():
    with pytest.raises(ConfigError, match="a config has one metric"):
        check_command_line("train", ["metric=[fid,none]"])
    assert check_command_line("train", ["metric.num_samples=7"])[0]["metric"]["num_samples"] == 7


def test_a_line_says_what_was_made_and_holds_when_it_is_checked(evaluated):
    (line,) = evaluated("metric.num_samples=40")
    assert line["metric"] == "fid/identity@40/raw"
    assert line["evaluations"] == line["cost"]["evaluations"] == 3
    assert line["sampler"]["name"] == "ddim"
    assert len(line["first_samples"]) == 16
    assert len(line["checkpoint"]["sha256"]) == 64
    assert all(finding.holds for finding in verify(line, device="cpu"))


def test_honest_checks_raise_no_alarm(evaluated):
    (line,) = evaluated("metric.num_samples=40")
    for batch_size in (1, 3, 16, 64):
        wrong = [finding for finding in verify(line, device="cpu", batch_size=batch_size) if not finding.holds]
        assert not wrong


def test_a_line_does_not_choose_where_features_are_kept(evaluated, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    (line,) = evaluated("metric.num_samples=40")
    line["component"]["cache_dir"] = str(tmp_path / "theirs")
    verify(line, device="cpu")
    assert not (tmp_path / "theirs").exists()
    assert (tmp_path / "own").exists()


ALTERED = {
    "value": lambda line: line.update(value=line["value"] * 0.9),
    "name": lambda line: line.update(metric=line["metric"].replace("fid", "kid")),
    "number of samples": lambda line: line.update(num_samples=50000),
    "weights": lambda line: line.update(weights="ema"),
    "average": lambda line: line["ema"].update(rate=0.5),
    "sampler": lambda line: line.update(sampler={"name": "heun", "steps": 3}),
    "steps": lambda line: line["sampler"].update(steps=4),
    "noise": lambda line: line["sampler"].update(eta=1.0),
    "grid": lambda line: line.update(grid={"name": "karras"}),
    "guidance": lambda line: line.update(guidance={}),
    "seed": lambda line: line.update(seed=1),
    "checkpoint": lambda line: line["checkpoint"].update(sha256="0" * 64),
    "data": lambda line: line["data"]["fingerprints"].update(test="0" * 16),
    "features": lambda line: line["features"].update(fingerprint="0" * 16),
    "reference": lambda line: line["component"].update(reference="train"),
    "evaluations": lambda line: line.update(evaluations=100.0),
    "direction": lambda line: line.update(better="higher"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_line_of_which_one_setting_is_altered_is_caught(evaluated, what):
    (line,) = evaluated("metric.num_samples=40")
    ALTERED[what](line)
    assert results.digest(line) != line[results.DIGEST]
    # Who altered it may have sealed it again.
    line[results.DIGEST] = results.digest(line)
    try:
        findings = verify(line, device="cpu")
    except ConfigError:
        return
    assert findings[0].holds
    assert not all(finding.holds for finding in findings)


@pytest.mark.parametrize("metric", ["heldout_loss", "nll"])
def test_a_line_of_no_samples_holds_and_its_altered_value_does_not(untrained, tmp_path, metric):
    checkpoint = untrained("network.channels=8", "network.channel_mult=[1]")
    own = [f"checkpoint={checkpoint}", "device=cpu", f"metric={metric}", "metric.num_images=20", "results=null"]
    few = ["metric.steps=3", "metric.flow_images=0"] if metric == "nll" else []
    evaluate(check_command_line("evaluate", [*own, *few])[0], tmp_path)
    (line,) = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert "first_samples" not in line
    assert all(finding.holds for finding in verify(line, device="cpu"))
    part = line["partial"] or [0, line["value"]]
    line.update(value=line["value"] * 1.1, partial=line["partial"] and [part[0], part[1] * 1.1])
    line[results.DIGEST] = results.digest(line)
    assert not all(finding.holds for finding in verify(line, device="cpu"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"component": "fid"},
        {"checkpoint": "x"},
        {"partial": "half"},
        {"partial": [True, "x"]},
        {"num_samples": "many"},
        {"data": None},
        {"ema": []},
        {"format": 2},
    ],
    ids=str,
)
def test_a_line_with_values_of_other_types_is_refused_in_one_line(evaluated, wrong):
    (line,) = evaluated("metric.num_samples=40")
    with pytest.raises(ConfigError, match=r"^this is no result line of evaluate.py: [^\n]+$"):
        verify({**line, **wrong}, device="cpu")


def test_a_reference_of_another_shape_than_the_models_is_refused(untrained, tmp_path):
    reference = write_images(tmp_path / "b", images(12, 0))
    checkpoint = untrained("network.channels=8", "network.channel_mult=[1]")
    assert "but the model draws (1, 8, 8)" in refused(tmp_path, f"checkpoint={checkpoint}", f"reference={reference}")


def write_images(folder, images):
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:04}.png")
    return folder


def images(count, seed, channels=3):
    shape = (count, 8, 8, channels) if channels > 1 else (count, 8, 8)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def compared(tmp_path, samples, reference, *arguments):
    line = [f"samples={samples}", f"reference={reference}", f"metric.cache_dir={tmp_path / 'cache'}", "device=cpu"]
    config = check_command_line("evaluate", [*line, "results=null", *arguments])[0]
    value = evaluate(config, tmp_path).value
    return value, json.loads((tmp_path / "evaluation.json").read_text())["results"]


def test_a_folder_a_zip_and_an_npz_of_the_same_images_have_the_same_distance(tmp_path):
    first, second = images(20, 0), images(24, 1)
    folder, reference = write_images(tmp_path / "a", first), write_images(tmp_path / "b", second)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    np.savez(tmp_path / "a.npz", arr_0=first)
    np.savez(tmp_path / "planes.npz", samples=first.transpose(0, 3, 1, 2), provenance="what made it")
    values = [compared(tmp_path, tmp_path / name, reference)[0] for name in ("a", "a.zip", "a.npz", "planes.npz")]
    assert values[0] > 0
    assert values == pytest.approx([values[0]] * 4, rel=1e-9)
    assert compared(tmp_path, reference, reference)[0] == pytest.approx(0, abs=1e-6)


def test_files_are_measured_whole_and_their_line_holds(tmp_path):
    samples, reference = write_images(tmp_path / "a", images(20, 0)), write_images(tmp_path / "b", images(24, 1))
    _, (line,) = compared(tmp_path, samples, reference)
    assert line["metric"] == "fid/pixels@20/files"
    assert line["data"]["name"] == "files"
    assert all(finding.holds for finding in verify(line, device="cpu"))
    _, (line,) = compared(tmp_path, samples, reference, "metric.num_samples=18")
    assert line["num_samples"] == 18
    Image.fromarray(images(1, 9)[0]).save(samples / "0003.png")
    assert not all(finding.holds for finding in verify(line, device="cpu"))


def refused(tmp_path, *arguments):
    line = ["results=null", "device=cpu", f"metric.cache_dir={tmp_path / 'cache'}", *arguments]
    with pytest.raises(ConfigError) as error:
        evaluate(check_command_line("evaluate", line)[0], tmp_path)
    return str(error.value)


def test_what_cannot_be_compared_is_said(tmp_path):
    good = write_images(tmp_path / "good", images(12, 0))
    mixed = write_images(tmp_path / "mixed", [*images(2, 0), np.zeros((9, 8, 3), np.uint8)])
    grey = write_images(tmp_path / "grey", images(12, 0, channels=1))
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "unit.npz", arr_0=np.random.default_rng(0).random((12, 8, 8, 3), np.float32))
    np.savez(tmp_path / "several.npz", a=np.zeros(3), b=np.zeros(3))
    broken = write_images(tmp_path / "broken", images(3, 0))
    (broken / "0001.png").write_bytes(b"\x89PNG no")

    def against(samples, *more):
        return refused(tmp_path, f"samples={samples}", f"reference={good}", *more)

    assert "must be of one size" in against(mixed)
    assert "8x9" in against(mixed)
    assert "both must be alike" in against(grey)
    assert "holds no image" in against(tmp_path / "empty")
    assert "no such file or folder" in against(tmp_path / "nowhere")
    assert "float32 from" in against(tmp_path / "unit.npz")
    assert "round(255 x)" in against(tmp_path / "unit.npz")
    assert "it holds a, b" in against(tmp_path / "several.npz")
    assert "0001.png is not a readable image" in against(broken)
    assert "holds 12 examples" in against(good, "metric.num_samples=13")
    assert "is of a model" in against(good, "metric=[fid,nll]")
    assert "are measured as they are" in against(good, "sampler=ddim")
    assert "compared with what?" in refused(tmp_path, f"samples={good}")
    assert "neither is given" in refused(tmp_path)
    assert "both are given" in refused(tmp_path, f"samples={good}", "checkpoint=x")
    assert "leave out one" in against(good, "data=digits")


def test_samples_in_the_range_0_to_255_are_compared_with_registered_data(tmp_path):
    values = np.load(write_digits(tmp_path))["arr_0"]
    assert values.dtype == np.uint8
    line = [f"samples={tmp_path / 'digits.npz'}", "data=digits", f"metric.cache_dir={tmp_path / 'cache'}"]
    config = check_command_line("evaluate", [*line, "results=null", "device=cpu", "features=digits"])[0]
    assert evaluate(config, tmp_path).value < 1


def write_digits(tmp_path):
    from diffusion_fw import registry

    data = registry.build("data", "digits")
    values, _ = data.train.__getitems__(range(300))
    np.savez(tmp_path / "digits.npz", arr_0=values.permute(0, 2, 3, 1).numpy())
    return tmp_path / "digits.npz"


def test_lines_are_appended_and_read_again(tmp_path):
    lines = [results.sealed({"metric": f"fid/{i}", "value": float("nan") if i else 1.0}) for i in range(2)]
    path = results.append(tmp_path / "results", lines[:1])
    assert results.append(tmp_path / "results", lines[1:]) == path
    assert results.read_lines(str(path)) == lines
    assert results.read_lines(f"{path}:2") == lines[1:]
    assert results.read_lines(json.dumps(lines[0])) == lines[:1]
    assert lines[1]["value"] is None
    assert all(results.digest(line) == line[results.DIGEST] for line in lines)


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        ("[1]", "{path}", "it is no result, but list"),
        ("nothing", "{path}", "it is no line of JSON"),
        ("", "{path}", "it holds no result"),
        ("{}", "{path}:2", "has the lines 1 to 1"),
        (None, "{path}", "cannot be read"),
    ],
)
def test_files_that_hold_no_lines_are_refused(tmp_path, content, given, message):
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        results.read_lines(given.format(path=path))


def test_a_line_of_another_program_is_refused():
    with pytest.raises(ConfigError, match="it lacks metric"):
        verify({"value": 1})


def test_points_of_a_file_are_compared(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name, count in (("a", 40), ("b", 50)):
        np.savez(tmp_path / f"{name}.npz", samples=torch.randn(count, 2, generator=generator).numpy())
    value, (line,) = compared(tmp_path, tmp_path / "a.npz", tmp_path / "b.npz")
    assert 0 < value < 1
    assert line["features"]["name"] == "identity"


class Moved(torch.nn.Module):
    """Features that tell where they were moved."""

    def __init__(self):
        super().__init__()
        self.places = []

    def to(self, device):
        self.places.append(device)
        return self

    def forward(self, examples):
        assert self.places
        return examples.flatten(1).float()


def test_features_are_moved_to_the_device_of_the_samples_before_they_are_taken():
    features = Moved()
    seen(features, {"features"}, torch.zeros(3, 2), None, torch.device("cpu"))
    assert features.places == [torch.device("cpu")]


def test_samples_of_lower_precision_are_others_and_their_line_says_and_holds(evaluated, untrained, tmp_path):
    # Before training the output is 0 in any precision.
    path = untrained("data=moons", "network=mlp")
    content = torch.load(path, weights_only=True)
    torch.manual_seed(0)
    for value in content["state_dict"].values():
        value += 0.1 * torch.randn_like(value)
    torch.save(content, tmp_path / "moved.ckpt")
    words = (f"checkpoint={tmp_path / 'moved.ckpt'}", "metric=fid", "metric.num_samples=40")
    full, low = (evaluated(*words, f"precision={precision}")[0] for precision in ("32-true", "bf16-mixed"))
    assert (full["precision"], low["precision"]) == ("32-true", "bf16-mixed")
    assert full["value"] != low["value"]
    assert low["value"] == pytest.approx(full["value"], rel=0.05)
    assert all(finding.holds for finding in verify(low, device="cpu"))
