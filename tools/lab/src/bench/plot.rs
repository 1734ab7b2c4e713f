// SPDX-License-Identifier: GPL-2.0

//! Plots, as SVG that stands in the page.

use anyhow::{anyhow, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::bare;
use super::table::{digits, Line};
use super::targets::{Bound, Verdict};
use super::workloads::about;

const OURS: RGBColor = RGBColor(0xd9, 0x5f, 0x2b);
const THEIRS: RGBColor = RGBColor(0x5b, 0x7d, 0x9c);
const FLOOR: RGBColor = RGBColor(0xa9, 0xb4, 0xbd);
const GOOD: RGBColor = RGBColor(0x2f, 0x8f, 0x5b);
const BAD: RGBColor = RGBColor(0xb0, 0x2a, 0x4c);
const INK: RGBColor = RGBColor(0x2b, 0x31, 0x37);
const SOFT: RGBColor = RGBColor(0x8a, 0x94, 0x9c);
const FAINT: RGBColor = RGBColor(0xe3, 0xe7, 0xea);
const FONT: &str = "system-ui, sans-serif";

const WIDTH: i32 = 880;
const LABELS: i32 = 330;
const VALUES: i32 = 96;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Trouble = Box<dyn std::error::Error>;

/// A drawing area that becomes text.
fn draw(height: i32, what: impl FnOnce(&Area<'_>) -> Result<(), Trouble>) -> Result<String> {
    let mut svg = String::new();
    {
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        what(&area).map_err(|e| anyhow!("cannot plot: {e}"))?;
        area.present()?;
    }
    // It scales with the page.
    Ok(svg.replacen(
        &format!("width=\"{WIDTH}\" height=\"{height}\""),
        "class=\"plot\" role=\"img\"",
        1,
    ))
}

fn text(size: i32, color: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    (FONT, size).into_font().color(&color).pos(Pos::new(h, v))
}

/// What a row is: in words, and below it as the tables call it.
fn label(area: &Area<'_>, middle: i32, about: &str, name: &str) -> Result<(), Trouble> {
    for (line, size, color, y) in [(about, 13, INK, middle - 7), (name, 11, SOFT, middle + 8)] {
        area.draw(&Text::new(
            line.to_owned(),
            (LABELS - 12, y),
            text(size, color, HPos::Right, VPos::Center),
        ))?;
    }
    Ok(())
}

/// Bars of one figure for each driver.
pub fn bars(lines: &[&Line]) -> Result<String> {
    const BAR: i32 = 15;
    const GAP: i32 = 16;
    let bars_of = |line: &Line| {
        let mut bars = Vec::new();
        bars.extend(line.ours.map(|(value, spread)| (value, spread, OURS)));
        bars.extend(line.theirs.map(|(value, spread)| (value, spread, THEIRS)));
        bars.extend(line.floor.map(|value| (value, 0.0, FLOOR)));
        bars
    };
    // The floor may be many times the rest: it must not press the rest together.
    let largest = lines
        .iter()
        .flat_map(|line| [line.ours, line.theirs])
        .flatten()
        .map(|(value, spread)| value * (1.0 + spread / 2.0))
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let room = f64::from(WIDTH - LABELS - VALUES);
    let height: i32 = lines
        .iter()
        .map(|line| bars_of(line).len() as i32 * (BAR + 2) + GAP)
        .sum();
    draw(height.max(20), |area| {
        let mut y = GAP / 2;
        for line in lines {
            let bars = bars_of(line);
            let middle = y + bars.len() as i32 * (BAR + 2) / 2;
            label(area, middle, about(&line.workload), bare(&line.workload))?;
            for (value, spread, color) in bars {
                let cut = value > largest;
                let length = (value.min(largest) / largest * room) as i32;
                area.draw(&Rectangle::new(
                    [(LABELS, y), (LABELS + length.max(1), y + BAR)],
                    color.filled(),
                ))?;
                let half = (value * spread / 2.0 / largest * room) as i32;
                if half > 1 && !cut {
                    let at = y + BAR / 2;
                    area.draw(&PathElement::new(
                        vec![(LABELS + length - half, at), (LABELS + length + half, at)],
                        INK.stroke_width(1),
                    ))?;
                }
                let arrow = if cut { " →" } else { "" };
                area.draw(&Text::new(
                    format!("{}{arrow}", digits(value)),
                    (LABELS + length + half.max(0) + 6, y + BAR / 2),
                    text(12, INK, HPos::Left, VPos::Center),
                ))?;
                y += BAR + 2;
            }
            y += GAP;
        }
        Ok(())
    })
}

/// Where each ratio is, and where it should be.
pub fn ratios(verdicts: &[&Verdict]) -> Result<String> {
    const ROW: i32 = 36;
    const HEAD: i32 = 26;
    let largest = verdicts
        .iter()
        .flat_map(|v| [v.target.value(), v.value])
        .fold(2.0, f64::max)
        * 1.05;
    let room = f64::from(WIDTH - LABELS - VALUES);
    let x = |value: f64| LABELS + (value / largest * room) as i32;
    let height = HEAD + verdicts.len() as i32 * ROW + 8;
    draw(height, |area| {
        let mut tick = 0.0;
        while tick <= largest {
            let color = if (tick - 1.0_f64).abs() < 1e-9 {
                THEIRS
            } else {
                FAINT
            };
            area.draw(&PathElement::new(
                vec![(x(tick), HEAD - 4), (x(tick), height)],
                color.stroke_width(1),
            ))?;
            area.draw(&Text::new(
                format!("{tick:.1}×"),
                (x(tick), HEAD - 14),
                text(12, INK, HPos::Center, VPos::Center),
            ))?;
            tick += 0.5;
        }
        for (row, verdict) in verdicts.iter().enumerate() {
            let y = HEAD + row as i32 * ROW + ROW / 2;
            let ratio = verdict.value;
            let color = if verdict.met { GOOD } else { BAD };
            let name = format!("{} {}", bare(&verdict.workload), verdict.metric);
            label(area, y, about(&verdict.workload), &name)?;
            area.draw(&PathElement::new(
                vec![(x(1.0), y), (x(ratio), y)],
                color.stroke_width(5),
            ))?;
            area.draw(&Circle::new((x(ratio), y), 6, color.filled()))?;
            let goal = x(verdict.target.value());
            let lean = match verdict.target {
                Bound::AtLeast(_) => 5,
                Bound::AtMost(_) => -5,
            };
            area.draw(&PathElement::new(
                vec![(goal, y - 9), (goal + lean, y), (goal, y + 9)],
                INK.stroke_width(2),
            ))?;
            area.draw(&Text::new(
                format!("{ratio:.2}×"),
                (WIDTH - VALUES + 24, y),
                text(13, color, HPos::Left, VPos::Center),
            ))?;
        }
        Ok(())
    })
}
