"""Features of two vision transformers, from a local folder of their weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion_fw.files import with_home
from diffusion_fw.metrics.features.extractor import ImageNetwork, require_images
from diffusion_fw.metrics.features.inception import OFFLINE
from diffusion_fw.metrics.features.resize import bicubic
from diffusion_fw.registry import ConfigError, Runtime, register


class VisionTransformer(ImageNetwork):
    """A model of the package transformers, read from a folder with config.json and model.safetensors."""

    resize = staticmethod(bicubic)
    group_name: ClassVar[str]
    model_class: ClassVar[str]
    """Its class in transformers."""
    source: ClassVar[str]
    """The published folder."""
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]

    def __init__(self, shape: tuple[int, ...], path: str | None):
        super().__init__()
        require_images(self.group_name, shape, channels=(1, 3))
        try:
            import transformers
        except ImportError as error:
            raise ConfigError(
                f'{error}; install it with pip install "diffusion-fw[transformers]", or without: {OFFLINE}'
            ) from error
        self.model = self._read(transformers, path)
        self.num_features = self._describe(self.model.config)
        self.name = f"{self.group_name}_{self.num_features}"
        self.settings = f"bicubic {self.size[0]}"
        self.freeze()

    def _read(self, transformers: Any, path: str | None) -> Any:
        """The model. Only tensors are read and no code of the folder is run; ConfigError for an incomplete one."""
        folder = with_home(path) if path else None
        if folder is None or not all((folder / file).is_file() for file in ("config.json", "model.safetensors")):
            raise ConfigError(
                f"features.path={path}: must be a folder with config.json and model.safetensors, and a run downloads "
                f"nothing. On a machine with a network get these two files of {self.source}, put them into a folder "
                f"and give it; {OFFLINE}"
            )
        model_class, log = getattr(transformers, self.model_class), transformers.logging
        verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
        try:
            log.set_verbosity_error()
            log.disable_progress_bar()
            config = model_class.config_class.from_pretrained(str(folder), local_files_only=True)
            if getattr(config, "quantization_config", None) is not None:
                raise ValueError("its config asks for quantized weights")
            # Given a path, it would also read adapters there. A config may name a kernel of the hub, which is code.
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=load_file(folder / "model.safetensors"),
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:
            line = str(error).strip().splitlines() or [""]
            raise ConfigError(
                f"features.path={path} is not a {self.model_class} ({type(error).__name__}: {line[0]})"
            ) from None
        finally:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
        # Missing weights would be random ones.
        missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        if missing:
            raise ConfigError(
                f"features.path={path} lacks {len(missing)} weights of a {self.model_class}, such as {missing[0]}"
            )
        return model

    @abstractmethod
    def _describe(self, config: Any) -> int:
        """Set the size of the images, and return the number of features."""

    def normalized(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] in the scale that the network was trained on."""
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return ((images + 1) / 2 - mean) / std


@register("features", "dinov2")
class DINOv2(VisionTransformer):
    """The class token of DINOv2 (Oquab et al. 2024) after the last normalization: 1024 features of ViT-L/14.

    Those of FD-DINOv2 (Stein et al. 2023): images resized to 224x224 by PIL's bicubic rule, normalised by the mean and
    deviation of ImageNet. The rule does not round, as Karras et al. 2024b have it; Stein et al. round to pixels again.
    ``path`` is a folder with config.json and model.safetensors of facebook/dinov2-large, or of another size. The extra
    ``transformers`` installs the code. Raises ConfigError if the extra or a weight is missing, and for data that are
    not images of one or three channels.
    """

    group_name = "dinov2"
    model_class = "Dinov2Model"
    source = "https://huggingface.co/facebook/dinov2-large"
    size = (224, 224)
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, shape: Runtime[tuple[int, ...]], path: str | None = None):
        super().__init__(shape, path)

    def _describe(self, config: Any) -> int:
        return int(config.hidden_size)

    def embed(self, images: Tensor) -> Tensor:
        token: Tensor = self.model(self.normalized(images)).pooler_output
        return token


@register("features", "clip")
class CLIP(VisionTransformer):
    """The image embedding of CLIP (Radford et al. 2021), before it is normalised: 768 features of ViT-L/14.

    Images are resized to the model's size by PIL's bicubic rule. ``path`` is a folder with config.json and
    model.safetensors of openai/clip-vit-large-patch14, openai/clip-vit-base-patch32 or another CLIP. The extra
    ``transformers`` installs the code. Raises ConfigError as features=dinov2 does.
    """

    group_name = "clip"
    model_class = "CLIPVisionModelWithProjection"
    source = "https://huggingface.co/openai/clip-vit-large-patch14"
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, shape: Runtime[tuple[int, ...]], path: str | None = None):
        super().__init__(shape, path)

    def _describe(self, config: Any) -> int:
        self.size = (int(config.image_size), int(config.image_size))
        return int(config.projection_dim)

    def embed(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.model(self.normalized(images)).image_embeds
        return embedding
