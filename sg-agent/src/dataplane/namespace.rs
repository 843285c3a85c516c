//! Which network namespace this process is in.

use std::{io, net::UdpSocket, os::fd::AsRawFd as _};

/// The cookie of the process's network namespace: a number that no other
/// namespace ever has, until the next boot (`net/core/net_namespace.c`).
///
/// # Errors
/// The kernel is older than 5.14, or there is no socket to ask with.
pub fn cookie() -> io::Result<u64> {
    /// `include/uapi/asm-generic/socket.h`
    const SO_NETNS_COOKIE: libc::c_int = 71;

    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: `cookie` has room for the `length` bytes that the call may write.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
