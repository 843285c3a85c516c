//! Puts programs on hooks, replaces them there, and takes them off.
//!
//! A hook that is a link is replaced in one step, with no moment in between
//! (`bpf_link_update`); so is a clsact filter.

use std::{fs, io, mem, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{
        Link as _, LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
        xdp::XdpLink,
    },
    util::KernelVersion,
};
use aya_obj::programs::XdpAttachType;
use nix::net::if_::if_indextoname;

use super::{
    interfaces::Interface,
    manifest::{HookRecord, LinkLayer, Place},
    object,
    store::Store,
    unlink,
};
use crate::policy::{Direction, XdpPreference};

/// Where our filter stands among those of a clsact qdisc: first, under a handle
/// that says who we are ("SG").
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x5347);

/// A loaded program, of either kind.
pub enum Program<'a> {
    /// For XDP.
    Xdp(&'a mut Xdp),
    /// For tc.
    Tc(&'a mut SchedClassifier),
}

/// The tc place of this kernel.
#[must_use]
pub fn tc_place() -> Place {
    let has_tcx = KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(6, 6, 0));
    if has_tcx { Place::Tcx } else { Place::Clsact }
}

/// Where an interface's packets can be judged, best first.
#[must_use]
pub fn places(
    direction: Direction,
    preference: XdpPreference,
    interface: &Interface,
) -> Vec<Place> {
    match (direction, preference) {
        // The kernel lets XDP see such packets as they are, without saying of
        // which protocol they are; and drivers' XDP is for Ethernet.
        _ if interface.layer == Some(LinkLayer::Bare) => match preference {
            XdpPreference::Auto | XdpPreference::Tc => vec![tc_place()],
            XdpPreference::Native | XdpPreference::Generic => Vec::new(),
        },
        (Direction::Outbound, _) | (_, XdpPreference::Tc) => vec![tc_place()],
        (_, XdpPreference::Native) => vec![Place::XdpNative],
        (_, XdpPreference::Generic) => vec![Place::XdpGeneric],
        (_, XdpPreference::Auto) if interface.is_bridged => vec![tc_place()],
        (_, XdpPreference::Auto) => vec![Place::XdpNative, Place::XdpGeneric, tc_place()],
    }
}

/// The name of the program for a place, direction and kind of device.
#[must_use]
pub const fn program_name(direction: Direction, place: Place, layer: LinkLayer) -> &'static str {
    match (direction, place, layer) {
        (Direction::Inbound, Place::XdpNative | Place::XdpGeneric, _) => object::XDP,
        (Direction::Inbound, _, LinkLayer::Ethernet) => object::TC_INGRESS,
        (Direction::Outbound, _, LinkLayer::Ethernet) => object::TC_EGRESS,
        (Direction::Inbound, _, LinkLayer::Bare) => object::BARE_INGRESS,
        (Direction::Outbound, _, LinkLayer::Bare) => object::BARE_EGRESS,
    }
}

/// Opens a pinned program.
///
/// # Errors
/// It is not there.
pub fn with_pinned<T>(
    path: &Path,
    place: Place,
    act: impl FnOnce(&mut Program<'_>) -> Result<T>,
) -> Result<T> {
    let context = || format!("opening the program `{}`", path.display());
    match place {
        Place::XdpNative | Place::XdpGeneric => {
            let mut program =
                Xdp::from_pin(path, XdpAttachType::Interface).with_context(context)?;
            act(&mut Program::Xdp(&mut program))
        }
        Place::Tcx | Place::Clsact => {
            let mut program = SchedClassifier::from_pin(path).with_context(context)?;
            act(&mut Program::Tc(&mut program))
        }
    }
}

/// The program that the pinned link of a hook runs; `None` without a link.
///
/// # Errors
/// There is one, and the kernel does not show it.
pub fn linked_program(store: &Store, direction: Direction, index: u32) -> Result<Option<u32>> {
    let path = store.link(direction, index);
    let context = || format!("opening the link `{}`", path.display());
    if !path.try_exists().with_context(context)? {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(&path).with_context(context)?;
    let info = FdLink::from(link).info().with_context(context)?;
    Ok(Some(info.program_id()))
}

/// Puts a program where there is none of ours yet.
///
/// # Errors
/// The kernel refuses; then nothing has changed.
pub fn attach(store: &Store, program: &mut Program<'_>, hook: &HookRecord) -> Result<()> {
    let path = store.link(hook.direction, hook.index);
    let link = match (program, hook.place) {
        (Program::Xdp(program), Place::XdpNative) => xdp_link(program, hook, XdpMode::Driver)?,
        (Program::Xdp(program), Place::XdpGeneric) => xdp_link(program, hook, XdpMode::Skb)?,
        (Program::Tc(program), Place::Tcx) => tcx_link(program, hook)?,
        (Program::Tc(program), Place::Clsact) => return attach_clsact(program, hook),
        (_, place) => bail!("a program of the wrong kind for {}", place.name()),
    };
    link.pin(&path)
        .with_context(|| format!("pinning `{}`", path.display()))?;
    Ok(())
}

fn xdp_link(program: &mut Xdp, hook: &HookRecord, mode: XdpMode) -> Result<FdLink> {
    let id = program.attach_to_if_index(hook.index, mode)?;
    // Where the kernel refused a link, aya has attached through netlink. Such
    // an attachment would end with this process: the conversion fails, and
    // dropping it takes it off again.
    program
        .take_link(id)?
        .try_into()
        .context("the kernel gave no link that can be pinned")
}

fn tcx_link(program: &mut SchedClassifier, hook: &HookRecord) -> Result<FdLink> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&hook.interface, tc_side(hook.direction), options)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_clsact(program: &mut SchedClassifier, hook: &HookRecord) -> Result<()> {
    // Already there is as good as added.
    let _ = qdisc_add_clsact(&hook.interface);
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: CLSACT_PRIORITY,
        handle: CLSACT_HANDLE,
        ..NlOptions::default()
    });
    let id = program.attach_with_options(&hook.interface, tc_side(hook.direction), options)?;
    // The filter is the kernel's now; dropping the link would remove it.
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// Replaces our program on a hook, in one step.
///
/// # Errors
/// The kernel refuses; then the old one is still there.
pub fn replace(store: &Store, program: &mut Program<'_>, hook: &HookRecord) -> Result<()> {
    if hook.place == Place::Clsact {
        let Program::Tc(program) = program else {
            bail!("an XDP program can't be a tc filter")
        };
        let id = program.attach_to_link(clsact_link(hook)?)?;
        mem::forget(program.take_link(id)?);
        return Ok(());
    }
    let path = store.link(hook.direction, hook.index);
    let pinned = PinnedLink::from_pin(&path)
        .with_context(|| format!("opening the link `{}`", path.display()))?;
    let link = FdLink::from(pinned);
    match program {
        Program::Xdp(program) => {
            let id = program.attach_to_link(XdpLink::try_from(link)?)?;
            drop(program.take_link(id)?);
        }
        Program::Tc(program) => {
            let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
            drop(program.take_link(id)?);
        }
    }
    Ok(())
}

/// Puts our program back on a hook, whether or not another one of ours is there.
///
/// # Errors
/// The kernel refuses.
pub fn restore(store: &Store, program: &mut Program<'_>, hook: &HookRecord) -> Result<()> {
    match replace(store, program, hook) {
        Err(error) if is_vacant(hook, &error) => {
            detach(store, hook)?;
            attach(store, program, hook)
        }
        result => result,
    }
}

/// Whether a program could not be replaced because there is none of ours any
/// more: its link was removed, or its interface. Any other refusal says nothing
/// about what is there.
#[must_use]
pub fn is_vacant(hook: &HookRecord, error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
        .any(|errno| match errno {
            libc::ENOENT | libc::ENOLINK | libc::ENODEV => true,
            // There is no clsact qdisc to have a filter.
            libc::EINVAL => hook.place == Place::Clsact,
            _ => false,
        })
}

/// Takes our program off a hook. One whose interface is gone is off already.
///
/// # Errors
/// The kernel refuses.
pub fn detach(store: &Store, hook: &HookRecord) -> Result<()> {
    if hook.place == Place::Clsact {
        let Ok(link) = clsact_link(hook) else {
            return Ok(());
        };
        return link
            .detach()
            .with_context(|| format!("removing the tc filter of `{}`", hook.interface));
    }
    let path = store.link(hook.direction, hook.index);
    unlink::now(&path)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// Our filter on the interface that has the hook's number, whatever it is
/// called by now. By name it could be another interface's, made anew.
fn clsact_link(hook: &HookRecord) -> Result<SchedClassifierLink> {
    let name = if_indextoname(hook.index)
        .with_context(|| format!("interface `{}` is gone", hook.interface))?;
    SchedClassifierLink::attached(
        &name.to_string_lossy(),
        tc_side(hook.direction),
        CLSACT_PRIORITY,
        CLSACT_HANDLE,
        None,
    )
    .with_context(|| format!("looking for the interface `{}`", hook.interface))
}

const fn tc_side(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Inbound => TcAttachType::Ingress,
        Direction::Outbound => TcAttachType::Egress,
    }
}

/// The name of any program in the kernel, for messages.
#[must_use]
pub fn name_of_program(id: u32) -> String {
    loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "unnamed".to_owned())
}

/// The programs at tcx of one interface and direction, in their order.
#[must_use]
pub fn tcx_programs(interface: &str, direction: Direction) -> Vec<(u32, String)> {
    let Ok((_, programs)) = SchedClassifier::query_tcx(interface, tc_side(direction)) else {
        return Vec::new();
    };
    programs
        .iter()
        .map(|program| {
            (
                program.id(),
                program.name_as_str().unwrap_or("unnamed").to_owned(),
            )
        })
        .collect()
}
