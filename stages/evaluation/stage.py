"""Stage 3: how good the student is. It changes nothing that training depends on."""

from __future__ import annotations

from stages.data.dataset import LabelledImages
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.measure import DOUBT_HINT, compare_with_teacher, doubt, measure
from stages.events import Evaluation, Warning
from stages.files.tensor_digest import digest
from stages.run import Run
from stages.stage import Stage

_NUM_DIGESTED = 500


class EvaluationStage(Stage[EvaluationConfig]):
    """Metrics on real data where there is any; agreement and calibration with the teacher on the synthetic hold-out."""

    only_looks = True

    def setup(self, run: Run) -> None:
        """Nothing to build."""

    def run_epoch(self, run: Run) -> None:
        """Measure every `run.eval_every` epochs and at the last one; the student only once it learns."""
        if run.epoch % run.config.run.eval_every != 0 and not run.is_last_epoch:
            return
        if run.in_warmup and not run.is_last_epoch:
            return
        results = run.results
        self._measure_on_real_data(run)
        if run.holdout_NCHW is not None and not run.in_warmup:
            found = compare_with_teacher(
                run.teacher,
                run.delivered_student,
                run.holdout_NCHW,
                run.task,
                batch_size=self.config.batch_size,
            )
            results.agreement, results.agreement_by_chance = found.agreement, found.agreement_by_chance
            results.ece = found.ece
        real = None if run.evaluation_data is None else {"student": results.student, "teacher": results.teacher}
        names = ("agreement", "agreement_by_chance", "ece")
        synthetic = None if results.agreement is None else {name: getattr(results, name) for name in names}
        run.emit(Evaluation(real=real, synthetic=synthetic))

    def _measure_on_real_data(self, run: Run) -> None:
        data = run.evaluation_data
        if data is None:  # of a run that began with some: what was measured is of an earlier student
            run.results.student = None
            return
        _forget_other_data(run, data)
        if run.results.teacher is None:
            run.results.teacher = measure(run.teacher, data, run.task, batch_size=self.config.batch_size)
            reason = doubt(run.results.teacher, num_classes=run.task.num_classes)
            if reason is not None:
                run.emit(Warning(message=reason, hint=DOUBT_HINT))
        if run.in_warmup:
            return
        run.results.student = measure(run.delivered_student, data, run.task, batch_size=self.config.batch_size)
        if self.config.select_best:
            run.keep_if_best(run.results.student[run.task.headline])


def _forget_other_data(run: Run, data: LabelledImages) -> None:
    """What an earlier process of the run measured on other data says nothing of this one: teacher, best student.

    Data is told apart by all labels and some of the images, which takes a moment however large it is.
    """
    some_NCHW = data.images_NCHW[:: max(1, len(data) // _NUM_DIGESTED)]
    found = digest({"labels": data.labels_N, "images": some_NCHW})
    if run.results.data not in (None, found):
        run.results.teacher = run.best_student = None
    run.results.data = found
