//! A report as one HTML file with pictures in it, which needs nothing else to be looked at.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::result::{CorpusRun, Line, SuiteResult};
use crate::contender::{Named, Nature};
use crate::human;
use crate::report::{Report, Table};

const SIZE: (u32, u32) = (960, 460);
/// Colours that differ also for those who see few.
const COLOURS: [RGBColor; 13] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(188, 189, 34),
    RGBColor(0, 70, 90),
    RGBColor(230, 190, 170),
    RGBColor(150, 0, 60),
];
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}\
                     table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}\
                     td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}\
                     td:first-child,th:first-child{text-align:left}\
                     .fail{color:#b00;font-weight:bold}.note,figcaption{color:#555;font-size:.9rem}\
                     figure{margin:1.5rem 0;overflow-x:auto}pre{overflow-x:auto;background:#f6f6f6;padding:.7rem}";

/// Writes the report.
///
/// # Errors
///
/// The file can't be written.
pub(super) fn write(report: &Report<SuiteResult>, path: &Path) -> Result<()> {
    let html = page(report)?;
    fs::write(path, html).with_context(|| format!("cannot write {}", path.display()))
}

fn page(report: &Report<SuiteResult>) -> Result<String> {
    let result = &report.result;
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>mig-bench: {0}</title><style>{STYLE}</style><h1>mig-bench: {0}</h1><p>{1}</p>",
        escape(&result.suite),
        escape(&result.about)
    );
    if result.interrupted {
        html += "<p class=fail>Interrupted: what was not measured is missing.</p>";
    }
    if let Some(synthetic) = &report.synthetic {
        write!(html, "<p class=fail>Synthetic input: {}</p>", escape(synthetic))?;
    }
    goals(&mut html, report)?;
    for run in &result.runs {
        section(&mut html, run)?;
    }
    threads(&mut html, result)?;
    html += "<h2>Where and how</h2>";
    write!(html, "<pre>{}</pre><ul class=note>", escape(&report.provenance().describe()))?;
    for note in &report.notes {
        write!(html, "<li>{}", escape(note))?;
    }
    html += "</ul></html>\n";
    Ok(html)
}

fn goals(html: &mut String, report: &Report<SuiteResult>) -> Result<()> {
    if report.goals.is_empty() {
        return Ok(());
    }
    *html += "<h2>Promises</h2><table><tr><th>what<th>measured<th>";
    for goal in &report.goals {
        let verdict = if goal.is_met() { "<td>pass" } else { "<td class=fail>FAIL" };
        write!(html, "<tr><td>{}<td>{}{verdict}", escape(&goal.what), escape(&goal.got))?;
    }
    *html += "</table>";
    Ok(())
}

fn section(html: &mut String, run: &CorpusRun) -> Result<()> {
    let name = escape(&run.corpus);
    write!(
        html,
        "<h2>{name}, {} threads</h2><p>{} of {} memory, {} of data.",
        run.threads,
        human::bytes(run.image.bytes),
        run.image.format,
        human::bytes(run.image.data_bytes)
    )?;
    for built in &run.references {
        write!(html, " The destination has {} ({}).", escape(&built.name), built.kind)?;
    }
    *html += "</p><table><tr><th>contender<th>bytes<th>of the image<th>GB/s<th>CPU s";
    for line in &run.contenders {
        write!(
            html,
            "<tr><td title=\"{}\">{}<td>{}<td>{}<td>{}<td>{}",
            escape(&line.about),
            escape(&line.contender),
            human::count(line.bytes),
            human::percent(line.bytes as f64 / run.image.bytes as f64),
            line.speed(),
            human::number(line.pack.cpu_seconds.median())
        )?;
    }
    *html += "</table>";
    for absent in &run.absent {
        write!(html, "<p class=note>Not measured: {}</p>", escape(absent))?;
    }
    figure(html, &bytes(run, |_| true)?, "Bytes of the packed image.")?;
    let tells = |line: &Line| line.blocks.is_some();
    if run.contenders.iter().any(tells) {
        figure(
            html,
            &bytes(run, tells)?,
            "The same of those who tell what the guest's pages are, on a scale of their own.",
        )?;
    }
    if run.contenders.iter().any(|line| !line.rounds.is_empty()) {
        figure(
            html,
            &rounds(run)?,
            "A guest that runs: bytes of each round, the whole guest first and then each time the pages that had changed.",
        )?;
    }
    for of in [run.whole_table(), run.ends_table()].into_iter().flatten() {
        table(html, &of)?;
    }
    if !run.links().is_empty() {
        figure(
            html,
            &times(run)?,
            "Seconds to move the guest over links of different rates, both axes logarithmic. Lower is better; the dashed line is \
             what sending every byte as it is takes at best.",
        )?;
        link_table(html, run)?;
    }
    Ok(())
}

/// A table as it is in the text, its first row heads.
fn table(html: &mut String, table: &Table) -> Result<()> {
    *html += "<table>";
    for (number, row) in table.rows().iter().enumerate() {
        *html += "<tr>";
        for cell in row {
            write!(html, "<{}>{}", if number == 0 { "th" } else { "td" }, escape(cell))?;
        }
    }
    *html += "</table>";
    Ok(())
}

fn link_table(html: &mut String, run: &CorpusRun) -> Result<()> {
    let links = run.links();
    *html += "<table><tr><th>seconds, and what was the limit";
    for link in &links {
        write!(html, "<th>{link}")?;
    }
    for line in run.contenders.iter().filter(|line| !line.links.is_empty()) {
        write!(html, "<tr><td>{}", escape(&line.contender))?;
        for link in &links {
            match line.on(link) {
                Some(on) => {
                    let mark = if on.calculated { "~" } else { "" };
                    write!(html, "<td>{mark}{} {}", human::number(on.seconds.median()), on.limit)?;
                }
                None => *html += "<td>",
            }
        }
    }
    *html += "</table><p class=note>~: calculated, since the link alone decides, or packing alone.</p>";
    Ok(())
}

fn figure(html: &mut String, svg: &str, caption: &str) -> Result<()> {
    write!(html, "<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption))?;
    Ok(())
}

fn drawn<E: std::error::Error>(error: E) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

/// A contender's bar.
struct Bar {
    name: String,
    /// MiB by name.
    parts: Vec<(String, f64)>,
}

/// Bytes by what the pages are.
fn bytes(run: &CorpusRun, which: impl Fn(&Line) -> bool) -> Result<String> {
    let lines = run.contenders.iter().filter(|line| line.bytes > 0 && is_packed(line) && which(line));
    let bars = lines.map(|line| Bar { name: line.contender.clone(), parts: parts(line) }).collect();
    stacked(bars)
}

/// Bytes by round.
fn rounds(run: &CorpusRun) -> Result<String> {
    let bar = |line: &Line| {
        let parts = line.rounds.iter().enumerate().map(|(number, round)| {
            let name = match number {
                0 => "all pages".to_owned(),
                _ => format!("round {number}: {} changed", human::count(round.pages)),
            };
            (name, round.bytes as f64 / MIB)
        });
        Bar { name: line.contender.clone(), parts: parts.collect() }
    };
    stacked(run.contenders.iter().filter(|line| !line.rounds.is_empty()).map(bar).collect())
}

/// Stacked bars, the first at the top.
fn stacked(lines: Vec<Bar>) -> Result<String> {
    let whole = |bar: &Bar| bar.parts.iter().map(|(_, mib)| mib).sum::<f64>();
    let most = lines.iter().map(whole).fold(f64::MIN_POSITIVE, f64::max);
    let rows = lines.len().max(1);
    let mut svg = String::new();
    {
        let height = 90 + 26 * rows as u32;
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(190)
            .build_cartesian_2d(0f64..most * 1.02, 0f64..rows as f64)
            .map_err(drawn)?;
        let name = |y: &f64| {
            let row = rows.checked_sub(1 + *y as usize);
            let is_middle = (y - y.floor() - 0.5).abs() < 0.01;
            row.filter(|_| is_middle).map_or(String::new(), |row| lines[row].name.clone())
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .max_light_lines(1)
            .y_labels(2 * rows + 1)
            .y_label_formatter(&name)
            .x_desc("MiB")
            .label_style(("sans-serif", 14))
            .draw()
            .map_err(drawn)?;
        let names = part_names(&lines);
        for (place, name) in names.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let mut bars = Vec::new();
            for (row, line) in lines.iter().enumerate() {
                let before: f64 = names[..place].iter().map(|name| part(&line.parts, name)).sum();
                let y = (rows - 1 - row) as f64;
                let width = part(&line.parts, name);
                if width > 0.0 {
                    bars.push(Rectangle::new(
                        [(before, y + 0.15), (before + width, y + 0.85)],
                        colour.filled(),
                    ));
                }
            }
            chart
                .draw_series(bars)
                .map_err(drawn)?
                .label(name.clone())
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 13))
            .draw()
            .map_err(drawn)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

const MIB: f64 = 1024.0 * 1024.0;
const WHOLE: &str = "not told apart";
const SETTLED: &str = "settled pages and long matches";

fn is_packed(line: &Line) -> bool {
    line.contender.parse::<Named>().is_ok_and(|named| named.nature() != Nature::Roof)
}

/// MiB by name.
fn parts(line: &Line) -> Vec<(String, f64)> {
    let Some(blocks) = &line.blocks else { return vec![(WHOLE.into(), line.bytes as f64 / MIB)] };
    let mut parts: Vec<(String, f64)> =
        blocks.class_bytes().map(|(name, bytes)| (name.to_owned(), bytes as f64 / MIB)).collect();
    let rest = line.bytes as f64 / MIB - parts.iter().map(|(_, mib)| mib).sum::<f64>();
    parts.push((SETTLED.into(), rest.max(0.0)));
    parts
}

fn part(parts: &[(String, f64)], name: &str) -> f64 {
    parts.iter().find(|(known, _)| known == name).map_or(0.0, |(_, mib)| *mib)
}

/// Names of all parts that anybody has, the largest first.
fn part_names(bars: &[Bar]) -> Vec<String> {
    let mut sums: Vec<(String, f64)> = Vec::new();
    for (name, mib) in bars.iter().flat_map(|bar| &bar.parts) {
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += mib,
            None => sums.push((name.clone(), *mib)),
        }
    }
    sums.retain(|(_, sum)| *sum > 0.0);
    sums.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    sums.into_iter().map(|(name, _)| name).collect()
}

/// Time against rate.
fn times(run: &CorpusRun) -> Result<String> {
    let lines: Vec<&Line> = run.contenders.iter().filter(|line| !line.links.is_empty()).collect();
    let all = || lines.iter().flat_map(|line| &line.links);
    let range = |values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::MAX, f64::min);
        let high = values.iter().copied().fold(f64::MIN, f64::max);
        low * 0.8..high * 1.25
    };
    let x = range(all().map(|on| on.bits_per_second).collect());
    let y = range(all().map(|on| on.seconds.median()).collect());
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(x.clone().log_scale(), y.log_scale())
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .x_desc("link")
            .y_desc("seconds")
            .x_label_formatter(&|bits| rate(*bits))
            .y_label_formatter(&|seconds| human::number(*seconds))
            .label_style(("sans-serif", 14))
            .light_line_style(BLACK.mix(0.05))
            .draw()
            .map_err(drawn)?;
        let raw = |bits: f64| (bits, run.image.bytes as f64 * 8.0 / bits);
        chart
            .draw_series(DashedLineSeries::new([raw(x.start), raw(x.end)], 6, 4, BLACK.mix(0.5).into()))
            .map_err(drawn)?;
        for (place, line) in lines.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let ours = line.contender.starts_with("mig");
            let style =
                colour.stroke_width(if line.contender == "mig auto" { 4 } else { 1 + u32::from(ours) });
            let points: Vec<(f64, f64)> =
                line.links.iter().map(|on| (on.bits_per_second, on.seconds.median())).collect();
            let series = LineSeries::new(points, style).point_size(if ours { 4 } else { 3 });
            chart
                .draw_series(series)
                .map_err(drawn)?
                .label(&line.contender)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 13))
            .draw()
            .map_err(drawn)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

fn rate(bits: f64) -> String {
    if bits >= 1e9 { format!("{} Gbit/s", bits / 1e9) } else { format!("{} Mbit/s", (bits / 1e6).round()) }
}

/// Throughput against threads, of each corpus that was run at several numbers of them.
fn threads(html: &mut String, result: &SuiteResult) -> Result<()> {
    let mut corpora: Vec<&str> = result.runs.iter().map(|run| &*run.corpus).collect();
    corpora.dedup();
    for corpus in corpora {
        let runs: Vec<&CorpusRun> = result.runs.iter().filter(|run| run.corpus == corpus).collect();
        if runs.len() < 2 {
            continue;
        }
        write!(html, "<h2>{}: throughput against threads</h2>", escape(corpus))?;
        let svg = against_threads(&runs)?;
        figure(
            html,
            &svg,
            "Decimal gigabytes of the image a second, packed into nothing. Higher is better.",
        )?;
    }
    Ok(())
}

fn against_threads(runs: &[&CorpusRun]) -> Result<String> {
    let names: Vec<&str> = runs[0].contenders.iter().map(|line| &*line.contender).collect();
    let series = |name: &str| -> Vec<(f64, f64)> {
        let of = |run: &&CorpusRun| {
            let line = run.contenders.iter().find(|line| line.contender == name)?;
            Some((run.threads as f64, line.pack.gb_per_second.median()))
        };
        runs.iter().filter_map(of).collect()
    };
    let most = names.iter().flat_map(|name| series(name)).map(|(_, rate)| rate).fold(0.0, f64::max);
    let threads = runs.iter().map(|run| run.threads).max().unwrap_or(1) as f64;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.9..threads * 1.4, 0.0..most * 1.1)
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .x_desc("threads")
            .y_desc("GB/s")
            .label_style(("sans-serif", 14))
            .draw()
            .map_err(drawn)?;
        for (place, name) in names.iter().enumerate() {
            let style = COLOURS[place % COLOURS.len()].stroke_width(2);
            chart
                .draw_series(LineSeries::new(series(name), style).point_size(4))
                .map_err(drawn)?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 13))
            .draw()
            .map_err(drawn)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
