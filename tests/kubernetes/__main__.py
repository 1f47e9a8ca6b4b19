"""``python -m tests.kubernetes``: the double with its operator, to try things by hand; Ctrl-C ends it."""

from __future__ import annotations

import argparse
import signal

from tests.kubernetes.dask_operator import DaskOperator
from tests.kubernetes.double import KubernetesDouble


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes", description=__doc__)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that a third node claims to have")
    parser.add_argument("--no-operator", action="store_true", help="a Kubernetes that knows nothing of Dask")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with KubernetesDouble() as double:
        if arguments.gpus:
            double.add_node("node-gpu", resources={"nvidia.com/gpu": arguments.gpus})
        operator = None if arguments.no_operator else DaskOperator(double)
        if operator is not None:
            double.install_crds()
            operator.start()
        double.create("namespaces", {"metadata": {"name": "ml"}})
        print(f"export KUBECONFIG={double.add_user('admin', namespace='ml')}", flush=True)
        print(
            f'# Pods are processes of this machine; their image is image = "{next(iter(double.images))}".',
            flush=True,
        )
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("\n# Ending.", flush=True)
        finally:
            if operator is not None:
                operator.stop()


if __name__ == "__main__":
    main()
