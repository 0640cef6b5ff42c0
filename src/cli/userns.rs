//! The same without root: dropcloth moves itself into a user namespace before anything else, and goes on as its root.

use std::path::Path;

use crate::error::{Fault, Result, refuse};
use crate::host::caller::Caller;
use crate::host::ids::{self, Extent, Maps};
use crate::sys::userns::{self, Line, Mapper};

/// Which ids the namespace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Map {
    /// The subordinate ids, or one id when there are none.
    #[default]
    Auto,
    /// The subordinate ids of /etc/subuid and /etc/subgid.
    Subids,
    /// One id: whoever calls is root, and there is nobody else.
    Single,
}

/// Remembers who called, and enters a user namespace when the right to mount is missing.
pub fn enter(wish: Map) -> Result<()> {
    let mut caller = Caller::of_process();
    if !crate::host::may_mount() {
        let maps = maps(&mut caller, wish)?;
        enter_with(&caller, &maps)?;
        caller.maps = Some(maps);
    }
    caller.remember();
    Ok(())
}

/// The maps that `wish` means for this caller.
pub fn maps(caller: &mut Caller, wish: Map) -> Result<Maps> {
    let single = Maps::single(caller.uid, caller.gid);
    if wish == Map::Single {
        return Ok(single);
    }
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(caller.uid)).ok().flatten();
    let name = user.as_ref().map(|u| u.name.as_str());
    let [users, groups] =
        ["/etc/subuid", "/etc/subgid"].map(|file| ids::subordinate(Path::new(file), name, caller.uid));
    if !users.is_empty() && !groups.is_empty() {
        return Ok(Maps::with_subordinates(caller.uid, &users, caller.gid, &groups));
    }
    let missing = if users.is_empty() { "/etc/subuid" } else { "/etc/subgid" };
    let who = name.map_or_else(|| caller.uid.to_string(), str::to_owned);
    if wish == Map::Subids {
        return refuse(
            Fault::new(format!("there are no subordinate ids of {who} in {missing}"))
                .hint(format!("Have root run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who}`, or use --map single.")),
        );
    }
    caller.single_because = Some(format!("{missing} has no line for {who}"));
    Ok(single)
}

fn lines(extents: &[Extent]) -> Vec<Line> {
    extents.iter().map(|e| (e.inside, e.outside, e.count)).collect()
}

/// Enters a user namespace with these maps.
pub fn enter_with(caller: &Caller, maps: &Maps) -> Result<()> {
    let (users, groups) = (lines(&maps.users), lines(&maps.groups));
    let mapper = if maps.is_single() { None } else { Some(Mapper::start(&users, &groups)?) };
    if let Err(error) = userns::unshare() {
        return refuse(forbidden(error.errno));
    }
    match mapper {
        Some(mapper) => mapper.finish().map_err(|said| unmapped(caller, &said))?,
        None => userns::write_directly("self", &users, &groups, false)?,
    }
    Ok(userns::become_root(!maps.is_single())?)
}

/// Why the kernel or the distribution does not let an ordinary user make a user namespace.
pub fn forbidden(errno: i32) -> Fault {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let fault = Fault::new("cannot run without root: making a user namespace is forbidden here");
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let fault = fault.because(format!("unshare(CLONE_NEWUSER): {text}"));
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return fault.hint("Have root run `sysctl user.max_user_namespaces=15000`, or run dropcloth with sudo.");
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return fault.hint("Have root run `sysctl kernel.unprivileged_userns_clone=1`, or run dropcloth with sudo.");
    }
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return fault.hint("AppArmor forbids it (Ubuntu 23.10 and later). Have root run `scripts/install-apparmor-profile`, which allows it for dropcloth, or run dropcloth with sudo.");
    }
    fault.hint("In a container its seccomp profile forbids it: start it with `--security-opt seccomp=unconfined`, or run dropcloth as root outside.")
}

/// Why the maps could not be written.
fn unmapped(caller: &Caller, said: &str) -> Fault {
    let fault = Fault::new("cannot run without root: the subordinate ids could not be mapped").because(said);
    if said.contains("os error 2") {
        return fault.hint("Install newuidmap and newgidmap: `apt-get install uidmap` (Debian, Ubuntu) or `dnf install shadow-utils`, or use --map single.");
    }
    if said.contains("Operation not permitted") || said.contains("not permitted") {
        return fault.hint("newuidmap and newgidmap have lost their set-uid bit or capability: `sudo chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap`, or use --map single.");
    }
    fault.hint(format!("Compare /etc/subuid and /etc/subgid with user {}: a range that overlaps or exceeds the allowed one is refused. Or use --map single.", caller.uid))
}
