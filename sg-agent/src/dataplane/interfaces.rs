//! The network interfaces of this namespace, as the kernel describes them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use nix::ifaddrs::getifaddrs;
use rtnetlink::{
    Handle,
    packet_route::{
        link::{
            InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
            XdpAttached,
        },
        tc::{TcAttribute, TcFilterBpfOption, TcOption},
    },
};

use super::{
    attach,
    manifest::{LinkLayer, Place},
};
use crate::policy::Direction;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What packets on it begin with, if this version can read it.
    pub layer: Option<LinkLayer>,
    /// The kernel's name for that, for messages.
    pub layer_name: String,
    /// Whether it is `lo`.
    pub is_loopback: bool,
    /// Whether it is a bridge, or a port of one: the wrong place for XDP.
    pub is_bridged: bool,
    /// Whether it is up.
    pub is_up: bool,
    /// The XDP program on it, if any.
    pub xdp: Option<AttachedXdp>,
    /// The programs that are filters of its clsact qdisc, inbound then outbound;
    /// only on kernels without TCX.
    pub filters: [Vec<u32>; 2],
}

impl Interface {
    /// What packets on it begin with.
    ///
    /// # Errors
    /// Nobody here can read that.
    pub fn link_layer(&self) -> Result<LinkLayer> {
        self.layer.with_context(|| {
            format!(
                "interface `{}` is of type `{}`, expected Ethernet or a tunnel without link-layer \
                 header, such as tun or WireGuard; take it out of the rule file",
                self.name, self.layer_name
            )
        })
    }

    /// The programs that are clsact filters for one direction.
    #[must_use]
    pub fn filters(&self, direction: Direction) -> &[u32] {
        let [inbound, outbound] = &self.filters;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedXdp {
    /// Its number in the kernel.
    pub program: u32,
    /// Whether the driver runs it.
    pub native: bool,
}

/// An address of an interface, of the family of `peer`; one with link scope only
/// for a peer that has it, too.
#[must_use]
pub fn address(interface: &str, peer: IpAddr) -> Option<IpAddr> {
    let is_link_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let addresses = getifaddrs().ok()?.filter_map(|found| {
        let address = found.address?;
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        (found.interface_name == interface).then_some(address)
    });
    addresses
        .filter(|address| address.is_ipv4() == peer.is_ipv4())
        .min_by_key(|address| is_link_local(address) != is_link_local(&peer))
}

/// All interfaces, by number.
///
/// # Errors
/// The kernel does not answer.
pub async fn list() -> Result<Vec<Interface>> {
    let (connection, handle, _) = rtnetlink::new_connection().context("opening rtnetlink")?;
    let connection = tokio::spawn(connection);
    let links: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .context("listing interfaces")?;
    let mut interfaces: Vec<Interface> = links.into_iter().map(interface).collect();
    interfaces.sort_by_key(|interface| interface.index);
    // Where programs are links, filters are none of ours and not worth asking for.
    let asked = interfaces
        .iter_mut()
        .filter(|interface| !interface.is_loopback && attach::tc_place() == Place::Clsact);
    for interface in asked {
        for (filters, egress) in interface.filters.iter_mut().zip([false, true]) {
            *filters = clsact_programs(&handle, interface.index, egress).await?;
        }
    }
    connection.abort();
    Ok(interfaces)
}

fn interface(link: LinkMessage) -> Interface {
    let layer = link.header.link_layer_type;
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        layer: link_layer(layer),
        layer_name: layer.to_string(),
        is_loopback: link.header.flags.contains(LinkFlags::Loopback),
        is_bridged: false,
        is_up: link.header.flags.contains(LinkFlags::Up),
        xdp: None,
        filters: [Vec::new(), Vec::new()],
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::LinkInfo(infos) => interface.is_bridged |= infos.iter().any(is_bridged),
            LinkAttribute::Xdp(attributes) => interface.xdp = attached_xdp(&attributes),
            _ => {}
        }
    }
    interface
}

/// What packets begin with on a device of this type
/// (`include/uapi/linux/if_arp.h`). Not among them: GRE, whose devices put a
/// header of their own in front of some packets before they come to a hook, and
/// not of others.
fn link_layer(kind: LinkLayerType) -> Option<LinkLayer> {
    match kind {
        LinkLayerType::Ether => Some(LinkLayer::Ethernet),
        // tun, WireGuard, XFRM; modems; ppp; IPIP and VTI; 6in4.
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit => Some(LinkLayer::Bare),
        _ => None,
    }
}

fn is_bridged(info: &LinkInfo) -> bool {
    use rtnetlink::packet_route::link::InfoPortKind;
    matches!(
        info,
        LinkInfo::Kind(InfoKind::Bridge) | LinkInfo::PortKind(InfoPortKind::Bridge)
    )
}

fn attached_xdp(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let program = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    })?;
    let native = attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkXdp::Attached(XdpAttached::Driver)));
    Some(AttachedXdp { program, native })
}

/// The programs that are filters of an interface's clsact qdisc.
async fn clsact_programs(handle: &Handle, index: u32, egress: bool) -> Result<Vec<u32>> {
    let mut filters = handle.traffic_filter(i32::try_from(index)?);
    let request = if egress {
        filters.get().egress()
    } else {
        filters.get().ingress()
    };
    // Without a clsact qdisc there are no filters, and the kernel says EINVAL.
    let messages: Vec<_> = request.execute().try_collect().await.unwrap_or_default();
    let programs = messages
        .into_iter()
        .flat_map(|message| message.attributes)
        .filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.into_iter().find_map(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(id),
                _ => None,
            }),
            _ => None,
        });
    Ok(programs.collect())
}
