//! The kernel's own tables with nothing around them: a program that looks one
//! thing up for each packet, or puts it there.

use std::net::IpAddr;

use anyhow::Result;
use aya_obj::generated::bpf_map_type;
use ipnet::IpNet;
use sg_common::flow::Flow;

use super::{
    assembly::{Code, Helper, Register, Width},
    bpf::{Kind, Map, Program, Shape},
    ours::{XDP_DROP, XDP_PASS},
    packets::Family,
};

/// Entries take memory only as they come.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The kernel's trie for longest-prefix matches.
pub(super) fn trie(prefixes: &[IpNet], family: Family) -> Result<Map> {
    match family {
        Family::V4 => trie_of::<8>(prefixes, family),
        Family::V6 => trie_of::<20>(prefixes, family),
    }
}

fn trie_of<const K: usize>(prefixes: &[IpNet], family: Family) -> Result<Map> {
    let keys: Vec<[u8; K]> = prefixes
        .iter()
        .filter_map(|net| trie_key(*net, family))
        .collect();
    let map = Map::new(Shape {
        kind: bpf_map_type::BPF_MAP_TYPE_LPM_TRIE,
        key: K,
        value: 4,
        entries: keys.len().max(1),
        flags: BPF_F_NO_PREALLOC,
    })?;
    map.fill(&keys, &vec![[0; 4]; keys.len()])?;
    Ok(map)
}

/// `struct bpf_lpm_trie_key`: the length in bits, then the address.
fn trie_key<const K: usize>(net: IpNet, family: Family) -> Option<[u8; K]> {
    let address = match (net.network(), family) {
        (IpAddr::V4(v4), Family::V4) => v4.octets().to_vec(),
        (IpAddr::V6(v6), Family::V6) => v6.octets().to_vec(),
        _ => return None,
    };
    let len = u32::from(net.prefix_len()).to_ne_bytes();
    [&len[..], &address].concat().try_into().ok()
}

/// A program that passes a packet if its source is in the trie.
pub(super) fn in_trie(trie: &Map, family: Family) -> Result<Program> {
    // The address lies on a multiple of 8.
    const KEY: i16 = -20;
    let len = family.address_len();
    let mut code = Code::with_packet(Kind::Xdp, family.source_at() + len);
    let bits = i32::from(len) * 8;
    code.store_value(Width::Word, (Register::Stack, KEY), bits);
    let from = (Register::R7, family.source_at());
    code.move_bytes((Register::Stack, KEY + 4), from, len);
    code.find(trie, KEY);
    pass_if_found(&mut code);
    Program::load(Kind::Xdp, &code.finish(), Vec::new())
}

/// Bytes of a flow: as in our tables, so that only the tables differ.
pub(super) const FLOW_BYTES: usize = size_of::<Flow>();

/// A hash with keys as long as those of our flows: both addresses, both ports,
/// and what is left of 16 or 40 bytes.
pub(super) fn hash(family: Family, entries: usize) -> Result<Map> {
    Map::new(Shape {
        kind: bpf_map_type::BPF_MAP_TYPE_HASH,
        key: usize::try_from(key_len(family))?,
        value: FLOW_BYTES,
        entries,
        flags: BPF_F_NO_PREALLOC,
    })
}

/// A program that passes a packet if its flow is in the hash.
pub(super) fn in_hash(hash: &Map, family: Family) -> Result<Program> {
    let mut code = with_flow_key(family);
    code.find(hash, FLOW_KEY);
    pass_if_found(&mut code);
    Program::load(Kind::Xdp, &code.finish(), Vec::new())
}

/// A program that puts a packet's flow into the hash.
pub(super) fn into_hash(hash: &Map, family: Family) -> Result<Program> {
    #[expect(clippy::cast_possible_wrap, reason = "a value of 80 bytes")]
    #[expect(clippy::cast_possible_truncation, reason = "a value of 80 bytes")]
    const VALUE: i16 = FLOW_KEY - FLOW_BYTES as i16;
    let mut code = with_flow_key(family);
    for at in (VALUE..FLOW_KEY).step_by(8) {
        code.store_value(Width::Double, (Register::Stack, at), 0);
    }
    code.map(Register::R1, hash);
    code.stack_address(Register::R2, FLOW_KEY);
    code.stack_address(Register::R3, VALUE);
    code.set(Register::R4, 0);
    code.call(Helper::MapUpdate);
    code.exit_with(XDP_PASS.cast_signed());
    Program::load(Kind::Xdp, &code.finish(), Vec::new())
}

const FLOW_KEY: i16 = -40;

const fn key_len(family: Family) -> i16 {
    match family {
        Family::V4 => 16,
        Family::V6 => 40,
    }
}

/// Begins with the packet's flow on the stack.
fn with_flow_key(family: Family) -> Code {
    let known = 2 * family.address_len() + 4;
    let mut code = Code::with_packet(Kind::Xdp, family.ports_at() + 4);
    let from = (Register::R7, family.source_at());
    code.move_bytes((Register::Stack, FLOW_KEY), from, known);
    for at in (FLOW_KEY + known..FLOW_KEY + key_len(family)).step_by(4) {
        code.store_value(Width::Word, (Register::Stack, at), 0);
    }
    code
}

fn pass_if_found(code: &mut Code) {
    code.exit_if_zero(Register::R0, XDP_DROP.cast_signed());
    code.exit_with(XDP_PASS.cast_signed());
}
