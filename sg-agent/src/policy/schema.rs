//! The JSON Schema of rule files, for editors that complete and check them.
//!
//! Keys, words and limits are those that the reader uses, so the two can't
//! differ. What a schema can't say (that a set exists, that a prefix is exact)
//! only `check` says.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::{
    KEYS, attach, expect, group, icmp, lint::Lint, model::Direction, name::MAX_NAME, rule, service,
    settings,
};

/// The schema of a rule file (JSON Schema draft 7, which editors know best).
#[must_use]
pub fn schema() -> Value {
    let mut root = object(KEYS, &["attach"], root_key);
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["title"] = json!("sg rule file");
    root["description"] = json!("who may reach what on which interface; docs/rules.md explains it");
    root
}

/// A table with these keys and no others.
fn object(keys: &[&str], required: &[&str], value: impl Fn(&str) -> Value) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), value(key)))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn about(mut value: Value, description: &str) -> Value {
    value["description"] = json!(description);
    value
}

fn list(of: &Value) -> Value {
    json!({ "type": "array", "items": of })
}

fn some(of: &Value) -> Value {
    json!({ "type": "array", "items": of, "minItems": 1 })
}

fn words<'w>(words: impl IntoIterator<Item = &'w str>) -> Value {
    json!({ "enum": words.into_iter().collect::<Vec<_>>() })
}

fn first<'w, T>(choices: &'w [(&'w str, T)]) -> impl Iterator<Item = &'w str> {
    choices.iter().map(|(word, _)| *word)
}

fn integer<T: Copy + Into<u64>>(range: RangeInclusive<T>) -> Value {
    let (least, most): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn any(of: &[Value]) -> Value {
    json!({ "anyOf": of })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn name() -> Value {
    json!({ "type": "string", "pattern": name_pattern() })
}

fn name_pattern() -> String {
    format!("^[A-Za-z0-9_.-]{{1,{MAX_NAME}}}$")
}

/// A table whose keys are names.
fn named(value: &Value) -> Value {
    json!({
        "type": "object",
        "patternProperties": { name_pattern(): value },
        "additionalProperties": false,
    })
}

fn allow() -> Value {
    about(
        list(&words(Lint::ALL.map(Lint::name))),
        "lints to silence here",
    )
}

fn root_key(key: &str) -> Value {
    match key {
        "attach" => about(
            some(&object(
                attach::KEYS,
                &["interfaces", "groups"],
                attachment_key,
            )),
            "which groups protect which interfaces",
        ),
        "sets" => about(
            named(&any(&[
                list(&prefix()),
                object(&["file"], &["file"], |_| {
                    about(text(), "one prefix a line, relative to the rule file")
                }),
            ])),
            "named lists of prefixes",
        ),
        "groups" => about(
            named(&object(group::KEYS, &[], group_key)),
            "named lists of rules",
        ),
        "flows" => about(
            object(settings::KEYS, &[], flows_key),
            "how long and how many connections are remembered",
        ),
        "non_ip" => about(words(first(settings::NON_IP)), "frames that carry no IP"),
        "expect" => about(
            list(&object(expect::KEYS, expect::KEYS, expect_key)),
            "tests: a failing one keeps the file from being applied",
        ),
        "allow" => allow(),
        _ => unknown(),
    }
}

/// What a key gets that was forgotten here: anything. A test finds it.
fn unknown() -> Value {
    json!({})
}

fn attachment_key(key: &str) -> Value {
    match key {
        "interfaces" => about(some(&text()), "names, or globs as `enp*`"),
        "groups" => about(some(&name()), "what they allow adds up"),
        "mode" => about(
            words(first(attach::MODES)),
            "`audit` drops nothing and counts what it would",
        ),
        "xdp" => about(
            words(first(attach::XDP)),
            "where inbound packets are judged",
        ),
        "allow" => allow(),
        _ => unknown(),
    }
}

fn group_key(key: &str) -> Value {
    match key {
        "description" => text(),
        "members" => about(list(&prefix()), "who `group:NAME` is"),
        "inbound" => about(
            rules(Direction::Inbound),
            "towards the host; nothing if left out",
        ),
        "outbound" => about(
            rules(Direction::Outbound),
            "from the host; everything if left out",
        ),
        "on_revoke" => about(
            words(first(group::ON_REVOKE)),
            "what becomes of the connections of a rule that goes",
        ),
        "allow" => allow(),
        _ => unknown(),
    }
}

fn rules(direction: Direction) -> Value {
    let (peers, foreign) = match direction {
        Direction::Inbound => ("from", "to"),
        Direction::Outbound => ("to", "from"),
    };
    let keys: Vec<&str> = rule::KEYS
        .iter()
        .copied()
        .filter(|key| *key != foreign)
        .collect();
    list(&object(&keys, &["name", "protocol", peers], rule_key))
}

fn rule_key(key: &str) -> Value {
    match key {
        "name" => about(name(), "counters go by it"),
        "description" => text(),
        "protocol" => protocol(),
        "ports" => about(
            any(&[port(), some(&port())]),
            "destination ports; all if left out",
        ),
        "type" => icmp_type(),
        "code" => icmp_code(),
        "from" | "to" => about(list(&peer()), "who; an empty list is nobody"),
        "track" => about(
            words(first(rule::TRACK)),
            "which connections are remembered",
        ),
        "allow" => allow(),
        _ => unknown(),
    }
}

fn flows_key(key: &str) -> Value {
    match key {
        "tcp_established" => integer(settings::TCP_ESTABLISHED_SECONDS),
        "max_outbound" | "max_inbound" | "max_half_open" => integer(settings::MAX_FLOWS),
        "tcp_strict" => json!({ "type": "boolean" }),
        "seed" => words(first(settings::SEED)),
        _ => about(
            integer(settings::TIMEOUT_SECONDS),
            "seconds without a packet",
        ),
    }
}

fn expect_key(key: &str) -> Value {
    match key {
        "packet" => object(expect::PACKET_KEYS, &["protocol"], packet_key),
        "verdict" => words(first(expect::VERDICTS)),
        _ => unknown(),
    }
}

fn packet_key(key: &str) -> Value {
    match key {
        "from" => about(text(), "one address: the packet is inbound"),
        "to" => about(text(), "one address: the packet is outbound"),
        "protocol" => protocol(),
        "port" => integer(0..=u16::MAX),
        "type" => icmp_type(),
        "code" => icmp_code(),
        "interface" => text(),
        _ => unknown(),
    }
}

fn prefix() -> Value {
    json!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$" })
}

fn peer() -> Value {
    json!({
        "type": "string",
        "pattern": "^([0-9A-Fa-f:.]+(/[0-9]{1,3})?|(set|group):[A-Za-z0-9_.-]+)$",
    })
}

fn protocol() -> Value {
    any(&[words(first(service::NAMES)), integer(0..=u8::MAX)])
}

fn port() -> Value {
    any(&[
        integer(0..=u16::MAX),
        json!({ "type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$" }),
    ])
}

fn icmp_type() -> Value {
    let names = first(icmp::V4).chain(first(icmp::V6));
    any(&[words(sorted(names)), integer(0..=u8::MAX)])
}

fn icmp_code() -> Value {
    let all = icmp::V4_CODES.iter().chain(icmp::V6_CODES);
    let names = all.flat_map(|(_, codes)| first(codes));
    any(&[words(sorted(names)), integer(0..=u8::MAX)])
}

/// Each once: the words of a schema's `enum` are unique.
fn sorted<'w>(words: impl Iterator<Item = &'w str>) -> Vec<&'w str> {
    let words: std::collections::BTreeSet<&str> = words.collect();
    words.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    fn repository() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    /// `SG_BLESS=1` writes it anew.
    #[test]
    fn the_committed_schema_is_this_one() {
        let path = repository().join("docs/rules.schema.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
        if env::var_os("SG_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "run `sg-agent schema > docs/rules.schema.json`"
        );
    }

    /// A key that the reader knows and the schema says nothing about.
    #[test]
    fn every_key_is_described() {
        fn look(at: &str, value: &Value) {
            assert_ne!(*value, json!({}), "{at}");
            if let Value::Object(fields) = value {
                for (key, value) in fields {
                    look(&format!("{at}.{key}"), value);
                }
            }
        }
        look("", &schema());
    }

    fn is_valid(validator: &jsonschema::Validator, text: &str) -> bool {
        let file: Value = toml::from_str(text).unwrap();
        validator.is_valid(&file)
    }

    #[test]
    fn examples_fit_and_bad_files_do_not() {
        let validator = jsonschema::draft7::new(&schema()).unwrap();
        let mut checked = 0;
        for entry in fs::read_dir(repository().join("examples")).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                let text = fs::read_to_string(&path).unwrap();
                assert!(is_valid(&validator, &text), "{}", path.display());
                checked += 1;
            }
        }
        assert!(checked >= 6, "{checked} examples");
        for bad in [
            "unknown_key",
            "unknown_lint",
            "wrong_types",
            "missing_keys",
            "deny_rules",
            "aws_keys",
            "bad_protocols",
            "bad_flows",
            "wrong_direction",
            "groups_as_a_list",
            "set_sources",
            "bad_names",
        ] {
            let path = repository().join(format!("sg-agent/tests/bad/{bad}.toml"));
            let text = fs::read_to_string(&path).unwrap();
            assert!(!is_valid(&validator, &text), "{}", path.display());
        }
    }
}
