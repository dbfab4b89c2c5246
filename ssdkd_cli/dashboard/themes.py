"""Three looks: dark, light, and high contrast. Series colours stay apart for colour-blind eyes in each."""

from __future__ import annotations

from collections.abc import Sequence

from textual.theme import Theme

DARK_NAME, LIGHT_NAME, CONTRAST_NAME = "ssdkd-dark", "ssdkd-light", "ssdkd-high-contrast"


def _variables(
    *, lines: Sequence[str], raw: str, faint: str, frame: str, cursor: str, inversion: str, other: str
) -> dict[str, str]:
    return {
        **{f"line-{index}": color for index, color in enumerate(lines, start=1)},
        "raw": raw,  # unsmoothed values behind a smoothed line
        "faint": faint,  # labels, units, ticks
        "frame": frame,  # borders of panels
        "cursor": cursor,  # ground of the line under the bar in a list
        "stage-inversion": inversion,
        "stage-distillation": lines[0],
        "stage-evaluation": lines[2],
        "stage-other": other,
        "block-cursor-text-style": "underline",  # a sign that needs no colour
    }


def stage_style(stage: str) -> str:
    """The colour of a stage, or of the time that belongs to none ("other")."""
    return f"$stage-{stage}" if f"stage-{stage}" in FALLBACK_VARIABLES else "$secondary"


DARK = Theme(
    name=DARK_NAME,
    dark=True,
    primary="#7ab8ff",
    secondary="#c79bf2",
    accent="#f2b263",
    success="#6fd3a0",
    warning="#f0c35a",
    error="#ff7d76",
    foreground="#d6dee8",
    background="#0e131a",
    surface="#0e131a",
    panel="#18212c",
    boost="#1d2733",
    variables=_variables(
        lines=("#7ab8ff", "#f2b263", "#6fd3a0", "#d79be6", "#f0e27a", "#ff8f80"),
        raw="#40566f",
        faint="#8593a3",
        frame="#2f3d4d",
        cursor="#2a4058",
        inversion="#f2b263",
        other="#5b6877",
    ),
)

LIGHT = Theme(
    name=LIGHT_NAME,
    dark=False,
    primary="#1a66b0",
    secondary="#7a3fa6",
    accent="#a85a00",
    success="#14764a",
    warning="#8a6200",
    error="#b3261e",
    foreground="#1d2733",
    background="#fbfaf7",
    surface="#fbfaf7",
    panel="#eceae3",
    boost="#e2dfd6",
    variables=_variables(
        lines=("#1a66b0", "#b36200", "#14764a", "#8e3fae", "#75690a", "#b3261e"),
        raw="#b9c6d4",
        faint="#5f6b78",
        frame="#c9c5ba",
        cursor="#d3e2f2",
        inversion="#b36200",
        other="#8f9aa6",
    ),
)

HIGH_CONTRAST = Theme(
    name=CONTRAST_NAME,
    dark=True,
    primary="#66d9ff",
    secondary="#ff9bff",
    accent="#ffd000",
    success="#5dff8f",
    warning="#ffd000",
    error="#ff8a8a",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    boost="#262626",
    variables=_variables(
        lines=("#66d9ff", "#ffb000", "#5dff8f", "#ff9bff", "#ffff66", "#ff8a8a"),
        raw="#9a9a9a",
        faint="#e0e0e0",
        frame="#ffffff",
        cursor="#444444",
        inversion="#ffb000",
        other="#bdbdbd",
    ),
)

THEMES = (DARK, LIGHT, HIGH_CONTRAST)
FALLBACK_VARIABLES = DARK.variables
"""For themes of the toolkit itself, which a user may choose in the palette."""
