//! Devices without an Ethernet header, whose other end is this process
//! (`Documentation/networking/tuntap.rst`).

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;

/// `include/uapi/linux/if_tun.h`
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// See [`TUNSETIFF`].
const TUNSETLINK: libc::Ioctl = 0x4004_54cd;

/// Whether the device tells the protocol of each packet in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// It tells nothing: a packet is all that there is (`IFF_NO_PI`).
    None,
    /// Two octets of flags, and the ethertype (`struct tun_pi`).
    Protocol,
}

/// A tun device. It is gone when this is.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// Makes the device `name`; it is down.
    ///
    /// # Errors
    ///
    /// If not root, or if the name is taken.
    pub fn new(namespace: &Netns, name: &str, preface: Preface) -> Result<Self> {
        #[repr(C)]
        struct Request {
            name: [u8; libc::IFNAMSIZ],
            flags: libc::c_short,
            rest: [u8; 22],
        }
        let flags = libc::IFF_TUN
            | match preface {
                Preface::None => libc::IFF_NO_PI,
                Preface::Protocol => 0,
            };
        let mut request = Request {
            name: [0; libc::IFNAMSIZ],
            flags: libc::c_short::try_from(flags)?,
            rest: [0; 22],
        };
        ensure!(name.len() < libc::IFNAMSIZ, "`{name}` is too long");
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        namespace.enter(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .context("can't open `/dev/net/tun`")?;
            // SAFETY: the kernel reads and writes a `struct ifreq`, which
            // `Request` is as long as.
            let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
            ensure!(result == 0, "TUNSETIFF: {}", io::Error::last_os_error());
            Ok(Self(file))
        })
    }

    /// Says that the device, which is down, is of another type
    /// (`include/uapi/linux/if_arp.h`).
    ///
    /// # Errors
    ///
    /// If it is up.
    pub fn set_type(&self, kind: u16) -> Result<()> {
        // SAFETY: the kernel takes a number.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(kind)) };
        ensure!(result == 0, "TUNSETLINK: {}", io::Error::last_os_error());
        Ok(())
    }

    /// Has the kernel receive a packet on the device.
    ///
    /// # Errors
    ///
    /// If the device is down.
    pub fn write(&self, packet: &[u8]) -> Result<()> {
        Ok((&self.0).write_all(packet)?)
    }

    /// What the kernel sent next on the device; `None` if nothing.
    ///
    /// # Errors
    ///
    /// If the device is gone.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        let mut packet = vec![0; 1 << 16];
        match (&self.0).read(&mut packet) {
            Ok(len) => {
                packet.truncate(len);
                Ok(Some(packet))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("can't read from a tun device"),
        }
    }
}

/// Two tun devices with a cable between them.
#[derive(Debug)]
pub struct TunPair {
    stop: Arc<AtomicBool>,
    cable: Option<JoinHandle<Result<()>>>,
}

impl TunPair {
    /// Makes both devices and sets them up.
    ///
    /// # Errors
    ///
    /// As [`Tun::new`].
    pub fn new(left: (&Netns, &str), right: (&Netns, &str)) -> Result<Self> {
        let mut ends = Vec::new();
        for (namespace, name) in [left, right] {
            ends.push(Tun::new(namespace, name, Preface::None)?);
            namespace.ip(&format!("link set {name} up"))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let cable = thread::spawn(move || carry(&ends, &stopped));
        Ok(Self {
            stop,
            cable: Some(cable),
        })
    }
}

fn carry(ends: &[Tun], stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut waiting: Vec<PollFd<'_>> = ends
            .iter()
            .map(|end| PollFd::new(end.0.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut waiting, PollTimeout::from(50u8))?;
        for (from, to) in ends.iter().zip(ends.iter().rev()) {
            while let Some(packet) = from.read()? {
                to.write(&packet)?;
            }
        }
    }
    Ok(())
}

impl Drop for TunPair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(cable) = self.cable.take() {
            // A cable that broke shows in answers that did not come.
            let _ = cable.join();
        }
    }
}
