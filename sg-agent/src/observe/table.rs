//! The tables that `stats` and `status` print.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use super::{
    FlowTableStatus, human,
    report::{DropStats, Report, RuleStats, Volume},
    status::{HookStatus, InterfaceStatus, Status},
};
use crate::{
    policy::{Direction, Mode},
    takeover,
};

/// Whether to colour: only on a terminal.
pub(crate) fn new_table(styled: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if styled {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

pub(crate) fn heading(names: &[&str]) -> Vec<Cell> {
    names
        .iter()
        .map(|name| Cell::new(name).add_attribute(Attribute::Bold))
        .collect()
}

pub(crate) fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table without the blanks that every row would begin and end with.
pub(crate) fn finish(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, " {}", line.trim_end());
    }
    text
}

/// The per-rule table, then defaults, implicit allows and drops, and how full
/// the flow tables are.
#[must_use]
pub fn render_report(report: &Report, styled: bool) -> String {
    let mut text = format!(
        "generation {} on {}\n\n",
        report.generation,
        if report.interfaces.is_empty() {
            "no interface".to_owned()
        } else {
            report.interfaces.join(", ")
        }
    );
    text += &rules(report, styled);
    text.push('\n');
    text += &others(report, styled);
    text += &flow_tables(&report.flow_tables, styled);
    text
}

fn rules(report: &Report, styled: bool) -> String {
    let mut table = new_table(styled);
    table.set_header(heading(&[
        "direction",
        "group",
        "rule",
        "flows",
        "packets",
        "bytes",
        "replies",
        "reply bytes",
        "last hit",
        "state",
    ]));
    for direction in [Direction::Inbound, Direction::Outbound] {
        for rule in report
            .rules
            .iter()
            .filter(|rule| rule.direction == direction)
        {
            table.add_row(rule_row(rule));
        }
    }
    align_right(&mut table, 3..8);
    finish(&table)
}

fn rule_row(rule: &RuleStats) -> Vec<Cell> {
    let number = |value: u64| {
        if value == 0 {
            "-".to_owned()
        } else {
            human::count(value)
        }
    };
    let size = |value: u64| {
        if value == 0 {
            "-".to_owned()
        } else {
            human::bytes(value)
        }
    };
    let state = if rule.tracked { "tracked" } else { "untracked" };
    let last = rule.idle.map_or_else(|| "never".to_owned(), human::ago);
    let cells = [
        rule.direction.to_string(),
        rule.group.clone(),
        rule.name.clone(),
        number(rule.flows),
        number(rule.packets),
        size(rule.bytes),
        number(rule.reply_packets),
        size(rule.reply_bytes),
        last,
        state.to_owned(),
    ];
    let never = rule.idle.is_none();
    cells
        .into_iter()
        .map(|text| {
            let cell = Cell::new(text);
            if never {
                cell.add_attribute(Attribute::Dim)
            } else {
                cell
            }
        })
        .collect()
}

fn others(report: &Report, styled: bool) -> String {
    let mut table = new_table(styled);
    table.set_header(heading(&["", "what", "direction", "packets", "bytes"]));
    let is_default = |drop: &&DropStats| drop.reason == "no_rule";
    for drop in report.drops.iter().filter(is_default) {
        add_volume(
            &mut table,
            "default",
            "no rule: drop",
            &drop.direction.to_string(),
            drop.packets,
            drop.bytes,
        );
    }
    for implicit in report
        .implicit
        .iter()
        .filter(|implicit| implicit.packets > 0)
    {
        add_volume(
            &mut table,
            "implicit",
            implicit.id,
            "both",
            implicit.packets,
            implicit.bytes,
        );
    }
    for drop in report
        .drops
        .iter()
        .filter(|drop| drop.packets > 0 && !is_default(drop))
    {
        add_volume(
            &mut table,
            "drop",
            drop.reason,
            &drop.direction.to_string(),
            drop.packets,
            drop.bytes,
        );
    }
    for drop in report.would_drop.iter().filter(|drop| drop.packets > 0) {
        add_volume(
            &mut table,
            "would drop",
            drop.reason,
            &drop.direction.to_string(),
            drop.packets,
            drop.bytes,
        );
    }
    let totals = report.totals;
    for (direction, Volume { packets, bytes }) in [
        (Direction::Inbound, totals.inbound),
        (Direction::Outbound, totals.outbound),
    ] {
        add_volume(
            &mut table,
            "total",
            "judged",
            &direction.to_string(),
            packets,
            bytes,
        );
    }
    align_right(&mut table, 3..5);
    finish(&table)
}

fn add_volume(
    table: &mut Table,
    kind: &str,
    what: &str,
    direction: &str,
    packets: u64,
    bytes: u64,
) {
    let colour = match kind {
        "drop" => Some(Color::Red),
        "would drop" => Some(Color::Yellow),
        _ => None,
    };
    let cells = [
        kind.to_owned(),
        what.to_owned(),
        direction.to_owned(),
        human::count(packets),
        human::bytes(bytes),
    ];
    table.add_row(cells.into_iter().map(|text| match colour {
        Some(colour) => Cell::new(text).fg(colour),
        None => Cell::new(text),
    }));
}

/// How every interface stands.
#[must_use]
pub fn render_status(status: &Status, styled: bool) -> String {
    let mut text = match (&status.generation, &status.rule_file, &status.applied_at) {
        (Some(generation), Some(file), Some(date)) => {
            format!("generation {generation} of `{file}`, live since {date}\n\n")
        }
        _ => "no rules are applied: no interface is protected\n\n".to_owned(),
    };
    let mut table = new_table(styled);
    table.set_header(heading(&[
        "interface",
        "state",
        "groups",
        "inbound",
        "outbound",
        "other programs",
    ]));
    for interface in &status.interfaces {
        table.add_row(interface_row(interface));
    }
    text += &finish(&table);
    if let Some(note) = takeover::note(status.seeded) {
        let _ = writeln!(text, "\nnote: {note}");
    }
    if !status.edited_sets.is_empty() {
        let _ = writeln!(
            text,
            "\nnote: `sg-agent set` changed {}; what the rule file says comes back when it is \
             applied again",
            status.edited_sets.join(", ")
        );
    }
    text += &flow_tables(&status.flow_tables, styled);
    for problem in &status.problems {
        let _ = write!(text, "\nproblem: {problem}");
    }
    if !status.problems.is_empty() {
        text.push('\n');
    }
    text
}

/// Those that have or had anything in them, and warnings.
fn flow_tables(all: &[FlowTableStatus], styled: bool) -> String {
    let refused =
        |one: &FlowTableStatus| one.refused_full + one.refused_no_memory + one.refused_other;
    let used: Vec<&FlowTableStatus> = all
        .iter()
        .filter(|one| one.entries > 0 || refused(one) > 0)
        .collect();
    if used.is_empty() {
        return String::new();
    }
    let mut table = new_table(styled);
    table.set_header(heading(&[
        "connections",
        "remembered",
        "room",
        "refused: full",
        "no memory",
        "other",
    ]));
    for one in &used {
        table.add_row([
            format!("IPv{} opened by {}", one.ip_version, one.opened_by),
            human::count(one.entries),
            human::count(one.room),
            human::count(one.refused_full),
            human::count(one.refused_no_memory),
            human::count(one.refused_other),
        ]);
    }
    align_right(&mut table, 1..6);
    let mut text = format!("\n{}", finish(&table));
    for warning in used.iter().filter_map(|one| one.warning()) {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    text
}

fn interface_row(interface: &InterfaceStatus) -> Vec<Cell> {
    let (state, colour) = match (interface.protected, interface.mode) {
        (true, Some(Mode::Audit)) => ("audit only", Color::Yellow),
        (true, _) => ("protected", Color::Green),
        (false, _) => ("NOT PROTECTED", Color::Red),
    };
    let hook = |hook: &Option<HookStatus>| hook.map_or("-", |hook| hook.place.name()).to_owned();
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    vec![
        Cell::new(&interface.name),
        Cell::new(state).fg(colour),
        Cell::new(or_dash(interface.groups.join(", "))),
        Cell::new(hook(&interface.inbound)),
        Cell::new(hook(&interface.outbound)),
        Cell::new(or_dash(interface.other_programs.join(", "))),
    ]
}
