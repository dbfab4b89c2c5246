"""How times and counts are said."""

from __future__ import annotations


def views_text(done: int, total: int) -> str:
    """What the student waits for while the teacher looks at new images."""
    return f"showing the teacher new images, {done:,} of {total:,}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `8 s`, `2 min 05 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
