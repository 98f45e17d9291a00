"""The likelihood of a model: by its probability flow, and by the variational bound of its reverse steps."""

from diffusion_fw.likelihood.flow_likelihood import Likelihood, bits_per_dim, dequantise, evaluate, log_prob

__all__ = ["Likelihood", "bits_per_dim", "dequantise", "evaluate", "log_prob"]
