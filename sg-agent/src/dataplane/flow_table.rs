//! One pinned table of flows, read many entries at a call.
//!
//! A table is read bucket by bucket (`BPF_MAP_LOOKUP_BATCH`), so entries that
//! come and go meanwhile neither end a walk nor begin it anew, as they do where
//! the next key is asked for by the last.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use bytemuck::{Pod, Zeroable as _};
use sg_common::flow::{Flow, FlowKey};

use super::{
    object::FlowMap,
    store::Store,
    system_call::{self, bpf},
};

/// So many entries at a call to begin with; a bucket must fit.
const BATCH: usize = 4096;

/// The part of `union bpf_attr` that batches read and write.
#[repr(C)]
struct ReadMany {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that the removal of one element reads.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
}

/// Where a walk is: before a bucket.
type Bucket = u32;

/// A table, and how far it has been read.
pub(super) struct FlowTable<A> {
    map: MapData,
    next: Option<Bucket>,
    keys: Vec<FlowKey<A>>,
    flows: Vec<Flow>,
}

impl<A: Copy> FlowTable<A>
where
    FlowKey<A>: Pod,
{
    /// Opens the pin; `None` if there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn open(store: &Store, map: &FlowMap) -> Result<Option<Self>> {
        let path = store.maps().join(map.name);
        if !path.exists() {
            return Ok(None);
        }
        let map =
            MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))?;
        let mut this = Self {
            map,
            next: None,
            keys: Vec::new(),
            flows: Vec::new(),
        };
        this.make_room(BATCH);
        Ok(Some(this))
    }

    /// The next entries, and whether they are the last; then the walk begins
    /// anew.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn read(&mut self) -> Result<(impl Iterator<Item = (FlowKey<A>, Flow)>, bool)> {
        let (count, is_last) = loop {
            match self.read_batch() {
                Ok(read) => break read,
                // A bucket with more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    self.make_room(self.keys.len() * 2);
                }
                Err(error) => return Err(error).context("reading a table of flows"),
            }
        };
        let keys = self.keys.iter().copied();
        Ok((keys.zip(self.flows.iter().copied()).take(count), is_last))
    }

    fn read_batch(&mut self) -> io::Result<(usize, bool)> {
        let mut behind: Bucket = 0;
        let mut request = ReadMany {
            in_batch: self
                .next
                .as_ref()
                .map_or(0, |bucket| std::ptr::from_ref(bucket) as u64),
            out_batch: &raw mut behind as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.flows.as_mut_ptr() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            map_fd: self.fd(),
            elem_flags: 0,
            flags: 0,
        };
        let is_last = match bpf(system_call::MAP_LOOKUP_BATCH, &mut request) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        self.next = (!is_last).then_some(behind);
        Ok((usize::try_from(request.count).unwrap_or(0), is_last))
    }

    fn make_room(&mut self, entries: usize) {
        self.keys.resize(entries, FlowKey::zeroed());
        self.flows.resize(entries, Flow::zeroed());
    }

    /// Removes an entry, live as it may be; whether there was one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn remove(&self, key: &FlowKey<A>) -> Result<bool> {
        let mut request = Element {
            map_fd: self.fd(),
            padding: 0,
            key: std::ptr::from_ref(key) as u64,
        };
        match bpf(system_call::MAP_DELETE_ELEM, &mut request) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error).context("removing a flow"),
        }
    }

    fn fd(&self) -> u32 {
        // A descriptor that is open is no negative number.
        self.map
            .fd()
            .as_fd()
            .as_raw_fd()
            .try_into()
            .unwrap_or(u32::MAX)
    }
}
