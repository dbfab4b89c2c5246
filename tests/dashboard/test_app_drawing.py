"""Charts, bars and pictures as characters, without an app."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from app_pilot import shown
from scripted_run import TIME_S, an_epoch, evaluation, lines_of, run_of_lines, run_started, whole_run
from textual.scrollbar import ScrollBarRender

from ssdkd_cli.charts import BLOCKS, wants_ascii
from ssdkd_cli.dashboard.axes import Scale, percent, scale_of, short, tick_labels
from ssdkd_cli.dashboard.bars import axis_labels, grouped, upright_bars
from ssdkd_cli.dashboard.canvas import ASCII, BRAILLE, Canvas
from ssdkd_cli.dashboard.chart_settings import SMOOTHING_WEIGHTS, ChartSettings
from ssdkd_cli.dashboard.glyphs import FILLS, LEVEL_MARKS, STATUS_MARKS, as_ascii
from ssdkd_cli.dashboard.plot import Line, Mark, Plot, draw
from ssdkd_cli.dashboard.widgets.key_bar import key_text
from ssdkd_cli.dashboard.widgets.sample_grid import half_blocks, resized, shaded
from stages import events


def text_of(canvas: Canvas) -> list[str]:
    return ["".join(character for character, _ in row) for row in canvas.cells()]


def rows_of(plot: Plot, width: int, height: int) -> list[str]:
    return ["".join(text for text, _ in row) for row in draw(plot, width, height).rows]


def a_line(y, x=None, **options) -> Line:
    y = np.asarray(y, dtype=float)
    return Line(np.arange(len(y), dtype=float) if x is None else np.asarray(x, dtype=float), y, "line-1", **options)


# -- canvas ------------------------------------------------------------------------------------------------------


def test_braille_dots_are_where_unicode_says():
    canvas = Canvas(1, 1)
    canvas.draw_points(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 0)  # upper left, lower right
    assert text_of(canvas) == [chr(0x2800 + 0x01 + 0x80)]


def test_a_line_from_corner_to_corner_has_no_gap():
    canvas = Canvas(3, 5, ASCII)
    canvas.draw_line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0)
    assert all(any(row[column] != " " for row in text_of(canvas)) for column in range(5))
    assert text_of(canvas)[0][4] != " "
    assert text_of(canvas)[2][0] != " "


def test_a_spike_among_thousands_of_points_is_seen():
    y = np.zeros(10_000)
    y[5_000] = 1.0
    canvas = Canvas(4, 20)
    canvas.draw_line(np.linspace(0, 1, len(y)), y, 0)
    assert text_of(canvas)[0].strip("⠀ ") != ""


def test_a_line_is_broken_by_what_is_not_finite():
    canvas = Canvas(1, 20, ASCII)
    canvas.draw_line(np.linspace(0, 1, 5), np.array([0.0, 0.0, np.nan, 1.0, 1.0]), 0)
    (row,) = text_of(canvas)
    assert row[:5].strip() == "....."
    assert row[6:14].strip() == ""
    assert row[15:].strip() == "'" * 5


def test_the_last_line_drawn_owns_the_cell():
    canvas = Canvas(1, 4)
    for owner in (0, 1):
        canvas.draw_line(np.array([0.0, 1.0]), np.array([0.5, 0.5]), owner)
    assert {owner for _, owner in canvas.cells()[0]} == {1}


def test_what_lies_outside_is_cut_off():
    canvas = Canvas(2, 4)
    canvas.draw_line(np.array([-5.0, 6.0]), np.array([-9.0, -8.0]), 0)
    canvas.draw_points(np.array([2.0]), np.array([0.5]), 0)
    assert text_of(canvas) == ["    ", "    "]


# -- axes --------------------------------------------------------------------------------------------------------


def test_linear_and_logarithmic_places():
    assert Scale(0, 10).place(np.array([0.0, 5.0, 10.0])).tolist() == [0.0, 0.5, 1.0]
    places = Scale(1, 100, is_log=True).place(np.array([1.0, 10.0, 100.0, 0.0]))
    assert places[:3].tolist() == pytest.approx([0, 0.5, 1])
    assert np.isnan(places[3])


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [(Scale(0, 10), [0, 5, 10]), (Scale(0.3, 0.9), [0.4, 0.6, 0.8]), (Scale(1e-3, 1e3, True), [1e-3, 1e-1, 1e1, 1e3])],
)
def test_ticks_are_round_and_few(scale, ticks):
    found = scale.ticks(4 if scale.is_log else 3)
    assert found == pytest.approx(ticks)


def test_every_axis_has_two_ticks_at_least():
    rng = random.Random(0)
    for _ in range(2000):
        low = rng.uniform(-10, 10) * 10 ** rng.uniform(-6, 6)
        scale = Scale(low, low + 10 ** rng.uniform(-5, 6))
        ticks = scale.ticks(most := rng.randint(2, 8))
        assert 2 <= len(ticks) <= most + 3
        assert all(-1e-6 <= place <= 1 + 1e-6 for place in scale.place(np.array(ticks)))


def test_the_scale_of_values():
    assert scale_of(np.array([])) is None
    assert scale_of(np.array([np.nan, 0.0]), is_log=True) is None
    flat = scale_of(np.array([5.0, 5.0]))
    assert flat is not None
    assert flat.low < 5 < flat.high
    losses = scale_of(np.array([0.0, 4.0]))
    assert losses is not None
    assert losses.low == 0, "no axis below zero for what is never negative"
    tiny = scale_of(np.array([0.0, 1e-322]))
    assert tiny is not None
    assert len(tiny.ticks(30)) > 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "-"),
        (0, "0"),
        (0.12345, "0.123"),
        (12.5, "12.5"),
        (1234, "1,234"),
        (45678, "45.7k"),
        (999_999.7, "1.0e6"),
        (2e-4, "2.0e-4"),
    ],
)
def test_numbers_in_few_characters(value, said):
    assert short(value) == said


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.0, 1000.0, 2000.0], ["0", "1000", "2000"]),
        ([0.0, 10_000.0, 20_000.0], ["0", "10k", "20k"]),
        ([10_000.0, 10_500.0, 11_000.0], ["10k", "10.5k", "11k"]),
        ([0.0, 0.005, 0.01, 0.015, 0.02], ["0", "0.005", "0.01", "0.015", "0.02"]),
        ([0.005118, 0.00512, 0.005122], ["0.005118", "0.00512", "0.005122"]),
        ([0.0, 2e-4, 4e-4], ["0", "2e-4", "4e-4"]),
        ([1e6, 1.5e6, 2e6], ["1e6", "1.5e6", "2e6"]),
        ([1e-5, 1e-3, 1e-1, 1e1, 1e3], ["1e-5", "0.001", "0.1", "10", "1000"]),
        ([-0.5, 0.0, 0.5], ["-0.5", "0", "0.5"]),
    ],
)
def test_labels_of_an_axis_differ_and_are_written_alike(ticks, labels):
    assert tick_labels(ticks) == labels


def test_the_labels_of_any_axis_differ():
    rng = random.Random(0)
    for _ in range(2000):
        low = rng.uniform(-10, 10) * 10 ** rng.uniform(-6, 6)
        ticks = Scale(low, low + 10 ** rng.uniform(-5, 6)).ticks(rng.randint(2, 8))
        assert len(set(tick_labels(ticks))) == len(ticks), ticks


def test_ticks_of_a_low_chart_are_even():
    rows = rows_of(Plot([a_line([0.15, 0.85])], (0.0, 1.0)), 38, 5)
    ticks = [float(row.split("┤")[0]) for row in rows if "┤" in row]
    assert np.diff(ticks, 2) == pytest.approx(0.0, abs=1e-9)
    assert len(ticks) >= 2


@pytest.mark.parametrize("cell", [BRAILLE, ASCII])
@pytest.mark.parametrize("size", [(40, 6), (61, 13)])
def test_dots_letters_and_ticks_lie_where_the_line_does(size, cell):
    y = [0.0, 1.0, 0.3, 0.62, 0.11, 0.87, 0.5]
    plain = rows_of(Plot([a_line(y)], (0.0, 6.0), cell=cell), *size)
    marked = rows_of(Plot([a_line(y, has_markers=True)], (0.0, 6.0), cell=cell), *size)
    under_dots = [
        plain[row][column]
        for row, text in enumerate(marked)
        for column, character in enumerate(text)
        if character == "•"
    ]
    assert len(under_dots) == len(y)
    assert " " not in under_dots
    level = [a_line([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], letter="s"), a_line([0.0] * 6), a_line([1.0] * 6)]
    rows = rows_of(Plot(level, (0.0, 6.0), cell=cell), *size)
    (of_letter,) = (row for row in rows if "s" in row)
    others = [row for row in rows if row.lstrip().startswith("0.5")]
    assert others in ([], [of_letter]), "the tick of its value is in the line's row"


@pytest.mark.parametrize(("x", "columns"), [(0.5, "┊ warm-up"), (9.0, "warm-up ┊")])
def test_a_mark_has_its_name_at_the_side_that_has_room(x, columns):
    rows = rows_of(Plot([a_line([1.0, 0.0], [0.0, 10.0])], (0.0, 10.0), marks=[Mark(x, "warm-up")]), 50, 6)
    assert any(columns in row for row in rows), rows


def test_a_share_reads_as_a_percentage():
    assert [percent(None), percent(0.5), percent(0.123, 0)] == ["-", "50.0 %", "12 %"]


# -- charts ------------------------------------------------------------------------------------------------------


def test_a_chart_fills_its_room_exactly():
    plot = Plot([a_line([1, 5, 2, 8])], (0.0, 3.0), marks=[Mark(1.5, "warm-up")], cursor_x=2.0)
    for width, height in ((40, 10), (20, 3), (8, 2), (3, 5), (60, 1)):
        rows = rows_of(plot, width, height)
        assert [len(row) for row in rows] == [width] * height


@pytest.mark.parametrize("width", range(8, 20))
def test_long_labels_leave_room_for_the_chart(width):
    plot = Plot([a_line([-0.00123, -0.00124, -0.00122])], (12_345.0, 12_347.0))
    for height in (2, 3, 4, 8):
        drawing = draw(plot, width, height)
        assert drawing.num_columns >= 6
        assert {len("".join(text for text, _ in row)) for row in drawing.rows} == {width}


def test_marks_and_cursor_stand_behind_the_line():
    rows = rows_of(Plot([a_line([5, 5, 5])], (0.0, 2.0), marks=[Mark(1.0, "half")], cursor_x=1.5), 40, 8)
    assert sum("┊" in row for row in rows) == 6, "every row but that of the line"
    assert sum("│" in row[5:] for row in rows) == 6
    assert "half" in rows[0]


def test_letters_at_the_ends_tell_lines_apart():
    plot = Plot([a_line([1, 2], letter="A"), a_line([2, 1], letter="B")], (0.0, 1.0))
    assert {"A", "B"} <= set("".join(rows_of(plot, 30, 8)))


def test_a_chart_of_three_rows_has_two_labels():
    rows = rows_of(Plot([a_line([775.4, 725.4, 675.1])], (0.0, 2.0)), 38, 4)
    assert sum("┤" in row for row in rows) >= 2


def test_an_empty_chart_says_so():
    assert "nothing yet" in "".join(rows_of(Plot([], (0.0, 1.0)), 30, 5))
    assert "nothing yet" in "".join(rows_of(Plot([a_line([0.0, -1.0])], (0.0, 1.0), is_log=True), 30, 5))


def test_what_an_empty_chart_says_is_wrapped_where_it_is_narrow():
    plot = Plot([], (0.0, 1.0), empty_text="distillation begins after the warm-up")
    rows = rows_of(plot, 20, 5)
    assert [row.strip() for row in rows if row.strip()] == ["distillation begins", "after the warm-up"]
    assert {len(row) for row in rows} == {20}
    assert len(rows_of(plot, 3, 2)) == 2


def test_ascii_charts_hold_nothing_else():
    plot = Plot([a_line([1, 5, 2], has_markers=True)], (0.0, 2.0), marks=[Mark(1.0, "half")], cursor_x=0.5, cell=ASCII)
    drawn = set(as_ascii("".join(rows_of(plot, 40, 9))))
    assert "?" not in drawn
    assert drawn >= set("|+o:'")


def test_the_mouse_finds_the_epoch_under_it():
    drawing = draw(Plot([a_line([1, 2])], (0.0, 10.0)), 40, 8)
    assert drawing.x_at(0, (0.0, 10.0)) == 0.0
    assert drawing.x_at(39, (0.0, 10.0)) == pytest.approx(10.0, abs=0.2)


# -- the header --------------------------------------------------------------------------------------------------


def test_counts_of_ten_thousand_epochs_fit_into_eighty_columns(tmp_path):
    told = [
        (run_started(epochs=10_000, warmup_epochs=0), 0),
        (events.RunFinished(status="done", message="done"), 10_000),
    ]
    stages = shown(run_of_lines(tmp_path / "run", lines_of(told))).splitlines()[2]
    assert stages.count("10000/10000") == 2, "evaluation tells the epoch of its newest results"


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_step_within_an_epoch_is_told_on_any_screen(tmp_path, width):
    told = [(run_started(epochs=6, distillation_steps=400), 0), *whole_run(4)[1:]]
    told += [(events.StageStarted(stage="inversion"), 5), (events.StageFinished(stage="inversion", seconds=1.0), 5)]
    told += [
        (events.StageStarted(stage="distillation"), 5),
        (events.DistillationStep(step=279, loss=1.0, lr=0.1, agreement=0.5), 5),
    ]
    run = run_of_lines(tmp_path / "run", lines_of(told))
    with run.lock.held():
        overall = shown(run, size=(width, 24)).splitlines()[1]
    assert "epoch 5 of 6, step 280 of 400" in overall
    assert "left" in overall


@pytest.mark.parametrize(("is_another_day", "said"), [(False, "until 22:"), (True, "until Wed 15 Nov 01:")])
def test_when_the_run_will_be_over_is_told_with_its_day(tmp_path, monkeypatch, is_another_day, said):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    slow = 1200.0 if not is_another_day else 6000.0
    told = [(run_started(epochs=6), 0)]
    told += [(event, epoch) for epoch in range(1, 5) for event in an_epoch(total_s=slow * epoch, is_warmup=epoch <= 2)]
    run = run_of_lines(tmp_path / "run", lines_of(told))
    try:
        with run.lock.held():
            assert said in shown(run, size=(120, 24)).splitlines()[1]
            assert "known after epoch" not in shown(run, size=(120, 24))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_run_of_several_days_has_them_in_its_log(tmp_path):
    lines = lines_of([(run_started(), 0), (events.Warning(message="one"), 1), (events.Warning(message="two"), 1)])
    later = lines_of([(events.Warning(message="three"), 2)], seq=3, time_s=TIME_S + 2 * 86_400)
    log = shown(run_of_lines(tmp_path / "run", [*lines, *later]), "7")
    rows = [
        row.strip("│ ") for row in log.splitlines() if ("──" in row and "Nov" in row) or "warning" in row or "t" in row
    ]
    days = [index for index, row in enumerate(rows) if "Nov" in row]
    assert len(days) == 2, log
    (at,) = (index for index, row in enumerate(rows) if "three" in row)
    assert days[1] == at - 1, "the day stands above the first line of it"


def test_shares_of_epochs_are_whole_per_cents(tmp_path):
    told = [(run_started(epochs=100, warmup_epochs=0), 0), *((event, 29) for event in an_epoch(total_s=1.0))]
    assert " 29 %" in shown(run_of_lines(tmp_path / "run", lines_of(told)))


def test_no_result_stands_without_its_value_on_a_low_screen(tmp_path):
    told = [*whole_run(3), (evaluation(0.9, 0.8), 3), (events.RunFinished(status="failed", message="no " * 60), 3)]
    text = shown(run_of_lines(tmp_path / "run", lines_of(told)))
    assert "80.0 %" in text
    assert "90.0 %" in text


# -- settings ----------------------------------------------------------------------------------------------------


def test_zooming_in_and_out_ends_at_the_whole_run():
    full = (0.0, 100.0)
    settings = ChartSettings(cursor_x=20.0).zoomed(full, inwards=True)
    assert settings.x_range == (10.0, 60.0)
    assert settings.zoomed(full, inwards=False).x_range is None
    deep = settings
    for _ in range(40):
        deep = deep.zoomed(full, inwards=True)
    assert deep.x_range is not None
    assert deep.x_range[1] > deep.x_range[0]


@pytest.mark.parametrize("times", [1, 3])
def test_zoomed_out_again_a_run_that_has_grown_is_in_view_as_a_whole(times):
    settings = ChartSettings()
    for epoch in range(times):
        settings = settings.zoomed((0.5, 10.0 + epoch), inwards=True)
    assert "(0: whole run)" in settings.words()
    for epoch in range(times):
        settings = settings.zoomed((0.5, 20.0 + epoch), inwards=False)
    assert settings == ChartSettings()


def test_after_a_reset_nothing_is_left_of_an_older_zoom():
    settings = ChartSettings(cursor_x=2.0).zoomed((0.0, 10.0), inwards=True).reset()
    assert settings == ChartSettings()


def test_panning_stops_at_the_ends():
    settings = ChartSettings(x_range=(10.0, 30.0))
    assert settings.panned((0.0, 100.0), 1).x_range == (15.0, 35.0)
    assert settings.panned((0.0, 100.0), -9).x_range == (0.0, 20.0)


def test_the_cursor_enters_at_the_right_and_takes_the_view_along():
    full = (0.0, 100.0)
    settings = ChartSettings().with_cursor_moved(full, -0.1)
    assert settings.cursor_x == 100.0
    zoomed = ChartSettings(x_range=(50.0, 60.0), cursor_x=50.0).with_cursor_moved(full, -0.5)
    assert zoomed.cursor_x == 45.0
    assert zoomed.x_range == (45.0, 55.0)


def test_a_view_of_nothing_that_a_chart_has_becomes_all_of_it():
    late, early = ChartSettings(x_range=(50.0, 55.0)), (0.0, 40.0)
    assert late.zoomed(early, inwards=True, around=52.0).x_range is None
    assert late.zoomed((0.0, 50.01), inwards=True, around=50.0).x_range is None
    assert late.panned(early, 1).x_range == (35.0, 40.0)


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_done_in_whatever_chart_there_is_something_in_view(seed):
    rng = random.Random(seed)
    settings = ChartSettings()
    for _ in range(200):
        full = (0.0, rng.choice([0.5, 20.0, 40.0, 55.0]))
        match rng.choice(["zoom", "wheel", "pan", "cursor"]):
            case "zoom":
                settings = settings.zoomed(full, inwards=rng.random() < 0.7)
            case "wheel":
                settings = settings.zoomed(full, inwards=rng.random() < 0.7, around=rng.uniform(0, 60))
            case "pan":
                settings = settings.panned(full, rng.uniform(-4, 4))
            case _:
                settings = settings.with_cursor_moved(full, rng.uniform(-1, 1))
        assert settings.x_range is None or settings.x_range[1] - settings.x_range[0] >= 0.04, settings


def test_epochs_are_told_in_digits_however_many_there_are():
    assert ChartSettings(x_range=(9990.0, 12345.0), cursor_x=10000.25).words() == (
        "epochs 9990 to 12345 (0: whole run), cursor at epoch 10000.25"
    )


def test_smoothing_goes_round():
    settings = ChartSettings()
    for _ in SMOOTHING_WEIGHTS:
        settings = settings.with_next_smoothing()
    assert settings.smoothing == 0.0


# -- bars, pictures, characters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [str, as_ascii])
def test_bars_share_a_scale_and_whatever_is_there_shows(written):
    rows = [written(row) for row in upright_bars([0, 1, 1000], width=3, height=4)]
    assert [row[0] for row in rows] == [" "] * 4
    assert [row[1] != " " for row in rows] == [False, False, False, True]
    assert [row[2] for row in rows] == [rows[0][2]] * 4


def test_many_classes_are_grouped():
    assert grouped([1, 3, 5, 7, 9], 2) == ([3.0, 8.0], 3)
    assert grouped([1, 2], 10) == ([1.0, 2.0], 1)


def test_axis_labels_do_not_touch():
    assert axis_labels([(0, "0"), (1, "10"), (8, "20")], 10).split() == ["0", "20"]


def test_of_axis_labels_the_last_stays_whatever_stands_beside_it():
    assert axis_labels([(0, "0"), (6, "0.61"), (9, "4.9")], 10) == "0      4.9"


def test_half_blocks_hold_two_pixels():
    pixels = np.zeros((2, 1, 3), dtype=np.uint8)
    pixels[0] = (255, 0, 0)
    ((segment,),) = half_blocks(pixels, 1, 1)
    assert segment.text == "▀"
    assert segment.style is not None
    assert segment.style.color is not None
    assert segment.style.bgcolor is not None
    assert segment.style.color.triplet == (255, 0, 0)
    assert segment.style.bgcolor.triplet == (0, 0, 0)


def test_shades_go_from_dark_to_light():
    pixels = np.repeat(np.linspace(0, 255, 10).astype(np.uint8)[None, :, None], 3, axis=2)
    assert shaded(pixels, 10, 1) == [" .:-=+*#%@"]
    assert shaded(pixels, 10, 1, is_on_dark=False) == ["@%#*+=-:. "]


def test_neighbours_that_look_alike_share_a_segment():
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[:, 1] = 200
    (row,) = half_blocks(pixels, 8, 1)
    assert [segment.text for segment in row] == ["▀" * 4, "▀" * 4]


def test_magnified_pixels_stay_sharp_and_shrunk_ones_are_averaged():
    pixels = np.array([[[0] * 3, [200] * 3]], dtype=np.uint8)
    assert set(resized(pixels, 8, 4).ravel().tolist()) == {0, 200}
    assert resized(pixels, 1, 1).ravel().tolist() == [100] * 3


def test_any_text_in_ascii_keeps_its_width():
    assert as_ascii("╭─é→█日🔎") == "+-e>#??> "
    assert as_ascii("".join([*STATUS_MARKS.values(), *LEVEL_MARKS.values()])) == "o*=#XXX+ !X"
    assert len(set(as_ascii(FILLS))) == len(FILLS)
    assert as_ascii(BLOCKS.levels + BLOCKS.eighths) == "__===###" + "||||####"
    for bars in (ScrollBarRender.VERTICAL_BARS, ScrollBarRender.HORIZONTAL_BARS):
        assert "?" not in as_ascii("".join(bars))


def test_ascii_is_chosen_by_the_variable_or_the_encoding(monkeypatch):
    monkeypatch.delenv("SSDKD_ASCII", raising=False)
    assert not wants_ascii("utf-8")
    assert wants_ascii("ISO-8859-1")
    monkeypatch.setenv("SSDKD_ASCII", "1")
    assert wants_ascii("utf-8")


def test_keys_as_people_read_them():
    assert [key_text(key) for key in ("question_mark", "shift+left", "plus", "q")] == ["?", "shift+left", "+", "q"]


def test_what_the_x_axis_counts_is_told_where_there_is_room():
    x = np.linspace(0, 100, 50)

    def last_row(x_range, width):
        drawing = draw(Plot(lines=[Line(x, x, "one")], x_range=x_range, x_name="epoch"), width, 8)
        return "".join(text for text, _ in drawing.rows[-1])

    assert last_row((5.0, 98.0), 60).startswith("epoch  ")
    assert "epoch" not in last_row((0.0, 100.0), 60), "a number stands there"
    assert len(last_row((5.0, 98.0), 60)) == 60
