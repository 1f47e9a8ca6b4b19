"""Bundles: one file that is shipped to a device, reproducible to the byte, signed, and checked before use.

::

    build         a verified ONNX file ─► digits.nbundle: model, manifest, golden samples, runtime, SBOM
    runtime       the few files of nbcloud that run on the device, and so travel in the bundle
    ort           the model in onnxruntime's own format, for builds of it with few operators
    sbom          what made it and what it needs, as CycloneDX
    keys          Ed25519 keys, on the building side
    archive       the one form of the file: written so, and refused when it is not so    ┐
    manifest      what is in it, with sizes and checksums                                │ on devices, too:
    golden        inputs and the answers that the device must give                       │ Python 3.9 and
    postprocess   what is done with the answers                                          │ numpy only
    trust         whose signatures are accepted                                          │
    ed25519       signatures checked without any package                                 ┘
"""
