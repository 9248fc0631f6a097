"""Launchers of several processes of which each trains by itself, or one alone starts: the trainer does not say so."""

from __future__ import annotations

from collections.abc import Mapping

LAUNCHERS = (
    ("torchrun or accelerate", "WORLD_SIZE"),
    ("srun", "SLURM_NTASKS"),
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH's or Intel's mpirun", "PMI_SIZE"),
)
"""(who starts processes, the variable by which it tells each of them how many there are)."""
OF_ACCELERATE = ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR")
"""What accelerate's launcher sets, the second where several processes were asked for."""
TOGETHER = (
    "To train together start them by torchrun --nproc-per-node N, on several nodes with --nnodes and --rdzv-endpoint."
)


def apart(environment: Mapping[str, str], processes: int) -> str | None:
    """What to say where a launcher tells of more processes than train together; None where none does."""
    for launcher, variable in LAUNCHERS:
        told = environment.get(variable, "")
        if told.isdecimal() and int(told) > processes:
            return (
                f"{launcher} tells of {told} processes ({variable}), but {processes} "
                f"{'trains' if processes == 1 else 'train'} together: any others train a copy of their own, on all "
                f"rows, and their monitors need folders of their own. {TOGETHER}"
            )
    if "WORLD_SIZE" not in environment and all(variable in environment for variable in OF_ACCELERATE):
        return f"accelerate launch was asked for several processes and has started this one alone. {TOGETHER}"
    return None
