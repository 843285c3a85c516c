//! What was measured, as a table for people and as JSON for programs.

use std::collections::HashSet;

use serde_json::{Value, json};

/// One subject's figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The scenario it belongs to.
    pub scenario: &'static str,
    /// Whose figure it is, in which case.
    pub subject: String,
    /// What was measured.
    pub metric: &'static str,
    /// The unit of the samples.
    pub unit: &'static str,
    /// The subject that it is compared with.
    pub baseline: Option<String>,
    /// What was found.
    pub found: Found,
}

/// What came of measuring.
#[derive(Clone, Debug)]
pub enum Found {
    /// A sample from each round, and each by the baseline's of the same round.
    Samples {
        /// In the figure's unit.
        samples: Vec<f64>,
        /// Sample by sample; empty without a baseline.
        ratios: Vec<f64>,
    },
    /// The subject could not be measured, and why.
    Refused(String),
}

impl Figure {
    /// A scenario that broke down.
    pub(super) fn of_nothing(scenario: &'static str, error: &anyhow::Error) -> Self {
        Self {
            scenario,
            subject: "the whole scenario".to_owned(),
            metric: "anything",
            unit: "",
            baseline: None,
            found: Found::Refused(format!("{error:#}")),
        }
    }

    /// The middle sample.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        median(self.samples())
    }

    /// The middle of the rounds' ratios: what disturbs a round disturbs both
    /// sides of its ratio.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        match &self.found {
            Found::Samples { ratios, .. } => median(ratios),
            Found::Refused(_) => None,
        }
    }

    /// The samples, in the order they were taken.
    #[must_use]
    pub fn samples(&self) -> &[f64] {
        match &self.found {
            Found::Samples { samples, .. } => samples,
            Found::Refused(_) => &[],
        }
    }

    fn min(&self) -> Option<f64> {
        self.samples().iter().copied().reduce(f64::min)
    }

    fn max(&self) -> Option<f64> {
        self.samples().iter().copied().reduce(f64::max)
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "scenario": self.scenario,
            "subject": self.subject,
            "metric": self.metric,
            "unit": self.unit,
            "median": self.median(),
            "min": self.min(),
            "max": self.max(),
            "baseline": self.baseline,
            "ratio": self.ratio(),
        });
        if let Found::Refused(why) = &self.found {
            value["refused"] = json!(why);
        }
        value
    }

    /// Why there are no samples, in a line.
    fn refusal(&self) -> Option<String> {
        let Found::Refused(why) = &self.found else {
            return None;
        };
        let why: Vec<&str> = why.split_whitespace().collect();
        Some(format!("- refused: {}: {}\n", self.subject, why.join(" ")))
    }

    fn row(&self) -> [String; 5] {
        if let Found::Refused(_) = &self.found {
            let nothing = String::new;
            let refused = "refused".to_owned();
            return [
                self.subject.clone(),
                refused,
                nothing(),
                nothing(),
                nothing(),
            ];
        }
        let shown = |value: Option<f64>| value.map_or_else(String::new, short);
        let against = match (&self.baseline, self.ratio()) {
            (Some(baseline), Some(ratio)) => format!("{} × {baseline}", short(ratio)),
            _ => String::new(),
        };
        [
            self.subject.clone(),
            shown(self.median()),
            shown(self.min()),
            shown(self.max()),
            against,
        ]
    }
}

/// All figures as a JSON array.
#[must_use]
pub fn json(figures: &[Figure]) -> Value {
    figures.iter().map(Figure::json).collect()
}

/// All figures as Markdown tables, one for each scenario and metric.
#[must_use]
pub fn tables(figures: &[Figure]) -> String {
    let mut text = String::new();
    let head = ["subject", "median", "min", "max", "ratio"].map(str::to_owned);
    let title =
        |figure: &Figure| format!("{}: {}, {}", figure.scenario, figure.metric, figure.unit);
    let mut titles: Vec<String> = figures.iter().map(title).collect();
    let mut seen = HashSet::new();
    titles.retain(|title| seen.insert(title.clone()));
    for wanted in titles {
        let of_title = || figures.iter().filter(|figure| title(figure) == wanted);
        let rows: Vec<_> = of_title().map(Figure::row).collect();
        let refused: String = of_title().filter_map(Figure::refusal).collect();
        let gap = if refused.is_empty() { "" } else { "\n" };
        let table = markdown(&head, &rows);
        text.extend(["\n### ", &wanted, "\n\n", &table, gap, &refused]);
    }
    text
}

/// A Markdown table whose columns are as wide as what is in them.
#[must_use]
pub fn markdown<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().chain([head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
    let line = |cells: Vec<String>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let mut text = line(head.to_vec()) + &line(rule);
    for row in rows {
        text += &line(row.to_vec());
    }
    text
}

/// Three digits that mean something.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0..0.095 => format!("{value:.3}"),
        0.095..9.95 => format!("{value:.2}"),
        9.95..99.5 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The middle value; the lower of two.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().checked_sub(1)? / 2;
    sorted.get(middle).copied()
}

#[cfg(test)]
mod tests {
    use super::{Figure, Found, json, short, tables};

    fn figure(found: Found) -> Figure {
        Figure {
            scenario: "s",
            subject: "sg".to_owned(),
            metric: "time",
            unit: "ns",
            baseline: Some("them".to_owned()),
            found,
        }
    }

    #[test]
    fn shown_and_written() {
        let measured = figure(Found::Samples {
            samples: vec![9.0, 1.0, 2.0],
            ratios: vec![0.5, 0.6, 0.4],
        });
        let refused = figure(Found::Refused("too big".to_owned()));
        let value = json(&[measured.clone(), refused.clone()]);
        assert_eq!(value[0]["median"], 2.0);
        assert_eq!(value[0]["min"], 1.0);
        assert_eq!(value[0]["max"], 9.0);
        assert_eq!(value[0]["ratio"], 0.5);
        assert!(value[1]["median"].is_null());
        assert_eq!(value[1]["refused"], "too big");
        let text = tables(&[measured, refused]);
        assert!(text.contains("| 2.00 "), "{text}");
        assert!(text.contains("0.50 × them"), "{text}");
        assert!(text.contains("- refused: sg: too big"), "{text}");
    }

    #[test]
    fn three_digits() {
        let numbers = [0.0123, 0.123, 1.234, 12.34, 123.4, 1234.5];
        assert_eq!(
            numbers.map(short),
            ["0.012", "0.12", "1.23", "12.3", "123", "1234"]
        );
    }
}
