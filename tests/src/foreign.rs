//! An XDP program of somebody else.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Xdp, xdp::XdpMode},
};

use crate::netns::Netns;

/// The name that the kernel reports for it.
pub const NAME: &str = "foreign";

/// The id of the program, which is attached as long as this lives.
pub struct Foreign {
    /// As the kernel numbers programs.
    pub id: u32,
    _ebpf: Ebpf,
}

/// Attaches a program that passes every packet to an interface.
///
/// # Errors
///
/// If the kernel refuses.
pub fn attach(namespace: &Netns, interface: &str) -> Result<Foreign> {
    let mut ebpf = Ebpf::load(&object()).context("can't load the foreign program")?;
    let program: &mut Xdp = ebpf.program_mut(NAME).context("no program")?.try_into()?;
    program.load()?;
    let id = program.info()?.id();
    namespace.enter(|| {
        program
            .attach(interface, XdpMode::Skb)
            .context("can't attach the foreign program")?;
        Ok(())
    })?;
    Ok(Foreign { id, _ebpf: ebpf })
}

/// The smallest ELF object that a loader takes: one section of two
/// instructions, one symbol (ELF-64, `linux/bpf.h`). There is no compiler for
/// BPF on the machines where the tests run.
fn object() -> Vec<u8> {
    /// `r0 = 2` (`XDP_PASS`); `exit`
    const CODE: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    const STRINGS: &[u8] = b"\0xdp\0foreign\0.symtab\0.strtab\0license\0";
    const LICENSE: &[u8] = b"GPL\0";
    let mut symbols = vec![0; 24];
    // name, info (global function), other, section 1, value, size
    symbols.extend(5u32.to_le_bytes());
    symbols.extend([0x12, 0]);
    symbols.extend(1u16.to_le_bytes());
    symbols.extend(0u64.to_le_bytes());
    symbols.extend((CODE.len() as u64).to_le_bytes());

    let sections = [
        Section::default(),
        Section {
            name: 1,
            kind: 1,
            flags: 6,
            bytes: &CODE,
            ..Section::default()
        },
        Section {
            name: 13,
            kind: 2,
            bytes: &symbols,
            link: 3,
            info: 1,
            entry: 24,
            ..Section::default()
        },
        Section {
            name: 21,
            kind: 3,
            bytes: STRINGS,
            ..Section::default()
        },
        Section {
            name: 29,
            kind: 1,
            flags: 3,
            bytes: LICENSE,
            ..Section::default()
        },
    ];
    let mut content = Vec::new();
    let mut headers = Vec::new();
    for section in &sections {
        headers.extend(section.header(64 + content.len() as u64));
        content.extend(section.bytes);
        content.resize(content.len().next_multiple_of(8), 0);
    }
    [header(64 + content.len() as u64), content, headers].concat()
}

/// One section, with the fields of its header that are not always the same.
#[derive(Default)]
struct Section<'b> {
    name: u32,
    kind: u32,
    flags: u64,
    bytes: &'b [u8],
    link: u32,
    info: u32,
    entry: u64,
}

impl Section<'_> {
    fn header(&self, offset: u64) -> Vec<u8> {
        let mut header = Vec::new();
        header.extend(self.name.to_le_bytes());
        header.extend(self.kind.to_le_bytes());
        for word in [self.flags, 0, offset, self.bytes.len() as u64] {
            header.extend(word.to_le_bytes());
        }
        header.extend(self.link.to_le_bytes());
        header.extend(self.info.to_le_bytes());
        header.extend(8u64.to_le_bytes());
        header.extend(self.entry.to_le_bytes());
        header
    }
}

/// The ELF header of a relocatable BPF object with five sections, of which the
/// fourth has the names.
fn header(sections_at: u64) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    // relocatable, EM_BPF
    header.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    header.extend([0; 16]);
    header.extend(sections_at.to_le_bytes());
    header.extend([0; 4]);
    // sizes and counts: this header, no program headers, five sections
    for half in [64u16, 0, 0, 64, 5, 3] {
        header.extend(half.to_le_bytes());
    }
    header
}
