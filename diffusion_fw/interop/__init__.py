"""Published weights in and out: `python -m diffusion_fw.interop import|export`, and our samplers in diffusers."""
