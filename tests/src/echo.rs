//! Small servers on threads of the test, for tests that need somebody to talk
//! to and nothing else.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

use crate::netns::{Netns, POLL};

/// A server on both address families, stopped when dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Answers HTTP on a TCP port: every request gets `body`.
    ///
    /// # Errors
    ///
    /// If the port is taken.
    pub fn http(namespace: &Netns, port: u16, body: &str) -> Result<Self> {
        let listener = namespace.enter(|| {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let answer = format!(
            "HTTP/1.0 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        Ok(Self::start(move || match listener.accept() {
            Ok((stream, _)) => serve(stream, &answer),
            Err(_) => thread::sleep(POLL),
        }))
    }

    /// Sends every datagram of a UDP port back.
    ///
    /// # Errors
    ///
    /// If the port is taken.
    pub fn udp(namespace: &Netns, port: u16) -> Result<Self> {
        let socket = namespace.enter(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?))?;
        socket.set_read_timeout(Some(POLL))?;
        Ok(Self::start(move || {
            let mut data = [0; 9000];
            if let Ok((len, from)) = socket.recv_from(&mut data) {
                // Whether it arrives is the test's question.
                let _ = socket.send_to(&data[..len], from);
            }
        }))
    }

    fn start(mut serve_one: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                serve_one();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows in the client's answer.
            let _ = thread.join();
        }
    }
}

/// One request, one answer. A client that goes away is none of its business.
fn serve(mut stream: TcpStream, answer: &str) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(answer.as_bytes());
}
