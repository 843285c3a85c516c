//! One packet's line of JSON.

use serde::Serialize;

use super::Fate;
use crate::policy::Direction;

/// The fields, in this order. A packet that could not be judged has no
/// direction, rule or flow, and one field more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    n: u64,
    direction: Option<Direction>,
    verdict: &'static str,
    reason: &'static str,
    rule: Option<String>,
    flow: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Line {
    /// The line of packet `n`.
    #[must_use]
    pub fn new(n: u64, fate: &Fate) -> Self {
        match fate {
            Fate::Judged {
                direction,
                decision,
                ..
            } => Self {
                n,
                direction: Some(*direction),
                verdict: if decision.passes { "pass" } else { "drop" },
                reason: decision.reason.name(),
                rule: decision.rule.as_ref().map(|rule| rule.id.to_string()),
                flow: decision.flow.name(),
                why: None,
            },
            Fate::Skipped(skip) => Self {
                n,
                direction: None,
                verdict: "skip",
                reason: skip.name(),
                rule: None,
                flow: None,
                why: Some(skip.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use sg_common::verdict::{FlowKind, Reason};

    use super::*;
    use crate::{
        capture::LinkType, compile::CompiledRule, dataplane::sandbox::Decision, policy::RuleId,
        replay::Skip,
    };

    fn json(n: u64, fate: &Fate) -> String {
        serde_json::to_string(&Line::new(n, fate)).expect("plain data")
    }

    #[test]
    fn a_line_has_exactly_these_keys_in_this_order() {
        let dropped = Fate::Judged {
            direction: Direction::Inbound,
            decision: Decision {
                passes: false,
                reason: Reason::NoRule,
                flow: FlowKind::None,
                rule: None,
                implicit: None,
            },
            about: None,
        };
        assert_eq!(
            json(1, &dropped),
            r#"{"n":1,"direction":"inbound","verdict":"drop","reason":"no_rule","rule":null,"flow":null}"#
        );
        let passed = Fate::Judged {
            direction: Direction::Inbound,
            decision: Decision {
                passes: true,
                reason: Reason::Rule,
                flow: FlowKind::Untracked,
                rule: Some(CompiledRule {
                    id: RuleId {
                        group: "web".to_owned(),
                        direction: Direction::Inbound,
                        name: "http".to_owned(),
                    },
                    slot: 0,
                    tracked: false,
                }),
                implicit: None,
            },
            about: None,
        };
        assert_eq!(
            json(2, &passed),
            r#"{"n":2,"direction":"inbound","verdict":"pass","reason":"rule","rule":"web/inbound/http","flow":"untracked"}"#
        );
        assert_eq!(
            json(3, &Fate::Skipped(Skip::LinkType(LinkType(105)))),
            r#"{"n":3,"direction":null,"verdict":"skip","reason":"link_type","rule":null,"flow":null,"why":"link type 105 (IEEE802_11) is neither Ethernet nor raw IP"}"#
        );
    }
}
