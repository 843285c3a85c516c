//! Brings a generation live, or leaves everything as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{Ebpf, maps::MapInfo, programs::ProgramInfo};
use nix::time::{ClockId, clock_gettime};
use sg_common::{ABI_VERSION, config::flag};

use super::{
    attach::{self, Program},
    counters,
    interfaces::{self, Interface},
    manifest::{AttachmentRecord, HookRecord, Manifest, Place, RuleRecord},
    object::{self, Instance, Shared},
    record::Record,
    seed::{self, Seed},
    store::{Store, make_private, remove_tree},
    unlink,
};
use crate::{
    compile::Compiled,
    policy::{Direction, Mode, XdpPreference},
};

/// What shall be live.
pub struct Request<'a> {
    /// In file order.
    pub attachments: Vec<AttachmentRequest<'a>>,
    /// What is the same for all of them.
    pub shared: Shared,
    /// The rule file, for the description.
    pub rule_file: String,
    /// Every rule, for the description.
    pub rules: Vec<RuleRecord>,
    /// Flows that go on already.
    pub seeds: Vec<Seed>,
    /// What the caller wants to find with the generation as long as it is live.
    pub records: Vec<Record>,
}

/// One attachment.
pub struct AttachmentRequest<'a> {
    /// The number that its flows carry.
    pub zone: u16,
    /// Interfaces as written.
    pub patterns: Vec<String>,
    /// Groups in accounting order.
    pub groups: Vec<String>,
    /// Enforced or only watched.
    pub mode: Mode,
    /// Where inbound packets are to be judged.
    pub xdp: XdpPreference,
    /// Its tables.
    pub compiled: &'a Compiled,
    /// See [`AttachmentRecord::keeps`].
    pub keeps: bool,
    /// See [`AttachmentRecord::resets`].
    pub resets: bool,
    /// The interfaces that match.
    pub interfaces: Vec<Interface>,
}

impl AttachmentRequest<'_> {
    /// Flows that are kept, or whose RSTs pass, are found although no rule needs
    /// flows any more.
    const fn extra_flags(&self) -> u32 {
        if self.keeps || self.resets {
            flag::TRACKS_INBOUND | flag::TRACKS_OUTBOUND
        } else {
            0
        }
    }
}

/// A generation that is live.
pub struct Applied {
    /// Its description.
    pub manifest: Manifest,
    /// What the user should know: which hook could not be had, and why.
    pub notes: Vec<String>,
}

/// Brings `request` live in place of `previous`. The caller holds the lock.
///
/// # Errors
/// Anything that goes wrong; then what was live is live, and nothing of the
/// new generation is left.
pub fn apply(store: &Store, request: &Request<'_>, previous: Option<&Manifest>) -> Result<Applied> {
    let mut transaction = Transaction {
        store,
        request,
        previous,
        generation: 1 + previous.map_or_else(|| last_pinned(store), |old| old.generation),
        stamp: stamp()?,
        is_first: previous.is_none() && !has_links(store) && last_pinned(store) == 0,
        loaded: BTreeMap::new(),
        done: Vec::new(),
        notes: Vec::new(),
    };
    match transaction.run() {
        Ok(manifest) => Ok(Applied {
            manifest,
            notes: transaction.notes,
        }),
        Err(error) => {
            transaction.undo();
            Err(error)
        }
    }
}

struct Transaction<'a> {
    store: &'a Store,
    request: &'a Request<'a>,
    previous: Option<&'a Manifest>,
    generation: u32,
    /// What its programs write into flows that they have judged. Not its
    /// number: one that fails may have judged some, and the next one, whose
    /// rules are others, has the same number.
    stamp: u32,
    /// Whether nothing of ours was attached before.
    is_first: bool,
    /// By zone.
    loaded: BTreeMap<u16, Ebpf>,
    done: Vec<Done>,
    notes: Vec<String>,
}

/// A change of a hook, with what undoes it.
enum Done {
    Attached(HookRecord),
    Replaced { hook: HookRecord, old: PathBuf },
    Detached { hook: HookRecord, old: PathBuf },
}

impl Transaction<'_> {
    fn run(&mut self) -> Result<Manifest> {
        self.store.create_pins()?;
        self.check_pinned_maps()?;
        let directory = self.store.generation(self.generation);
        remove_tree(&directory)?;
        make_private(&directory)?;
        for attachment in &self.request.attachments {
            let ebpf = self.load(attachment)?;
            self.loaded.insert(attachment.zone, ebpf);
        }
        self.load_collector()?;
        self.clear_new_slots()?;
        self.write_records()?;
        let seeded = seed::insert(self.store, &self.request.seeds, self.stamp)?;
        let manifest = self.switch(seeded)?;
        self.retire(&manifest)?;
        Ok(manifest)
    }

    /// A pin is reused only if it is what this version expects.
    fn check_pinned_maps(&self) -> Result<()> {
        for name in object::outliving() {
            let path = self.store.maps().join(name);
            if !path.exists() {
                continue;
            }
            let info = MapInfo::from_pin(&path)
                .with_context(|| format!("opening the pinned map `{}`", path.display()))?;
            let found = object::Shape::of(&info)?;
            let expected = object::Shape::expected(name, &self.request.shared)?;
            ensure!(
                found == expected,
                "the pinned map `{}` is {found}, expected {expected}; keep the old sizes in \
                 `[flows]`, or run `sg-agent detach` first, which forgets counters and flows",
                path.display(),
            );
        }
        Ok(())
    }

    fn load(&self, attachment: &AttachmentRequest<'_>) -> Result<Ebpf> {
        let instance = Instance {
            compiled: attachment.compiled,
            extra_flags: attachment.extra_flags(),
            revision: self.stamp,
            zone: attachment.zone,
            shared: &self.request.shared,
        };
        object::load(&instance, Some(&self.store.maps()))
    }

    /// One for all attachments: time-outs and tables are the same for all.
    fn load_collector(&mut self) -> Result<()> {
        let pin = collector_pin(self.store, self.generation);
        match self.loaded.values_mut().next() {
            Some(ebpf) => object::load_tc(ebpf, object::COLLECT)?
                .pin(&pin)
                .with_context(|| format!("pinning `{}`", pin.display())),
            None => Ok(()),
        }
    }

    /// A slot that a new rule gets may hold what an old one counted.
    fn clear_new_slots(&mut self) -> Result<()> {
        let known = self.previous.map(Manifest::slots).unwrap_or_default();
        let new = self
            .request
            .rules
            .iter()
            .filter(|rule| !known.contains_key(&rule.id()));
        let slots: Vec<u32> = new.map(|rule| rule.slot).collect();
        match self.loaded.values_mut().next() {
            Some(ebpf) => counters::clear(ebpf, slots.into_iter()),
            None => Ok(()),
        }
    }

    /// Before the generation goes live: what is live is described.
    fn write_records(&self) -> Result<()> {
        let directory = self.store.records(self.generation);
        remove_tree(&directory)?;
        make_private(&directory)?;
        let mut records = self.request.records.iter();
        records.try_for_each(|record| record.write(&directory))
    }

    /// Loads the programs of every hook, then switches hook after hook.
    fn switch(&mut self, seeded: u32) -> Result<Manifest> {
        let request = self.request;
        let mut manifest = Manifest {
            abi: ABI_VERSION,
            generation: self.generation,
            applied_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            rule_file: request.rule_file.clone(),
            seeded: seeded + self.previous.map_or(0, |previous| previous.seeded),
            attachments: Vec::new(),
            rules: request.rules.clone(),
        };
        let mut plans = Vec::new();
        for attachment in &request.attachments {
            for interface in &attachment.interfaces {
                // Outbound first: what the host opens from now on has entries
                // before its replies need them.
                for direction in [Direction::Outbound, Direction::Inbound] {
                    plans.push(self.plan(attachment, interface, direction)?);
                }
            }
        }
        self.load_programs(&plans)?;
        for plan in &mut plans {
            plan.hook.program = self.load_program(plan.zone, &plan.hook)?;
        }
        let planned = |zone: u16| {
            plans
                .iter()
                .filter(move |plan| plan.zone == zone)
                .map(|plan| plan.hook.clone())
        };
        for attachment in &request.attachments {
            manifest.attachments.push(AttachmentRecord {
                zone: attachment.zone,
                interfaces: attachment.patterns.clone(),
                groups: attachment.groups.clone(),
                mode: attachment.mode,
                flags: attachment.compiled.flags | attachment.extra_flags(),
                keeps: attachment.keeps,
                resets: attachment.resets,
                hooks: planned(attachment.zone).collect(),
            });
        }
        manifest.announce(self.store)?;
        let hooks = plans
            .into_iter()
            .map(|plan| self.bring_live(plan))
            .collect::<Result<Vec<_>>>()?;
        for (attachment, hook) in hooks {
            let records = &mut manifest.attachments;
            if let Some(record) = records.iter_mut().find(|record| record.zone == attachment) {
                record
                    .hooks
                    .retain(|old| (old.index, old.direction) != (hook.index, hook.direction));
                record.hooks.push(hook);
            }
        }
        manifest.announce(self.store)?;
        Ok(manifest)
    }

    /// Decides where a hook will be: at the best place. Its program is not
    /// loaded yet.
    fn plan(
        &mut self,
        attachment: &AttachmentRequest<'_>,
        interface: &Interface,
        direction: Direction,
    ) -> Result<Plan> {
        let previous = match self.previous_hook(interface.index, direction) {
            Some(previous) => Some(previous),
            None => self.undescribed_hook(interface, direction)?,
        };
        let mut places = attach::places(direction, attachment.xdp, interface);
        if direction == Direction::Inbound {
            self.avoid_foreign_xdp(interface, &mut places)?;
        }
        let stays = previous
            .as_ref()
            .map(|previous| previous.hook.place)
            .filter(|place| places.contains(place));
        let Some(place) = stays.or_else(|| places.first().copied()) else {
            bail!(
                "no hook for the {direction} packets of `{}`: XDP is for devices with an Ethernet \
                 header, and this one is of type `{}`; set `xdp = \"tc\"` or leave it out",
                interface.name,
                interface.layer_name
            )
        };
        let layer = interface.link_layer()?;
        let hook = HookRecord {
            interface: interface.name.clone(),
            index: interface.index,
            direction,
            place,
            layer,
            program: 0,
        };
        Ok(Plan {
            zone: attachment.zone,
            hook,
            previous,
            stays: stays.is_some(),
            places,
        })
    }

    fn previous_hook(&self, index: u32, direction: Direction) -> Option<Previous> {
        let manifest = self.previous?;
        manifest.attachments.iter().find_map(|attachment| {
            let hook = attachment
                .hooks
                .iter()
                .find(|hook| hook.index == index && hook.direction == direction)?;
            let name = hook.program_name();
            Some(Previous {
                hook: hook.clone(),
                program: program_pin(self.store, manifest.generation, attachment.zone, name),
            })
        })
    }

    /// A hook of ours that no description knows of, as after the run directory
    /// was lost. It is replaced like any other, and put back if that fails.
    fn undescribed_hook(
        &self,
        interface: &Interface,
        direction: Direction,
    ) -> Result<Option<Previous>> {
        let linked = attach::linked_program(self.store, direction, interface.index)?;
        let on_hook = match &linked {
            Some(program) => std::slice::from_ref(program),
            None => interface.filters(direction),
        };
        if on_hook.is_empty() {
            return Ok(None);
        }
        let ours = pinned_programs(self.store)?;
        let pinned = |program: &u32| Some((*program, ours.get(program)?.clone()));
        let Some((program, pin)) = on_hook.iter().find_map(pinned) else {
            return Ok(None);
        };
        let place = match interface.xdp {
            _ if linked.is_none() => Place::Clsact,
            Some(xdp) if xdp.program == program && xdp.native => Place::XdpNative,
            Some(xdp) if xdp.program == program => Place::XdpGeneric,
            _ => Place::Tcx,
        };
        let hook = HookRecord {
            interface: interface.name.clone(),
            index: interface.index,
            direction,
            place,
            layer: interface.link_layer()?,
            program,
        };
        Ok(Some(Previous { hook, program: pin }))
    }

    /// XDP has room for one program, and somebody else's is not ours to remove.
    fn avoid_foreign_xdp(&mut self, interface: &Interface, places: &mut Vec<Place>) -> Result<()> {
        let Some(found) = interface.xdp else {
            return Ok(());
        };
        let ours = attach::linked_program(self.store, Direction::Inbound, interface.index)?;
        if ours == Some(found.program) {
            return Ok(());
        }
        let name = attach::name_of_program(found.program);
        let notice = format!(
            "interface `{}` already runs the XDP program `{name}` (id {}), which stays",
            interface.name, found.program
        );
        places.retain(|place| matches!(place, Place::Tcx | Place::Clsact));
        if places.is_empty() {
            bail!("{notice}; remove it, or set `xdp = \"tc\"` for this attachment");
        }
        self.notes.push(format!(
            "{notice}; inbound packets are judged after it, at tc"
        ));
        Ok(())
    }

    /// Has the verifier check the programs that the plans need, as many at a
    /// time as there are CPUs: it takes most of the time of a small load.
    fn load_programs(&mut self, plans: &[Plan]) -> Result<()> {
        let wanted: BTreeSet<(u16, &str)> = plans
            .iter()
            .map(|plan| (plan.zone, plan.hook.program_name()))
            .collect();
        let instances = self.loaded.iter_mut();
        let programs = instances.flat_map(|(zone, ebpf)| {
            let programs = ebpf.programs_mut();
            programs.filter(|(name, _)| wanted.contains(&(*zone, name)))
        });
        let mut programs: Vec<_> = programs.collect();
        let at_once = thread::available_parallelism()?.get();
        programs
            .chunks_mut(at_once)
            .try_for_each(object::load_together)
    }

    /// Loads and pins the program of a hook, once, and returns its number in
    /// the kernel.
    fn load_program(&mut self, zone: u16, hook: &HookRecord) -> Result<u32> {
        let name = hook.program_name();
        let pin = program_pin(self.store, self.generation, zone, name);
        let fresh = !pin.exists();
        let context = || format!("pinning `{}`", pin.display());
        match self.program(zone, name)? {
            Program::Xdp(program) => {
                if fresh {
                    program.pin(&pin).with_context(context)?;
                }
                Ok(program.info()?.id())
            }
            Program::Tc(program) => {
                if fresh {
                    program.pin(&pin).with_context(context)?;
                }
                Ok(program.info()?.id())
            }
        }
    }

    fn program(&mut self, zone: u16, name: &str) -> Result<Program<'_>> {
        let ebpf = self.loaded.get_mut(&zone).context("no such zone")?;
        Ok(match name {
            object::XDP => Program::Xdp(object::load_xdp(ebpf)?),
            _ => Program::Tc(object::load_tc(ebpf, name)?),
        })
    }

    fn bring_live(&mut self, plan: Plan) -> Result<(u16, HookRecord)> {
        let hook = plan.hook.clone();
        if plan.stays
            && let Some(previous) = &plan.previous
        {
            let store = self.store;
            let mut program = self.program(plan.zone, hook.program_name())?;
            match attach::replace(store, &mut program, &hook) {
                Ok(()) => {
                    self.done.push(Done::Replaced {
                        hook: hook.clone(),
                        old: previous.program.clone(),
                    });
                    return Ok((plan.zone, hook));
                }
                // Nothing there to keep up: it was detached by somebody.
                Err(error) if attach::is_vacant(&hook, &error) => {
                    self.notes.push(format!("{}: {error:#}", hook.interface));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(previous) = plan.previous {
            self.detach(previous)?;
        }
        // A pin without a description is what an interrupted start left behind.
        attach::detach(
            self.store,
            &HookRecord {
                place: Place::Tcx,
                ..hook.clone()
            },
        )?;
        self.attach_best(plan.zone, &hook, &plan.places)
    }

    /// Takes an old program off. What is half done is undone as well.
    fn detach(&mut self, old: Previous) -> Result<()> {
        let result = attach::detach(self.store, &old.hook);
        self.done.push(Done::Detached {
            hook: old.hook,
            old: old.program,
        });
        result
    }

    fn attach_best(
        &mut self,
        zone: u16,
        wanted: &HookRecord,
        places: &[Place],
    ) -> Result<(u16, HookRecord)> {
        let mut refusals = Vec::new();
        for place in places {
            let mut hook = HookRecord {
                place: *place,
                ..wanted.clone()
            };
            hook.program = self.load_program(zone, &hook)?;
            let store = self.store;
            let mut program = self.program(zone, hook.program_name())?;
            match attach::attach(store, &mut program, &hook) {
                Ok(()) => {
                    self.notes.extend(refusals);
                    self.done.push(Done::Attached(hook.clone()));
                    return Ok((zone, hook));
                }
                Err(error) => refusals.push(format!(
                    "{} is not possible on `{}`: {error:#}",
                    place.name(),
                    hook.interface
                )),
            }
        }
        bail!(
            "no hook for the {} packets of `{}`: {}",
            wanted.direction,
            wanted.interface,
            refusals.join("; ")
        )
    }

    /// Takes off what is no longer wanted, and forgets the old generation.
    fn retire(&mut self, manifest: &Manifest) -> Result<()> {
        let wanted: BTreeSet<_> = manifest
            .hooks()
            .map(|hook| (hook.index, hook.direction))
            .collect();
        let stale: Vec<Previous> = self
            .previous
            .into_iter()
            .flat_map(Manifest::hooks)
            .filter(|hook| !wanted.contains(&(hook.index, hook.direction)))
            .filter_map(|hook| self.previous_hook(hook.index, hook.direction))
            .collect();
        for old in stale {
            self.detach(old)?;
        }
        Manifest::commit(self.store)?;
        let pins = fs::read_dir(self.store.generations()).into_iter();
        let records = fs::read_dir(self.store.all_records()).into_iter();
        for entry in pins.chain(records).flatten().flatten() {
            if entry.file_name().to_string_lossy() != self.generation.to_string() {
                // Its programs are off every hook: what it leaves only takes
                // memory.
                let _ = remove_tree(&entry.path());
            }
        }
        Ok(())
    }

    /// Back to what was live, newest change first. What can't be undone is
    /// reported; giving up half-way would be worse.
    fn undo(&mut self) {
        for done in std::mem::take(&mut self.done).into_iter().rev() {
            let result = match &done {
                Done::Attached(hook) => attach::detach(self.store, hook),
                Done::Replaced { hook, old } | Done::Detached { hook, old } => {
                    attach::with_pinned(old, hook.place, |program| {
                        attach::restore(self.store, program, hook)
                    })
                }
            };
            if let Err(error) = result {
                log::error!("could not go back to the old rules on a hook: {error:#}");
            }
        }
        self.loaded.clear();
        Manifest::withdraw(self.store);
        let leftover = if self.is_first {
            self.store.remove_pins()
        } else {
            remove_tree(&self.store.generation(self.generation))
        };
        let records = remove_tree(&self.store.records(self.generation));
        // Gone when empty, so that a run directory with nothing in it can go.
        let _ = fs::remove_dir(self.store.all_records());
        for error in [leftover, records].into_iter().filter_map(Result::err) {
            log::error!("{error:#}");
        }
    }
}

/// Where one hook goes.
struct Plan {
    zone: u16,
    hook: HookRecord,
    previous: Option<Previous>,
    /// Whether the hook stays where it was, so that only its program changes.
    stays: bool,
    places: Vec<Place>,
}

/// A hook of the generation before.
struct Previous {
    hook: HookRecord,
    program: PathBuf,
}

/// Where a program of a generation is pinned.
pub(super) fn program_pin(store: &Store, generation: u32, zone: u16, name: &str) -> PathBuf {
    store.generation(generation).join(format!("{zone}-{name}"))
}

/// Where the program of a generation is pinned that removes expired flows.
pub(super) fn collector_pin(store: &Store, generation: u32) -> PathBuf {
    store.generation(generation).join(object::COLLECT)
}

/// A number that no tables of the last weeks had: milliseconds since boot.
pub(super) fn stamp() -> Result<u32> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u32::try_from(now.as_millis() & u128::from(u32::MAX))?)
}

/// The highest generation that has pins; 0 if there is none.
fn last_pinned(store: &Store) -> u32 {
    let directories = fs::read_dir(store.generations())
        .into_iter()
        .flatten()
        .flatten();
    let numbers = directories.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// Where programs of ours are pinned.
fn pins(store: &Store) -> io::Result<impl Iterator<Item = PathBuf>> {
    let directories = fs::read_dir(store.generations())?;
    Ok(directories
        .flatten()
        .flat_map(|directory| fs::read_dir(directory.path()).into_iter().flatten())
        .flatten()
        .map(|pin| pin.path()))
}

/// Where each program of ours is pinned, by its number in the kernel.
fn pinned_programs(store: &Store) -> Result<BTreeMap<u32, PathBuf>> {
    pins(store)?
        .map(|path| {
            let info = ProgramInfo::from_pin(&path)
                .with_context(|| format!("opening the program `{}`", path.display()))?;
            Ok((info.id(), path))
        })
        .collect()
}

/// The numbers of all programs of ours that are pinned by now, live or about to
/// be.
#[must_use]
pub fn own_programs(store: &Store) -> BTreeSet<u32> {
    // No pins are no programs.
    pins(store)
        .into_iter()
        .flatten()
        // One that is removed meanwhile is none any more.
        .filter_map(|path| ProgramInfo::from_pin(path).ok())
        .map(|info| info.id())
        .collect()
}

/// Whether anything of ours is attached as a link.
#[must_use]
pub fn has_links(store: &Store) -> bool {
    fs::read_dir(store.links()).is_ok_and(|mut links| links.next().is_some())
}

/// Removes protection and all state, with or without a description of it.
///
/// # Errors
/// Something can't be removed.
pub async fn detach_all(store: &Store, manifest: Option<&Manifest>) -> Result<()> {
    match manifest {
        Some(manifest) => {
            manifest
                .hooks()
                .try_for_each(|hook| attach::detach(store, hook))?;
        }
        None => {
            undescribed_filters()
                .await?
                .iter()
                .try_for_each(|hook| attach::detach(store, hook))?;
        }
    }
    // Links that no description knows of are ours all the same.
    if let Ok(links) = fs::read_dir(store.links()) {
        links
            .flatten()
            .try_for_each(|link| unlink::now(&link.path()))?;
    }
    store.remove()
}

/// Our clsact filters, which only a description or their names tell from
/// others'.
async fn undescribed_filters() -> Result<Vec<HookRecord>> {
    let mut hooks = Vec::new();
    if attach::tc_place() != Place::Clsact {
        return Ok(hooks);
    }
    for interface in interfaces::list().await? {
        let Some(layer) = interface.layer else {
            continue;
        };
        for direction in [Direction::Inbound, Direction::Outbound] {
            let name = attach::program_name(direction, Place::Clsact, layer);
            // The kernel keeps the first 15 bytes of a name.
            let is_ours = |program: &u32| name.starts_with(&attach::name_of_program(*program));
            hooks.extend(
                interface
                    .filters(direction)
                    .iter()
                    .copied()
                    .filter(is_ours)
                    .map(|program| HookRecord {
                        interface: interface.name.clone(),
                        index: interface.index,
                        direction,
                        place: Place::Clsact,
                        layer,
                        program,
                    }),
            );
        }
    }
    Ok(hooks)
}

/// Removes protection from one interface; the others stay as they are.
///
/// # Errors
/// Something can't be removed, or the interface is not protected.
pub fn detach_interface(store: &Store, manifest: &Manifest, interface: &str) -> Result<Manifest> {
    let mut rest = manifest.clone();
    let mut found = false;
    for attachment in &mut rest.attachments {
        for hook in attachment
            .hooks
            .extract_if(.., |hook| hook.interface == interface)
        {
            attach::detach(store, &hook)?;
            found = true;
        }
    }
    ensure!(found, "interface `{interface}` is not protected");
    rest.announce(store)?;
    Manifest::commit(store)?;
    Ok(rest)
}
