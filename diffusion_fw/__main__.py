"""`python -m diffusion_fw`: the programs, and the choices of the config as files to copy."""

from __future__ import annotations

import sys

from diffusion_fw.app.overview import main

if __name__ == "__main__":
    sys.exit(main())
