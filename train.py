"""Train a diffusion model: `python train.py`, `python train.py schedule=linear sampler=ddpm`."""

from pathlib import Path

from diffusion_fw.app.train import main

if __name__ == "__main__":
    main(plugins=Path(__file__).parent / "plugins")
