"""Runs a script inside its virtual environment, which is created on first use.

Each script in this folder that needs packages calls `in_venv(NAME)` before it imports them. The environment is in
target/venv/NAME and contains exactly what NAME-requirements.txt pins.
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
    """Returns if running inside the environment of `name`; otherwise creates it and restarts the script in it."""
    place = CACHE / "venv" / name
    if Path(sys.prefix).resolve() == place.resolve():
        return
    requirements = SCRIPTS / f"{name}-requirements.txt"
    python = place / "bin" / "python"
    done = place / "installed.txt"
    pinned = requirements.read_text()
    if not done.exists() or done.read_text() != pinned:
        print(f"{name}: installing {requirements.name} into {place.relative_to(ROOT)}", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", requirements], check=True)
        done.write_text(pinned)
    os.execv(python, [str(python), *sys.argv])
