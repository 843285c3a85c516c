//! The calls of bpf(2) that aya has no function for.

use std::io;

/// Commands, from `include/uapi/linux/bpf.h`, `enum bpf_cmd`.
pub(super) const MAP_DELETE_ELEM: libc::c_long = 3;
pub(super) const OBJ_GET: libc::c_long = 7;
/// Linux 5.6.
pub(super) const MAP_LOOKUP_BATCH: libc::c_long = 24;
/// Linux 5.9.
pub(super) const LINK_DETACH: libc::c_long = 34;

/// Calls the kernel with that part of `union bpf_attr` that the command knows,
/// which it may also write to. What it points to must outlive the call.
pub(super) fn bpf<T>(command: libc::c_long, request: &mut T) -> io::Result<i32> {
    // SAFETY: `request` is valid for reads and writes of its size, and what it
    // points to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(request),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
