//! BPF instructions by hand (`linux/bpf.h`, RFC 9669): there is no compiler for
//! BPF on the machines where the benchmark runs, and a dozen instructions need
//! none.

use aya_obj::generated::bpf_insn;

use super::bpf::{Kind, Map};

/// A register.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Register {
    /// A call's or the program's result.
    R0 = 0,
    /// A call's first argument; the program's context.
    R1 = 1,
    /// A call's second argument.
    R2 = 2,
    /// A call's third argument.
    R3 = 3,
    /// A call's fourth argument.
    R4 = 4,
    /// Kept over calls.
    R6 = 6,
    /// Kept over calls.
    R7 = 7,
    /// The end of the stack.
    Stack = 10,
}

/// How many bytes an access moves.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Width {
    /// 4
    Word = 0x00,
    /// 2
    Half = 0x08,
    /// 1
    Byte = 0x10,
    /// 8
    Double = 0x18,
}

impl Width {
    /// The widest accesses that together move `len` bytes, each with where it
    /// begins.
    pub(super) fn cover(len: i16) -> impl Iterator<Item = (i16, Self)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (width, bytes) = match len - at {
                8.. => (Self::Double, 8),
                4.. => (Self::Word, 4),
                2.. => (Self::Half, 2),
                1 => (Self::Byte, 1),
                _ => return None,
            };
            let start = at;
            at += bytes;
            Some((start, width))
        })
    }
}

/// `BPF_JMP | BPF_EXIT`
const EXIT: u8 = 0x95;

/// A helper function of the kernel.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Helper {
    /// `bpf_map_lookup_elem(map, key)`
    MapLookup = 1,
    /// `bpf_map_update_elem(map, key, value, flags)`
    MapUpdate = 2,
    /// `bpf_get_prandom_u32()`
    Random = 7,
    /// `bpf_tail_call(context, programs, index)`
    TailCall = 12,
    /// `bpf_redirect(interface, flags)`
    Redirect = 23,
}

/// A program in the making. [`Code::finish`] ends it with a way out that
/// returns 0, which no program under test ever does.
#[derive(Default)]
pub(super) struct Code {
    instructions: Vec<bpf_insn>,
    /// Jumps that lead out.
    bails: Vec<usize>,
}

impl Code {
    /// Begins with the packet's first byte in `R7`, and the context in `R6`,
    /// and bails if the packet has less than `len` bytes.
    pub(super) fn with_packet(kind: Kind, len: i16) -> Self {
        let (data, end) = match kind {
            Kind::Xdp => (0, 4),
            Kind::Tc => (76, 80),
        };
        let mut code = Self::default();
        code.copy(Register::R6, Register::R1);
        code.load(Width::Word, Register::R7, (Register::R6, data));
        code.load(Width::Word, Register::R2, (Register::R6, end));
        code.copy(Register::R1, Register::R7);
        code.add(Register::R1, i32::from(len));
        code.bail_if_greater(Register::R1, Register::R2);
        code
    }

    /// `to = value`
    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.push(0xb7, to, Register::R0, 0, value);
    }

    /// `to = from`
    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to, from, 0, 0);
    }

    /// `to = stack + offset`
    pub(super) fn stack_address(&mut self, to: Register, offset: i16) {
        self.copy(to, Register::Stack);
        self.add(to, i32::from(offset));
    }

    /// `to += value`
    pub(super) fn add(&mut self, to: Register, value: i32) {
        self.push(0x07, to, Register::R0, 0, value);
    }

    /// `to &= value`
    pub(super) fn mask(&mut self, to: Register, value: i32) {
        self.push(0x57, to, Register::R0, 0, value);
    }

    /// `to = *from`
    pub(super) fn load(&mut self, width: Width, to: Register, from: (Register, i16)) {
        self.push(0x61 | width as u8, to, from.0, from.1, 0);
    }

    /// `*to = from`
    pub(super) fn store(&mut self, width: Width, to: (Register, i16), from: Register) {
        self.push(0x63 | width as u8, to.0, from, to.1, 0);
    }

    /// `*to = value`
    pub(super) fn store_value(&mut self, width: Width, to: (Register, i16), value: i32) {
        self.push(0x62 | width as u8, to.0, Register::R0, to.1, value);
    }

    /// Copies `len` bytes by way of `R3`.
    pub(super) fn move_bytes(&mut self, to: (Register, i16), from: (Register, i16), len: i16) {
        for (at, width) in Width::cover(len) {
            self.load(width, Register::R3, (from.0, from.1 + at));
            self.store(width, (to.0, to.1 + at), Register::R3);
        }
    }

    /// `to = map`
    pub(super) fn map(&mut self, to: Register, map: &Map) {
        const MAP_FD: u8 = 1;
        let mut wide = instruction(0x18, to as u8, MAP_FD, 0, map.fd().cast_signed());
        self.instructions.push(wide);
        wide = instruction(0, 0, 0, 0, 0);
        self.instructions.push(wide);
    }

    /// `R0 = &map[*(stack + key)]`; bails if there is no such entry.
    pub(super) fn look_up(&mut self, map: &Map, key: i16) {
        self.find(map, key);
        self.bail_if_zero(Register::R0);
    }

    /// `R0 = &map[*(stack + key)]`, or 0.
    pub(super) fn find(&mut self, map: &Map, key: i16) {
        self.map(Register::R1, map);
        self.stack_address(Register::R2, key);
        self.call(Helper::MapLookup);
    }

    /// Goes on in another program, which sees the packet as it is now.
    pub(super) fn jump(&mut self, programs: &Map) {
        self.copy(Register::R1, Register::R6);
        self.map(Register::R2, programs);
        self.set(Register::R3, 0);
        self.call(Helper::TailCall);
    }

    /// `R0 = helper(R1, …)`
    pub(super) fn call(&mut self, helper: Helper) {
        self.push(0x85, Register::R0, Register::R0, 0, helper as i32);
    }

    /// Returns `value`.
    pub(super) fn exit_with(&mut self, value: i32) {
        self.set(Register::R0, value);
        self.exit();
    }

    /// Returns what is in `R0`.
    pub(super) fn exit(&mut self) {
        self.push(EXIT, Register::R0, Register::R0, 0, 0);
    }

    /// Returns `value` if the register is 0.
    pub(super) fn exit_if_zero(&mut self, register: Register, value: i32) {
        const TWO_INSTRUCTIONS: i16 = 2;
        self.push(0x55, register, Register::R0, TWO_INSTRUCTIONS, 0);
        self.exit_with(value);
    }

    fn bail_if_zero(&mut self, register: Register) {
        self.bails.push(self.instructions.len());
        self.push(0x15, register, Register::R0, 0, 0);
    }

    fn bail_if_greater(&mut self, left: Register, right: Register) {
        self.bails.push(self.instructions.len());
        self.push(0x2d, left, right, 0, 0);
    }

    /// The program.
    pub(super) fn finish(mut self) -> Vec<bpf_insn> {
        let out = self.instructions.len();
        let ended = self.instructions.last().is_some_and(|one| one.code == EXIT);
        if ended && self.bails.is_empty() {
            return self.instructions;
        }
        for bail in self.bails.drain(..) {
            // A jump counts from the instruction after it.
            let distance = i16::try_from(out - bail - 1).unwrap_or(i16::MAX);
            if let Some(jump) = self.instructions.get_mut(bail) {
                jump.off = distance;
            }
        }
        self.exit_with(0);
        self.instructions
    }

    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, value: i32) {
        let one = instruction(code, to as u8, from as u8, offset, value);
        self.instructions.push(one);
    }
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off: offset,
        imm: value,
    }
}
