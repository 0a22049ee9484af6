"""From fMRIPrep outputs to single-trial responses: the library behind the BIDS-Apps of ``bids_app``."""

from __future__ import annotations

__all__ = ["CODE_URL", "__version__"]

__version__ = "0.1.0.dev0"
CODE_URL = "https://github.com/conform-bids/conform"
