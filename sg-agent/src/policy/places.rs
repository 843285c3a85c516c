//! Where a policy's parts stand in the file, and what is silenced there: what
//! the lints need and the policy itself has no use for.

use super::{lint::Allowed, model::Direction, source::Span};

/// Of the whole file.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Silenced in the whole file.
    pub(super) allowed: Allowed,
    /// In the order of [`Policy::groups`](super::Policy::groups).
    pub(super) groups: Vec<GroupPlaces>,
    /// The names of the sets, in the order of
    /// [`Policy::sets`](super::Policy::sets).
    pub(super) sets: Vec<Span>,
    /// In the order of [`Policy::attachments`](super::Policy::attachments).
    pub(super) attachments: Vec<AttachmentPlace>,
}

/// Of a group.
#[derive(Debug)]
pub(super) struct GroupPlaces {
    pub(super) name: Span,
    pub(super) allowed: Allowed,
    pub(super) inbound: Vec<RulePlace>,
    pub(super) outbound: Vec<RulePlace>,
}

impl GroupPlaces {
    /// In the order of the group's list.
    pub(super) fn rules(&self, direction: Direction) -> &[RulePlace] {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// Of a rule.
#[derive(Debug)]
pub(super) struct RulePlace {
    pub(super) name: Span,
    pub(super) peers: Span,
    /// In the order of [`Rule::peers`](super::Rule::peers).
    pub(super) each_peer: Vec<Span>,
    /// Of `ports`, or of `protocol` where there are none.
    pub(super) service: Span,
    pub(super) allowed: Allowed,
}

impl RulePlace {
    /// Of a rule that the file does not mention, at the name of its group.
    pub(super) fn implied(at: Span) -> Self {
        Self {
            name: at,
            peers: at,
            each_peer: Vec::new(),
            service: at,
            allowed: Allowed::new(),
        }
    }
}

/// Of an attachment.
#[derive(Debug)]
pub(super) struct AttachmentPlace {
    /// Of its `groups`.
    pub(super) groups: Span,
    pub(super) allowed: Allowed,
}
