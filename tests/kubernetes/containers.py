"""A container: a process that is started, probed, restarted and ended as the pod's spec says."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.kubernetes import environment, images, probes, processes
from tests.kubernetes.admission import ACCOUNT_FILES
from tests.kubernetes.store import Object, Store, now

LONGEST_BACKOFF = 16.0
STABLE_AFTER = 30.0


class Container:
    """One container of a pod, through all its restarts."""

    def __init__(
        self, store: Store, pod: Object, spec: Object, directory: Path, node: Node, report: Callable[[], None]
    ):
        self._store, self._pod, self.spec, self._node, self._report = store, pod, spec, node, report
        self.name: str = spec["name"]
        self.directory = directory / self.name
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Object = {}
        self.restarts = 0
        self.ready = self.started = False
        self.process: asyncio.subprocess.Process | None = None
        self.logs: list[Path] = []
        self.exit_reason = ""
        """What the next end of the process is put down to, when it is not its own doing: OOMKilled."""
        self.paths: dict[str, Path] = {}
        for each in ("home", "tmp"):
            (self.directory / each).mkdir(parents=True)

    def status(self) -> Object:
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": f"sha256:{self.spec['image']}" if self.logs else "",
            "containerID": f"containerd://{self.process.pid}" if self.process else "",
            "state": self.state,
            "lastState": self.last_state,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
        }

    async def run(self, policy: str) -> int:
        """Run until the container is not to be restarted any more; the exit code."""
        backoff = 0.0
        while True:
            began = time.monotonic()
            code = await self._run_once()
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                return code
            backoff = 0.0 if time.monotonic() - began > STABLE_AFTER else backoff
            self.last_state = self.state
            if backoff:
                self._wait("CrashLoopBackOff", self._backoff_message(backoff))
                self._event("BackOff", f"Back-off restarting failed container {self._of_pod()}", "Warning")
                await asyncio.sleep(backoff)
            backoff = min(backoff * 2 or 1.0, LONGEST_BACKOFF)
            self.restarts += 1

    async def _run_once(self) -> int:
        prefix = await self._pull()
        try:
            command, variables, cwd = await self._configure(prefix)
        except images.CannotStart as error:
            self._event("Failed", f"Error: {error}", "Warning")
            self._terminated(128, "StartError", "1970-01-01T00:00:00Z", str(error))
            return 128
        log = self.directory / f"{len(self.logs)}.log"
        self.process = await processes.start(command, variables, log, cwd)
        self.logs.append(log)
        self.state = {"running": {"startedAt": now()}}
        self.exit_reason = ""
        self._event("Started", f"Started container {self.name}")
        watching = asyncio.create_task(self._probe(variables))
        try:
            self._report()
            code = await self.process.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        processes.kill_below(self.directory)
        code = 128 - code if code < 0 else code
        reason = self.exit_reason or ("Error" if code else "Completed")
        self._terminated(code, reason, self.state["running"]["startedAt"])
        return code

    async def _pull(self) -> Path:
        image, backoff = self.spec["image"], 1.0
        while image not in self._node.images:
            if backoff == 1.0:
                why = f'failed to pull and unpack image "{image}": not found'
                message = f"rpc error: code = NotFound desc = {why}"
                self._event("Pulling", f'Pulling image "{image}"')
                self._event("Failed", f'Failed to pull image "{image}": {message}', "Warning")
                self._event("Failed", "Error: ErrImagePull", "Warning")
                self._wait("ErrImagePull", message)
                await asyncio.sleep(0.5)
            self._event("BackOff", f'Back-off pulling image "{image}"', "Normal")
            self._event("Failed", "Error: ImagePullBackOff", "Warning")
            self._wait("ImagePullBackOff", f'Back-off pulling image "{image}"')
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)
        return self._node.images[image]

    async def _configure(self, prefix: Path) -> tuple[list[str], dict[str, str], Path]:
        """The process's command, variables and directory, as soon as what they refer to exists."""
        while True:
            version = self._store.version
            try:
                declared = environment.variables(self._store, self._pod, self.spec)
                break
            except environment.ConfigError as error:
                self._event("Failed", f"Error: {error}", "Warning")
                self._wait("CreateContainerConfigError", str(error))
                await self._store.wait_for(frozenset({"secrets", "configmaps"}), version)
        fix = functools.partial(environment.rewrite, store=self._store, pod=self._pod, paths=self.paths)
        variables = {
            "PATH": f"{images.bin_directory(prefix)}:{images.SYSTEM_PATH}",
            "LANG": "C.UTF-8",
            **self._node.variables,
            **{key: fix(value) for key, value in declared.items()},
            "HOME": str(self.directory / "home"),
            "TMPDIR": str(self.directory / "tmp"),
        }
        if ACCOUNT_FILES in self.paths:
            variables["KUBECONFIG"] = str(self._account(self.paths[ACCOUNT_FILES]))
        paths = [str(self.directory.parent / "site"), *filter(None, [variables.get("PYTHONPATH")])]
        variables["PYTHONPATH"] = ":".join(paths)
        words = [*(self.spec.get("command") or ()), *(self.spec.get("args") or ())]
        command = images.resolve(prefix, [fix(environment.expand(str(each), declared)) for each in words])
        cwd = Path(fix(self.spec.get("workingDir") or ""))
        return command, variables, cwd if str(cwd) != "." and cwd.is_dir() else self.directory / "home"

    def _account(self, files: Path) -> Path:
        """A kubeconfig of the pod's account: clients would look for its files where no pod of ours can have them."""
        address = "{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}".format(**self._node.variables)
        cluster = {"server": f"https://{address}", "certificate-authority": str(files / "ca.crt")}
        context = {"cluster": "own", "user": "own", "namespace": self._pod["metadata"]["namespace"]}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "own", "cluster": cluster}],
            "users": [{"name": "own", "user": {"token": (files / "token").read_text()}}],
            "contexts": [{"name": "own", "context": context}],
            "current-context": "own",
        }
        path = self.directory / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    # Probes

    async def _probe(self, variables: dict[str, str]) -> None:
        once = functools.partial(self._probe_once, variables)
        if startup := self.spec.get("startupProbe"):
            done = asyncio.Event()
            tell = functools.partial(self._tell_startup, done)
            looking = asyncio.create_task(
                probes.watch(startup, functools.partial(once, startup), tell, eager=True)
            )
            try:
                await done.wait()
            finally:
                looking.cancel()
        self.started = True
        readiness, liveness = self.spec.get("readinessProbe"), self.spec.get("livenessProbe")
        self.ready = not readiness
        self._report()
        async with asyncio.TaskGroup() as group:
            if readiness:
                group.create_task(
                    probes.watch(readiness, functools.partial(once, readiness), self._tell_ready, eager=True)
                )
            if liveness:
                group.create_task(
                    probes.watch(liveness, functools.partial(once, liveness), self._tell_alive, eager=False)
                )

    async def _probe_once(self, variables: dict[str, str], probe: Object) -> str:
        ports = {
            each["name"]: each["containerPort"] for each in self.spec.get("ports") or () if "name" in each
        }

        async def run(command: list[str]) -> int:
            command = images.resolve(self._node.images[self.spec["image"]], command)
            log = self.directory / "probe.log"
            process = await processes.start(command, variables, log, self.directory / "home")
            try:
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()

        return await probes.succeeds(probe, self._pod["status"]["podIP"], ports, run)

    def _tell_startup(self, done: asyncio.Event, good: bool, why: str) -> None:
        if good:
            done.set()
        else:
            self._unhealthy("Startup", why)

    def _tell_ready(self, good: bool, why: str) -> None:
        if not good:
            self._event("Unhealthy", f"Readiness probe failed: {why}", "Warning")
        self.ready = good
        self._report()

    def _tell_alive(self, good: bool, why: str) -> None:
        if not good:
            self._unhealthy("Liveness", why)

    def _unhealthy(self, probe: str, why: str) -> None:
        self._event("Unhealthy", f"{probe} probe failed: {why}", "Warning")
        self._event("Killing", f"Container {self.name} failed {probe.lower()} probe, will be restarted")
        self.kill(signal.SIGTERM if probe == "Startup" else signal.SIGKILL)

    # Ending

    def kill(self, number: signal.Signals, reason: str = "") -> None:
        """Signal the container's first process; the others end with it."""
        if self.process and self.process.returncode is None:
            self.exit_reason = reason
            processes.send(self.process.pid, number)

    async def end(self, grace: float) -> None:
        """SIGTERM, and after the grace period SIGKILL, to all."""
        if self.process and self.process.returncode is None:
            if grace > 0:
                self.kill(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), grace)
            self.kill(signal.SIGKILL)
            await self.process.wait()
        processes.kill_below(self.directory)

    # Telling

    def _terminated(self, code: int, reason: str, started: str, message: str = "") -> None:
        self.ready = self.started = False
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        self.state = {"terminated": {**ended, **({"message": message} if message else {})}}
        self._report()

    def _wait(self, reason: str, message: str) -> None:
        self.ready = self.started = False
        self.state = {"waiting": {"reason": reason, "message": message}}
        self._report()

    def _of_pod(self) -> str:
        metadata = self._pod["metadata"]
        return f"{self.name} in pod {metadata['name']}_{metadata['namespace']}({metadata['uid']})"

    def _backoff_message(self, backoff: float) -> str:
        """In the kubelet's numbers, which are ten times those of the double."""
        metadata = self._pod["metadata"]
        pod = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        seconds = min(int(backoff * 10), 300)
        shown = f"{seconds // 60}m{seconds % 60}s" if seconds >= 60 else f"{seconds}s"
        return f"back-off {shown} restarting failed container={self.name} pod={pod}"

    def _event(self, reason: str, message: str, type_: str = "Normal") -> None:
        self._store.record_event(self._pod, reason, message, "kubelet", type_)


class Node:
    """What a container gets from where it runs."""

    def __init__(self, images: dict[str, Path], variables: dict[str, str], services: Path) -> None:
        self.images, self.variables, self.services = images, variables, services
