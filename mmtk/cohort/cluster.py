"""Where cases run: a Dask cluster of processes here, of jobs of SLURM, or one that is there already.

Whom a case goes to, what becomes of it when its process dies, and when a process takes too much memory, is Dask's to
decide. We only say how it is to be set up: one thread of Dask's a worker, so that a process has one case at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmtk.cohort.description import Place
from mmtk.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["GPU", "connect", "environment", "job_script", "ready"]

#: The resource of a worker that one case takes whole.
GPU = "GPU"

#: Seconds to find a scheduler, and one worker of it.
PATIENCE = 30.0

INSTALL = "install it by `pip install 'mmtk[cluster]'`"


def ready(place: Place) -> None:
    """Refuse what the libraries that are installed cannot do.

    Raises:
        ConfigError: One is missing.
    """
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ConfigError(f"a cohort is scheduled by Dask, which is not installed; {INSTALL}") from None
    if place.scheduler != "slurm":
        return
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError:
        raise ConfigError(f"scheduler=slurm needs dask-jobqueue, which is not installed; {INSTALL}") from None


def environment(threads: int) -> dict[str, str]:
    """Return what every worker's environment has: its threads, waiting ones asleep, and memory kept for reuse."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
    return {
        **{f"{name}_NUM_THREADS": str(threads) for name in names},
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 29),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }


@contextmanager
def connect(place: Place) -> Iterator[Client]:
    """Lend a client of the cluster; on leaving, what was started for it is ended.

    Raises:
        ConfigError: If there is no scheduler, or its workers would run several cases in one process.
    """
    import dask
    from distributed import Client

    settings = {
        # A case whose worker dies is tried again so often, and then blamed.
        "distributed.scheduler.allowed-failures": place.retries,
        "distributed.scheduler.work-stealing": False,
        "distributed.nanny.pre-spawn-environ": environment(place.threads),
        "distributed.worker.memory.target": False,  # there is nothing of ours to be spilled
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.admin.log-length": 1000,
        # A machine that is busy is not one that has gone: to start a worker again may take it minutes.
        "distributed.comm.timeouts.connect": "120s",
        "distributed.comm.timeouts.tcp": "300s",
        "logging": {"distributed": "critical"},
    }
    if place.scheduler == "local":
        # Else a nanny that takes longer than 15 s to replace its worker is given up, and nobody is left to work.
        settings["distributed.deploy.lost-worker-timeout"] = "1 hour"
    with dask.config.set(settings):
        if place.scheduler == "local":
            with _local(place) as cluster, Client(cluster) as client:
                yield client
        elif place.scheduler == "slurm":
            with _slurm(place) as cluster, Client(cluster) as client:
                # Jobs that have ended, by their walltime, are replaced.
                cluster.adapt(minimum_jobs=place.workers, maximum_jobs=place.workers)
                yield client
        else:
            with _there(place) as client:
                yield client


def _local(place: Place) -> Any:
    """Return a cluster of processes of this machine; each has a nanny, which starts it again and keeps its memory."""
    from distributed import Nanny, Scheduler, SpecCluster

    def options(number: int) -> dict[str, Any]:
        env = environment(place.threads)
        if place.gpus:
            env["CUDA_VISIBLE_DEVICES"] = _visible(place.gpus)[number]
        return {
            "nthreads": 1,
            "memory_limit": "auto" if place.memory is None else int(place.memory * 1e9),
            "env": env,
            "resources": {GPU: 1} if place.gpus else None,
            "silence_logs": 50,
        }

    count = place.gpus or place.workers
    return SpecCluster(
        workers={number: {"cls": Nanny, "options": options(number)} for number in range(count)},
        scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}},
        silence_logs=50,
    )


def _visible(count: int) -> list[str]:
    """Return names of GPUs, of those that this process may see."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(number) for number in range(count)])[:count]


def _slurm(place: Place) -> Any:
    from dask_jobqueue import SLURMCluster

    directives = [f"--gres=gpu:{place.gpus}"] if place.gpus else []
    words = ["--resources", f"{GPU}={place.gpus}"] if place.gpus else []
    return SLURMCluster(
        queue=place.queue,
        account=place.account,
        walltime=place.walltime,
        cores=1,  # cases at a time, not cores of the machine
        processes=1,
        job_cpu=place.threads,
        memory=f"{place.memory or 4:g} GB",
        job_extra_directives=directives,
        worker_extra_args=words,
        job_script_prologue=[f"export {name}={value}" for name, value in environment(place.threads).items()],
        scheduler_options={"dashboard_address": ":0"},  # any port: another cluster may have the usual one
    )


def job_script(place: Place) -> str:
    """Return the script that each job of SLURM runs; nothing is submitted."""
    with _slurm(place) as cluster:
        return str(cluster.job_script())


@contextmanager
def _there(place: Place) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(place.scheduler, timeout=PATIENCE)
    except (OSError, asyncio.TimeoutError) as error:
        raise ConfigError(
            f"scheduler={place.scheduler}: nobody answers there; start one by `dask scheduler`, and workers by "
            f"`dask worker {place.scheduler} --nthreads 1`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except asyncio.TimeoutError:
            raise ConfigError(
                f"scheduler={place.scheduler}: has no worker; start one by `dask worker {place.scheduler} --nthreads 1`"
            ) from None
        many = {address: count for address, count in client.nthreads().items() if count != 1}
        if many:
            raise ConfigError(
                f"scheduler={place.scheduler}: the worker {next(iter(many))} has {next(iter(many.values()))} threads, "
                f"so several cases would share a process; start workers with --nthreads 1"
            )
        yield client
