//! The few `bpf(2)` calls that a benchmark makes itself: maps filled by the
//! million, programs of a dozen instructions, and running a program many times.
//!
//! Not here: loading the programs under test. They come from the agent's own
//! library and from other people's programs.

use std::{
    ffi::c_long,
    fs, io, mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result, ensure};
use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_map_info, bpf_map_type, bpf_prog_info,
    bpf_prog_type,
};

use super::clock;

/// Entries that one call writes: enough that the call itself costs nothing.
const BATCH: usize = 1 << 16;

/// A map in the kernel.
#[derive(Debug)]
pub(super) struct Map(OwnedFd);

/// What a map is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Its type.
    pub(super) kind: bpf_map_type,
    /// Bytes of a key.
    pub(super) key: usize,
    /// Bytes of a value.
    pub(super) value: usize,
    /// The most entries.
    pub(super) entries: usize,
    /// `BPF_F_…`
    pub(super) flags: u32,
}

impl Map {
    /// Makes an empty map.
    pub(super) fn new(shape: Shape) -> Result<Self> {
        let mut attr = zeroed();
        attr.__bindgen_anon_1.map_type = shape.kind as u32;
        attr.__bindgen_anon_1.key_size = u32::try_from(shape.key)?;
        attr.__bindgen_anon_1.value_size = u32::try_from(shape.value)?;
        attr.__bindgen_anon_1.max_entries = u32::try_from(shape.entries)?;
        attr.__bindgen_anon_1.map_flags = shape.flags;
        let fd = opened(bpf_cmd::BPF_MAP_CREATE, &mut attr);
        Ok(Self(fd.with_context(|| format!("can't make {shape:?}"))?))
    }

    /// An array whose elements are `values`.
    pub(super) fn array<const N: usize>(values: &[[u8; N]]) -> Result<Self> {
        let map = Self::new(Shape {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
            key: 4,
            value: N,
            entries: values.len(),
            flags: 0,
        })?;
        let keys: Vec<[u8; 4]> = (0u32..).take(values.len()).map(u32::to_ne_bytes).collect();
        map.fill(&keys, values)?;
        Ok(map)
    }

    /// Where a program finds another to jump to: `target`, at index 0.
    pub(super) fn jump_to(target: BorrowedFd<'_>) -> Result<Self> {
        let map = Self::new(Shape {
            kind: bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY,
            key: 4,
            value: 4,
            entries: 1,
            flags: 0,
        })?;
        let fd = target.as_raw_fd().to_ne_bytes();
        map.set(&[0; 4], &fd)
            .context("this program can't be jumped to")?;
        Ok(map)
    }

    /// Writes one entry.
    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut attr = zeroed();
        attr.__bindgen_anon_2.map_fd = self.fd();
        attr.__bindgen_anon_2.key = address(key);
        attr.__bindgen_anon_2.__bindgen_anon_1.value = address(value);
        call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).context("can't write to a map")?;
        Ok(())
    }

    /// Writes many entries.
    pub(super) fn fill<const K: usize, const V: usize>(
        &self,
        keys: &[[u8; K]],
        values: &[[u8; V]],
    ) -> Result<()> {
        ensure!(keys.len() == values.len(), "not a value for each key");
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            let mut attr = zeroed();
            attr.batch.map_fd = self.fd();
            attr.batch.keys = address(keys);
            attr.batch.values = address(values);
            attr.batch.count = u32::try_from(keys.len())?;
            call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).context("can't fill a map")?;
        }
        Ok(())
    }

    /// The descriptor's number, as instructions and calls name it.
    pub(super) fn fd(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }

    /// Bytes of kernel memory that it takes.
    pub(super) fn bytes(&self) -> Result<u64> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes = line.context("the kernel does not tell a map's memory")?;
        Ok(bytes.trim().parse()?)
    }

    /// Its name, as far as the kernel keeps it: 15 bytes.
    pub(super) fn name(&self) -> Result<String> {
        Ok(text(&self.info()?.name))
    }

    /// Its number, which no other map has.
    pub(super) fn id(&self) -> Result<u32> {
        Ok(self.info()?.id)
    }

    fn info(&self) -> Result<bpf_map_info> {
        let mut info: bpf_map_info = {
            // SAFETY: plain numbers, for which all zeros is a value.
            unsafe { mem::zeroed() }
        };
        describe(self.fd(), &mut info)?;
        Ok(info)
    }

    fn by_id(id: u32) -> Result<Self> {
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.map_id = id;
        let fd = opened(bpf_cmd::BPF_MAP_GET_FD_BY_ID, &mut attr);
        Ok(Self(fd.with_context(|| format!("no map {id}"))?))
    }
}

/// What a hook is handed: an XDP frame or a socket buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// XDP.
    Xdp,
    /// A tc classifier.
    Tc,
}

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Program {
    fd: OwnedFd,
    /// What it refers to by descriptor must not be closed before it is gone,
    /// or a jump leads nowhere.
    _maps: Vec<Map>,
}

impl Program {
    /// Loads a program that uses `maps`.
    pub(super) fn load(kind: Kind, code: &[bpf_insn], maps: Vec<Map>) -> Result<Self> {
        /// `linux/bpf.h`
        const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

        // What programs jump to must take the same frames as they do: of one
        // buffer, or of several. Which of them it is the kernel does not tell.
        let fd = match kind {
            Kind::Xdp => verified(kind, code, 0)
                .or_else(|error| verified(kind, code, BPF_F_XDP_HAS_FRAGS).map_err(|_| error)),
            Kind::Tc => verified(kind, code, 0),
        };
        Ok(Self {
            fd: fd?,
            _maps: maps,
        })
    }

    /// A program that somebody loaded.
    pub(super) fn by_id(id: u32) -> Result<Self> {
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
        let fd = opened(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr);
        Ok(Self {
            fd: fd.with_context(|| format!("no program {id}"))?,
            _maps: Vec::new(),
        })
    }
}

/// Has the verifier check a program.
fn verified(kind: Kind, code: &[bpf_insn], flags: u32) -> Result<OwnedFd> {
    const LICENSE: &[u8] = b"GPL\0";
    let mut log = vec![0u8; 1 << 16];
    let mut attr = zeroed();
    attr.__bindgen_anon_3.prog_type = match kind {
        Kind::Xdp => bpf_prog_type::BPF_PROG_TYPE_XDP,
        Kind::Tc => bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
    } as u32;
    if kind == Kind::Xdp {
        // What programs jump to must be meant for the same hook.
        attr.__bindgen_anon_3.expected_attach_type = bpf_attach_type::BPF_XDP as u32;
    }
    attr.__bindgen_anon_3.prog_flags = flags;
    attr.__bindgen_anon_3.insns = address(code);
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(code.len())?;
    attr.__bindgen_anon_3.license = address(LICENSE);
    attr.__bindgen_anon_3.log_level = 1;
    attr.__bindgen_anon_3.log_buf = address(log.as_mut_slice());
    attr.__bindgen_anon_3.log_size = u32::try_from(log.len())?;
    opened(bpf_cmd::BPF_PROG_LOAD, &mut attr).with_context(|| {
        let log = String::from_utf8_lossy(&log);
        format!("the verifier refused: {}", log.trim_end_matches('\0'))
    })
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The maps that a program uses.
pub(super) fn maps_of(program: BorrowedFd<'_>) -> Result<Vec<Map>> {
    let mut ids = [0u32; 64];
    let mut info: bpf_prog_info = {
        // SAFETY: plain numbers, for which all zeros is a value.
        unsafe { mem::zeroed() }
    };
    info.map_ids = address(ids.as_mut_slice());
    info.nr_map_ids = u32::try_from(ids.len())?;
    describe(program.as_raw_fd().cast_unsigned(), &mut info)?;
    let found = ids.iter().take(usize::try_from(info.nr_map_ids)?);
    found.map(|id| Map::by_id(*id)).collect()
}

/// Makes sure that a program does what its figure says it does.
pub(super) fn prove(program: BorrowedFd<'_>, frame: &[u8], expected: u32) -> Result<()> {
    let action = run(program, frame, 1)?;
    ensure!(
        action == expected,
        "returned the action {action}, expected {expected}"
    );
    Ok(())
}

/// The mean time of one run in nanoseconds, of `repeat` runs in a row.
///
/// By this thread's own time, because the kernel's mean comes in whole
/// nanoseconds: of an empty program that would be a sixth.
pub(super) fn mean_ns(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<f64> {
    let start = clock::thread_ns()?;
    run(program, frame, repeat)?;
    let end = clock::thread_ns()?;
    Ok((end - start) / f64::from(repeat))
}

/// Sends `count` frames that the program redirects, for real.
pub(super) fn send(program: BorrowedFd<'_>, frame: &[u8], count: u32) -> Result<()> {
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
    const BATCH: u32 = 64;
    let mut attr = zeroed();
    attr.test.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
    attr.test.batch_size = BATCH;
    test_run(&mut attr, program, frame, count).context("can't send live frames")
}

fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<u32> {
    let mut attr = zeroed();
    test_run(&mut attr, program, frame, repeat).context("can't run a program")?;
    // SAFETY: the call succeeded, so the kernel has written the result there.
    Ok(unsafe { attr.test }.retval)
}

fn test_run(attr: &mut bpf_attr, program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<()> {
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.data_in = address(frame);
    attr.test.data_size_in = u32::try_from(frame.len())?;
    attr.test.repeat = repeat;
    call(bpf_cmd::BPF_PROG_TEST_RUN, attr)?;
    Ok(())
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain numbers, for which all zeros is a value.
    unsafe { mem::zeroed() }
}

/// Where something lies, as the kernel wants to be told.
fn address<T: ?Sized>(of: &T) -> u64 {
    (&raw const *of).cast::<u8>() as u64
}

/// Has the kernel describe an object.
fn describe<T>(fd: u32, info: &mut T) -> Result<()> {
    let mut attr = zeroed();
    attr.info.bpf_fd = fd;
    attr.info.info_len = u32::try_from(size_of::<T>())?;
    attr.info.info = address(info);
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).context("the kernel does not describe it")?;
    Ok(())
}

fn opened(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(call(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this process, and nothing else
    // knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: the kernel reads and writes `attr`, of the size that it is told,
    // and what it points at; every caller keeps that alive and long enough.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn text(name: &[std::ffi::c_char]) -> String {
    name.iter()
        .map(|byte| char::from(byte.cast_unsigned()))
        .take_while(|letter| *letter != '\0')
        .collect()
}
