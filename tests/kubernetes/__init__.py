"""A double of a Kubernetes cluster on loopback, for tests: real clients and operators talk to it, pods are processes.

What it is not: pods share one network namespace and one file system. See ``kubelet`` for what follows from that.
"""
