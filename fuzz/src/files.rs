//! Files that people write or bring along: any bytes give a policy or packets, or
//! errors, never a panic.

use std::{fs, path::Path};

use sg_agent::{
    capture::{self, Damage},
    cloud::{self, Input, Options, Provider},
    compile::{Slots, assign_slots, compile, expect},
    policy::{self, Loaded},
};

/// Enough for every construct; more only makes each run slow.
const MAX_BYTES: usize = 8 << 10;

/// A rule file: refused with a report, or compiled.
///
/// # Panics
/// If it is refused without a word.
pub fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if bytes.len() > MAX_BYTES {
        return;
    }
    match policy::parse("rules.toml", text, Path::new("no/such/directory")) {
        Ok(loaded) => compile_all(&loaded),
        // Its text points into the file, which is where it can go wrong.
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
}

/// A file of prefixes that a rule file names.
///
/// # Panics
/// If it is refused without a word, or there is no temporary directory.
pub fn set(bytes: &[u8]) {
    const RULES: &str = "\
        sets.s = { file = \"set\" }\n\
        attach = [{ interfaces = [\"eth0\"], groups = [\"g\"] }]\n\
        [groups.g]\n\
        inbound = [{ name = \"r\", protocol = \"tcp\", ports = 1, from = [\"set:s\"] }]\n";
    if bytes.len() > MAX_BYTES {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    fs::write(directory.path().join("set"), bytes).expect("the directory is writable");
    match policy::parse("rules.toml", RULES, directory.path()) {
        Ok(loaded) => compile_all(&loaded),
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
}

/// A cloud's file, of the provider that its first octet chooses: a rule file
/// that is one, or a report.
///
/// # Panics
/// If it is refused without a word.
pub fn import(bytes: &[u8]) {
    const PROVIDERS: [Provider; 3] = [Provider::Aws, Provider::DigitalOcean, Provider::Excloud];
    let Some((choice, file)) = bytes.split_first() else {
        return;
    };
    let Some(provider) = PROVIDERS.get(usize::from(choice % 3)) else {
        return;
    };
    if file.len() > MAX_BYTES {
        return;
    }
    let options = Options {
        interface: "eth0".to_owned(),
        groups: Vec::new(),
    };
    let imported = Input::new("file.json", file.to_vec())
        .and_then(|input| cloud::import(*provider, &[input], &options));
    match imported {
        Ok(imported) => assert!(!imported.text.is_empty()),
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
}

/// A capture file: packets no longer than the file, and what is wrong with it.
///
/// # Panics
/// If a packet is not of the file, or it is refused without a word.
pub fn capture(bytes: &[u8]) {
    let mut sum = 0;
    let read = capture::read(bytes, &mut |packet| {
        sum += packet.bytes.len();
        Ok::<(), Damage>(())
    });
    assert!(sum <= bytes.len(), "more bytes than the file has");
    if let Err(damage) = read {
        assert!(!damage.to_string().is_empty());
    }
}

fn compile_all(loaded: &Loaded) {
    let policy = &loaded.policy;
    let Ok(slots) = assign_slots(policy, &Slots::new()) else {
        return;
    };
    let mut compiled = Vec::new();
    for attachment in &policy.attachments {
        match compile(policy, attachment, &slots) {
            Ok(tables) => compiled.push(tables),
            Err(limit) => {
                assert!(!limit.to_string().is_empty());
                return;
            }
        }
    }
    let _ = expect::failures(policy, &compiled);
}
