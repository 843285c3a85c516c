//! How full a table of established flows is: what `status` and `stats` show,
//! and `run` warns of.

use anyhow::Result;
use serde::Serialize;
use sg_common::{address::Family, flow::Opener};

use crate::dataplane::{
    flow_counts::{self, Fullness},
    store::Store,
};

/// One table of established flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlowTableStatus {
    /// `host` or `peer`.
    pub opened_by: &'static str,
    /// 4 or 6.
    pub ip_version: u8,
    /// How many flows are in it, also expired ones that nobody collected yet.
    pub entries: u64,
    /// How many there may be.
    pub room: u64,
    /// Whether it is so full that time-outs shrink.
    pub crowded: bool,
    /// How many flows did not get in because it was full (`E2BIG`).
    pub refused_full: u64,
    /// Because the kernel had no memory at hand (`ENOMEM`).
    pub refused_no_memory: u64,
    /// For another reason.
    pub refused_other: u64,
}

impl From<Fullness> for FlowTableStatus {
    fn from(fullness: Fullness) -> Self {
        let Fullness {
            map,
            occupancy,
            tally,
        } = fullness;
        Self {
            opened_by: match map.opener {
                Opener::Host => "host",
                Opener::Peer => "peer",
            },
            ip_version: match map.family {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            entries: occupancy.entries,
            room: occupancy.room,
            crowded: occupancy.is_crowded(),
            refused_full: tally.full,
            refused_no_memory: tally.no_memory,
            refused_other: tally.failed,
        }
    }
}

impl FlowTableStatus {
    /// Every table; none if there are none.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn all(store: &Store) -> Result<Vec<Self>> {
        let tables = flow_counts::fullness(store)?;
        Ok(tables.into_iter().map(Self::from).collect())
    }

    /// What is to be known of it before it is full.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Self {
            opened_by,
            ip_version,
            entries,
            room,
            ..
        } = self;
        let key = if *opened_by == "host" {
            "max_outbound"
        } else {
            "max_inbound"
        };
        self.crowded.then(|| {
            format!(
                "{entries} of {room} places for IPv{ip_version} connections that the {opened_by} \
                 opened are taken: idle ones end earlier, and without room new ones are dropped as \
                 `table_full`; `{key}` in `[flows]` makes more, after `sg-agent detach`"
            )
        })
    }
}
