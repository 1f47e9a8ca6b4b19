"""A version of a model: what it says of itself, and what is made of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nbcloud.errors import ModelNotFound
from nbcloud.models import onnxfile
from nbcloud.models.metadata import Metadata
from nbcloud.models.registry.reference import SCHEME
from nbcloud.models.registry.state import Entry, File, Variant

if TYPE_CHECKING:
    from nbcloud.models.bundle.manifest import Manifest
    from nbcloud.models.optimize import Choice, Student

MODEL = "model.onnx"


class Keeper(Protocol):
    """As much of a registry as its versions need."""

    def get(self, reference: str) -> Version:
        """The version that is meant, as it is now."""

    def path(self, version: Version, variant: str = "") -> Path:
        """Its ONNX file."""

    def set_alias(self, reference: str, alias: str) -> Version:
        """Have an alias mean it."""

    def add_variant(self, reference: str, variant: str, path: Path, facts: Mapping[str, Any]) -> Version:
        """Add a compressed form of it."""

    def add_bundle(self, reference: str, bundle: Mapping[str, Any]) -> Version:
        """Note that a bundle was made of it."""


@dataclass(frozen=True)
class Version:
    """A version of a model in a registry, as it is now.

    Parameters
    ----------
    number : int
        1, 2, …
    aliases : tuple of str
        Those that mean it.
    """

    registry: Keeper
    name: str
    entry: Entry
    aliases: tuple[str, ...]

    @property
    def number(self) -> int:
        """Which version it is."""
        return self.entry.number

    @property
    def uri(self) -> str:
        """``models:/digits/3``."""
        return f"{SCHEME}{self.name}/{self.number}"

    @cached_property
    def metadata(self) -> Metadata:
        """What its file says of itself."""
        return Metadata.from_text(self.entry.metadata)

    def path(self, variant: str = "") -> Path:
        """Its ONNX file, on this machine and checked; with its weights beside it where they are apart."""
        return self.registry.path(self, variant)

    def files(self, variant: str = "") -> list[File]:
        """Its files, or those of a variant, the ONNX file first.

        Raises
        ------
        ModelNotFound
            When there is no such variant; names those that there are.
        """
        variants = self.entry.variants
        if not variant:
            return self.entry.files
        if variant not in variants:
            known = f"It has: {', '.join(variants)}." if variants else "It has none."
            raise ModelNotFound(f"{self._reference} has no variant {variant!r}.", known)
        return variants[variant].files

    def optimize(
        self,
        target: str,
        data: Any,
        expected: Any = None,
        *,
        metric: str | Callable[[Any, Any], float] | None = None,
        max_drop: float | None = None,
        max_size: int | str | None = None,
        max_latency: float | str | None = None,
        only: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        student: Student | None = None,
        keep: bool = True,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Choice:
        """Make smaller and faster forms for a target, run and measure each, and keep the best as a variant.

        Parameters
        ----------
        target : str
            ``cpu-x86``, ``edge-arm64``, ``edge-arm32``, ``jetson``, ``web``, ``cloud-gpu``; ``edge``.
        data : array, DataFrame, mapping
            Real data, as the model takes it: it calibrates 8-bit forms, and all are measured on it.
        expected : array, optional
            What would be right, for each row of the data.
        metric : str or callable, optional
            ``accuracy``, ``r2``, or a function of the answers by their names and what is expected; higher is
            better.
        max_drop : float, optional
            Of the metric below full precision; of the agreement with it where nothing is expected.
        max_size : int or str, optional
            Bytes, or ``"5MiB"``.
        max_latency : float or str, optional
            Seconds for one row, the median; or ``"2ms"``.
        only : sequence of str, optional
            Forms to try, rather than all that are worth it there.
        outputs : sequence of str, optional
            Those of the model that are needed; the forms have no others, nor what only those need.
        student : callable, optional
            ``student(inputs, answers)`` trains a smaller model on the data and on what the model answers to
            it, both arrays by their names, and returns it: a model that `nbcloud.export` takes, with the
            same inputs and outputs in the same order. It is one more form, ``student``.
        keep : bool
            Whether the best becomes a variant in the registry.

        Returns
        -------
        Choice
            The table; ``best`` and, when it was kept, ``variant``.

        Raises
        ------
        ModelError
            When no form is within the limits; says which comes nearest.
        """
        from nbcloud.models.optimize import Limits, optimize

        with tempfile.TemporaryDirectory(prefix="nbcloud-optimize-", ignore_cleanup_errors=True) as folder:
            choice = optimize(
                self.path(),
                self.metadata,
                Path(folder),
                target_name=target,
                data=data,
                right=expected,
                asked_metric=metric,
                limits=Limits.read(max_drop, max_size, max_latency),
                only=only,
                outputs=outputs,
                student=student,
                progress=progress,
            )
            if keep:
                best = choice.best
                variants = self.registry.get(self._reference).entry.variants
                name = _kept(variants, f"{choice.target.name}-{best.way}", best.path)
                facts = {
                    "target": choice.target.name,
                    "form": best.way,
                    **best.facts(),
                    "note": choice.note(),
                }
                if name not in variants:
                    self.registry.add_variant(self._reference, name, best.path, facts)
                choice.variant = f"{self.uri}#{name}"
                choice.bundler = partial(self.bundle, golden=data, variant=name)
        return choice

    def bundle(
        self,
        path: Path | str,
        golden: Any,
        *,
        sign: Path | str | None = None,
        variant: str = "",
        **facts: Any,
    ) -> Manifest:
        """Make the one file that is shipped to a device, and note it in the registry.

        Parameters
        ----------
        path : path
            ``digits.nbundle``.
        golden : array, DataFrame or mapping
            Some rows of real data: each device must answer them as it is answered here, before it uses the
            model.
        sign : path, optional
            A private key (``nbcloud edge keygen``).
        variant : str, optional
            One of its variants; full precision otherwise.
        **facts
            Further arguments of `nbcloud.models.bundle.build.bundle`.
        """
        from nbcloud.models.bundle.build import bundle

        target = Path(path)
        with tempfile.TemporaryDirectory(prefix="nbcloud-bundle-", ignore_cleanup_errors=True) as folder:
            now = self.registry.get(self._reference)  # variants may have been added since
            source, model = now.path(variant), Path(folder) / MODEL
            for file in onnxfile.files(source)[1:]:
                shutil.copyfile(file, Path(folder) / file.name)
            shutil.copyfile(source, model)
            known = {"name": self.name, "version": str(self.number), "variant": variant} | facts
            made = bundle(model, target, golden=golden, sign=None if sign is None else Path(sign), **known)
        noted = {
            "file": target.name,
            "sha256": onnxfile.digest(target),
            "variant": variant,
            "signed": sign is not None,
        }
        self.registry.add_bundle(self._reference, noted)
        return made

    @property
    def _reference(self) -> str:
        return f"{self.name}/{self.number}"

    def __repr__(self) -> str:
        names = "".join(f" @{alias}" for alias in self.aliases)
        metadata = self.metadata
        takes = ", ".join(map(str, metadata.takes))
        gives = ", ".join(map(str, metadata.signature.outputs))
        return f"<{self.uri}{names}: {metadata.framework}, takes {takes}, gives {gives}>"


def _kept(variants: Mapping[str, Variant], name: str, path: Path) -> str:
    """The name of the variant that has this content already; else one that is free."""
    digests = {onnxfile.digest(file) for file in onnxfile.files(path)}
    numbered = (f"{name}-{number}" for number in range(2, len(variants) + 3))
    return next(
        each
        for each in (name, *numbered)
        if each not in variants or {file.sha256 for file in variants[each].files} == digests
    )
