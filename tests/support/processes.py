"""Checks of operating-system processes."""

from __future__ import annotations

import psutil


def is_gone(pid: int) -> bool:
    """Return whether the process has ended. A zombie has, although only its parent or init can remove it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
