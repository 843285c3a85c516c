//! What cloud files say, before names and references are settled. The same for
//! every provider.

use ipnet::IpNet;

use crate::policy::Service;

/// What all files together say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cloud {
    /// By the provider's identifier; those of the files first, in file order.
    pub(super) groups: Vec<CloudGroup>,
    /// Lists of addresses that rules refer to, in the order of their first use.
    pub(super) lists: Vec<CloudList>,
}

/// A security group or firewall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CloudGroup {
    /// The provider's identifier; rules refer to it.
    pub(super) id: String,
    /// What it should be called.
    pub(super) name: String,
    pub(super) description: Option<String>,
    /// Where it comes from, and what else is known; one line each.
    pub(super) notes: Vec<String>,
    /// Whether the files contain it, or only refer to it.
    pub(super) is_contained: bool,
    /// Whether a rule names its members.
    pub(super) is_referred_to: bool,
    pub(super) inbound: Vec<CloudRule>,
    pub(super) outbound: Vec<CloudRule>,
}

/// A rule, with all its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloudRule {
    pub(super) service: Service,
    /// Each once, in file order.
    pub(super) peers: Vec<CloudPeer>,
}

impl CloudRule {
    /// Distinct descriptions of its peers, in file order.
    pub(super) fn descriptions(&self) -> Vec<&str> {
        let mut distinct = Vec::new();
        for description in self.peers.iter().filter_map(|peer| peer.note.as_deref()) {
            if !distinct.contains(&description) {
                distinct.push(description);
            }
        }
        distinct
    }
}

/// A peer and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloudPeer {
    pub(super) target: Target,
    /// What the cloud's user wrote about it.
    pub(super) note: Option<String>,
    /// What else is known of it, for a comment.
    pub(super) remark: Option<String>,
}

impl CloudPeer {
    pub(super) fn new(target: Target, note: Option<String>) -> Self {
        let remark = None;
        Self {
            target,
            note,
            remark,
        }
    }
}

/// Whom a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Prefix(IpNet),
    /// A group's members, by its identifier.
    Group(String),
    /// A list, by its identifier.
    List(String),
}

/// Addresses with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloudList {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) notes: Vec<String>,
    pub(super) prefixes: Vec<IpNet>,
}
