"""The launchers that Hydra finds: submitit's, with the waiting of diffusion_fw.sweeps.submitit_launcher.

No __init__.py stands beside this file, because all of Hydra's plugin packages share the name hydra_plugins. Without the
extra `slurm` the module defines nothing.
"""

import importlib.util
from collections.abc import Sequence

from hydra.core.utils import JobReturn

if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"):
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

    class PatientLauncher(BaseSubmititLauncher):
        """Submits all jobs of a sweep together and returns a result for each, even if one was killed."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from diffusion_fw.sweeps.submitit_launcher import submit

            return submit(self, self._EXECUTOR, self.params, job_overrides, initial_job_idx)

    class PatientLocalLauncher(PatientLauncher):
        """Runs the jobs in processes on this machine."""

        _EXECUTOR = "local"

    class PatientSlurmLauncher(PatientLauncher):
        """Runs the jobs as a Slurm array."""

        _EXECUTOR = "slurm"
