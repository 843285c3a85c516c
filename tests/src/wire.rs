//! Frames as they are on an interface, both ways (packet(7)).

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use crate::netns::Netns;

/// A packet socket on one interface. It receives what comes from outside, not
/// what this machine sends.
#[derive(Debug)]
pub struct Wire(OwnedFd);

/// `ETH_P_ALL` (`<linux/if_ether.h>`), in network order.
const ALL_PROTOCOLS: u16 = 3u16.to_be();

impl Wire {
    /// Opens it; receiving gives up after `patience`.
    ///
    /// # Errors
    ///
    /// If not root, or if there is no such interface.
    pub fn open(namespace: &Netns, interface: &str, patience: Duration) -> Result<Self> {
        namespace.enter(|| {
            let index = if_nametoindex(interface).context("no such interface")?;
            // SAFETY: takes three numbers and returns a new descriptor or -1.
            let socket = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                    ALL_PROTOCOLS.into(),
                )
            };
            ensure!(socket >= 0, "packet socket: {}", io::Error::last_os_error());
            // SAFETY: the call above made this descriptor, and nobody else has it.
            let this = Self(unsafe { OwnedFd::from_raw_fd(socket) });
            this.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
            let patience = libc::timeval {
                tv_sec: patience.as_secs().try_into()?,
                tv_usec: patience.subsec_micros().into(),
            };
            this.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
            this.bind(index)?;
            Ok(this)
        })
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> Result<()> {
        let len = libc::socklen_t::try_from(size_of::<T>())?;
        // SAFETY: the kernel reads `len` bytes, the size of `value`.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        ensure!(result == 0, "socket option: {}", io::Error::last_os_error());
        Ok(())
    }

    fn bind(&self, index: u32) -> Result<()> {
        // SAFETY: a structure of integers, for which zeros are a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_protocol = ALL_PROTOCOLS;
        address.sll_ifindex = i32::try_from(index)?;
        let len = libc::socklen_t::try_from(size_of_val(&address))?;
        // SAFETY: the kernel reads `len` bytes, the size of `address`.
        let result = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), len) };
        ensure!(result == 0, "bind: {}", io::Error::last_os_error());
        Ok(())
    }

    /// Sends one frame.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        nix::sys::socket::send(
            self.0.as_raw_fd(),
            frame,
            nix::sys::socket::MsgFlags::empty(),
        )
        .context("can't send a frame")?;
        Ok(())
    }

    /// The next frame; `None` if there is none in time.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; 1 << 16];
        let flags = nix::sys::socket::MsgFlags::empty();
        match nix::sys::socket::recv(self.0.as_raw_fd(), &mut frame, flags) {
            Ok(len) => {
                frame.truncate(len);
                Ok(Some(frame))
            }
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error).context("can't receive"),
        }
    }
}
