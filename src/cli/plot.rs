//! Plots as SVG files, 800 pixels wide, from plain numbers: curves and heat maps. Nothing here knows what was measured.
//!
//! Colours are those of Okabe and Ito, which colour-blind people tell apart, and viridis; each curve has a marker of its
//! own too. The ground is white, so that a dark page shows the same picture.

mod heat_map;

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use sinkstream::{Error, Result};

pub(crate) use heat_map::{HeatMap, heat_map};

/// Width of every file, in pixels.
const WIDTH: u32 = 800;
/// Height of one figure, in pixels.
const HEIGHT: u32 = 360;
/// Most markers of a curve: more would hide it.
const MOST_MARKERS: usize = 10;

const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    BLACK,
];

/// Outlines around the point, in pixels: square, triangle, diamond, plus, triangle downwards.
const MARKERS: [&[(i32, i32)]; 5] = [
    &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
    &[(0, -6), (5, 4), (-5, 4)],
    &[(0, -6), (6, 0), (0, 6), (-6, 0)],
    &[(-2, -5), (2, -5), (2, -2), (5, -2), (5, 2), (2, 2), (2, 5), (-2, 5), (-2, 2), (-5, 2), (-5, -2), (-2, -2)],
    &[(0, 6), (5, -4), (-5, -4)],
];

/// Curves in one pair of axes.
pub(crate) struct Figure {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// One axis.
pub(crate) struct Axis {
    /// What it shows, with its unit.
    pub(crate) label: String,
    pub(crate) scale: Scale,
}

/// How an axis grows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// Values that are not positive are left out.
    Log,
}

/// One curve.
pub(crate) struct Series {
    pub(crate) name: String,
    /// (x, y), in the order in which they are joined. Points that are not finite are left out.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Sees, before long work, whether a plot could be written there.
///
/// # Errors
/// [`Error::Write`] if not.
pub(crate) fn check(path: &Path) -> Result<()> {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|error| Error::Write { what: path.display().to_string(), reason: error.to_string() })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Draws figures under one another into one SVG file.
///
/// # Errors
/// [`Error::Write`] if the file cannot be written.
pub(crate) fn lines(path: &Path, figures: &[Figure]) -> Result<()> {
    save(path, HEIGHT * figures.len() as u32, |area| {
        let parts = area.split_evenly((figures.len(), 1));
        figures.iter().zip(&parts).try_for_each(|(figure, part)| figure.draw(part))
    })
}

/// Draws into a white picture and writes it.
fn save(path: &Path, height: u32, draw: impl FnOnce(&Area) -> Drawn) -> Result<()> {
    let failed =
        |reason: &dyn std::fmt::Display| Error::Write { what: path.display().to_string(), reason: reason.to_string() };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&area));
        drawn.and_then(|()| area.present().map_err(Into::into)).map_err(|error| failed(&error))?;
    }
    std::fs::write(path, svg).map_err(|error| failed(&error))
}

impl Figure {
    fn draw(&self, area: &Area) -> Drawn {
        let longest = self.series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0);
        let legend_width = 48 + 7 * longest as u32;
        let (left, right) = area.split_horizontally(WIDTH.saturating_sub(legend_width));
        let places: Vec<Vec<(f64, f64)>> = self.series.iter().map(|series| self.places(series)).collect();
        let x_range = self.x.range(places.iter().flatten().map(|place| place.0));
        let y_range = self.y.range(places.iter().flatten().map(|place| place.1));
        let mut chart = ChartBuilder::on(&left)
            .caption(&self.title, font(20))
            .margin(8)
            .margin_right(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                Ticked { ticks: self.x.ticks(&x_range), range: x_range },
                Ticked { ticks: self.y.ticks(&y_range), range: y_range },
            )?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(BLACK.mix(0.12))
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_label_formatter(&|place| number(self.x.value(*place)))
            .y_label_formatter(&|place| number(self.y.value(*place)))
            .label_style(font(15))
            .axis_desc_style(font(16))
            .draw()?;
        for (n, (series, points)) in self.series.iter().zip(&places).enumerate() {
            let (color, marker) = (COLORS[n % COLORS.len()], MARKERS[n % MARKERS.len()]);
            chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
            // Curves may lie on one another: their markers do not.
            let step = points.len().div_ceil(MOST_MARKERS).max(1);
            let marked = points.iter().skip(step * n / self.series.len()).step_by(step);
            chart.draw_series(
                marked.map(|&point| EmptyElement::at(point) + Polygon::new(marker.to_vec(), color.filled())),
            )?;
            let y = 48 + 22 * n as i32;
            right.draw(&PathElement::new([(2, y), (30, y)], color.stroke_width(2)))?;
            right.draw(&(EmptyElement::at((16, y)) + Polygon::new(marker.to_vec(), color.filled())))?;
            let style = font(16).pos(Pos::new(HPos::Left, VPos::Center));
            right.draw(&Text::new(series.name.clone(), (36, y), style))?;
        }
        Ok(())
    }

    /// Where the points lie on the axes.
    fn places(&self, series: &Series) -> Vec<(f64, f64)> {
        let places = series.points.iter().map(|&(x, y)| (self.x.place(x), self.y.place(y)));
        places.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    }
}

impl Axis {
    /// Where a value lies on the axis; not finite if it has no place there.
    fn place(&self, value: f64) -> f64 {
        if self.scale == Scale::Log { value.log10() } else { value }
    }

    /// The value at a place.
    fn value(&self, place: f64) -> f64 {
        if self.scale == Scale::Log { 10_f64.powf(place) } else { place }
    }

    /// From where to where the axis goes: all places with a margin. A linear one begins at zero if that is near.
    fn range(&self, places: impl Iterator<Item = f64>) -> Range<f64> {
        let (low, high) = bounds(places);
        let margin = 0.04 * (high - low);
        match self.scale == Scale::Linear && low >= 0.0 && low < high / 2.0 {
            true => 0.0..high + margin,
            false => low - margin..high + margin,
        }
    }

    /// Places with a number: round values, 3 to 10 of them.
    fn ticks(&self, range: &Range<f64>) -> Vec<f64> {
        let round_values = |from: f64, to: f64| {
            let exact = (to - from) / 8.0;
            let power = 10_f64.powf(exact.log10().floor());
            let step = [1.0, 2.0, 5.0].iter().map(|n| n * power).find(|step| *step >= exact).unwrap_or(10.0 * power);
            ((from / step).ceil() as i64..=(to / step).floor() as i64).map(move |n| n as f64 * step)
        };
        if self.scale == Scale::Linear {
            return round_values(range.start, range.end).collect();
        }
        let decades = range.start.floor() as i32..=range.end.ceil() as i32;
        let within = |digits: &[f64]| -> Vec<f64> {
            let values = decades.clone().flat_map(|decade| digits.iter().map(move |n| n.log10() + f64::from(decade)));
            values.filter(|place| range.contains(place)).collect()
        };
        match range.end - range.start {
            span if span > 4.0 => within(&[1.0]),
            span if span > 1.0 => within(&[1.0, 2.0, 5.0]),
            span if span > 0.3 => within(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
            _ => round_values(self.value(range.start), self.value(range.end)).map(f64::log10).collect(),
        }
    }
}

/// A range of places whose ticks are known.
struct Ticked {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (place - self.range.start) / (self.range.end - self.range.start);
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Smallest and largest of finite numbers, never the same.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (value.min(low), value.max(high)));
    match () {
        () if low > high => (0.0, 1.0),
        () if low == high && low > 0.0 => (0.0, high),
        () if low == high => (low - 0.5, low + 0.5),
        () => (low, high),
    }
}

/// A number at a tick.
fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        size if size > 0.0 && size < 1e-3 => return format!("{value:.1e}"),
        _ => (value, ""),
    };
    let digits = format!("{value:.4}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// The size is 1.24 times that in the file, in pixels: plotters' measure.
fn font(size: u32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { label: "label (unit)".into(), scale }
    }

    fn shown(axis: &Axis, low: f64, high: f64) -> Vec<String> {
        let range = axis.place(low)..axis.place(high);
        axis.ticks(&range).into_iter().map(|place| number(axis.value(place))).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(shown(&axis(Scale::Linear), 0.0, 1040.0), ["0", "200", "400", "600", "800", "1000"]);
        assert_eq!(shown(&axis(Scale::Linear), -0.01, 0.52), ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(shown(&axis(Scale::Log), 0.9, 2100.0)[..4], ["1", "2", "5", "10"]);
        assert_eq!(shown(&axis(Scale::Log), 0.5, 200_000.0), ["1", "10", "100", "1000", "10k", "100k"]);
        assert_eq!(shown(&axis(Scale::Log), 240.0, 520.0), ["300", "400", "500"]);
        assert_eq!(shown(&axis(Scale::Log), 20.5, 23.0)[..3], ["20.5", "21", "21.5"]);
        assert_eq!(number(4e6), "4M");
        assert_eq!(number(0.000_25), "2.5e-4");
    }

    #[test]
    fn points_without_a_place_are_left_out() {
        let points = vec![(1.0, f64::NAN), (2.0, 0.0), (f64::INFINITY, 1.0), (4.0, 10.0)];
        let series = Series { name: "curve".into(), points };
        let figure =
            Figure { title: "title".into(), x: axis(Scale::Linear), y: axis(Scale::Log), series: vec![series] };
        assert_eq!(figure.places(&figure.series[0]), [(4.0, 1.0)]);
        let path = std::env::temp_dir().join(format!("sinkstream-plot-{}.svg", std::process::id()));
        lines(&path, &[figure]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for text in ["title", "curve", "label (unit)"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_plot_that_cannot_be_written_says_so() {
        let error = lines(Path::new("no/such/folder/plot.svg"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot write no/such/folder/plot.svg: "), "{error}");
    }
}
