//! Takes a pinned link off its hook at once.
//!
//! Removing the pin would do, but later: the kernel lets go of the link after a
//! grace period and on a work queue, and until then packets are still judged.
//! aya has no call for it, so it is made here (`BPF_LINK_DETACH`, Linux 5.9).

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};

use super::system_call::{self, bpf};

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link pinned at `path`, if there is one and its interface still
/// exists.
///
/// # Errors
/// The kernel refuses.
pub(super) fn now(path: &Path) -> Result<()> {
    let context = || format!("detaching the link `{}`", path.display());
    let link = match open(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(context),
    };
    let mut request = LinkDetach {
        link_fd: u32::try_from(link.as_raw_fd())?,
    };
    match bpf(system_call::LINK_DETACH, &mut request) {
        Ok(_) => Ok(()),
        // Its interface is gone, and it with it.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        Err(error) => Err(error).with_context(context),
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut request = ObjectGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = bpf(system_call::OBJ_GET, &mut request)?;
    // SAFETY: the kernel just returned this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
