//! What the data path did and how things stand, for people and for programs.

mod flow_table_status;
mod flows;
mod human;
mod report;
mod status;
pub(crate) mod table;

pub use self::{
    flow_table_status::FlowTableStatus,
    flows::{FlowLine, FlowNames, FlowVolume, flow_heading, flow_row, state_of},
    report::{Clock, DropStats, ImplicitStats, Report, RuleStats, Totals, Volume},
    status::{HookStatus, InterfaceStatus, Status},
    table::{render_report, render_status},
};
