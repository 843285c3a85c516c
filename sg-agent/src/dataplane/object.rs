//! The eBPF object: embedded in the agent, loaded once for each attachment.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    os::fd::AsFd as _,
    panic::resume_unwind,
    path::Path,
    thread,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapInfo, MapType},
    programs::{Program, SchedClassifier, Xdp},
};
use aya_obj::generated::bpf_insn;
use memchr::memmem;
use object::{Object as _, ObjectSection as _};
use sg_common::{
    address::Family,
    collection::{Candidate, MAX_CANDIDATES},
    config::flag,
    conntrack::State,
    counter::{MAX_RULES, RuleCounter, TALLIES as TALLY_COUNT, Tally},
    flow::{
        FLOW_TABLES, Flow, FlowCount, FlowKey4, FlowKey6, FlowTally, Opener, PORTS, Stage,
        table_index,
    },
    tables::UNSIZED_WORDS,
};

use super::live_tables::LiveTables;
use crate::compile::Compiled;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sg-ebpf"));

/// Inbound at XDP.
pub const XDP: &str = "sg_xdp";
/// Inbound at tc ingress.
pub const TC_INGRESS: &str = "sg_tc_ingress";
/// Outbound at tc egress.
pub const TC_EGRESS: &str = "sg_tc_egress";
/// Inbound at tc ingress of a device without link-layer header.
pub const BARE_INGRESS: &str = "sg_bare_ingress";
/// Outbound at tc egress of a device without link-layer header.
pub const BARE_EGRESS: &str = "sg_bare_egress";
/// Removes expired flows; on no hook.
pub const COLLECT: &str = "sg_collect";

/// One table of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowMap {
    /// The map's name.
    pub name: &'static str,
    /// Who opened what is in it.
    pub opener: Opener,
    /// Whether the flows are established.
    pub stage: Stage,
    /// Their family, and so the length of the keys.
    pub family: Family,
}

impl FlowMap {
    const fn new(name: &'static str, opener: Opener, stage: Stage, family: Family) -> Self {
        Self {
            name,
            opener,
            stage,
            family,
        }
    }

    /// The number of its tally in [`FLOW_TALLIES`].
    #[must_use]
    pub const fn index(&self) -> usize {
        table_index(self.opener, self.stage, self.family) as usize
    }
}

/// All of them.
pub const FLOW_MAPS: [FlowMap; FLOW_TABLES] = {
    use Family::{V4, V6};
    use Opener::{Host, Peer};
    use Stage::{Established, Opening};
    [
        FlowMap::new("HOST_FLOWS_4", Host, Established, V4),
        FlowMap::new("HOST_FLOWS_6", Host, Established, V6),
        FlowMap::new("PEER_FLOWS_4", Peer, Established, V4),
        FlowMap::new("PEER_FLOWS_6", Peer, Established, V6),
        FlowMap::new("HOST_OPENING_4", Host, Opening, V4),
        FlowMap::new("HOST_OPENING_6", Host, Opening, V6),
        FlowMap::new("PEER_OPENING_4", Peer, Opening, V4),
        FlowMap::new("PEER_OPENING_6", Peer, Opening, V6),
    ]
};

/// The tables of established flows.
pub fn established() -> impl Iterator<Item = &'static FlowMap> {
    FLOW_MAPS
        .iter()
        .filter(|map| map.stage == Stage::Established)
}

/// What became of the entries of each flow table, by [`FlowMap::index`].
pub const FLOW_TALLIES: &str = "FLOW_TALLIES";
/// How full the tables of established flows are, by [`FlowMap::index`].
pub const FLOW_COUNTS: &str = "FLOW_COUNTS";
/// The entries that [`COLLECT`] is asked to look at.
pub const CANDIDATES: &str = "CANDIDATES";
/// The local ports that the host ever opened a flow from.
pub const HOST_PORTS: &str = "HOST_PORTS";
/// What each rule did, by slot.
pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
/// What everything else did, by cause.
pub const TALLIES: &str = "TALLIES";
/// What user space and a traced program tell each other.
pub const TRACE: &str = "TRACE";
/// The tables of one attachment.
pub const TABLES: &str = "TABLES";

/// What one instance of the programs is told, besides its tables.
#[derive(Clone, Debug)]
pub struct Instance<'a> {
    /// Its tables.
    pub compiled: &'a Compiled,
    /// More `sg_common::config::flag`s than the tables ask for.
    pub extra_flags: u32,
    /// What entries of flows are compared with: never 0, and of no other load.
    pub revision: u32,
    /// The attachment's zone.
    pub zone: u16,
    /// What is the same for all attachments.
    pub shared: &'a Shared,
}

/// What all instances of a generation are told.
#[derive(Clone, Debug)]
pub struct Shared {
    /// First and last port of `net.ipv4.ip_local_port_range`.
    pub ephemeral_ports: (u16, u16),
    /// Idle time-outs in nanoseconds, by [`State`].
    pub timeouts_ns: [u64; State::ALL.len()],
    /// Room for established flows that the host opened, per family.
    pub max_host_flows: u32,
    /// Room for established flows that peers opened, per family.
    pub max_peer_flows: u32,
    /// Room for flows that are being opened, per opener and family.
    pub max_opening_flows: u32,
    /// Whether each packet writes a line to the developers' log.
    pub log: bool,
}

impl Shared {
    /// Room for flows in one table.
    #[must_use]
    pub const fn max_flows(&self, map: &FlowMap) -> u32 {
        match (map.stage, map.opener) {
            (Stage::Opening, _) => self.max_opening_flows,
            (Stage::Established, Opener::Host) => self.max_host_flows,
            (Stage::Established, Opener::Peer) => self.max_peer_flows,
        }
    }
}

/// Creates the maps of an instance and fills its tables. With `pins`, the maps
/// that outlive a generation are pinned there, or taken from there.
///
/// # Errors
/// What the kernel refused.
pub fn load(instance: &Instance<'_>, pins: Option<&Path>) -> Result<Ebpf> {
    let shared = instance.shared;
    let log = if shared.log { flag::LOG } else { 0 };
    let flags = instance.compiled.flags | instance.extra_flags | log;
    let ephemeral_ports: [u16; 2] = shared.ephemeral_ports.into();
    let flow_room = [shared.max_peer_flows, shared.max_host_flows];
    // Of a hasher that the standard library makes anew from the kernel's random
    // numbers: a secret for each load.
    let fragment_seed = RandomState::new().build_hasher().finish();
    let table_words = u32::try_from(instance.compiled.words.len())?;
    let table_bytes = 4 * table_words;

    let mut loader = EbpfLoader::new();
    loader
        .override_global("FLAGS", &flags, true)
        .override_global("TABLE_BYTES", &table_bytes, true)
        .override_global("ZONE", &instance.zone, true)
        .override_global("EPHEMERAL_PORTS", ephemeral_ports.as_slice(), true)
        .override_global("TIMEOUTS_NS", shared.timeouts_ns.as_slice(), true)
        .override_global("FLOW_ROOM", flow_room.as_slice(), true)
        .override_global("FRAGMENT_SEED", &fragment_seed, true);
    for map in &FLOW_MAPS {
        loader.map_max_entries(map.name, shared.max_flows(map));
    }
    if let Some(pins) = pins {
        for name in outliving() {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    let ebpf = loader
        .load(&object_with_tables_of(table_words)?)
        .context("creating the maps")?;
    fill(&ebpf, instance).context("filling the tables")?;
    Ok(ebpf)
}

/// The object, with the true length of the tables in its type information.
fn object_with_tables_of(words: u32) -> Result<Vec<u8>> {
    let types = object::File::parse(OBJECT)?
        .section_by_name(".BTF")
        .and_then(|section| section.file_range())
        .context("the object has no type information")?;
    let start = usize::try_from(types.0)?;
    let end = start + usize::try_from(types.1)?;
    let unsized_words = u32::try_from(UNSIZED_WORDS)?.to_le_bytes();
    let mut object = OBJECT.to_vec();
    let places: Vec<usize> = memmem::find_iter(&object[start..end], &unsized_words).collect();
    let [place] = places.as_slice() else {
        bail!(
            "the object says the length of the tables {} times",
            places.len()
        );
    };
    object[start + place..][..4].copy_from_slice(&words.to_le_bytes());
    Ok(object)
}

/// The maps that outlive a generation.
pub fn outliving() -> impl Iterator<Item = &'static str> {
    FLOW_MAPS.into_iter().map(|map| map.name).chain([
        FLOW_TALLIES,
        FLOW_COUNTS,
        CANDIDATES,
        HOST_PORTS,
        RULE_COUNTERS,
        TALLIES,
    ])
}

/// `include/uapi/linux/bpf.h`
const BPF_F_NO_PREALLOC: u32 = 1;
/// See [`BPF_F_NO_PREALLOC`].
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// What a map is, as far as reuse is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    kind: &'static str,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

impl Shape {
    const HASH: &'static str = "a hash";
    const LRU_HASH: &'static str = "an LRU hash";
    const ARRAY: &'static str = "an array";
    const PER_CPU_ARRAY: &'static str = "a per-CPU array";

    /// What a map in the kernel is.
    ///
    /// # Errors
    /// It is of a type that aya does not know.
    pub fn of(info: &MapInfo) -> Result<Self> {
        let kind = match info.map_type()? {
            MapType::Hash => Self::HASH,
            MapType::LruHash => Self::LRU_HASH,
            MapType::Array => Self::ARRAY,
            MapType::PerCpuArray => Self::PER_CPU_ARRAY,
            _ => "of another type",
        };
        Ok(Self {
            kind,
            key_bytes: info.key_size(),
            value_bytes: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    /// What the outliving map `name` must be.
    ///
    /// # Errors
    /// There is no such map.
    pub fn expected(name: &str, shared: &Shared) -> Result<Self> {
        let array = |kind, value_bytes: usize, entries, flags| -> Result<Self> {
            Ok(Self {
                kind,
                key_bytes: 4,
                value_bytes: u32::try_from(value_bytes)?,
                entries,
                flags,
            })
        };
        let tables = u32::try_from(FLOW_TABLES)?;
        match name {
            FLOW_TALLIES => array(Self::PER_CPU_ARRAY, size_of::<FlowTally>(), tables, 0),
            FLOW_COUNTS => array(Self::ARRAY, size_of::<FlowCount>(), tables, BPF_F_MMAPABLE),
            CANDIDATES => array(
                Self::ARRAY,
                size_of::<Candidate>(),
                u32::try_from(MAX_CANDIDATES)?,
                BPF_F_MMAPABLE,
            ),
            HOST_PORTS => array(Self::ARRAY, PORTS, 1, BPF_F_MMAPABLE),
            RULE_COUNTERS => array(Self::PER_CPU_ARRAY, size_of::<RuleCounter>(), MAX_RULES, 0),
            TALLIES => array(Self::PER_CPU_ARRAY, size_of::<Tally>(), TALLY_COUNT, 0),
            _ => {
                let map = FLOW_MAPS
                    .iter()
                    .find(|map| map.name == name)
                    .with_context(|| format!("no map `{name}` outlives a generation"))?;
                Self::of_flows(map, shared)
            }
        }
    }

    fn of_flows(map: &FlowMap, shared: &Shared) -> Result<Self> {
        let key_bytes = match map.family {
            Family::V4 => size_of::<FlowKey4>(),
            Family::V6 => size_of::<FlowKey6>(),
        };
        let (kind, flags) = match map.stage {
            Stage::Opening => (Self::LRU_HASH, 0),
            Stage::Established => (Self::HASH, BPF_F_NO_PREALLOC),
        };
        Ok(Self {
            kind,
            key_bytes: u32::try_from(key_bytes)?,
            value_bytes: u32::try_from(size_of::<Flow>())?,
            entries: shared.max_flows(map),
            flags,
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} entries with {}-byte keys, {}-byte values and flags {:#x}",
            self.kind, self.entries, self.key_bytes, self.value_bytes, self.flags
        )
    }
}

/// How much stack each function of the object uses, in bytes. Functions that
/// call each other add up; the kernel allows 512.
///
/// # Errors
/// The object can't be read.
pub fn stack_bytes() -> Result<BTreeMap<String, u32>> {
    let object = aya_obj::Object::parse(OBJECT)?;
    Ok(object
        .functions
        .values()
        .map(|function| (function.name.clone(), stack_of(&function.instructions)))
        .collect())
}

/// The lowest address below the frame pointer that is touched, or taken by
/// copying the frame pointer and then adding to the copy.
fn stack_of(instructions: &[bpf_insn]) -> u32 {
    /// `BPF_ALU64 | BPF_ADD | BPF_K` and `BPF_ALU64 | BPF_MOV | BPF_X`
    /// (`include/uapi/linux/bpf.h`).
    const ADD_CONSTANT: u8 = 0x07;
    const COPY: u8 = 0xbf;
    const FRAME_POINTER: u8 = 10;
    /// `BPF_LDX`, `BPF_ST`, `BPF_STX`: the instruction classes of memory.
    const MEMORY: std::ops::RangeInclusive<u8> = 1..=3;

    let touched = instructions
        .iter()
        .filter(|one| MEMORY.contains(&(one.code & 7)))
        .filter(|one| one.dst_reg() == FRAME_POINTER || one.src_reg() == FRAME_POINTER)
        .map(|one| i32::from(one.off));
    let taken = instructions.windows(2).filter_map(|pair| match pair {
        [copy, add]
            if copy.code == COPY
                && copy.src_reg() == FRAME_POINTER
                && add.code == ADD_CONSTANT
                && add.dst_reg() == copy.dst_reg() =>
        {
            Some(add.imm)
        }
        _ => None,
    });
    touched
        .chain(taken)
        .filter(|offset| *offset < 0)
        .min()
        .unwrap_or(0)
        .unsigned_abs()
}

/// Writes the tables in place, without a system call for each piece.
fn fill(ebpf: &Ebpf, instance: &Instance<'_>) -> Result<()> {
    let Some(Map::Array(map)) = ebpf.map(TABLES) else {
        bail!("the object has no tables");
    };
    let mut tables = LiveTables::map(map.fd().as_fd(), instance.compiled.words.len())?;
    tables.words_mut().copy_from_slice(&instance.compiled.words);
    tables.header_mut().revision = instance.revision;
    Ok(())
}

/// Has the verifier check programs, each on a thread of its own.
///
/// # Errors
/// The verifier's complaint about one of them.
pub fn load_together(programs: &mut [(&str, &mut Program)]) -> Result<()> {
    thread::scope(|scope| {
        let load = |(name, program): &mut (&str, &mut Program)| verify(name, program);
        let threads: Vec<_> = programs
            .iter_mut()
            .map(|program| scope.spawn(move || load(program)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            // Each is waited for.
            .fold(Ok(()), Result::and)
    })
}

/// Has the verifier check a program and loads it, if it is not.
fn verify(name: &str, program: &mut Program) -> Result<()> {
    if program.fd().is_ok() {
        return Ok(());
    }
    let loaded = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => bail!("`{name}` is of another type"),
    };
    loaded.with_context(|| format!("loading `{name}`"))
}

/// The XDP program, checked by the verifier and loaded.
///
/// # Errors
/// The verifier's complaint.
pub fn load_xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(load_named(ebpf, XDP)?.try_into()?)
}

/// A tc program, checked by the verifier and loaded.
///
/// # Errors
/// The verifier's complaint.
pub fn load_tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(load_named(ebpf, name)?.try_into()?)
}

fn load_named<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program `{name}`"))?;
    verify(name, program)?;
    Ok(program)
}

impl Default for Shared {
    /// Linux's default ports and the time-outs of the rule file's defaults.
    fn default() -> Self {
        Self {
            ephemeral_ports: (32_768, 60_999),
            timeouts_ns: [30, 8000, 120, 60, 10, 30, 180, 30, 600].map(|s| s * 1_000_000_000),
            max_host_flows: 65_536,
            max_peer_flows: 65_536,
            max_opening_flows: 16_384,
            log: false,
        }
    }
}
