//! Tables of numbers as colours.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::colors::colormaps::ViridisRGB;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use sinkstream::Result;

use super::{Axis, HEIGHT, Scale, Ticked, WIDTH, bounds, font, number, save};

/// A table of numbers, first row on top.
pub(crate) struct HeatMap<'a> {
    pub(crate) title: &'a str,
    /// What the rows are, and their names.
    pub(crate) rows: (&'a str, Vec<String>),
    /// What the columns are, and their names.
    pub(crate) columns: (&'a str, Vec<String>),
    pub(crate) unit: &'a str,
    /// What the first and the last colour stand for; the smallest and the largest number if `None`.
    pub(crate) range: Option<(f64, f64)>,
    pub(crate) values: &'a [Vec<f64>],
}

/// Draws a table of numbers as colours, first row on top, with the numbers in the cells where there is room.
///
/// # Errors
/// [`Error::Write`] if the file cannot be written.
pub(crate) fn heat_map(path: &Path, map: &HeatMap<'_>) -> Result<()> {
    let HeatMap { title, rows: (rows, row_names), columns: (columns, column_names), unit, range, values } = map;
    let n_rows = values.len();
    let n_columns = values.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let cell_height = (HEIGHT / n_rows.max(1) as u32).clamp(12, 60);
    let cell_width = (WIDTH - 200) / n_columns as u32;
    save(path, 100 + cell_height * n_rows as u32, |area| {
        let (left, right) = area.split_horizontally(WIDTH - 110);
        let colors = Axis { label: (*unit).into(), scale: Scale::Linear };
        let found = || bounds(values.iter().flatten().copied().filter(|value| value.is_finite()));
        let (low, high) = range.unwrap_or_else(found);
        let color = |value: f64| ViridisRGB.get_color_normalized(value, low, high);

        let mut bar = ChartBuilder::on(&right)
            .margin_top(34)
            .margin_right(20)
            .margin_bottom(52)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..1.0, Ticked { ticks: colors.ticks(&(low..high)), range: low..high })?;
        bar.configure_mesh()
            .disable_x_axis()
            .set_all_tick_mark_size(5)
            .disable_mesh()
            .y_desc(*unit)
            .y_label_formatter(&|value| number(*value))
            .label_style(font(15))
            .axis_desc_style(font(16))
            .draw()?;
        let slice = (high - low) / 64.0;
        bar.draw_series((0..64).map(|n| {
            let from = low + slice * f64::from(n);
            Rectangle::new([(0.0, from), (1.0, from + slice)], color(from + slice / 2.0).filled())
        }))?;

        // Row r lies between the heights n_rows - r - 1 and n_rows - r.
        let height = |row: usize| (n_rows - row) as f64 - 0.5;
        let middles = |count: usize| (0..count).step_by(count.div_ceil(16).max(1));
        let mut chart = ChartBuilder::on(&left)
            .caption(*title, font(20))
            .margin(8)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                Ticked { range: 0.0..n_columns as f64, ticks: middles(n_columns).map(|n| n as f64 + 0.5).collect() },
                Ticked { range: 0.0..n_rows as f64, ticks: middles(n_rows).map(height).collect() },
            )?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_desc(*columns)
            .y_desc(*rows)
            .x_label_formatter(&|x| name(column_names, x - 0.5))
            .y_label_formatter(&|y| name(row_names, n_rows as f64 - y - 0.5))
            .label_style(font(15))
            .axis_desc_style(font(16))
            .draw()?;
        let cells = || {
            let cells = values.iter().enumerate().flat_map(|(row, line)| {
                line.iter().enumerate().map(move |(column, &value)| (column as f64 + 0.5, height(row), value))
            });
            cells.filter(|(_, _, value)| value.is_finite())
        };
        chart.draw_series(
            cells().map(|(x, y, v)| Rectangle::new([(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)], color(v).filled())),
        )?;
        if cell_width >= 36 && cell_height >= 18 {
            chart.draw_series(cells().map(|(x, y, value)| {
                let ink = if value - low < 0.6 * (high - low) { &WHITE } else { &BLACK };
                Text::new(format!("{value:.2}"), (x, y), font(14).color(ink).pos(Pos::new(HPos::Center, VPos::Center)))
            }))?;
        }
        Ok(())
    })
}

/// The name of a row or column at a tick.
fn name(names: &[String], place: f64) -> String {
    names.get(place.round() as usize).cloned().unwrap_or_default()
}
