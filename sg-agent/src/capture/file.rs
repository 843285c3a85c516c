//! Reads a capture, packet by packet.

use std::io::{Cursor, Read};

use pcap_parser::{
    Block, LegacyPcapBlock, PcapBlockOwned, PcapError, PcapHeader,
    pcapng::{EnhancedPacketBlock, InterfaceDescriptionBlock, SimplePacketBlock},
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

use super::{Damage, LinkType, Packet};

/// How much of a file is in memory, as long as no packet needs more.
const BUFFER_BYTES: usize = 1 << 17;

/// The most that one packet may take: far more than any link carries, and
/// little enough that a damaged length does no harm.
const MAX_BUFFER_BYTES: usize = 1 << 22;

/// Reads a capture to its end and calls `each` for each packet.
///
/// # Errors
/// What is wrong with the file, after the packets that could be read; or what
/// `each` returned.
pub fn read<E: From<Damage>>(
    source: impl Read + Send,
    each: &mut dyn FnMut(Packet<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = open(source)?;
    let mut section = Section::default();
    loop {
        match step(reader.as_mut(), &mut section, each)? {
            Step::Next => {}
            Step::More => refill(reader.as_mut(), section.packets)?,
            Step::End => return Ok(()),
        }
    }
}

enum Step {
    /// A block was read.
    Next,
    /// The block at hand is not all in memory.
    More,
    /// There is no other block.
    End,
}

fn open<'s>(
    mut source: impl Read + Send + 's,
) -> Result<Box<dyn PcapReaderIterator + Send + 's>, Damage> {
    // The parser wants a whole header from its first read, which a pipe need
    // not give.
    let mut start = Vec::new();
    let limit = u64::try_from(BUFFER_BYTES).unwrap_or(u64::MAX);
    source.by_ref().take(limit).read_to_end(&mut start)?;
    if start.is_empty() {
        return Err(Damage::Empty);
    }
    let source = Cursor::new(start).chain(source);
    pcap_parser::create_reader(BUFFER_BYTES, source).map_err(|_| Damage::NotACapture)
}

fn step<E: From<Damage>>(
    reader: &mut dyn PcapReaderIterator,
    section: &mut Section,
    each: &mut dyn FnMut(Packet<'_>) -> Result<(), E>,
) -> Result<Step, E> {
    let packets = section.packets;
    let nonsense = |what: String| E::from(Damage::Nonsense { packets, what });
    section.check_block(reader.data()).map_err(nonsense)?;
    let length = match reader.next() {
        Ok((length, block)) => {
            if let Some(packet) = section.read(&block).map_err(nonsense)? {
                section.packets += 1;
                each(packet)?;
            }
            length
        }
        Err(PcapError::Eof) => return Ok(Step::End),
        Err(PcapError::Incomplete(_) | PcapError::BufferTooSmall) => return Ok(Step::More),
        Err(PcapError::UnexpectedEof) => return Err(Damage::Cut { packets }.into()),
        Err(_) => return Err(nonsense("what follows is no packet".to_owned())),
    };
    reader.consume(length);
    Ok(Step::Next)
}

/// Reads on, with a larger buffer if this one is full.
fn refill(reader: &mut dyn PcapReaderIterator, packets: u64) -> Result<(), Damage> {
    let before = reader.data().len();
    reader.refill().map_err(|_| read_error())?;
    if reader.data().len() > before || reader.reader_exhausted() {
        return Ok(());
    }
    let wanted = 2 * before.max(BUFFER_BYTES);
    if wanted > MAX_BUFFER_BYTES || !reader.grow(wanted) {
        return Err(Damage::Nonsense {
            packets,
            what: format!("what follows says it is longer than {before} bytes"),
        });
    }
    reader.refill().map_err(|_| read_error())
}

/// The parser does not say why.
fn read_error() -> Damage {
    Damage::Io(std::io::Error::other("a read failed"))
}

/// What the blocks so far say about those to come. A pcap file is one section
/// with one interface.
#[derive(Default)]
struct Section {
    interfaces: Vec<Interface>,
    /// The numbers of a pcapng file's blocks; `None` in a pcap file.
    byte_order: Option<ByteOrder>,
    /// Of the whole file.
    packets: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn number(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

#[derive(Clone, Copy)]
struct Interface {
    link_type: LinkType,
    /// Parts of a second in which it counts.
    ticks_per_second: u128,
    /// What to add to its times.
    offset_seconds: i64,
    /// At most so many bytes of a packet are there; 0 is all.
    snap_bytes: u32,
}

impl Interface {
    fn nanoseconds(&self, ticks: u64) -> Option<u64> {
        const NANOSECONDS: i128 = 1_000_000_000;
        let since = u128::from(ticks).checked_mul(NANOSECONDS.cast_unsigned())?;
        let since = i128::try_from(since.checked_div(self.ticks_per_second)?).ok()?;
        let offset = i128::from(self.offset_seconds) * NANOSECONDS;
        u64::try_from(since + offset).ok()
    }
}

impl Section {
    /// Refuses the next block if it says that it is shorter than what every
    /// block has: the parser subtracts that without a look.
    fn check_block(&self, bytes: &[u8]) -> Result<(), String> {
        /// The same in both byte orders, and followed by a length whose order
        /// the block itself tells (draft-ietf-opsawg-pcapng section 4.1).
        const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
        /// Its type, and its length twice (section 3.1).
        const MIN_BYTES: u32 = 12;

        let (Some(order), Some((&[kind, length], _))) = (
            self.byte_order,
            bytes.as_chunks::<4>().0.split_first_chunk(),
        ) else {
            return Ok(());
        };
        let length_bytes = order.number(length);
        if kind != SECTION_HEADER && length_bytes < MIN_BYTES {
            return Err(format!(
                "a block that says it is {length_bytes} bytes long, expected at least {MIN_BYTES}"
            ));
        }
        Ok(())
    }

    /// The packet of a block, if it is about one.
    fn read<'b>(&mut self, block: &'b PcapBlockOwned<'b>) -> Result<Option<Packet<'b>>, String> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => self.describe_file(header),
            PcapBlockOwned::Legacy(block) => return self.legacy(block).map(Some),
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                self.interfaces.clear();
                self.byte_order = Some(if header.big_endian() {
                    ByteOrder::Big
                } else {
                    ByteOrder::Little
                });
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(block)) => self.describe(block),
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                return self.enhanced(block).map(Some);
            }
            PcapBlockOwned::NG(Block::SimplePacket(block)) => return self.simple(block).map(Some),
            PcapBlockOwned::NG(_) => {}
        }
        Ok(None)
    }

    fn describe_file(&mut self, header: &PcapHeader) {
        let ticks_per_second = if header.is_nanosecond_precision() {
            1_000_000_000
        } else {
            1_000_000
        };
        self.interfaces = vec![Interface {
            link_type: link_type(header.network.0),
            ticks_per_second,
            offset_seconds: 0,
            snap_bytes: 0,
        }];
    }

    fn describe(&mut self, block: &InterfaceDescriptionBlock<'_>) {
        // The parser reads the offset as if all files were little-endian.
        let offset_seconds = if self.byte_order == Some(ByteOrder::Big) {
            block.if_tsoffset.swap_bytes()
        } else {
            block.if_tsoffset
        };
        self.interfaces.push(Interface {
            link_type: link_type(block.linktype.0),
            ticks_per_second: ticks_per_second(block.if_tsresol),
            offset_seconds,
            snap_bytes: block.snaplen,
        });
    }

    fn interface(&self, number: u32) -> Result<Interface, String> {
        let index = usize::try_from(number).ok();
        index
            .and_then(|index| self.interfaces.get(index).copied())
            .ok_or_else(|| format!("a packet of interface {number}, which is not described"))
    }

    fn legacy<'b>(&self, block: &LegacyPcapBlock<'b>) -> Result<Packet<'b>, String> {
        let interface = self.interface(0)?;
        let seconds = interface.ticks_per_second * u128::from(block.ts_sec);
        let ticks = u64::try_from(seconds + u128::from(block.ts_usec)).ok();
        Ok(packet(interface, ticks, block.data, block.origlen))
    }

    fn enhanced<'b>(&self, block: &'b EnhancedPacketBlock<'b>) -> Result<Packet<'b>, String> {
        let interface = self.interface(block.if_id)?;
        let ticks = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
        Ok(packet(
            interface,
            Some(ticks),
            block.packet_data(),
            block.origlen,
        ))
    }

    /// It is of the first interface and has neither a time nor a length of its
    /// own: without the snap length, padding would be taken for bytes.
    fn simple<'b>(&self, block: &'b SimplePacketBlock<'b>) -> Result<Packet<'b>, String> {
        let interface = self.interface(0)?;
        let snap_bytes = usize::try_from(interface.snap_bytes).unwrap_or(usize::MAX);
        let bytes = block.packet_data();
        let captured = match snap_bytes {
            0 => bytes,
            _ => bytes.get(..snap_bytes).unwrap_or(bytes),
        };
        Ok(packet(interface, None, captured, block.origlen))
    }
}

fn packet(interface: Interface, ticks: Option<u64>, bytes: &[u8], wire_bytes: u32) -> Packet<'_> {
    let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Packet {
        at_ns: ticks.and_then(|ticks| interface.nanoseconds(ticks)),
        link_type: interface.link_type,
        bytes,
        wire_bytes: wire_bytes.max(captured),
    }
}

/// The upper bits say how long the frame check sequences are.
fn link_type(number: i32) -> LinkType {
    let [.., high, low] = number.to_be_bytes();
    LinkType(u16::from_be_bytes([high, low]))
}

/// `if_tsresol`: a power of 10, or of 2 if the highest bit is set. 0, and so no
/// times, if it is finer than anything (draft-ietf-opsawg-pcapng section 4.2).
fn ticks_per_second(resolution: u8) -> u128 {
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    let exponent = u32::from(resolution & 0x7f);
    base.checked_pow(exponent).unwrap_or(0)
}
