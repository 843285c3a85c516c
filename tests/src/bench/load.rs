//! From a rule file to enforcing it: the agent as a whole process, beside
//! `nft -f` with the same content. And what traffic notices of a reload.

use std::{
    os::fd::AsFd as _,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Bench, bpf, command,
    ours::{XDP_DROP, XDP_PASS},
    packets::{self, Family},
    shapes::{ROUTING_TABLE, Shape},
    subject::{Measure, Subject, shared},
    traffic::{Wire, with_datagrams},
    xdp_filter::attached,
};
use crate::netns::{Netns, wait_until};

/// The scenario.
pub(super) const NAME: &str = "load";
/// How long it takes.
pub(super) const MEASURE: Measure = Measure {
    scenario: NAME,
    metric: "time to enforcing",
    unit: "s",
};
const DROPPED: Measure = Measure {
    scenario: NAME,
    metric: "allowed packets dropped in a reload",
    unit: "packets",
};
const RATE: Measure = Measure {
    scenario: NAME,
    metric: "packets while reloading",
    unit: "/s",
};

/// The rule files without many prefixes.
pub(super) const TEN_RULES: &str = "10 rules";
/// See [`TEN_RULES`].
pub(super) const MANY_RULES: &str = "10,000 rules";

/// What the figure of a first apply is called.
pub(super) fn first(shape: &str) -> String {
    format!("sg, {shape}")
}

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let shapes = shapes(bench)?;
    for shape in &shapes {
        load(bench, shape)?;
    }
    for shape in shapes {
        if [TEN_RULES, ROUTING_TABLE].contains(&shape.name) {
            reload(bench, &shape)?;
        }
    }
    Ok(())
}

/// Every rule file that is loaded.
pub(super) fn shapes(bench: &Bench) -> Result<Vec<Shape>> {
    let (directory, size) = (bench.directory(), bench.scale.size);
    let mut shapes = vec![
        Shape::rules_only(directory, TEN_RULES, 10)?,
        Shape::rules_only(directory, MANY_RULES, size.rules)?,
    ];
    shapes.extend(Shape::all(directory, size)?);
    Ok(shapes)
}

/// As long as a reload takes, or so.
const A_WHILE: Duration = Duration::from_millis(300);

fn load(bench: &mut Bench, shape: &Shape) -> Result<()> {
    let host = Netns::new("host")?;
    host.ip("link add eth0 type veth peer name eth1")?;
    host.ip("link set eth0 up")?;
    let nft = shape.nft.to_string_lossy();
    let proven = &bench
        .apply(&host, &shape.rules)
        .and_then(|_| prove(&host, shape));
    let ours = |first: bool| {
        let (bench, host) = (&*bench, &host);
        shared(proven).map(move |()| {
            move || {
                if first {
                    bench.detach(host)?;
                }
                bench.apply(host, &shape.rules)
            }
        })
    };
    let baseline = format!("nft -f, {}", shape.name);
    let name = first(shape.name);
    let subjects = vec![
        Subject::new(&baseline, || {
            command::run(&host, "nft", &["flush", "ruleset"])?;
            command::seconds(&host, "nft", &["-f", &nft])
        }),
        Subject::of(&name, ours(true)).against(&baseline),
        Subject::of(format!("{name}, again"), ours(false)).against(&baseline),
    ];
    let found = bench.figures_of(MEASURE, bench.few_rounds(), subjects);
    bench.detach(&host)?;
    bench.figures.extend(found);
    Ok(())
}

/// The file is enforced if somebody that it lists may connect, and only to a
/// port of theirs.
fn prove(host: &Netns, shape: &Shape) -> Result<()> {
    const CLOSED: u16 = 9;
    let program = attached(host, "eth0")?;
    for (source, port) in packets::drawn(&shape.allowed, Family::V4, 1) {
        for (port, action) in [(port, XDP_PASS), (CLOSED, XDP_DROP)] {
            let frame = packets::inbound_from(Family::V4, (source, port));
            bpf::prove(program.as_fd(), &frame, action)?;
        }
    }
    Ok(())
}

/// What traffic notices while the same file is applied once more.
fn reload(bench: &mut Bench, shape: &Shape) -> Result<()> {
    let wire = Wire::new()?;
    let rules = with_datagrams(&shape.rules, "native")?;
    let applied = bench.apply(&wire.host, &rules).map(drop);
    let packets = bench.scale.packets;
    let ready = || {
        shared(&applied).map(|()| Disturbance {
            wire: &wire,
            packets,
        })
    };
    let apply = || bench.apply(&wire.host, &rules).map(drop);
    let quiet = || {
        thread::sleep(A_WHILE);
        Ok(())
    };
    let name = first(shape.name);
    let still = format!("{name}, not reloading");
    let rates = vec![
        Subject::of(
            &still,
            ready().map(|this| move || Ok(this.during(quiet)?.rate)),
        ),
        Subject::of(
            &name,
            ready().map(|this| move || Ok(this.during(apply)?.rate)),
        )
        .against(still),
    ];
    let rates = bench.figures_of(RATE, bench.few_rounds(), rates);
    let dropped = vec![Subject::of(
        &name,
        ready().map(|this| move || Ok(this.during(apply)?.dropped)),
    )];
    let dropped = bench.figures_of(DROPPED, bench.few_rounds(), dropped);
    bench.detach(&wire.host)?;
    bench.figures.extend(rates);
    bench.figures.extend(dropped);
    Ok(())
}

/// Traffic while something is done.
struct Disturbance<'w> {
    wire: &'w Wire,
    /// Packets that are sent in one go.
    packets: u32,
}

/// What came of it.
struct Noticed {
    /// Packets per second meanwhile.
    rate: f64,
    /// Packets that arrived and that the stack never saw.
    dropped: f64,
}

impl Disturbance<'_> {
    /// Sends allowed packets while `work` is done. They have all arrived when
    /// it returns, because sender and receiver are one thread.
    #[expect(clippy::cast_precision_loss, reason = "packets of a second or so")]
    fn during(&self, work: impl FnOnce() -> Result<()>) -> Result<Noticed> {
        let sender = self.wire.sender()?;
        let done = AtomicBool::new(false);
        let before = self.wire.counts()?;
        let rate = thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    sender.send(self.packets)?;
                }
                anyhow::Ok(())
            });
            let rate = self.rate_during(work);
            done.store(true, Ordering::Relaxed);
            let sent = traffic.join().unwrap_or_else(|panic| resume_unwind(panic));
            sent.and(rate)
        })?;
        let after = self.wire.counts()?;
        let (arrived, seen) = (after.0 - before.0, after.1 - before.1);
        Ok(Noticed {
            rate,
            dropped: arrived.saturating_sub(seen) as f64,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "packets of a second or so")]
    fn rate_during(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        const LIMIT: Duration = Duration::from_secs(5);
        let idle = self.wire.counts()?.0;
        wait_until("packets arrive", LIMIT, || {
            self.wire.counts().is_ok_and(|(arrived, _)| arrived > idle)
        })?;
        let (before, start) = (self.wire.counts()?.0, Instant::now());
        work()?;
        let (after, time) = (self.wire.counts()?.0, start.elapsed());
        Ok((after - before) as f64 / time.as_secs_f64())
    }
}
