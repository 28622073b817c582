"""llama.cpp's sources, which the PyPI package llama-cpp-python carries, and programs built from them.

No package has its converter, llama-perplexity or llama-imatrix. Scripts that call `program` need cmake and ninja among their
requirements, and the machine a C++ compiler; building takes some five minutes on two cores, once.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

import bootstrap

PACKAGE = "llama-cpp-python==0.3.36"
PLACE = bootstrap.CACHE / "peer-sources"


def folder() -> Path:
    """llama.cpp's sources."""
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
    """The program `name`, llama-perplexity or another one."""
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
