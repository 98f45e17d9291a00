from __future__ import annotations

import torch
from PIL import Image

from diffusion_fw.pictures.order_curves import convergence
from diffusion_fw.pictures.sampler_gallery import gallery


def test_convergence_is_drawn_with_errors_of_zero_and_without_an_order(tmp_path):
    curves = {"a": [(4, 0.1), (8, 0.025), (16, 0.00625)], "b": [(4, 0.1), (8, 0.0)]}
    assert Image.open(convergence(tmp_path / "c.png", curves, {"a": 2}, "title")).size == (900, 560)


def test_a_gallery_has_a_panel_for_each_sampler(tmp_path):
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    rows = [
        Image.open(gallery(tmp_path / "g.png", points, {f"s{i}": points for i in range(n)}, "t")).size for n in (3, 9)
    ]
    assert rows[0][0] == rows[1][0] == 900
    assert rows[1][1] > 1.5 * rows[0][1]
