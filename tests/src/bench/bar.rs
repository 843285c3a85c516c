//! What the figures must reach.

use super::{
    check,
    figure::{Figure, markdown, short},
    load, memory,
    packets::Family,
    per_packet, prefixes, replay, sets, shapes,
    subject::Measure,
};

/// What a figure must not exceed.
struct Bar {
    what: &'static str,
    measure: Measure,
    subject: String,
    value: Value,
    limit: f64,
}

/// Which value of a figure.
#[derive(Clone, Copy)]
enum Value {
    /// Its median by the baseline's.
    Ratio,
    /// Its median, in its unit.
    Median,
}

/// A Markdown table of all bars whose figures were measured.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let head = ["bar", "limit", "found", ""].map(str::to_owned);
    let rows: Vec<_> = bars().iter().filter_map(|bar| bar.row(figures)).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n### bars\n\n{}", markdown(&head, &rows))
}

impl Bar {
    fn new(
        what: &'static str,
        (measure, subject): (Measure, String),
        value: Value,
        limit: f64,
    ) -> Self {
        Self {
            what,
            measure,
            subject,
            value,
            limit,
        }
    }

    fn row(&self, figures: &[Figure]) -> Option<[String; 4]> {
        let figure = figures.iter().find(|figure| {
            figure.subject == self.subject
                && figure.scenario == self.measure.scenario
                && figure.metric == self.measure.metric
        })?;
        let (found, unit) = match self.value {
            Value::Ratio => (
                figure.ratio(),
                format!(" × {}", figure.baseline.clone().unwrap_or_default()),
            ),
            Value::Median => (figure.median(), format!(" {}", figure.unit)),
        };
        let verdict = match found {
            Some(found) if found <= self.limit => "pass",
            Some(_) => "MISS",
            None => "MISS: not measured",
        };
        Some([
            self.what.to_owned(),
            format!("{}{unit}", self.limit),
            found.map_or_else(String::new, short),
            verdict.to_owned(),
        ])
    }
}

fn bars() -> Vec<Bar> {
    use Value::{Median, Ratio};
    let [v4, v6] = Family::BOTH;
    let packet = |policy, family, case| {
        let subject = per_packet::ours(policy, family, case);
        (per_packet::MEASURE, subject)
    };
    let sources = |shape, family| {
        let subject = prefixes::ours(shape, family, prefixes::LISTED);
        (prefixes::MEASURE, subject)
    };
    let apply = |shape| (load::MEASURE, load::first(shape));
    let maps = |shape| (memory::MAPS, memory::ours(shape));
    let (one, full) = (per_packet::ONE_RULE, per_packet::FULL);
    let change = |shape| (sets::MEASURE, sets::one_prefix(shape));
    let (table, hosts) = (shapes::ROUTING_TABLE, shapes::SCATTERED);
    let apart = shapes::ADVERSARIAL;
    let (ten, many) = (load::TEN_RULES, load::MANY_RULES);
    #[rustfmt::skip]
    let bars = vec![
        Bar::new("allowed by 1 rule", packet(one, v4, "allowed"), Ratio, 0.7),
        Bar::new("10,000 rules, 1M prefixes", packet(full, v4, "allowed"), Ratio, 1.25),
        Bar::new("IPv6", packet(one, v6, "allowed"), Ratio, 1.5),
        Bar::new("denied", packet(one, v4, "denied"), Ratio, 1.0),
        Bar::new("denied, IPv6", packet(one, v6, "denied"), Ratio, 1.0),
        Bar::new("random sources, 1M prefixes", sources(table, v4), Ratio, 0.12),
        Bar::new("random sources, 1M prefixes, IPv6", sources(table, v6), Ratio, 0.12),
        Bar::new("random sources, 1M hosts", sources(hosts, v4), Ratio, 0.2),
        Bar::new("random sources, 1M hosts, IPv6", sources(hosts, v6), Ratio, 0.2),
        Bar::new("apply 1M prefixes", apply(table), Median, 1.0),
        Bar::new("apply 1M prefixes", apply(table), Ratio, 0.2),
        Bar::new("apply 1M hosts", apply(hosts), Median, 1.0),
        Bar::new("apply 1M hosts", apply(hosts), Ratio, 0.2),
        Bar::new("apply 10,000 rules", apply(many), Median, 0.5),
        Bar::new("one prefix of 1M", change(table), Median, 1.0),
        Bar::new("one host of 1M", change(hosts), Median, 1.0),
        Bar::new("one prefix of 1M, adversarial", change(apart), Median, 1.0),
        Bar::new("replay 100,000 packets", (replay::MEASURE, replay::JSON.to_owned()), Median, 2.0),
        Bar::new("check 10,000 rules, 1M lines", (check::TIME, check::SUBJECT.to_owned()), Median, 1.5),
        Bar::new("check 10,000 rules, 1M lines", (check::PEAK, check::SUBJECT.to_owned()), Median, 300.0),
        Bar::new("maps, 1M prefixes", maps(table), Median, 96.0),
        Bar::new("maps, 1M hosts", maps(hosts), Median, 160.0),
        Bar::new("maps, 10 rules", maps(ten), Median, 4.0),
    ];
    bars
}
