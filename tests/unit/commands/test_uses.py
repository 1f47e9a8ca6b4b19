"""What a run takes, as ``%cloud status`` says it."""

from __future__ import annotations

from nbcloud.commands.uses import uses_text


def test_processors_memory_and_gpus_are_told_as_far_as_they_are_known() -> None:
    assert uses_text([]) == ""
    plain = {"rank": 0, "cpus": 1.84, "memory": 3 * 2**30}
    assert uses_text([plain]) == "1.8 CPUs, 3.0 GiB"
    gpus = [{"device": "0", "utilisation": 85.0, "memory": 2.0**30}, {"device": "MIG-1"}]
    assert (
        uses_text([plain | {"gpus": gpus}]) == "1.8 CPUs, 3.0 GiB, GPU 0: 85 %, 1.0 GiB, GPU MIG-1: unknown"
    )


def test_ranks_are_told_apart() -> None:
    samples = [{"rank": rank, "cpus": 1.0, "memory": 2**20} for rank in (0, 1)]
    assert uses_text(samples) == "rank 0: 1.0 CPUs, 1.0 MiB; rank 1: 1.0 CPUs, 1.0 MiB"
