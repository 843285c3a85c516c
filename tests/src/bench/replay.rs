//! A capture through the agent: the whole process, from start to its last line.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::Result;

use super::{
    Bench, command,
    packets::{CLIENT_PORT, HOST_V4},
    shapes::{PORT, Shape},
    subject::{Measure, Subject},
};
use crate::{
    capture::{self, ETHERNET},
    packet::{Packet, Transport, tcp},
    random::Random,
};

/// The scenario.
pub(super) const NAME: &str = "replay";
/// How long it takes.
pub(super) const MEASURE: Measure = Measure {
    scenario: NAME,
    metric: "time to replay a capture",
    unit: "s",
};

/// With a line of JSON for each packet.
pub(super) const JSON: &str = "sg, 100,000 packets, JSON";
const SUMMARY: &str = "sg, 100,000 packets";
const BASELINE: &str = "tcpdump -n, 100,000 packets";

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let shape = Shape::rules_only(bench.directory(), "replay", 10)?;
    let capture = write_capture(bench)?;
    let capture = capture.to_string_lossy();
    let agent = bench.agent.to_string_lossy().into_owned();
    let rules = shape.rules.to_string_lossy();
    let host = HOST_V4.to_string();
    let replay = ["replay", "--rules", &rules, "--host", &host, &capture];
    let subjects = vec![
        Subject::new(BASELINE, || {
            command::seconds_here("tcpdump", &["-n", "-r", &capture])
        }),
        Subject::new(SUMMARY, || command::seconds_here(&agent, &replay)).against(BASELINE),
        Subject::new(JSON, || {
            command::seconds_here(&agent, &[&replay[..], &["--json"]].concat())
        })
        .against(BASELINE),
    ];
    let found = bench.figures_of(MEASURE, bench.few_rounds(), subjects);
    bench.figures.extend(found);
    Ok(())
}

/// Connections from everywhere, data of all sizes both ways, and the host's
/// own queries.
fn write_capture(bench: &Bench) -> Result<PathBuf> {
    let mut random = Random::new(1);
    let frames: Vec<Vec<u8>> = (0..bench.scale.captured)
        .map(|_| frame(&mut random))
        .collect();
    let file = capture::pcap(
        ETHERNET,
        frames.iter().map(|frame| (frame.as_slice(), None)),
    );
    let path = bench.directory().join("traffic.pcap");
    fs::write(&path, file)?;
    Ok(path)
}

fn frame(random: &mut Random) -> Vec<u8> {
    let peer = IpAddr::from([203, 0, random.octet(), random.octet()]);
    let data = |source, destination, bytes| Transport::Tcp {
        source,
        destination,
        flags: tcp::ACK,
        sequence: 1,
        acknowledgement: 1,
        payload: vec![0; bytes],
    };
    let (from, to, transport) = match random.below(4) {
        0 => (peer, HOST_V4, Transport::tcp(CLIENT_PORT, PORT, tcp::SYN)),
        1 => (peer, HOST_V4, data(CLIENT_PORT, PORT, random.below(1400))),
        2 => (HOST_V4, peer, data(PORT, CLIENT_PORT, random.below(1400))),
        _ => (HOST_V4, peer, Transport::udp(CLIENT_PORT, 53)),
    };
    Packet::ip(from, to, transport).bytes()
}
