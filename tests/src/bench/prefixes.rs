//! Random sources among a million prefixes, beside the kernel's own trie with
//! the same prefixes. Ours judges whole packets; the trie is only looked into.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use sg_agent::dataplane::sandbox::Hook;

use super::{
    Bench,
    bpf::{Kind, Program},
    clock::Pinned,
    lookup,
    ours::{Ours, XDP_PASS},
    packets::{self, Family},
    shapes::{PORT, Shape},
    subject::{Measure, Subject, shared},
    vary::{Sequence, Varied},
};

/// The scenario.
pub(super) const NAME: &str = "prefixes";
/// What is measured.
pub(super) const MEASURE: Measure = Measure {
    scenario: NAME,
    metric: "time of a packet",
    unit: "ns",
};

/// Sources that the prefixes have.
pub(super) const LISTED: &str = "listed sources";
/// Sources of which the prefixes have a part.
const ANY: &str = "any source";

/// What the figure of one of our programs is called.
pub(super) fn ours(shape: &str, family: Family, sources: &str) -> String {
    format!("sg, {shape}, {}, {sources}", family.name())
}

fn trie(shape: &str, family: Family, sources: &str) -> String {
    format!("LPM trie, {shape}, {}, {sources}", family.name())
}

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let shapes = Shape::all(bench.directory(), bench.scale.size)?;
    for shape in &shapes {
        bench.progress.at(&format!("loading: {}", shape.name));
        let ours = bench.load(&shape.rules);
        for family in Family::BOTH {
            one(bench, shape, &ours, family)?;
        }
    }
    Ok(())
}

fn one(bench: &mut Bench, shape: &Shape, ours: &Result<Ours>, family: Family) -> Result<()> {
    let listed = packets::drawn(&shape.allowed, family, bench.scale.draws);
    let sources = Sources {
        family,
        listed: Sequence::new(&listed)?,
        frame: packets::inbound(family, PORT),
        packets: bench.scale.varied,
    };
    let prefixes: Vec<_> = shape.allowed.iter().map(|(net, _)| *net).collect();
    let map = lookup::trie(&prefixes, family)?;
    let in_trie: Program = lookup::in_trie(&map, family)?;
    let program = || shared(ours).and_then(|ours| ours.program(Hook::Xdp));
    let subjects = [LISTED, ANY].into_iter().flat_map(|from| {
        let baseline = trie(shape.name, family, from);
        let them = sources.subject(&baseline, from, Ok(in_trie.as_fd()));
        let us = sources.subject(&self::ours(shape.name, family, from), from, program());
        [them, us.against(baseline)]
    });
    let subjects = subjects.collect();
    let _here = Pinned::new()?;
    bench.measure(MEASURE, subjects);
    Ok(())
}

/// Packets of one family from changing sources.
struct Sources {
    family: Family,
    listed: Sequence,
    frame: Vec<u8>,
    packets: u32,
}

impl Sources {
    fn subject(&self, name: &str, from: &str, program: Result<BorrowedFd<'_>>) -> Subject<'_> {
        let varied = program.and_then(|program| self.varied(from, program));
        let sampler = varied.map(|varied| move || varied.mean_ns(&self.frame, self.packets));
        Subject::of(name, sampler)
    }

    fn varied(&self, from: &str, program: BorrowedFd<'_>) -> Result<Varied> {
        let family = self.family;
        if from == ANY {
            let (at, len) = (family.source_at(), family.address_len());
            return Varied::anywhere(Kind::Xdp, at, len, program);
        }
        let varied = Varied::in_sequence(Kind::Xdp, &self.listed, &family.inbound(), program)?;
        let proven = varied.prove(&self.frame, XDP_PASS);
        proven.context("a source that is listed")?;
        Ok(varied)
    }
}
