"""Where Hydra looks for launchers: submitit's, waiting for every job, which is in diffusion_fw.sweeps.submitit_jobs.

No __init__.py beside this file: the packages of Hydra's plugins share the name. Without the extra it is empty.
"""

import importlib.util
from collections.abc import Sequence

from hydra.core.utils import JobReturn

if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"):
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

    class PatientLauncher(BaseSubmititLauncher):
        """Submits the jobs of a sweep together, and hides none behind one that was killed."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from diffusion_fw.sweeps.submitit_jobs import submit

            return submit(self, self._EXECUTOR, self.params, job_overrides, initial_job_idx)

    class PatientLocalLauncher(PatientLauncher):
        """On this machine."""

        _EXECUTOR = "local"

    class PatientSlurmLauncher(PatientLauncher):
        """As a Slurm array."""

        _EXECUTOR = "slurm"
