"""``with_service_names.py FILE MODULE ARGUMENT…`` runs a module in which names of services resolve, as within a cluster."""

import importlib.util
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("pod_network", Path(__file__).with_name("pod_network.py"))
    assert spec
    assert spec.loader
    pod_network = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pod_network)
    pod_network.resolve_services(sys.argv[1])
    del sys.argv[0:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
