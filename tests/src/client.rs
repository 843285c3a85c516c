//! Clients: what somebody in a namespace tries, and how it ends.

use std::{
    fmt,
    io::{self, ErrorKind, Read as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// How long a client waits for an answer that must come: longer than the slowest
/// machine takes.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// After how long nobody answers. A lost first SYN is sent again after one
/// second, so this is one try and nothing more.
pub const SILENCE: Duration = Duration::from_millis(900);

/// What must become of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Somebody answers.
    Answer,
    /// Nobody does.
    Silence,
}

impl Expected {
    /// How long to wait. What takes longer on a busy machine must not pass for
    /// silence, and silence is to be waited for in many tests.
    #[must_use]
    pub const fn limit(self) -> Duration {
        match self {
            Self::Answer => PATIENCE,
            Self::Silence => SILENCE,
        }
    }

    /// Whether a try ended so.
    #[must_use]
    pub fn is(self, answer: &Answer) -> bool {
        match self {
            Self::Answer => answer.is_answered(),
            Self::Silence => *answer == Answer::TimedOut,
        }
    }
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The other end answered; what it said, in a few words.
    Answered(String),
    /// Nothing came back: what a dropped packet looks like.
    TimedOut,
    /// Anything else, such as a connection refused.
    Failed(String),
}

impl Answer {
    /// Whether the other end answered.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        matches!(self, Self::Answered(_))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(detail) | Self::Failed(detail) => f.pad(detail),
            Self::TimedOut => f.pad("timed out"),
        }
    }
}

/// `http://…` with IPv6 addresses in brackets.
#[must_use]
pub fn url(scheme: &str, address: IpAddr, port: u16, path: &str) -> String {
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let default = matches!((scheme, port), ("http", 80) | ("https", 443));
    let port = if default {
        String::new()
    } else {
        format!(":{port}")
    };
    format!("{scheme}://{host}{port}/{path}")
}

/// Fetches a page with curl. The certificates of the lab are nobody's.
///
/// # Errors
///
/// If curl can't be run.
pub fn curl(from: &Netns, url: &str, expected: Expected) -> Result<Answer> {
    let [connect, all] = [expected.limit(), PATIENCE].map(|limit| limit.as_secs_f32().to_string());
    let output = from.output(
        "curl",
        &[
            "--silent",
            "--show-error",
            "--insecure",
            "--globoff",
            "--noproxy",
            "*",
            "--connect-timeout",
            &connect,
            "--max-time",
            &all,
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %{size_download} %{speed_download}",
            url,
        ],
    )?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // curl(1), "EXIT CODES": 28 is a time-out.
    Ok(match output.status.code() {
        Some(0) => Answer::Answered(fetched(&said)),
        Some(28) => Answer::TimedOut,
        _ => Answer::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    })
}

/// From curl's `--write-out` to words.
fn fetched(said: &str) -> String {
    let mut words = said.split(' ');
    let code = words.next().unwrap_or_default();
    let number = |word: Option<&str>| word.and_then(|w| w.parse::<f64>().ok()).unwrap_or(0.0);
    let (size, speed) = (number(words.next()), number(words.next()));
    if size < 1e6 {
        return format!("{code}, {size} bytes");
    }
    format!("{code}, {:.1} MB at {:.0} MB/s", size / 1e6, speed / 1e6)
}

/// Connects, and reads the line with which the server greets (SSH does).
///
/// # Errors
///
/// If the namespace can't be entered.
pub fn greeting(from: &Netns, to: SocketAddr, expected: Expected) -> Result<Answer> {
    from.enter(|| {
        let mut stream = match TcpStream::connect_timeout(&to, expected.limit()) {
            Ok(stream) => stream,
            Err(error) => return Ok(failed(&error)),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut said = [0; 64];
        Ok(match stream.read(&mut said) {
            Ok(len) => {
                let text = String::from_utf8_lossy(&said[..len]);
                Answer::Answered(text.lines().next().unwrap_or_default().to_owned())
            }
            Err(error) => failed(&error),
        })
    })
}

/// Connects and closes.
///
/// # Errors
///
/// If the namespace can't be entered.
pub fn connect(from: &Netns, to: SocketAddr, expected: Expected) -> Result<Answer> {
    from.enter(|| {
        Ok(match TcpStream::connect_timeout(&to, expected.limit()) {
            Ok(_) => Answer::Answered("connected".to_owned()),
            Err(error) => failed(&error),
        })
    })
}

fn failed(error: &io::Error) -> Answer {
    if is_silence(error) {
        Answer::TimedOut
    } else {
        Answer::Failed(error.to_string())
    }
}

/// Whether nothing came until a socket's time was up.
#[must_use]
pub fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Sends `count` echo requests and waits for the replies.
///
/// # Errors
///
/// If ping can't be run.
pub fn ping(from: &Netns, to: IpAddr, count: u32, expected: Expected) -> Result<Answer> {
    const USUAL: usize = 56;
    ping_of(from, to, count, USUAL, expected)
}

/// As [`ping`], each with that many octets of data.
///
/// # Errors
///
/// If ping can't be run.
pub fn ping_of(
    from: &Netns,
    to: IpAddr,
    count: u32,
    bytes: usize,
    expected: Expected,
) -> Result<Answer> {
    let (address, count, bytes) = (to.to_string(), count.to_string(), bytes.to_string());
    let limit = expected.limit().as_secs_f32().to_string();
    let output = from
        .output(
            "ping",
            &[
                "-n", "-q", "-c", &count, "-i", "0.2", "-W", &limit, "-s", &bytes, &address,
            ],
        )
        .context("is `iputils-ping` installed?")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = said
        .lines()
        .find(|line| line.contains("received"))
        .unwrap_or_default();
    let received = summary
        .split(',')
        .find_map(|part| part.trim().strip_suffix(" received"))
        .unwrap_or("0");
    // ping(8): 0 if there was a reply, 1 if there was none.
    Ok(match output.status.code() {
        Some(0) => Answer::Answered(format!("{received} of {count} replies")),
        Some(1) => Answer::TimedOut,
        _ => Answer::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    })
}

/// Sends `count` datagrams from one socket, one after the other's answer, and
/// says how many answers came.
///
/// # Errors
///
/// If the namespace can't be entered.
pub fn datagrams(from: &Netns, to: SocketAddr, count: usize, expected: Expected) -> Result<usize> {
    datagrams_of(from, to, count, b"question".len(), expected)
}

/// As [`datagrams`], each with that many octets of data. An answer counts if it
/// is as long.
///
/// # Errors
///
/// If the namespace can't be entered.
pub fn datagrams_of(
    from: &Netns,
    to: SocketAddr,
    count: usize,
    bytes: usize,
    expected: Expected,
) -> Result<usize> {
    let (question, mut answer) = (vec![b'?'; bytes], vec![0; bytes + 1]);
    from.enter(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(expected.limit()))?;
        let mut answers = 0;
        for _ in 0..count {
            socket.send(&question)?;
            match socket.recv(&mut answer) {
                Ok(len) => answers += usize::from(len == bytes),
                // One silence is enough; the rest is sent without waiting.
                Err(error) if is_silence(&error) => {
                    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
                }
                // Somebody said that nobody is there.
                Err(_) => {}
            }
        }
        Ok(answers)
    })
}
