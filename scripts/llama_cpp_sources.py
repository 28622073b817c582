"""llama.cpp's sources, from the PyPI package llama-cpp-python, and programs built from them.

No package contains the converter, llama-perplexity or llama-imatrix. Scripts that call `program` list cmake and ninja
in their requirements and need a C++ compiler. Programs are built once, which takes about five minutes on two cores."""

import subprocess
import sys
import tarfile
from pathlib import Path

import bootstrap

PACKAGE = "llama-cpp-python==0.3.36"
PLACE = bootstrap.CACHE / "llama-cpp-sources"


def folder() -> Path:
    """The folder of llama.cpp's sources, downloaded if necessary."""
    found = list(PLACE.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if found:
        return found[0]
    PLACE.mkdir(parents=True, exist_ok=True)
    if not list(PLACE.glob("llama_cpp_python-*.tar.gz")):
        print(f"fetching {PACKAGE} from PyPI", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--no-binary=llama-cpp-python", "--dest", PLACE, PACKAGE], check=True)
    with tarfile.open(next(PLACE.glob("llama_cpp_python-*.tar.gz"))) as tar:
        tar.extractall(PLACE, filter="data")
    return next(PLACE.glob("llama_cpp_python-*/vendor/llama.cpp"))


def program(name: str) -> Path:
    """The path of the program `name`, such as llama-perplexity, built if necessary."""
    found = PLACE / "build/bin" / name
    if found.exists():
        return found
    sources = folder()
    tools = Path(sys.executable).parent
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
               "-DLLAMA_BUILD_SERVER=OFF", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
    print(f"building {name}", file=sys.stderr, flush=True)
    subprocess.run([tools / "cmake", "-S", sources, "-B", PLACE / "build", "-G", "Ninja", *options], check=True,
                   stdout=sys.stderr)
    subprocess.run([tools / "cmake", "--build", PLACE / "build", "-t", name], check=True, stdout=sys.stderr)
    return found


def perplexity() -> Path:
    """The program llama-perplexity."""
    return program("llama-perplexity")
