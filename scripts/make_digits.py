"""Write the embedded digits from scikit-learn's copy of UCI's optical digits.

``pip install scikit-learn && python scripts/make_digits.py`` writes diffusion_fw/data/assets/digits.npz. Only this
script needs scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

ASSET = Path(__file__).parents[1] / "diffusion_fw" / "data" / "assets" / "digits.npz"


def main() -> None:
    """Store the images, whose values are the counts 0 .. 16, and the labels."""
    digits = load_digits()
    ASSET.parent.mkdir(exist_ok=True)
    np.savez_compressed(ASSET, values=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))
    print(f"{len(digits.target)} digits, {ASSET.stat().st_size} bytes in {ASSET}")


if __name__ == "__main__":
    main()
