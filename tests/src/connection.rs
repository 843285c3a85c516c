//! A TCP connection whose two ends are both here, each in its namespace.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    client::{PATIENCE, SILENCE, is_silence},
    netns::Netns,
};

/// Lasts until it is dropped. What must come through is waited for with
/// [`PATIENCE`], as it is sent again later and later after it was dropped.
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
        let server = to.enter(|| Ok(TcpListener::bind(address)?))?;
        let near = from.enter(|| Ok(TcpStream::connect_timeout(&published, PATIENCE)?))?;
        let (far, _) = server.accept()?;
        Ok(Self {
            near,
            far,
            _server: server,
        })
    }

    /// Whether bytes come through both ways.
    ///
    /// # Errors
    ///
    /// If an end was closed.
    pub fn carries(&mut self) -> Result<bool> {
        Ok(hears(&mut self.near, &mut self.far, PATIENCE)? && self.answers()?)
    }

    /// Whether none come through, either way.
    ///
    /// # Errors
    ///
    /// If an end was closed.
    pub fn is_cut(&mut self) -> Result<bool> {
        Ok(!hears(&mut self.near, &mut self.far, SILENCE)? && self.is_unanswered()?)
    }

    /// Whether bytes come through from the end that accepted it.
    ///
    /// # Errors
    ///
    /// If an end was closed.
    pub fn answers(&mut self) -> Result<bool> {
        hears(&mut self.far, &mut self.near, PATIENCE)
    }

    /// Whether none come through from the end that accepted it.
    ///
    /// # Errors
    ///
    /// If an end was closed.
    pub fn is_unanswered(&mut self) -> Result<bool> {
        Ok(!hears(&mut self.far, &mut self.near, SILENCE)?)
    }

    /// Whether both ends were told that it is over.
    ///
    /// # Errors
    ///
    /// If one found another end than a reset or silence.
    pub fn is_reset(&mut self) -> Result<bool> {
        Ok(is_told(&mut self.near, PATIENCE)? && is_told(&mut self.far, PATIENCE)?)
    }

    /// Whether neither end was told anything.
    ///
    /// # Errors
    ///
    /// If one found another end than a reset or silence.
    pub fn is_told_nothing(&mut self) -> Result<bool> {
        Ok(!is_told(&mut self.near, SILENCE)? && !is_told(&mut self.far, SILENCE)?)
    }
}

fn hears(speaker: &mut TcpStream, listener: &mut TcpStream, limit: Duration) -> Result<bool> {
    listener.set_read_timeout(Some(limit))?;
    speaker.write_all(b"x")?;
    match listener.read(&mut [0]) {
        Ok(1) => Ok(true),
        Ok(_) => bail!("it was closed"),
        Err(error) if is_silence(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_told(end: &mut TcpStream, limit: Duration) -> Result<bool> {
    end.set_read_timeout(Some(limit))?;
    match end.read(&mut [0]) {
        Ok(bytes) => bail!("{bytes} bytes, and no reset"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(true),
        Err(error) if is_silence(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
