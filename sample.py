"""Draw samples: `python sample.py checkpoint=RUN/checkpoints/best.ckpt sampler=ddpm sampler.steps=250`."""

from pathlib import Path

from diffusion_fw.app.sample import main

if __name__ == "__main__":
    main(plugins=Path(__file__).parent / "plugins")
