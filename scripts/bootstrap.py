"""Runs a script inside a virtual environment of its own, made on first use.

Each script in this folder that needs packages calls `in_venv(NAME)` before importing them. The
environment lives in target/venv/NAME and holds exactly what NAME-requirements.txt pins.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
CACHE = ROOT / "target"


def in_venv(name: str) -> None:
    """Returns when running inside the environment of `name`; otherwise makes it and starts over in it."""
    place = CACHE / "venv" / name
    if Path(sys.prefix).resolve() == place.resolve():
        return
    requirements = SCRIPTS / f"{name}-requirements.txt"
    python = place / "bin" / "python"
    done = place / "installed.txt"
    wanted = requirements.read_text()
    if not done.exists() or done.read_text() != wanted:
        print(f"{name}: installing {requirements.name} into {place.relative_to(ROOT)}", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", requirements], check=True)
        done.write_text(wanted)
    os.execv(python, [str(python), *sys.argv])
