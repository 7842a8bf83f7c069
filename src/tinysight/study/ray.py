"""Train a study's members on Ray: on the cluster that RAY_ADDRESS names, or on this machine.

The machines need a file system in common, since folders are named by path. Ray is an extra.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tinysight.study.plan import Job, outcome

logger = logging.getLogger("tinysight")


def train_on_ray(jobs: Sequence[Job], train: Callable[[Job, float], object]) -> int:
    """Train the jobs that are not finished, one per GPU or machine; return how many failed.

    Args:
        train: as for `plan.train_members`; pickled, and called in a process of Ray's.

    Raises:
        KeyboardInterrupt: Ctrl-C came; every job has saved its state and stopped.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'tinysight[ray]'") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
    cores = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    needs = {"num_gpus": 1} if has_gpus else {"num_cpus": cores}
    task = ray.remote(max_retries=0, **needs)(train)
    running = {task.remote(job, 0.0): job for job in jobs if not job.finished}
    failed = 0
    try:
        while running:
            (reference,), _ = ray.wait(list(running))
            job = running[reference]
            try:
                ray.get(reference)
                logger.info("%s: %s", job.folder.name, outcome(job))
            except ray.exceptions.RayError as error:
                failed += 1
                logger.error("%s: failed: %s", job.folder.name, str(error).splitlines()[-1])
            del running[reference]
    except KeyboardInterrupt:
        for reference in running:
            ray.cancel(reference)
        ray.wait(list(running), num_returns=len(running))
        raise
    return failed
