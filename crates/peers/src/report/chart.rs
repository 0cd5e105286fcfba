//! Charts as SVG: a line for each store over the sizes of blocks, both axes logarithmic.
#![forbid(unsafe_code)]

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::cells::{Cells, Row, What};
use crate::grid::Column;
use crate::measure::{Metric, Workload};
use crate::report::table::number;
use crate::store::{Failure, Kind};

/// Every chart: the name of its file, its title, and what it shows.
pub(super) const CHARTS: [(&str, &str, What); 6] = [
    ("fill", "Fill, sustained, GiB/s", (Workload::Fill, Metric::Sustained)),
    ("recycled", "Fill a full store, sustained, GiB/s", (Workload::Recycled, Metric::Sustained)),
    ("hot", "Hot random reads, GiB/s", (Workload::Hot, Metric::Rate)),
    ("cold", "Cold random reads of a set that fits, GiB/s", (Workload::Cold, Metric::Rate)),
    ("scarce", "Random reads of a set four times the memory, GiB/s", (Workload::Scarce, Metric::Rate)),
    ("reopen", "From opening to all blocks found, ms", (Workload::Reopen, Metric::All)),
];

const SIZE: (u32, u32) = (900, 540);
const FONT: &str = "sans-serif";

/// One chart; `None` if nothing of it was measured.
pub(super) fn svg(cells: &Cells, title: &str, what: What) -> Result<Option<String>, Failure> {
    let columns: Vec<Column> = cells.columns.iter().copied().filter(|column| column.threads == 1).collect();
    let points = |row: Row| -> Vec<(f64, f64)> {
        let points = columns.iter().zip(0_u32..);
        let points = points.filter_map(|(column, at)| Some((f64::from(at), cells.get(what, *column, row)?.value)));
        points.filter(|(_, value)| *value > 0.0).collect()
    };
    let lines: Vec<(Row, Vec<(f64, f64)>)> = cells.rows.iter().map(|row| (*row, points(*row))).collect();
    let values = || lines.iter().flat_map(|(_, points)| points.iter().map(|(_, value)| *value));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    if high <= 0.0 {
        return Ok(None);
    }
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let right = f64::from(u32::try_from(columns.len())?) + 0.4;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 20))
            .margin(12)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(-0.2..right, (low / 1.5..high * 1.5).log_scale())?;
        let label = |at: &f64| label(&columns, *at);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(columns.len() + 1)
            .x_label_formatter(&label)
            .y_label_formatter(&|value| number(*value))
            .label_style((FONT, 13))
            .draw()?;
        for (at, (row, points)) in lines.into_iter().enumerate() {
            let color = match row.kind {
                Kind::Own => BLACK.to_rgba(),
                Kind::Peer => Palette99::pick(at).to_rgba(),
                // Beside the point, and told apart by where they run.
                Kind::Limit | Kind::Device => RGBColor(150, 150, 150).mix(if at % 2 == 0 { 1.0 } else { 0.6 }),
            };
            let drops = columns.iter().any(|column| cells.drops(what.0, *column, row));
            let name = if drops { format!("{} (drops)", row.name) } else { row.name.to_owned() };
            let style = color.stroke_width(match row.kind {
                Kind::Own => 3,
                Kind::Peer => 2,
                Kind::Limit | Kind::Device => 1,
            });
            line(&mut chart, &name, points, style)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .label_font((FONT, 13))
            .draw()?;
        area.present()?;
    }
    Ok(Some(text))
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

fn line(chart: &mut Chart<'_, '_>, name: &str, points: Vec<(f64, f64)>, style: ShapeStyle) -> Result<(), Failure> {
    if points.is_empty() {
        return Ok(());
    }
    let dots: Vec<_> = points.iter().map(|point| Circle::new(*point, 3, style.color.filled())).collect();
    let series = chart.draw_series(LineSeries::new(points, style)).map_err(|error| error.to_string())?;
    series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    chart.draw_series(dots).map_err(|error| error.to_string())?;
    Ok(())
}

/// The size of blocks at a whole number, and nothing between.
fn label(columns: &[Column], at: f64) -> String {
    let column = columns.iter().zip(0_u32..).find(|(_, index)| (f64::from(*index) - at).abs() < 1e-6);
    column.map_or(String::new(), |(column, _)| column.to_string())
}
