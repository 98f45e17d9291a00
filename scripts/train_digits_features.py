"""Train the classifier whose hidden layer is ``features=digits``, only on the training split of ``data=digits``.

``python scripts/train_digits_features.py`` writes diffusion_fw/metrics/assets/digits_features.safetensors, with the
accuracy on the held-out split in its metadata. It takes less than a minute on one core.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

import diffusion_fw as dfw
from diffusion_fw.data.dataset import Examples, to_model
from diffusion_fw.metrics.features.digits import WEIGHTS, DigitsClassifier

EPOCHS = 150
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
LABEL_SMOOTHING = 0.1


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel along each axis and padded with background."""
    rows, columns = torch.randint(0, 3, (2, len(images), 1, 1), generator=generator)
    index = torch.arange(images.shape[-1])
    padded = pad(images, (1, 1, 1, 1), value=-1.0).squeeze(1)
    example = torch.arange(len(images)).view(-1, 1, 1)
    return padded[example, rows + index.view(1, -1, 1), columns + index.view(1, 1, -1)].unsqueeze(1)


def split(examples: Examples) -> tuple[Tensor, Tensor]:
    """All images of a split, in [-1, 1], and their labels."""
    images, labels = examples.__getitems__(range(len(examples)))
    assert labels is not None
    return to_model(images), labels


def train(images: Tensor, labels: Tensor) -> DigitsClassifier:
    """Train with AdamW and a one-cycle learning rate; deterministic on one machine.

    Smoothed labels (Szegedy et al. 2016) keep the features from growing with the classifier's confidence, which would
    hide the faults of an image behind the spread between classes.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    classifier = DigitsClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(images) // BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH)[: len(images) // BATCH]:
            logits = classifier(shifted(images[batch], generator))
            loss = cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    return classifier


@torch.no_grad()
def accuracy(classifier: DigitsClassifier, images: Tensor, labels: Tensor) -> float:
    """The fraction of images whose largest logit is that of the label."""
    result: float = (classifier(images).argmax(1) == labels).double().mean().item()
    return result


def main() -> None:
    """Train, measure, write."""
    data = dfw.build("data", "digits")
    classifier = train(*split(data.train))
    result = accuracy(classifier, *split(data.test))
    metadata = {
        "model": "DigitsClassifier",
        "trained_on": f"data=digits, training split of {len(data.train)}, fingerprint {data.train.fingerprint()}",
        "tested_on": f"data=digits, held-out split of {len(data.test)}, fingerprint {data.test.fingerprint()}",
        "test_accuracy": f"{result:.4f}",
    }
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(classifier.state_dict(), WEIGHTS, metadata)
    print(f"accuracy {result:.4f} on {len(data.test)} held-out digits; {WEIGHTS.stat().st_size} bytes in {WEIGHTS}")


if __name__ == "__main__":
    main()
