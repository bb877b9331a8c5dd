//! A picture of single runs around one flip: time from left to right, how long each took from bottom to top.
//!
//! Invariant: every slow sample of the report is one dot inside the picture.

use std::fmt::Write;

use skep_text::measure::{Report, Sample};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 10.0;
const BOTTOM: f64 = HEIGHT - 40.0;
const TOP: f64 = 30.0;

/// Colours of the threads, in turn.
const COLOURS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#17becf"];

/// Draws the traced flip of a report; the height is logarithmic, for a run takes nanoseconds and a trap microseconds.
pub(crate) fn draw(report: &Report) -> String {
    let flip_us = report.traced.as_secs_f64() * 1e6;
    let bounds = |(from, to): (f64, f64), at: f64| (from.min(at), to.max(at));
    let (from, to) = report.trace.iter().map(|sample| sample.at_us).fold((0.0, flip_us), bounds);
    let highest = report.trace.iter().map(|sample| sample.ns).fold(1000.0, f64::max);
    let x = |at_us: f64| LEFT + (at_us - from) / (to - from).max(1e-9) * (RIGHT - LEFT);
    let y = |ns: f64| BOTTOM - ns.max(1.0).log10() / highest.log10() * (BOTTOM - TOP);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<rect x="{:.1}" y="{TOP}" width="{:.1}" height="{:.1}" fill="{}"/>
<text x="{LEFT}" y="18">flip of {} sites, {flip_us:.1} us; each dot is one run, each colour a thread</text>
"#,
        x(0.0),
        (x(flip_us) - x(0.0)).max(1.0),
        BOTTOM - TOP,
        "#ffe9c6",
        report.nr_entries,
    );
    // Writing to a string does not fail.
    let mut ns = 10.0;
    while ns <= highest {
        let label = if ns < 1000.0 { format!("{ns} ns") } else { format!("{} us", ns / 1000.0) };
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" x2="{RIGHT}" y1="{0:.1}" y2="{0:.1}" stroke="#ddd"/>
<text x="{1:.1}" y="{2:.1}" text-anchor="end">{label}</text>"##,
            y(ns),
            LEFT - 6.0,
            y(ns) + 4.0,
        );
        ns *= 10.0;
    }
    for sample in thinned(&report.trace) {
        let colour = COLOURS[sample.thread % COLOURS.len()];
        let (x, y) = (x(sample.at_us), y(sample.ns));
        let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="1.6" fill="{colour}" fill-opacity="0.6"/>"#);
    }
    for step in 0..=4 {
        let at = from + (to - from) * f64::from(step) / 4.0;
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{}" text-anchor="middle">{at:.0} us</text>"#, x(at), HEIGHT - 16.0);
    }
    svg.push_str("</svg>\n");
    svg
}

/// All slow samples, and of the fast ones, which lie upon each other, so many that a viewer can bear it.
fn thinned(trace: &[Sample]) -> impl Iterator<Item = &Sample> {
    let mut times: Vec<f64> = trace.iter().map(|sample| sample.ns).collect();
    times.sort_by(f64::total_cmp);
    let usual = times.get(times.len() * 9 / 10).copied().unwrap_or_default();
    let step = trace.len().div_ceil(4000).max(1);
    trace.iter().enumerate().filter(move |(at, sample)| sample.ns > usual * 2.0 || at % step == 0).map(|(_, s)| s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_sample_is_a_dot_inside_the_picture() {
        let mut report = Report::default();
        report.traced = Duration::from_micros(30);
        report.trace = (0..50)
            .map(|at| Sample { at_us: f64::from(at) - 10.0, ns: f64::from(at * at * 40 + 1), thread: 0 })
            .collect();
        let svg = draw(&report);
        let dots: Vec<&str> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
        assert_eq!(dots.len(), 50);
        for dot in dots {
            let value = |name: &str| {
                let at = dot.find(name).unwrap() + name.len() + 2;
                dot[at..].split('"').next().unwrap().parse::<f64>().unwrap()
            };
            assert!((LEFT..=WIDTH).contains(&value("cx")), "{dot}");
            assert!((0.0..=HEIGHT).contains(&value("cy")), "{dot}");
        }
    }
}
