"""Do the jobs of a plan on a Ray cluster: each is a task that runs the very command a process here
would run.

Folders are named by path, so the machines need a file system in common. Ray is an optional extra.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinysight.study.jobs import start_command
from tinysight.study.plan import Job


class Cluster:
    """Where jobs are placed: the cluster that RAY_ADDRESS names, or one of this machine alone.

    Args:
        program: the command that is `tinysight` on every machine.
        environment: variables to set for each job.
        home: where packs are kept, when it is not the default.
    """

    def __init__(
        self, *, program: Sequence[str], environment: dict[str, str], home: Path | None = None
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError("--ray needs Ray: pip install 'tinysight[ray]'") from None
        self.ray = ray
        self.program, self.home = tuple(program), home
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        most = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
        wanted = environment["OMP_NUM_THREADS"]
        threads = (
            min(int(wanted), most) if wanted.isdecimal() and int(wanted) else 1
        )  # more would wait for ever
        needs = {"num_gpus": 1} if has_gpus else {"num_cpus": threads}
        self.environment = {**environment, "OMP_NUM_THREADS": str(threads)}
        self.task = ray.remote(max_retries=0, **needs)(_do)

    def start(self, job: Job, place: int) -> Task:
        """Hand a job to Ray's queue."""
        command = [*self.program, *job.arguments(self.home)]
        return Task(
            self.ray, self.task.remote(command, str(job.output.absolute()), self.environment)
        )


class Task:
    """A job that Ray has; see `jobs.Work`."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference
        self.asked = 0

    def poll(self) -> int | None:
        """Return the job's exit status, None while it waits or runs, 1 when its machine is lost."""
        done, _ = self.ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return int(self.ray.get(self.reference))
        except (self.ray.exceptions.TaskCancelledError, self.ray.exceptions.RayTaskError):
            return 128 + self.asked if self.asked else 1
        except self.ray.exceptions.RayError:
            return 1

    def send_signal(self, number: int) -> None:
        """Cancel the job; when it runs, it saves."""
        self.asked = number
        self.ray.cancel(self.reference)


def _do(command: list[str], output: str, environment: dict[str, str]) -> int:
    """Run a command on whatever machine this is; when cancelled, let it save."""
    process: subprocess.Popen[bytes] | None = None
    try:
        process = start_command(command, Path(output), environment)
        while (status := process.poll()) is None:
            time.sleep(0.2)  # not wait(): a cancellation gets in between
    except KeyboardInterrupt:
        if process is None:
            return 130
        process.terminate()
        status = process.wait()
    return status
