"""Measure a checkpoint: `python evaluate.py checkpoint=RUN/checkpoints/best.ckpt sampler=ddim sampler.steps=20`."""

from pathlib import Path

from diffusion_fw.app.evaluate import main

if __name__ == "__main__":
    main(plugins=Path(__file__).parent / "plugins")
