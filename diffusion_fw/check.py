"""The former name of ``python -m diffusion_fw.checking``, kept for one release."""

import warnings

from diffusion_fw.checking.__main__ import main

if __name__ == "__main__":
    warnings.warn("python -m diffusion_fw.check is now python -m diffusion_fw.checking", FutureWarning, stacklevel=1)
    main()
