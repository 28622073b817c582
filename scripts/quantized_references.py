"""Weights packed by the programs that publishers use, and the values to which those programs dequantize them.

Packages that cannot be installed without CUDA are downloaded from PyPI and loaded file by file.
"""

import functools
import importlib.util
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import bootstrap

PLACE = bootstrap.CACHE / "reference-sources"


def sources(package: str, version: str) -> Path:
    """The unpacked files of a package."""
    found = PLACE / f"{package}-{version}"
    if found.exists():
        return found
    PLACE.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--dest", PLACE, f"{package}=={version}"], check=True)
    archive = next(path for path in PLACE.iterdir()
                   if path.is_file() and path.name.replace("-", "_").startswith(f"{package.replace('-', '_')}_{version}"))
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as files:
            files.extractall(found)
    else:
        with tarfile.open(archive) as files:
            files.extractall(PLACE, filter="data")
    return found


def module(name: str, file: Path):
    """One file as a module."""
    spec = importlib.util.spec_from_file_location(name, file)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def stand_in(name: str, **attributes) -> None:
    loaded = types.ModuleType(name)
    loaded.__path__ = []
    for key, value in attributes.items():
        setattr(loaded, key, value)
    sys.modules[name] = loaded


@functools.cache
def autogptq():
    """AutoGPTQ's layer that packs in plain torch."""
    folder = sources("auto-gptq", "0.7.1")
    return module("autogptq_layer", folder / "auto_gptq/nn_modules/qlinear/qlinear_cuda.py")


@functools.cache
def gptqmodel():
    """GPTQModel's dequantizer."""
    import logging

    root = sources("gptqmodel", "7.7.0") / "gptqmodel"
    for name in ("gptqmodel", "gptqmodel.utils", "gptqmodel.quantization"):
        stand_in(name)
    stand_in("gptqmodel.utils.torch", HAS_NPU=False)
    stand_in("gptqmodel.utils.logger", setup_logger=lambda: logging.getLogger("gptqmodel"))
    module("gptqmodel.quantization.dtype", root / "quantization/dtype.py")
    module("gptqmodel.utils.planar_packing", root / "utils/planar_packing.py")
    return module("gptqmodel.utils.model_dequant", root / "utils/model_dequant.py")


@functools.cache
def autoawq():
    """AutoAWQ's packing and unpacking in plain torch."""
    root = sources("autoawq", "0.2.9") / "awq"
    return module("awq_packing", root / "utils/packing_utils.py")
