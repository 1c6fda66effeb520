//! Line plots as SVG inside a page. Colours are placeholders that the page's style replaces, so that one plot fits light and dark.

use std::fmt::Write;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::escape;
use crate::Error;

/// Size of the drawing in its own units; the page scales it.
const SIZE: (u32, u32) = (720, 400);

/// Placeholders: text, axes, grid, and the first of the series' colours.
const INK: RGBColor = RGBColor(0x11, 0x11, 0x11);
const MUTED: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0x33, 0x33, 0x33);
const SERIES: RGBColor = RGBColor(0, 0, 0xA0);

/// Colours there are; more series than that repeat them.
const COLOURS: u8 = 8;

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By their logarithm.
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: String,
    /// How.
    pub scale: Scale,
    /// Values and names of its marks, instead of round numbers.
    pub marks: Option<Vec<(f64, String)>>,
}

impl Axis {
    /// An axis with round numbers.
    pub fn new(label: &str, scale: Scale) -> Self {
        Self { label: label.into(), scale, marks: None }
    }

    /// An axis with marks of one's own.
    #[must_use]
    pub fn with_marks(self, marks: Vec<(f64, String)>) -> Self {
        Self { marks: Some(marks), ..self }
    }

    fn place(&self, value: f64) -> f64 {
        if self.scale == Scale::Log { value.log10() } else { value }
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    /// Ends in places, and marks with their names.
    fn layout(&self, values: &[f64]) -> Marked {
        let named = self.marks.iter().flatten().map(|(value, _)| *value);
        let all = || values.iter().copied().chain(named.clone()).filter(|value| self.shows(*value));
        let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        if least > most {
            return Marked { ends: (0.0, 1.0), marks: Vec::new() };
        }
        if let Some(marks) = &self.marks {
            let marks = marks.iter().filter(|(value, _)| self.shows(*value));
            let marks: Vec<_> = marks.map(|(value, name)| (self.place(*value), name.clone())).collect();
            let (first, last) = (self.place(least), self.place(most));
            let margin = ((last - first) * 0.05).max(0.05);
            return Marked { ends: (first - margin, last + margin), marks };
        }
        let marks = match self.scale {
            Scale::Linear => round_marks(most.max(f64::MIN_POSITIVE)),
            Scale::Log => log_marks(least, most),
        };
        let ends = (marks.first().copied().unwrap_or(0.0), marks.last().copied().unwrap_or(1.0));
        Marked {
            ends: (self.place(ends.0), self.place(ends.1)),
            marks: marks.iter().map(|&mark| (self.place(mark), short(mark))).collect(),
        }
    }
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Points in the order of the line.
    pub points: Vec<(f64, f64)>,
    /// A computed line: dashed, without points.
    pub computed: bool,
    /// Which of the colours.
    pub colour: u8,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// What else there is to know.
    pub caption: String,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// Lines.
    pub series: Vec<Series>,
}

impl Plot {
    /// A figure with title, legend and drawing.
    pub fn render(&self) -> Result<String, Error> {
        let svg = self.draw()?;
        // The page's text sizes it, and who cannot see it hears its title.
        let label = format!("<svg role=\"img\" aria-label=\"{}\" ", escape(&self.title));
        let svg = svg.replacen("<svg ", &label, 1);
        let mut legend = String::new();
        for series in &self.series {
            let class = if series.computed { " class=\"dashed\"" } else { "" };
            let (colour, name) = (series.colour % COLOURS, escape(&series.name));
            let _ = write!(legend, "<li><i{class} style=\"--c:var(--s{colour})\"></i>{name}</li>");
        }
        let caption = if self.caption.is_empty() {
            String::new()
        } else {
            format!("<figcaption>{}</figcaption>", escape(&self.caption))
        };
        Ok(format!(
            "<figure><h3>{}</h3><ul class=\"legend\">{legend}</ul><div class=\"plot\">{svg}</div>{caption}</figure>",
            escape(&self.title)
        ))
    }

    fn draw(&self) -> Result<String, Error> {
        let values = |of: fn(&(f64, f64)) -> f64| -> Vec<f64> {
            self.series.iter().flat_map(|series| series.points.iter().map(of)).collect()
        };
        let (x, y) = (self.x.layout(&values(|point| point.0)), self.y.layout(&values(|point| point.1)));
        let text = |size: i32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
        let mut out = String::new();
        {
            let area = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
            let chart = ChartBuilder::on(&area)
                .margin_top(10)
                .margin_right(30)
                .x_label_area_size(64)
                .y_label_area_size(92)
                .build_cartesian_2d(x, y);
            let mut chart = drawn(chart)?;
            let mesh = chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(GRID)
                .axis_style(MUTED)
                .label_style(text(21, MUTED))
                .x_desc(&self.x.label)
                .y_desc(&self.y.label)
                .axis_desc_style(text(22, INK))
                .draw();
            drawn(mesh)?;
            for series in &self.series {
                let colour = RGBColor(SERIES.0, SERIES.1, SERIES.2 + series.colour % COLOURS);
                let shown = |(x, y): &&(f64, f64)| self.x.shows(*x) && self.y.shows(*y);
                let points: Vec<_> =
                    series.points.iter().filter(shown).map(|&(x, y)| (self.x.place(x), self.y.place(y))).collect();
                if series.computed {
                    let style = colour.stroke_width(2);
                    drawn(chart.draw_series(DashedLineSeries::new(points, 8, 6, style)))?;
                } else {
                    let style = colour.stroke_width(3);
                    drawn(chart.draw_series(LineSeries::new(points.iter().copied(), style)))?;
                    drawn(chart.draw_series(points.into_iter().map(|at| Circle::new(at, 5, colour.filled()))))?;
                }
            }
            drawn(area.present())?;
        }
        Ok(out)
    }
}

/// What the drawing library says of a text in memory, that cannot fail.
fn drawn<T, E>(result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|_| Error::Harness("the plot cannot be drawn"))
}

/// Both ends of an axis and its marks, as the drawing library wants them.
struct Marked {
    ends: (f64, f64),
    marks: Vec<(f64, String)>,
}

impl Ranged for Marked {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.ends.0) / (self.ends.1 - self.ends.0).max(f64::MIN_POSITIVE);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.marks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.ends.0..self.ends.1
    }
}

impl ValueFormatter<f64> for Marked {
    fn format_ext(&self, place: &f64) -> String {
        self.marks.iter().find(|(at, _)| (at - place).abs() < 1e-9).map_or_else(String::new, |(_, name)| name.clone())
    }
}

/// Marks from zero to at least `most` in steps of 1, 2 or 5.
fn round_marks(most: f64) -> Vec<f64> {
    let rough = most / 5.0;
    let unit = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * unit).find(|step| *step >= rough * 0.999).unwrap_or(unit * 10.0);
    let count = (most / step - 1e-9).ceil() as u32;
    (0..=count).map(|n| f64::from(n) * step).collect()
}

/// Marks at powers of ten around the values, with 2 and 5 between them where there are few.
fn log_marks(least: f64, most: f64) -> Vec<f64> {
    let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let between: &[f64] = if last - first <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all: Vec<f64> = (first..=last).flat_map(|power| between.iter().map(move |n| n * 10f64.powi(power))).collect();
    // The last mark below all values, those between, and the first above.
    let from = all.iter().rposition(|mark| *mark <= least * 1.000_001).unwrap_or(0);
    let to = all
        .iter()
        .position(|mark| *mark >= most * 0.999_999)
        .unwrap_or(all.len() - 1)
        .max((from + 1).min(all.len() - 1));
    all[from..=to].to_vec()
}

/// A number without more digits than it needs, thousands and millions by letter.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // Three digits, or all of a whole number.
    let digits = match scaled.abs() {
        size if size >= 100.0 => format!("{scaled:.0}"),
        size if size >= 10.0 => format!("{scaled:.1}"),
        size if size >= 1.0 => format!("{scaled:.2}"),
        _ => format!("{scaled:.4}"),
    };
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits}{unit}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_enclose_the_values(least in 1e-3..1e6f64, times in 1.0..1e6f64) {
            let most = least * times;
            let marks = log_marks(least, most);
            prop_assert!(marks.len() >= 2 && marks.len() <= 14, "{:?}", marks);
            prop_assert!(marks[0] <= least * 1.00001 && marks[marks.len() - 1] >= most * 0.99999, "{:?}", marks);
            let marks = round_marks(most);
            prop_assert!(marks.len() >= 3 && marks.len() <= 8, "{:?}", marks);
            prop_assert!(marks[0].abs() < 1e-12 && marks[marks.len() - 1] >= most * 0.99999, "{:?} {}", marks, most);
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (1024.0, "1024"),
            (65_536.0, "65.5k"),
            (1234.5, "1234"),
            (0.0125, "0.0125"),
            (5e5, "500k"),
            (1e6, "1M"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn every_series_is_drawn_and_odd_values_are_left_out() {
        let line = |name: &str, points: Vec<(f64, f64)>, computed, colour| Series {
            name: name.into(),
            points,
            computed,
            colour,
        };
        let plot = Plot {
            title: "Cost <of> & more".into(),
            caption: "A caption".into(),
            x: Axis::new("flows", Scale::Log),
            y: Axis::new("cycles per packet", Scale::Linear),
            series: vec![
                line("measured", vec![(64.0, 100.0), (1024.0, 120.0), (0.0, 3.0), (65536.0, f64::NAN)], false, 0),
                line("fitted", vec![(64.0, 101.0), (65536.0, 140.0)], true, 9),
            ],
        };
        let figure = plot.render().unwrap();
        assert_eq!(figure.matches("<circle").count(), 2, "{figure}");
        assert!(figure.contains("#0000A0") && figure.contains("#0000A1"), "{figure}");
        assert!(figure.contains("cycles per packet") && figure.contains("Cost &lt;of&gt; &amp; more"));
        let mut page = crate::html::Page::new("t", "a");
        page.figures(&[figure]);
        crate::html::support::is_whole_and_alone(&page.finish());
    }

    #[test]
    fn nothing_to_draw_is_an_empty_plot() {
        let axis = || Axis::new("x", Scale::Log);
        let plot = Plot { title: "t".into(), caption: String::new(), x: axis(), y: axis(), series: Vec::new() };
        assert!(plot.render().unwrap().contains("</svg>"));
    }
}
