//! A TCP connection whose two ends are both here, each in its namespace.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::netns::{Netns, patience};

/// Lasts until it is dropped.
#[derive(Debug)]
pub struct Connection {
    /// The end that opened it.
    pub near: TcpStream,
    /// The end that accepted it.
    pub far: TcpStream,
    _server: TcpListener,
}

impl Connection {
    /// Opens a connection to a server that is started for it.
    ///
    /// # Errors
    ///
    /// If the port is taken, or nobody answers.
    pub fn open(from: &Netns, to: &Netns, address: SocketAddr) -> Result<Self> {
        Self::to_published(from, to, address, address)
    }

    /// As [`Connection::open`], where the server has another address than the
    /// one that is published.
    ///
    /// # Errors
    ///
    /// As [`Connection::open`].
    pub fn to_published(
        from: &Netns,
        to: &Netns,
        published: SocketAddr,
        address: SocketAddr,
    ) -> Result<Self> {
        let limit = patience(Duration::from_secs(2));
        let server = to.enter(|| Ok(TcpListener::bind(address)?))?;
        let near = from.enter(|| Ok(TcpStream::connect_timeout(&published, limit)?))?;
        let (far, _) = server.accept()?;
        for end in [&near, &far] {
            end.set_read_timeout(Some(limit / 2))?;
        }
        Ok(Self {
            near,
            far,
            _server: server,
        })
    }

    /// Whether bytes come through both ways; no if none do.
    ///
    /// # Errors
    ///
    /// If it does not end in silence.
    pub fn carries(&mut self) -> Result<bool> {
        let there = hears(&mut self.near, &mut self.far)?;
        let back = hears(&mut self.far, &mut self.near)?;
        if there != back {
            bail!("there: {there}, back: {back}");
        }
        Ok(there)
    }

    /// Whether bytes come through from the end that accepted it.
    ///
    /// # Errors
    ///
    /// If it does not end in silence.
    pub fn answers(&mut self) -> Result<bool> {
        hears(&mut self.far, &mut self.near)
    }

    /// Whether both ends were told that it is over.
    ///
    /// # Errors
    ///
    /// If one found another end than a reset or silence.
    pub fn is_reset(&mut self) -> Result<bool> {
        let [near, far] = [&mut self.near, &mut self.far].map(|end| end.read(&mut [0]));
        Ok(was_reset(near)? && was_reset(far)?)
    }
}

fn hears(speaker: &mut TcpStream, listener: &mut TcpStream) -> Result<bool> {
    speaker.write_all(b"x")?;
    match listener.read(&mut [0]) {
        Ok(1) => Ok(true),
        Ok(_) => bail!("it was closed"),
        Err(error) if is_silence(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn was_reset(read: io::Result<usize>) -> Result<bool> {
    match read {
        Ok(bytes) => bail!("{bytes} bytes, and no reset"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(true),
        Err(error) if is_silence(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
