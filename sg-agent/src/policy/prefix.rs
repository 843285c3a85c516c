//! Prefixes and addresses, without any guess: what is not exactly a prefix is
//! refused with the one that was probably meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Subnets};

use super::{
    diagnostic::{Problem, quoted},
    reader::Text,
};

/// The length of the prefix that holds all IPv4-mapped addresses.
const MAPPED_LEN: u8 = 96;

/// A prefix, or an address as the prefix that holds only itself.
pub(crate) fn parse(text: Text<'_>) -> Result<IpNet, Problem> {
    let (address, length) = match text.text.split_once('/') {
        None => (text.text, None),
        Some((address, length)) => (address, Some(length)),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(not_an_address(text));
    };
    let max = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = length.map_or(Some(max), |digits| prefix_length(digits, max)) else {
        return Err(bad_length(text, max));
    };
    let prefix = IpNet::new_assert(address, length);
    refuse_mapped(prefix, text)?;
    refuse_host_bits(prefix, text)?;
    Ok(prefix)
}

/// A single address.
pub(super) fn parse_address(text: Text<'_>) -> Result<IpAddr, Problem> {
    let prefix = parse(text)?;
    if text.text.contains('/') {
        let message = format!("{} is a prefix, expected one address", quoted(text.text));
        return Err(Problem::new(text.span, message)
            .label("expected an address")
            .help(format!("write `{}`", prefix.addr())));
    }
    Ok(prefix.addr())
}

fn prefix_length(digits: &str, max: u8) -> Option<u8> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let length = digits.parse().ok().filter(|length| *length <= max);
    length.filter(|_| plain)
}

fn bad_length(text: Text<'_>, max: u8) -> Problem {
    if text.text.contains(char::is_whitespace) {
        return not_an_address(text);
    }
    let message = format!("{} has a bad prefix length", quoted(text.text));
    let problem = Problem::new(text.span, message)
        .label(format!("expected a number from 0 to {max} after `/`"));
    match with_netmask(text.text) {
        Some(prefix) => problem.help(format!("write `{prefix}`")),
        None => problem,
    }
}

/// What `10.0.0.0/255.0.0.0` means.
fn with_netmask(text: &str) -> Option<IpNet> {
    let (address, mask) = text.split_once('/')?;
    let mask: Ipv4Addr = mask.parse().ok()?;
    let prefix = Ipv4Net::with_netmask(address.parse().ok()?, mask).ok()?;
    Some(prefix.trunc().into())
}

fn not_an_address(text: Text<'_>) -> Problem {
    let problem = Problem::new(
        text.span,
        format!("{} is not an address or prefix", quoted(text.text)),
    )
    .label("expected an IPv4 or IPv6 address or prefix");
    match foreign_form(text.text) {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// How to write here what other formats write so.
fn foreign_form(text: &str) -> Option<String> {
    let write = |prefix: IpNet| format!("write `{}`", short(prefix));
    let everyone = ["any", "all", "*", "everyone", "anywhere"];
    if everyone.contains(&text.to_lowercase().as_str()) {
        return Some("everyone is `0.0.0.0/0` for IPv4 and `::/0` for IPv6".to_owned());
    }
    if let Some((first, last)) = text.split_once('-') {
        return range_as_prefixes(first.trim().parse().ok()?, last.trim().parse().ok()?);
    }
    let bare = text.trim_start_matches('[').split([']', '%']).next()?;
    if let (true, Ok(address)) = (bare != text, bare.parse::<IpAddr>()) {
        return Some(write(address.into()));
    }
    if let Ok(SocketAddr::V4(end)) = text.parse() {
        return Some(format!(
            "{}, and the port in `ports`",
            write(IpAddr::V4(*end.ip()).into())
        ));
    }
    let is_name = text.contains('.') && text.contains(|c: char| c.is_ascii_alphabetic());
    is_name.then(|| "names of hosts are not looked up: write the addresses".to_owned())
}

fn range_as_prefixes(first: IpAddr, last: IpAddr) -> Option<String> {
    const MOST: usize = 8;
    let prefixes: Vec<IpNet> = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
            let prefixes = Ipv4Subnets::new(first, last, 0).map(IpNet::V4);
            prefixes.take(MOST + 1).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
            let prefixes = Ipv6Subnets::new(first, last, 0).map(IpNet::V6);
            prefixes.take(MOST + 1).collect()
        }
        _ => return None,
    };
    if prefixes.len() > MOST {
        return Some(
            "a range of addresses is written as the prefixes that it consists of".to_owned(),
        );
    }
    let prefixes: Vec<String> = prefixes
        .into_iter()
        .map(|prefix| format!("`{}`", short(prefix)))
        .collect();
    Some(format!("write {}", prefixes.join(", ")))
}

/// An IPv4 packet never carries an IPv4-mapped address: the rule would be
/// mistaken for one that matches it.
fn refuse_mapped(prefix: IpNet, text: Text<'_>) -> Result<(), Problem> {
    let IpNet::V6(v6) = prefix else {
        return Ok(());
    };
    let (Some(v4), Some(length)) = (
        v6.addr().to_ipv4_mapped(),
        v6.prefix_len().checked_sub(MAPPED_LEN),
    ) else {
        return Ok(());
    };
    let v4 = Ipv4Net::new_assert(v4, length).trunc();
    let message = format!("{} is IPv4-mapped IPv6", quoted(text.text));
    Err(Problem::new(text.span, message)
        .label("expected the IPv4 form")
        .help(format!("write `{}`", short(v4.into()))))
}

fn refuse_host_bits(prefix: IpNet, text: Text<'_>) -> Result<(), Problem> {
    let meant = prefix.trunc();
    if meant == prefix {
        return Ok(());
    }
    let message = format!(
        "{} has bits set beyond its prefix length",
        quoted(text.text)
    );
    Err(Problem::new(text.span, message)
        .label(format!("expected `{meant}`"))
        .help(format!(
            "write `{meant}` for the prefix, or `{}` for the one address",
            prefix.addr()
        )))
}

/// A prefix as a person would write it: an address without `/32` or `/128`.
fn short(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}
