//! `sg-agent run`: keeps a rule file in force.
//!
//! The daemon changes nothing by ending: enforcement lives in the kernel. It
//! holds the writer's lock as long as it runs.

pub mod control;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use self::{
    control::{Asker, Control},
    watch::Watch,
};
use crate::{
    compile::Slots,
    dataplane::{
        collect::Collector,
        flow_counts::{self, Fullness},
        generation::Applied,
        interfaces,
        lock::Lock,
        manifest::Manifest,
        packet_log::PacketLog,
        spare_memory,
        store::Store,
    },
    enforce::{self, Missing, Prepared},
    observe::FlowTableStatus,
    policy,
    sets::{self, Opened, Replaced},
};

/// How often interfaces are looked at: one that came back is protected again
/// after at most this long.
const LOOK_AT_INTERFACES: Duration = Duration::from_secs(2);
/// How often expired flows are collected.
const COLLECT_FLOWS: Duration = Duration::from_secs(10);
/// The pause between two steps of a collection, each of which takes about as
/// long: a large table is walked in some seconds, on a part of one CPU.
const COLLECT_MORE: Duration = Duration::from_millis(5);

/// A running daemon.
pub struct Daemon<'a> {
    config: PathBuf,
    store: &'a Store,
    logs_packets: bool,
    live: Live,
    /// While a collection is under way.
    collector: Option<Collector>,
    /// The warnings about flow tables when they were last looked at.
    warnings: Vec<Option<String>>,
    watch: Watch,
    signals: Signals,
    control: Control,
    _lock: Lock,
}

/// What is in force.
struct Live {
    prepared: Prepared,
    manifest: Manifest,
    /// Since the first command that changed a set.
    sets: Option<Opened>,
    /// Read as long as it is here.
    _packet_log: Option<PacketLog>,
}

impl Live {
    fn new(prepared: Prepared, applied: Applied) -> Self {
        for note in &applied.notes {
            log::warn!("{note}");
        }
        let manifest = applied.manifest;
        // The generation is live: without its log it stays so.
        let packet_log = prepared
            .logs_packets
            .then(|| PacketLog::follow(&manifest))
            .and_then(|log| log.inspect_err(|error| log::error!("{error:#}")).ok());
        Self {
            prepared,
            manifest,
            sets: None,
            _packet_log: packet_log,
        }
    }
}

enum Event {
    Changed,
    Hangup,
    LookAtInterfaces,
    CollectFlows,
    CollectMore,
    Asked(io::Result<Asker>),
    End(&'static str),
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("listening for SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }
}

impl<'a> Daemon<'a> {
    /// Takes the lock and puts the rule file into force.
    ///
    /// # Errors
    /// The file is bad, another writer runs, or the kernel refuses; what was in
    /// force stays.
    pub async fn start(config: PathBuf, logs_packets: bool, store: &'a Store) -> Result<Self> {
        // A bad file is refused before anything is made.
        enforce::prepare(&config, &Slots::new())?;
        let lock = Lock::take(store, "run")?;
        // Before the first generation is live: a signal or a change that comes
        // meanwhile is for the daemon.
        let signals = Signals::new()?;
        let control = Control::listen(store)?;
        let mut watch = Watch::new(&config, &[])?;
        let previous = Manifest::read(store)?;
        let live = bring_live(
            &config,
            logs_packets,
            store,
            Missing::Refuse,
            previous.as_ref(),
        )
        .await?;
        watch.follow(&config, &live.prepared.loaded.files);
        spare_memory::give_back();
        Ok(Self {
            config,
            store,
            logs_packets,
            live,
            collector: None,
            warnings: Vec::new(),
            watch,
            signals,
            control,
            _lock: lock,
        })
    }

    /// Serves until SIGTERM or SIGINT. Enforcement stays on.
    pub async fn serve(mut self) {
        let mut look = ticks(LOOK_AT_INTERFACES);
        let mut collect = ticks(COLLECT_FLOWS);
        loop {
            let control = &self.control;
            let event = next(
                &mut self.signals,
                &mut self.watch,
                control,
                &mut look,
                &mut collect,
                self.collector.is_some(),
            );
            match event.await {
                Event::Changed => self.file_changed().await,
                Event::Hangup => self.reload("SIGHUP", Missing::Refuse).await,
                Event::LookAtInterfaces => self.look_at_interfaces().await,
                Event::CollectFlows => self.look_at_flow_tables(),
                Event::CollectMore => self.collect_more(),
                Event::Asked(asker) => self.serve_asker(asker).await,
                Event::End(signal) => {
                    log::info!("{signal}: ending; enforcement stays on");
                    return;
                }
            }
        }
    }

    /// If nothing but sets changed, live tables can often take it.
    async fn file_changed(&mut self) {
        match self.follow_sets() {
            Ok(Some(1)) => log::info!("sets changed: 1 prefix is in force in place"),
            Ok(Some(changed)) => {
                log::info!("sets changed: {changed} prefixes are in force in place");
            }
            // A bad file is reported by what comes now.
            Ok(None) => self.reload("the rule file changed", Missing::Refuse).await,
            Err(error) => {
                log::warn!("{error:#}");
                self.reload("the rule file changed", Missing::Refuse).await;
            }
        }
    }

    fn follow_sets(&mut self) -> Result<Option<usize>> {
        // Written below: what was read before is old.
        self.live.sets = None;
        let Ok(loaded) = policy::load(&self.config) else {
            return Ok(None);
        };
        sets::follow(self.store, &self.live.manifest, &loaded.policy)
    }

    async fn serve_asker(&mut self, asker: io::Result<Asker>) {
        let result = match asker {
            Ok(asker) => self.answer(asker).await,
            Err(error) => Err(error).context("listening for commands"),
        };
        if let Err(error) = result {
            log::warn!("{error:#}");
        }
    }

    /// Does what a command asks for, and tells it.
    async fn answer(&mut self, mut asker: Asker) -> Result<()> {
        let result = match asker.request() {
            Ok(edit) => {
                let opened = &mut self.live.sets;
                sets::edit_opened(opened, self.store, &edit, self.logs_packets).await
            }
            Err(error) => Err(error),
        };
        let text = result.map(|outcome| {
            log::info!("{}", outcome.text);
            if let Some(Replaced { prepared, applied }) = outcome.replaced {
                self.go_on_with(Live::new(prepared, applied));
            }
            outcome.text
        });
        asker.answer(&text)
    }

    /// Puts the file into force anew. What can't be is reported, and what was
    /// in force stays.
    async fn reload(&mut self, why: &str, missing: Missing) {
        let previous = Some(&self.live.manifest);
        match bring_live(
            &self.config,
            self.logs_packets,
            self.store,
            missing,
            previous,
        )
        .await
        {
            Ok(live) => {
                log::info!("{why}: generation {} is in force", live.manifest.generation);
                self.watch.follow(&self.config, &live.prepared.loaded.files);
                self.go_on_with(live);
            }
            Err(error) => log::error!(
                "{why}, but it was not applied; generation {} stays in force\n{error:#}",
                self.live.manifest.generation
            ),
        }
    }

    fn go_on_with(&mut self, live: Live) {
        self.live = live;
        spare_memory::give_back();
    }

    async fn look_at_interfaces(&mut self) {
        match interfaces::list().await {
            Ok(found)
                if enforce::covers_interfaces(&self.live.prepared, &self.live.manifest, &found) => {
            }
            Ok(_) => self.reload("the interfaces changed", Missing::Skip).await,
            Err(error) => log::error!("{error:#}"),
        }
    }

    fn look_at_flow_tables(&mut self) {
        match flow_counts::fullness(self.store) {
            Ok(tables) => {
                self.warn_of(&tables);
                self.begin_to_collect(&tables);
            }
            Err(error) => log::error!("looking at the flow tables: {error:#}"),
        }
    }

    /// Says once that a table fills, as long as there is room.
    fn warn_of(&mut self, tables: &[Fullness]) {
        let statuses = tables.iter().copied().map(FlowTableStatus::from);
        let warnings: Vec<_> = statuses.map(|table| table.warning()).collect();
        let before = self.warnings.iter().map(Option::is_some);
        let before = before.chain(std::iter::repeat(false));
        for (warning, was_told) in warnings.iter().zip(before) {
            if let Some(warning) = warning
                && !was_told
            {
                log::warn!("{warning}");
            }
        }
        self.warnings = warnings;
    }

    fn begin_to_collect(&mut self, tables: &[Fullness]) {
        // To walk through an empty table of this size takes milliseconds.
        let used = tables.iter().filter(|table| table.occupancy.entries > 0);
        let mut used = used.map(|table| table.map).peekable();
        // A walk that is still under way is not begun anew.
        if self.collector.is_some() || used.peek().is_none() {
            return;
        }
        match Collector::begin(self.store, self.live.manifest.generation, used) {
            Ok(collector) => self.collector = Some(collector),
            Err(error) => log::error!("collecting expired flows: {error:#}"),
        }
    }

    fn collect_more(&mut self) {
        let Some(collector) = &mut self.collector else {
            return;
        };
        let is_over = collector.step(&enforce::shared(&self.live.prepared));
        let is_over = is_over.unwrap_or_else(|error| {
            log::error!("collecting expired flows: {error:#}");
            true
        });
        if is_over {
            self.collector = None;
        }
    }
}

async fn bring_live(
    config: &Path,
    logs_packets: bool,
    store: &Store,
    missing: Missing,
    previous: Option<&Manifest>,
) -> Result<Live> {
    let slots = previous.map(Manifest::slots).unwrap_or_default();
    let mut prepared = enforce::prepare(config, &slots)?;
    prepared.logs_packets = logs_packets;
    for warning in &prepared.loaded.warnings {
        eprintln!("{warning}\n");
    }
    let interfaces = interfaces::list().await?;
    let applied = enforce::enforce(store, &prepared, &interfaces, missing, previous)?;
    log::info!(
        "generation {} of `{}` is in force",
        applied.manifest.generation,
        config.display()
    );
    Ok(Live::new(prepared, applied))
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn next(
    signals: &mut Signals,
    watch: &mut Watch,
    control: &Control,
    look: &mut Interval,
    collect: &mut Interval,
    is_collecting: bool,
) -> Event {
    tokio::select! {
        _ = signals.terminate.recv() => Event::End("SIGTERM"),
        _ = signals.interrupt.recv() => Event::End("SIGINT"),
        _ = signals.hangup.recv() => Event::Hangup,
        () = watch.changed() => Event::Changed,
        asker = control.next() => Event::Asked(asker),
        _ = look.tick() => Event::LookAtInterfaces,
        _ = collect.tick() => Event::CollectFlows,
        () = sleep(COLLECT_MORE), if is_collecting => Event::CollectMore,
    }
}
