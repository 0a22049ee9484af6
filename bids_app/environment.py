"""The process's environment: no network, and nothing that needs a home, a user name or a display.

Batch systems and containers run with a read-only or absent HOME and with a uid that has no passwd entry; libraries
that keep caches or ask for a user name fail there at import.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["prepare_environment"]

_CACHES = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "MPLCONFIGDIR": "matplotlib",
    "NIPYPE_CONFIG_DIR": "nipype",
    "TEMPLATEFLOW_HOME": "templateflow",
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "NUMBA_CACHE_DIR": "numba",
}


def prepare_environment(caches: Path | None = None) -> None:
    """Set the variables that keep libraries offline and away from an unwritable home; call before importing them.

    Parameters
    ----------
    caches : Path, optional
        Where caches go when the home is not writable (by default a temporary folder).
    """
    os.environ["NO_ET"] = "1"  # Nipype asks a server for its newest version unless both are set
    os.environ["NIPYPE_NO_ET"] = "1"
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "0")
    os.environ["MPLBACKEND"] = "Agg"
    if not os.environ.get("LOGNAME"):  # Nipype's SLURM plugin reads this one, getpass the others too
        os.environ["LOGNAME"] = os.environ.get("USER") or _user_name()
    if not _home_is_writable():
        root = caches or Path(tempfile.gettempdir()) / f"conform-{os.getuid()}"
        for variable, name in _CACHES.items():
            folder = Path(os.environ.setdefault(variable, str(root / name)))
            if folder.is_relative_to(root):
                folder.mkdir(parents=True, exist_ok=True)
        if not os.environ.get("HOME"):
            os.environ["HOME"] = str(root)


def _user_name() -> str:
    """Name the user as batch plugins need it; a uid without a passwd entry has none."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid{os.getuid()}"


def _home_is_writable() -> bool:
    home = os.path.expanduser("~")
    return os.path.isabs(home) and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)
