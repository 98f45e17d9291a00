"""Our samplers as schedulers of diffusers' pipelines."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.process.level import NoiseLevel, expand, scale
from diffusion_fw.process.parameterization import Parameterization, Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.sampler import Sampler

Wrap = Callable[[Denoiser], Denoiser]


@dataclass(frozen=True)
class Question:
    """What a sampler asks of the denoiser."""

    x: Tensor
    level: NoiseLevel


class StoppedError(Exception):
    """The pipeline has begun another sampling."""


class Asking:
    """The denoiser of a sampler that runs in a thread: it passes each x_t on and waits for the prediction.

    A sampler calls its denoiser, while a pipeline calls its scheduler: one of the two has to wait for the other.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.questions: queue.SimpleQueue[Question | Tensor | BaseException] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Prediction | None] = queue.SimpleQueue()
        self.generator: torch.Generator | list[torch.Generator] | None = None
        """Of the pipeline's present step."""

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        self.questions.put(Question(x, level))
        answer = self.answers.get()
        if answer is None:
            raise StoppedError
        return answer

    def noise(self, x: Tensor) -> Tensor:
        """Standard normal values of the shape of x."""
        from diffusers.utils.torch_utils import randn_tensor

        made: Tensor = randn_tensor(x.shape, generator=self.generator, device=x.device, dtype=x.dtype)
        return made

    def start(self, sampler: Sampler, wrap: Wrap, x: Tensor) -> None:
        """Begin to sample from x; what follows are questions and at last the sample."""

        def run() -> None:
            try:
                self.questions.put(sampler(wrap(self), x, noise=self.noise))
            except StoppedError:
                pass
            except BaseException as error:  # raised in the thread of the pipeline
                self.questions.put(error)

        threading.Thread(target=run, daemon=True).start()

    def next(self) -> Question | Tensor:
        """The next question, or the sample."""
        said = self.questions.get()
        if isinstance(said, BaseException):
            raise said
        return said


@dataclass(frozen=True)
class Rehearsal:
    """A denoiser that notes the levels at which it is asked."""

    schedule: Schedule
    levels: list[NoiseLevel]

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        self.levels.append(level)
        return Prediction(torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x))


class SamplerScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A sampler on a schedule, with the interface of diffusers' schedulers; see ``as_scheduler``."""

    config_name = "scheduler_config.json"  # type: ignore[assignment]
    order = 1

    def __init__(
        self, build: Callable[[int], Sampler], schedule: Schedule, parameterization: Parameterization, wrap: Wrap
    ) -> None:
        super().__init__()
        self.build, self.schedule, self.parameterization, self.wrap = build, schedule, parameterization, wrap
        # Pipelines ask for it.
        self.register_to_config(num_train_timesteps=len(self))  # type: ignore[no-untyped-call]
        self.init_noise_sigma = float(schedule(torch.ones((), dtype=torch.float64)).sigma)
        self.timesteps = torch.empty(0)
        self.asking: Asking | None = None
        self.returned: Tensor | None = None
        self.position = 0

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **unused: Any) -> None:
        """Plan a sampling of so many steps; ``timesteps`` are then the labels of all evaluations, in order."""
        if unused := {key: value for key, value in unused.items() if value is not None}:
            raise ConfigError(f"set_timesteps: {', '.join(unused)} cannot be set; give as_scheduler another grid")
        self.sampler = self.build(num_inference_steps)
        rehearsal = Rehearsal(self.schedule, [])
        self.sampler(self.wrap(rehearsal), torch.zeros(1, 1))
        self.levels = rehearsal.levels
        labels = torch.stack([self.parameterization.input(level)[1] for level in self.levels])
        whole = bool((labels - labels.round()).abs().max() < 1e-9)
        self.timesteps = (labels.round().long() if whole else labels.float()).to(device)
        self._finish()
        self.position = 0

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """c_in x_t, the network's input at the current evaluation."""
        c_in = self.parameterization.input(self.levels[self.position])[0]
        return scale(c_in.item(), sample)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        **unused: Any,
    ) -> Any:
        """Answer the evaluation with the network's output; gives the x_t of the next one, at last the sample.

        Raises ConfigError where the pipeline has changed x_t in between: a multistep sampler remembers its own.
        """
        if unused := {key: value for key, value in unused.items() if value not in (None, 0, 0.0, 1.0, False)}:
            raise ConfigError(f"step: {', '.join(unused)} belongs to another scheduler; build the sampler with it")
        self._check_step(timestep, model_output, sample)
        if self.asking is None:
            self.asking = Asking(self.schedule)
            # The thread of a scheduler that is dropped ends too.
            self.finish = weakref.finalize(self, self.asking.answers.put, None)
            self.asking.generator = generator
            # The sampler's own state is not rounded to half precision.
            x = sample.to(torch.promote_types(sample.dtype, torch.float32))
            self.asking.start(self.sampler, self.wrap, x)
            self.question = self._next()
        self.asking.generator = generator
        question = self.question
        assert isinstance(question, Question)
        # The values are compared, which waits for the device, only where the pipeline gives another tensor.
        if sample is not self.returned and not torch.equal(question.x.to(sample.dtype), sample):
            raise ConfigError(
                "step: the sample is not the one that the step before has returned; this scheduler keeps the state of "
                "its sampler and cannot follow a pipeline that changes samples between steps"
            )
        output = model_output.to(question.x.dtype)
        mean, variance = (output, None) if output.shape == sample.shape else output.chunk(2, dim=1)
        values = (expand(value, question.x) for value in self.parameterization.inverse(question.level))
        p, q, r, s = values
        prediction = Prediction(p * question.x + q * mean, r * question.x + s * mean, variance)
        self.asking.answers.put(prediction)
        self.question = self._next()
        self.position += 1
        done = not isinstance(self.question, Question)
        following = self.question if isinstance(self.question, Tensor) else self.question.x
        if done:
            self._finish()
        self.returned = following = following.to(sample.dtype)
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t at the levels of these timesteps."""
        places = [int((self.timesteps == step).nonzero()[0]) for step in timesteps]
        alpha, sigma = (
            torch.stack([getattr(self.levels[place], key) for place in places]) for key in ("alpha", "sigma")
        )
        return expand(alpha, original_samples) * original_samples + expand(sigma, noise) * noise

    def _check_step(self, timestep: Any, output: Tensor, sample: Tensor) -> None:
        """ConfigError for a step out of turn, and for an output of another shape than the network's."""
        if self.position >= len(self.timesteps):
            raise ConfigError("step: no timestep is left; call set_timesteps(N) before the first step of a sampling")
        wanted = self.timesteps[self.position].item()
        if timestep is not None and (given := torch.as_tensor(timestep).flatten()[0].item()) != wanted:
            raise ConfigError(
                f"step: the timestep {given:g} was given, but the next one is {wanted:g}; a sampling takes all "
                "timesteps in order, from the first"
            )
        shapes = [(len(sample), count * sample.shape[1], *sample.shape[2:]) for count in (1, 2)]
        if tuple(output.shape) not in shapes:
            raise ConfigError(
                f"step: the network's output has the shape {tuple(output.shape)}; for these samples it must be "
                f"{shapes[0]}, or {shapes[1]} with a learned variance"
            )

    def _next(self) -> Question | Tensor:
        """What the sampler asks next; its error ends the sampling."""
        assert self.asking is not None
        try:
            return self.asking.next()
        except BaseException:
            self._finish()
            raise

    def _finish(self) -> None:
        """End the thread of a sampling that was not completed."""
        if self.asking is not None:
            self.finish()
            self.asking = None

    def __len__(self) -> int:
        return round(1 / self.schedule.t_min)


def as_scheduler(
    sampler: str,
    schedule: Schedule | str,
    parameterization: Parameterization | str | None = None,
    *,
    wrap: Wrap | None = None,
    **parameters: Any,
) -> SamplerScheduler:
    """A registered sampler as a scheduler of diffusers: ``pipeline.scheduler = as_scheduler("unipc", schedule)``.

    ``parameters`` are the sampler's, such as ``grid``; the pipeline sets the number of steps. ``parameterization`` says
    what the network predicts and its time label, by default epsilon at DDPM's index. Both may be names. ``wrap`` puts a
    guidance around the denoiser, such as clip. Raises ConfigError for an adaptive sampler, whose evaluations are not
    known before.
    """

    def build(steps: int) -> Sampler:
        built: Sampler = registry.build("sampler", sampler, steps=steps, **parameters)
        return built

    if build(10).evaluations_per_step is None:
        raise ConfigError(f"sampler={sampler} is adaptive, and a pipeline has to know its timesteps before it begins")
    path = registry.as_component("schedule", schedule)
    predicted = registry.as_component("parameterization", parameterization or "epsilon", schedule=path)
    return SamplerScheduler(build, path, predicted, wrap or (lambda denoiser: denoiser))
