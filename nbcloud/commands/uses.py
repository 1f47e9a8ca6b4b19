"""What a run takes while it runs, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbcloud.wording import size_text


def uses_text(samples: Sequence[Mapping[str, Any]]) -> str:
    """Processors, memory and GPUs, as last seen: ``"1.8 CPUs, 1.2 GiB, GPU 0: 85 %, 10.2 GiB"``.

    Parameters
    ----------
    samples : sequence of mapping
        One for each rank; empty in a run's first second or two.
    """
    if len(samples) == 1:
        return _one(samples[0])
    return "; ".join(f"rank {sample['rank']}: {_one(sample)}" for sample in samples)


def _one(sample: Mapping[str, Any]) -> str:
    parts = [f"{sample['cpus']:.1f} CPUs", size_text(sample["memory"])]
    for gpu in sample.get("gpus", []):
        told = [f"{gpu['utilisation']:.0f} %"] if "utilisation" in gpu else []
        told += [size_text(gpu["memory"])] if "memory" in gpu else []
        parts.append(f"GPU {gpu['device']}: {', '.join(told) or 'unknown'}")
    return ", ".join(parts)
