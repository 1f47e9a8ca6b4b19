"""Models that leave the notebook: exported to ONNX, verified, made small, kept in a registry, bundled.

::

    export/      a framework's model ─► ONNX; one file for each framework
    verify/      the ONNX model answers as the framework's does, also where the export did not look
    bundle/      one signed file for a device; its reading side runs there, too
    signature    what a model takes and gives       ┐ both run on devices, too:
    metadata     what a file says of itself         ┘ Python 3.9 and numpy only
    onnxfile     files of ONNX, with large weights beside them
"""
