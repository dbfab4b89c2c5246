"""`ssdkd inspect-buffer`: what is in a replay buffer, as a report, as JSON, as pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdkd_cli import charts, console, diagnostics
from ssdkd_cli.options import Json
from ssdkd_cli.words import escaped
from stages.errors import ConfigError, FileError
from stages.paths import typed_path

if TYPE_CHECKING:
    from stages.buffer.file import BufferContents

NUM_GRID_TILES = 64
_MOST_CLASS_BARS = 20
_NUM_EXTREME_CLASSES = 5


def inspect_buffer(
    source: Annotated[
        str | None,
        typer.Argument(metavar="RUN|FILE", help="A run or a buffer file; otherwise the newest in ./runs."),
    ] = None,
    json: Json = False,
    grid: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path, metavar="FILE.png", help="Write a picture of samples of each class, hardest first."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path, metavar="FILE.png", help="Write a plot of class balance, difficulty and priorities."
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check deeper: digest, order, plausible values, the teacher."),
    ] = False,
) -> None:
    """Report what a replay buffer holds, and draw it.

    \b
    Example:
      ssdkd inspect-buffer runs/digits-20260101-120000 --grid samples.png --verify
    """
    for picture in (grid, plot):
        _refuse_odd_picture(picture)
    from stages.buffer.file import read_buffer
    from stages.run_directory.lookup import resolve_buffer
    from stages.run_directory.verification import buffer_problems

    path, run = resolve_buffer(source)
    contents = read_buffer(path)
    if grid and len(contents) == 0:
        raise FileError(f"{path} holds no images, so there is no grid to draw", hint="leave out --grid")
    problems = buffer_problems(contents, run) if verify else None
    report = _report(path, contents, is_verified=None if problems is None else not problems)
    if grid:
        _write_picture(grid, _grid(contents))
    if plot:
        _write_picture(plot, _plot(path, contents, report))
    if json:
        console.print_json({key: value for key, value in report.items() if key != "age"})
    else:
        _print_report(report, contents, is_in_run=run is not None)
    if problems:
        raise FileError(
            f"{path} can be read, but no run wrote it like this: {'; '.join(problems)}",
            hint="do not rely on it; `ssdkd invert` fills a new buffer",
        )


def _refuse_odd_picture(picture: Path | None) -> None:
    if picture is None:
        return
    if picture.suffix.lower() != ".png":
        raise ConfigError(f"{picture} does not end in .png, and pictures are PNG files", hint="end its name in .png")
    if picture.is_dir():
        raise FileError(f"{picture} is a folder, not a picture", hint="choose another name")
    if not picture.absolute().parent.is_dir():
        raise FileError(f"there is no folder {picture.parent} for {picture.name}", hint="make it first")


def _report(path: Path, contents: BufferContents, *, is_verified: bool | None) -> dict[str, Any]:
    from stages.buffer.statistics import buffer_report

    meta = contents.meta
    statistics = buffer_report(
        teacher_class=contents.teacher_class,
        teacher_prob=contents.teacher_prob,
        priority=contents.priority,
        age=contents.age,
        num_classes=meta.num_classes,
        alpha=meta.alpha,
        epsilon=meta.epsilon,
    )
    return {
        "path": str(path),
        "num_samples": len(contents),
        "capacity": meta.capacity,
        "image_shape": list(contents.images.shape[1:]),
        **statistics,
        "verified": is_verified,
    }


def _grid(contents: BufferContents) -> bytes:
    from stages.pictures import choose_tiles, grid_png, main_class, mean_probability, tiles_of

    class_N = main_class(contents.teacher_class)
    chosen = choose_tiles(class_N, contents.priority, num_tiles=NUM_GRID_TILES)
    tiles = tiles_of(
        class_N[chosen],
        mean_probability(contents.teacher_prob[chosen]),
        contents.priority[chosen],
        class_names=contents.meta.class_names,
    )
    return grid_png(contents.images[chosen], tiles)


def _plot(path: Path, contents: BufferContents, report: Mapping[str, Any]) -> bytes:
    from stages.pictures import histograms_png

    title = f"{path.absolute().parent.name}: {len(contents):,} of {contents.meta.capacity:,} images"
    return histograms_png(report, class_names=contents.meta.class_names, title=title)


class _Heading(str):
    """A line of the report that stands over others."""

    __slots__ = ()


def _write_picture(path: Path, png: bytes) -> None:
    from stages.files.atomic_file import write_atomically

    write_atomically(path, png)
    diagnostics.note(f"wrote {path}")


def _print_report(report: Mapping[str, Any], contents: BufferContents, *, is_in_run: bool) -> None:
    out = console.stdout()
    width = min(out.width, charts.REPORT_WIDTH)
    glyphs = charts.glyphs_for(out.encoding)
    lines = [
        *_report_lines(report, contents, width=width, glyphs=glyphs),
        "",
        _Heading("Integrity"),
        *_integrity_lines(report["verified"], is_in_run=is_in_run),
    ]
    for line in lines:
        console.say(escaped(line), style="bold" if isinstance(line, _Heading) else "")


def _report_lines(
    report: Mapping[str, Any], contents: BufferContents, *, width: int, glyphs: charts.Glyphs
) -> Iterator[str]:
    """The report line by line."""
    meta = contents.meta
    channels, height, pixel_width = report["image_shape"]
    yield _Heading(report["path"])
    yield (
        f"  images      {len(contents):,} of {meta.capacity:,}, {channels} x {height} x {pixel_width} "
        "(channels x height x width), uint8"
    )
    yield f"  task        {meta.task}, {meta.num_classes:,} classes"
    sampling = f"by priority, alpha {meta.alpha:g}, epsilon {meta.epsilon:g}" if meta.alpha > 0 else "uniform"
    yield f"  sampling    {sampling}"
    yield f"  normalised  mean {_numbers(meta.mean)}, std {_numbers(meta.std)}"
    yield f"  teacher     sha256 {meta.teacher_sha256[:16]}..."
    if len(contents) == 0:
        yield ""
        yield "  The buffer is empty."
    else:
        age = report["age"]
        yield f"  age         {age['min']} to {age['max']} epochs, mean {age['mean']:.1f}"
        yield from _class_lines(report, contents, width=width, glyphs=glyphs)
        yield from _difficulty_lines(report["difficulty"], width=width, glyphs=glyphs)
        yield from _priority_lines(report["priority"], num_samples=len(contents), width=width, glyphs=glyphs)


def _class_lines(
    report: Mapping[str, Any], contents: BufferContents, *, width: int, glyphs: charts.Glyphs
) -> Iterator[str]:
    counts = report["class_counts"]
    names = contents.meta.class_names or [str(index) for index in range(len(counts))]
    entropy = report["class_entropy"]
    yield ""
    balance = "" if entropy is None else f", entropy {entropy:.3f} (1: even, 0: one class)"
    yield _Heading(f"Class balance{balance}")
    if len(counts) <= _MOST_CLASS_BARS:
        for row in charts.bar_rows(names, counts, width=width - 2, glyphs=glyphs):
            yield "  " + row
        return
    yield f"  classes 0 to {len(counts) - 1}, one mark each"
    for row in charts.sparklines(counts, width=width - 2, glyphs=glyphs):
        yield "  " + row
    rarest_first = sorted(range(len(counts)), key=lambda index: (counts[index], index))
    rarest, commonest = rarest_first[:_NUM_EXTREME_CLASSES], rarest_first[: -_NUM_EXTREME_CLASSES - 1 : -1]
    shown = [*commonest, *rarest[::-1]]
    rows = charts.bar_rows(
        [names[index] for index in shown], [counts[index] for index in shown], width=width - 2, glyphs=glyphs
    )
    yield f"  the {_NUM_EXTREME_CLASSES} most frequent"
    yield from ("  " + row for row in rows[:_NUM_EXTREME_CLASSES])
    yield f"  the {_NUM_EXTREME_CLASSES} rarest"
    yield from ("  " + row for row in rows[_NUM_EXTREME_CLASSES:])


def _difficulty_lines(difficulty: Mapping[str, Any], *, width: int, glyphs: charts.Glyphs) -> Iterator[str]:
    yield ""
    yield _Heading("Difficulty, 1 - the teacher's probability")
    edges = difficulty["edges"]
    labels = [f"{low:.1f} - {high:.1f}" for low, high in pairwise(edges)]
    for row in charts.bar_rows(labels, difficulty["counts"], width=width - 2, glyphs=glyphs):
        yield "  " + row


def _priority_lines(
    priority: Mapping[str, Any], *, num_samples: int, width: int, glyphs: charts.Glyphs
) -> Iterator[str]:
    size = priority["effective_sample_size"]
    yield ""
    share = f"{size:,.1f} of {num_samples:,} ({size / num_samples:.0%})"
    yield _Heading(f"Priority, effective sample size {share}")
    yield f"  min {priority['min']:.3g}, mean {priority['mean']:.3g}, max {priority['max']:.3g}"
    labels = [f"to {edge:.3g}" for edge in priority["edges"][1:]]
    for row in charts.bar_rows(labels, priority["counts"], width=width - 2, glyphs=glyphs):
        yield "  " + row


def _integrity_lines(is_verified: bool | None, *, is_in_run: bool) -> Iterator[str]:
    from stages.buffer.file import SCHEMA_VERSION

    deeper = "digest, order, plausible values" + (", the run's teacher" if is_in_run else "")
    yield f"  schema {SCHEMA_VERSION}; names, types, shapes and value ranges of all tensors are right"
    if is_verified is None:
        yield f"  --verify also checks {deeper}"
    elif is_verified:
        yield f"  verified: {deeper}"
    else:
        yield "  NOT verified, see the error below"


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)
