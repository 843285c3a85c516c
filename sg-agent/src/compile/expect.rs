//! Runs a policy's own tests through the compiled tables.

use sg_common::classify::Service;

use super::{Compiled, CompiledRule};
use crate::policy::{Attachment, Expectation, Policy, covers};

/// An expectation that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was expected.
    pub expectation: Expectation,
    /// The interfaces of the attachment where it does not hold.
    pub interfaces: Vec<String>,
    /// The rule that allows the packet, if one does.
    pub rule: Option<CompiledRule>,
}

/// The expectations of `policy` that `compiled`, one for each attachment, do
/// not meet.
#[must_use]
pub fn failures(policy: &Policy, compiled: &[Compiled]) -> Vec<Failure> {
    let mut failures = Vec::new();
    for expectation in &policy.expectations {
        for (attachment, tables) in policy.attachments.iter().zip(compiled) {
            if !concerns(expectation, attachment) {
                continue;
            }
            let rule = decide(tables, expectation);
            if rule.is_some() != expectation.allowed {
                failures.push(Failure {
                    expectation: expectation.clone(),
                    interfaces: attachment.interfaces.clone(),
                    rule,
                });
            }
        }
    }
    failures
}

fn concerns(expectation: &Expectation, attachment: &Attachment) -> bool {
    expectation.interface.as_ref().is_none_or(|name| {
        attachment
            .interfaces
            .iter()
            .any(|pattern| covers(pattern, name))
    })
}

fn decide(tables: &Compiled, expectation: &Expectation) -> Option<CompiledRule> {
    let service = Service {
        protocol: expectation.protocol,
        selector: expectation.port,
    };
    let found = tables.first_match(expectation.direction, expectation.peer, service)?;
    tables.rule_in(found.slot()).cloned()
}
