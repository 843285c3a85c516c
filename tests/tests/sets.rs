//! Sets that change under traffic, without a new generation.

use std::{
    collections::BTreeSet,
    env, fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use sg_agent::sets::{Edit, Verb};
use sg_tests::{
    agent::Agent,
    client::{self, Expected, PATIENCE},
    echo::Echo,
    fault::{self, Answer, Call},
    netns::{Netns, veth, wait_until},
    reload::Reloader,
    topology::{HOST, INTERFACE, INTERNET, Topology},
};

const PORT: u16 = 7000;
const RULE: &str = "echo/inbound/echo";
const SOON: Duration = Duration::from_secs(10);

/// One UDP port for a set that has prefixes, but none of the lab's.
fn rules(set: &str, outbound: &str) -> String {
    format!(
        r#"
        [[attach]]
        interfaces = ["eth0"]
        groups = ["echo"]
        [sets]
        friends = {set}
        [groups.echo]
        inbound = [{{ name = "echo", protocol = "udp", ports = {PORT}, from = ["set:friends"] }}]
        {outbound}"#
    )
}

const STRANGERS: &str = r#"["10.99.0.0/16", "2001:db8:ffff::/48"]"#;

/// How many of three datagrams of each family come back, which should be
/// `expected`.
fn echoes(lab: &Topology, expected: [usize; 2]) -> Result<[usize; 2]> {
    let [v4, v6] = HOST.both().map(|host| SocketAddr::new(host, PORT));
    let ask = |host, answers| {
        let expected = match answers {
            0 => Expected::Silence,
            _ => Expected::Answer,
        };
        client::datagrams(&lab.internet, host, 3, expected)
    };
    // Silence takes its time.
    thread::scope(|scope| {
        let v6 = scope.spawn(|| ask(v6, expected[1]));
        let v4 = ask(v4, expected[0])?;
        Ok([v4, v6.join().expect("a client does not panic")?])
    })
}

fn expect(lab: &Topology, expected: [usize; 2]) -> Result<()> {
    let found = echoes(lab, expected)?;
    ensure!(found == expected, "{found:?} of {expected:?} came back");
    Ok(())
}

fn internet() -> [String; 2] {
    INTERNET.both().map(|address| address.to_string())
}

#[test]
fn a_command_changes_what_is_in_force() -> Result<()> {
    let lab = Topology::new()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules(STRANGERS, ""))?;
    expect(&lab, [0, 0])?;
    let [v4, v6] = internet();

    let said = agent.run(&["set", "add", "friends", &v4])?;
    assert!(said.contains("1 added, 0 removed, in place"), "{said}");
    assert!(said.contains("rules.toml"), "how to make it last: {said}");
    expect(&lab, [3, 0])?;
    agent.run(&["set", "add", "set:friends", &v6, "2001:db8:2::/64"])?;
    expect(&lab, [3, 3])?;
    let said = agent.run(&["set", "add", "friends", &v4])?;
    assert!(said.contains("nothing to change"), "{said}");
    let listed = agent.run(&["set", "list", "friends"])?;
    assert_eq!(listed.lines().count(), 5, "{listed}");
    let listed = agent.run(&["set", "list"])?;
    assert!(
        listed.contains("set:friends: 5 prefixes, changed by command"),
        "{listed}"
    );
    let status = agent.run(&["status"])?;
    assert!(status.contains("set:friends"), "{status}");

    agent.run(&["set", "remove", "friends", &v4, &v6])?;
    expect(&lab, [0, 3]).context("the /64 is still there")?;
    agent.run(&[
        "set",
        "replace",
        "friends",
        "10.98.0.0/16",
        "2001:db8:fffe::/48",
    ])?;
    expect(&lab, [0, 0])?;
    assert_eq!(agent.generation(), Some(1), "all of it in place");
    assert_eq!(agent.stats()?.packets(RULE), 12);

    for (wrong, expected) in [
        (["add", "nobody", &v4], "`nobody` is no set"),
        (["add", "friends", "203.0.113.9/24"], "203.0.113.0/24"),
    ] {
        let output = agent.output(&[&["set"], &wrong[..]].concat())?;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(expected), "{message}");
    }
    Ok(())
}

#[test]
fn what_live_tables_can_not_take_is_a_new_generation() -> Result<()> {
    let lab = Topology::new()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules("[]", ""))?;
    let [v4, v6] = internet();
    let said = agent.run(&["set", "add", "friends", &v4])?;
    assert!(said.contains("by generation 2"), "the first prefix: {said}");
    expect(&lab, [3, 0])?;
    let many: Vec<String> = (0..300)
        .map(|n| format!("10.1.{}.{}", n / 250, n % 250))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    agent.run(&[&["set", "replace", "friends", &v6], &many[..]].concat())?;
    expect(&lab, [0, 3])?;
    assert_eq!(agent.generation(), Some(3));
    let status = agent.run(&["status"])?;
    assert!(status.contains("set:friends"), "{status}");
    agent.apply(&rules(STRANGERS, ""))?;
    expect(&lab, [0, 0]).context("`apply` puts the file's content back")?;
    let status = agent.run(&["status"])?;
    assert!(!status.contains("set:friends"), "{status}");
    Ok(())
}

/// A test of the rule file guards its addresses from commands, too.
#[test]
fn a_test_of_the_rule_file_is_asked() -> Result<()> {
    let lab = Topology::new()?;
    let agent = Agent::new(&lab.host)?;
    let test = format!(
        "[[expect]]\npacket = {{ from = \"{}\", protocol = \"udp\", port = {PORT} }}\nverdict = \"drop\"\n",
        INTERNET.v4
    );
    agent.apply(&format!("{}\n{test}", rules(STRANGERS, "")))?;
    let output = agent.output(&["set", "add", "friends", "203.0.113.0/24"])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let listed = agent.run(&["set", "list", "friends"])?;
    assert_eq!(listed.lines().count(), 2, "nothing was changed: {listed}");
    agent.run(&["set", "add", "friends", "203.0.112.0/24"])?;
    assert_eq!(agent.generation(), Some(1));
    Ok(())
}

#[test]
fn a_flow_of_who_was_taken_out_is_revoked() -> Result<()> {
    let lab = Topology::new()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    let [v4, _] = internet();
    agent.apply(&rules(
        &format!(r#"["10.99.0.0/16", "{v4}"]"#),
        "outbound = []",
    ))?;
    let socket = lab
        .internet
        .enter(|| Ok(UdpSocket::bind((INTERNET.v4, 0))?))?;
    socket.connect((HOST.v4, PORT))?;
    let asks = |expected: Expected| -> Result<bool> {
        socket.set_read_timeout(Some(expected.limit()))?;
        socket.send(b"ping")?;
        Ok(socket.recv(&mut [0; 16]).is_ok())
    };
    assert!(asks(Expected::Answer)?, "a tracked flow");
    agent.run(&["set", "add", "friends", "10.98.0.0/16"])?;
    assert!(asks(Expected::Answer)?, "what is added takes nothing away");
    agent.run(&["set", "remove", "friends", &v4])?;
    assert!(
        !asks(Expected::Silence)?,
        "its permission is gone, and with it the flow"
    );
    assert_eq!(agent.stats()?.drops("revoked", "inbound"), 1);
    agent.run(&["set", "add", "friends", &v4])?;
    assert!(asks(Expected::Answer)?);
    assert_eq!(agent.generation(), Some(1));
    Ok(())
}

#[test]
fn beside_the_daemon() -> Result<()> {
    let lab = Topology::new()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    let file = agent.directory().join("friends.txt");
    fs::write(&file, "10.99.0.0/16\n2001:db8:ffff::/48\n")?;
    let mut daemon = agent.start(&rules("{ file = \"friends.txt\" }", ""))?;
    let [v4, v6] = internet();
    let said = agent.run(&["set", "add", "friends", &v4])?;
    assert!(said.contains("in place"), "{said}");
    assert!(said.contains("friends.txt"), "the file to edit: {said}");
    expect(&lab, [3, 0]).context("`run` did it, which holds the lock")?;
    let refused = agent.output(&["set", "add", "nobody", &v4])?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");

    fs::write(&file, format!("10.99.0.0/16\n2001:db8:ffff::/48\n{v6}\n"))?;
    wait_until("the file is in force", SOON, || {
        // Until then it is the other way round.
        echoes(&lab, [0, 0]).is_ok_and(|echoes| echoes == [0, 3])
    })?;
    assert_eq!(agent.generation(), Some(1), "without a new generation");
    let status = agent.run(&["status"])?;
    assert!(
        !status.contains("set:friends"),
        "as the file says: {status}"
    );

    let said = agent.run(&["set", "remove", "friends", "10.99.0.0/16"])?;
    assert!(said.contains("by generation 2"), "the last of IPv4: {said}");
    agent.run(&["set", "add", "friends", &v4])?;
    expect(&lab, [3, 3])?;
    assert_eq!(agent.generation(), Some(3), "the first of IPv4");
    assert!(daemon.is_running(), "{}", daemon.stderr());

    daemon.signal(Signal::SIGKILL)?;
    daemon.wait(SOON)?;
    agent.run(&["set", "remove", "friends", &v6])?;
    expect(&lab, [3, 0]).context("its socket is dead, the lock is free")?;
    Ok(())
}

/// A writer that is killed in any one of its calls leaves the old tables or the
/// new ones, and the next change of anything brings tables and list together.
fn a_writer_dies(verb: &str, undo: &str) -> Result<()> {
    let lab = Topology::new()?;
    let _server = Echo::udp(&lab.host, PORT)?;
    let agent = Agent::new(&lab.host)?;
    agent.apply(&rules(STRANGERS, ""))?;
    let mut made = BTreeSet::new();
    let mut numbers = 0..=u8::MAX;
    let mut round = |answer: &mut Answers<'_>| -> Result<bool> {
        let number = numbers.next().context("as many rounds as octets")?;
        let (killed, is_made) = one_writer_dies(&lab, &agent, verb, undo, number, answer)?;
        made.insert(is_made);
        Ok(killed)
    };
    let stride = fault::stride();
    for index in (0..).step_by(stride) {
        let mut answer = |call: &Call| {
            if call.index == index {
                Answer::Kill
            } else {
                Answer::Proceed
            }
        };
        if !round(&mut answer)? {
            println!("{verb}: killed in every of {index} calls, by {stride}");
            break;
        }
    }
    // Tables are written without a call: between two of these.
    for index in 0.. {
        let mut renames = 0..;
        let mut answer = |call: &Call| match call.name.as_str() {
            "rename" if renames.next() == Some(index) => Answer::KillAfter,
            _ => Answer::Proceed,
        };
        if !round(&mut answer)? {
            println!("{verb}: killed after every of {index} renames");
            ensure!(index == 2, "before and after the tables");
            break;
        }
    }
    assert_eq!(made.len(), 2, "some changes were made and some were not");
    assert_eq!(agent.generation(), Some(1), "all of it in place");
    Ok(())
}

/// What becomes of each call of a writer.
type Answers<'a> = dyn FnMut(&Call) -> Answer + Send + 'a;

/// Whether a change was killed, and whether it was made all the same. `number`
/// is of this round only.
fn one_writer_dies(
    lab: &Topology,
    agent: &Agent,
    verb: &str,
    undo: &str,
    number: u8,
    answer: &mut Answers<'_>,
) -> Result<(bool, bool)> {
    let [v4, v6] = internet();
    agent.run(&["set", undo, "friends", &v4, &v6])?;
    let mut killed = None;
    let mut command = Command::new(agent.binary());
    command.args(["set", verb, "friends", &v4, &v6]);
    fault::run(&lab.host, &mut command, |call| {
        let answer = answer(call);
        if answer != Answer::Proceed {
            killed = Some(format!("{answer:?}: {}", call.name));
        }
        Ok(answer)
    })?;
    let mut left = echoes(lab, [0, 0])?;
    if left != [0, 0] {
        // Now it is known that answers come, be they slow.
        left = echoes(lab, [3, 3])?;
    }
    ensure!([[0, 0], [3, 3]].contains(&left), "{killed:?}: {left:?}");

    agent.run(&["set", "add", "friends", &format!("10.97.{number}.0/24")])?;
    let listed = agent.run(&["set", "list", "friends"])?;
    let is_in = [&v4, &v6].map(|peer| listed.contains(&format!("{peer}/")));
    let expected = is_in.map(|is_in| if is_in { 3 } else { 0 });
    expect(lab, expected).with_context(|| format!("{number}, {killed:?}: {listed}"))?;
    assert_eq!(is_in[0], is_in[1], "all of a change or none: {listed}");
    Ok((killed.is_some(), is_in[0] == (verb == "add")))
}

#[test]
fn b26_a_writer_that_dies_adding() -> Result<()> {
    a_writer_dies("add", "remove")
}

#[test]
fn b26_a_writer_that_dies_removing() -> Result<()> {
    a_writer_dies("remove", "add")
}

/// Who is always in the set, who comes and goes, and who never is.
const PEERS: [u8; 3] = [10, 11, 12];

fn address(v6: bool, last: u8) -> IpAddr {
    if v6 {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()])
    } else {
        IpAddr::from([192, 0, 2, last])
    }
}

fn how_often() -> usize {
    if env::var_os("SG_TEST_VM").is_some() {
        20
    } else {
        100
    }
}

struct Stream {
    sender: UdpSocket,
    receiver: UdpSocket,
    sent: u64,
    received: u64,
}

impl Stream {
    fn new(peers: &Netns, host: &Netns, v6: bool, peer: u8) -> Result<Self> {
        let port = PORT + u16::from(peer);
        let sender = peers.enter(|| Ok(UdpSocket::bind((address(v6, peer), 0))?))?;
        let receiver = host.enter(|| Ok(UdpSocket::bind((address(v6, 1), port))?))?;
        sender.connect((address(v6, 1), port))?;
        receiver.set_nonblocking(true)?;
        Ok(Self {
            sender,
            receiver,
            sent: 0,
            received: 0,
        })
    }

    fn drain(&mut self) {
        while self.receiver.recv(&mut [0; 16]).is_ok() {
            self.received += 1;
        }
    }

    fn send(&mut self) -> Result<()> {
        for _ in 0..16 {
            self.sender.send(b"packet")?;
            self.sent += 1;
        }
        Ok(())
    }
}

/// The streams of one family's peers.
struct Family([Stream; 3]);

impl Family {
    fn new(peers: &Netns, host: &Netns, v6: bool) -> Result<Self> {
        let [stays, moves, never] = PEERS.map(|peer| Stream::new(peers, host, v6, peer));
        Ok(Self([stays?, moves?, never?]))
    }

    /// Sends until told to stop, a round at a time: a cable keeps the order, so
    /// when the last packets of a round are there, all its packets were judged.
    /// No queue is ever full, and what does not arrive was dropped by a rule.
    fn run(mut self, stop: &AtomicBool) -> Result<Self> {
        while !stop.load(Ordering::Relaxed) {
            let [stays, moves, never] = &mut self.0;
            for stream in [never, moves, stays] {
                stream.send()?;
            }
            let deadline = Instant::now() + PATIENCE;
            while self.0[0].received < self.0[0].sent {
                // Leaves the kernel a processor.
                thread::sleep(Duration::from_micros(200));
                self.0.iter_mut().for_each(Stream::drain);
                let Stream { sent, received, .. } = &self.0[0];
                ensure!(Instant::now() < deadline, "{received} of {sent} arrived");
            }
        }
        Ok(self)
    }
}

/// A host and its peers at the two ends of one cable.
fn cable() -> Result<(Netns, Netns)> {
    let (host, peers) = (Netns::new("host")?, Netns::new("peers")?);
    veth((&host, INTERFACE), (&peers, INTERFACE))?;
    for (end, last) in [(&host, 1), (&peers, 10), (&peers, 11), (&peers, 12)] {
        let [v4, v6] = [false, true].map(|v6| address(v6, last));
        end.ip(&format!("addr add {v4}/24 dev {INTERFACE}"))?;
        end.ip(&format!("addr add {v6}/64 dev {INTERFACE} nodad"))?;
    }
    Ok((host, peers))
}

/// Changes the set again and again; says how often in place. The first peer is
/// in it all the time, by its address or by a prefix around it.
fn change(host: &Netns) -> Result<usize> {
    const STAYS: [&str; 3] = ["192.0.2.10/32", "2001:db8::a/128", "10.0.0.0/8"];
    const MOVES: [&str; 2] = ["192.0.2.11/32", "2001:db8::b/128"];
    const AROUND: [&str; 2] = ["192.0.2.10/31", "2001:db8::a/127"];
    let edits = [
        (Verb::Remove, MOVES.to_vec()),
        (Verb::Add, AROUND.to_vec()),
        (Verb::Replace, [&STAYS[..], &MOVES].concat()),
    ]
    .map(|(verb, prefixes)| Edit {
        verb,
        name: "friends".to_owned(),
        prefixes: prefixes
            .iter()
            .filter_map(|prefix| prefix.parse().ok())
            .collect(),
    });
    host.enter(|| {
        let mut reloader = Reloader::new()?;
        let mut in_place = 0;
        for edit in edits.iter().cycle().take(3 * how_often()) {
            in_place += usize::from(reloader.edit(edit)?);
        }
        Ok(in_place)
    })
}

/// No packet that both states allow is dropped, none that neither allows
/// passes, and each is counted once.
#[test]
fn under_traffic() -> Result<()> {
    let (host, peers) = cable()?;
    let agent = Agent::new(&host)?;
    let friends = r#"["192.0.2.10", "192.0.2.11", "2001:db8::a", "2001:db8::b", "10.0.0.0/8"]"#;
    agent.apply(&rules(friends, "").replace("ports = 7000", r#"ports = "7000-7100""#))?;

    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let (in_place, streams) = thread::scope(|scope| {
        let families = [false, true].map(|v6| {
            let family = Family::new(&peers, &host, v6);
            scope.spawn(|| family?.run(&stop))
        });
        let in_place = change(&host);
        stop.store(true, Ordering::Relaxed);
        let families = families.map(|thread| {
            let family = thread.join();
            family.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let streams = families.into_iter().map(|family| Ok(family?.0));
        Ok::<_, anyhow::Error>((in_place?, streams.collect::<Result<Vec<_>>>()?))
    })?;
    let took = started.elapsed();

    let (mut all, mut passed) = (0, 0);
    let peers = PEERS.into_iter().cycle();
    for (peer, stream) in peers.zip(streams.into_iter().flatten()) {
        let Stream { sent, received, .. } = stream;
        println!("peer {peer}: {received} of {sent} arrived");
        match peer {
            10 => assert_eq!(received, sent),
            11 => assert!(0 < received && received < sent),
            _ => assert_eq!(received, 0),
        }
        all += sent;
        passed += received;
    }
    let stats = agent.stats()?;
    assert_eq!(stats.packets(RULE), passed);
    assert_eq!(stats.drops("no_rule", "inbound"), all - passed);
    let changes = 3 * how_often();
    assert!(
        in_place > changes * 9 / 10,
        "{in_place} of {changes} were made in place"
    );
    println!("{in_place} of {changes} changes in place, {took:.1?}");
    Ok(())
}
