"""The choices by which these tests train an autoencoder and a model of its latents."""

from __future__ import annotations

AUTOENCODER = {
    "network": "kl_autoencoder",
    "network.channels": 8,
    "network.latent_channels": 2,
    "objective": "autoencoder",
    "metric": "none",
    "callbacks": ["reconstruction", "checkpoints"],
    "trainer.max_steps": 30,
    "optimizer.lr": 3e-3,
}
LATENT = {"codec": "kl_autoencoder", "trainer.max_steps": 3, "callbacks.evaluation.every": 3}
