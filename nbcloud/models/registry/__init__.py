"""Where models are kept: immutable versions, and names for them that move.

::

    registry    what people do: add, get, alias, roll back, tag, delete
    version     one version: its file, what it says of itself, what is made of it: variants, bundles
    reference   how they say which: digits, digits/3, digits@champion, digits@champion#int8
    log         what happened to a model, in order; the only thing that is ever written about it
    state       what is true of it now: its events, one after the other
    storage     files in a folder or behind fsspec: written once and whole; large ones by their content
"""

from nbcloud.models.registry.registry import Registry
from nbcloud.models.registry.version import Version

__all__ = ["Registry", "Version"]
