"""The command line of conform's BIDS-Apps: one spine, to which an app adds an `bids_app.app.App` record."""

from __future__ import annotations

__all__: list[str] = []
