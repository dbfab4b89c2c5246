"""Why there is nothing to draw yet, and whether there ever will be. Pure functions of a view."""

from __future__ import annotations

from ssdkd_cli.watching.view import RunView

NO_REAL_DATA = "no real data: only agreement on synthetic images is measured"
NOTHING_MEASURED = "no real data, and no synthetic images were held out"


def no_step(view: RunView, stage: str) -> str:
    """Why a stage has told of no step."""
    if view.description is None or view.progress is None:
        return "nothing yet"
    if stage not in view.description.stages:
        return f"this run has no {stage}"
    if not view.is_live:
        return f"the run ended before the first step of {stage}"
    if stage == "distillation" and view.progress.epoch <= view.description.warmup_epochs:
        return "distillation begins after the warm-up"
    return f"no {stage} step yet"


def no_buffer(view: RunView) -> str:
    """Why nothing is known of the images in the buffer."""
    return _no_epoch(view, "counted") if view.buffer is None else "the buffer is empty so far"


def no_device(view: RunView) -> str:
    """Why nothing is known of the device, or of one of its figures."""
    return _no_epoch(view, "timed") if view.device is None else "not measured on this device"


def no_pace(view: RunView) -> str:
    """Why it is not known how many images go through a step in a second."""
    return _no_epoch(view, "timed") if view.device is None else "no step was counted"


def _no_epoch(view: RunView, what_is_done: str) -> str:
    if view.description is None or view.progress is None:
        return "nothing yet"
    if view.is_live:
        return f"{what_is_done} when the first epoch is over"
    return "the run ended before its first epoch was over"


def no_evaluation(view: RunView) -> str:
    """Why nothing has been evaluated."""
    if view.description is not None and "evaluation" not in view.description.stages:
        return "this run is not evaluated"
    if not view.is_live:
        return "the run ended before its first evaluation"
    return "not evaluated yet"


def no_agreement(view: RunView) -> str:
    """Why no agreement on synthetic images is known."""
    return no_evaluation(view) if view.evaluation is None else "agreement is not measured in this run"


def no_real_results(view: RunView) -> str:
    """Why there is no accuracy of a student on real data."""
    if view.evaluation is None:
        return no_evaluation(view)
    if view.evaluation.teacher:
        return "only the teacher was measured: no student learns here"
    return NOTHING_MEASURED if view.evaluation.agreement is None else NO_REAL_DATA
