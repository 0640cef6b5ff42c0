//! `dropcloth doctor`: everything that a run asks of this machine, tried and not guessed; one line and one fix each.

mod trials;

use std::os::fd::AsFd;
use std::path::Path;

use serde::Serialize;

use super::userns::{self, Map};
use crate::error::{Fault, Result};
use crate::host::caller::Caller;
use crate::host::ids::{self, Maps};
use crate::image::{Image, Inside};
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::process::{self, Forked};
use crate::sys::{fs, userns as namespaces, volume};
use trials::{beside, in_child, mount_tmpfs_on_tmp, overlay_below};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, with a limit.
    Limit,
    /// A run would fail.
    Fails,
}

/// One fact.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

struct Doctor {
    checks: Vec<Check>,
    caller: Caller,
    /// The namespace that a run would enter; none: it needs none.
    maps: Option<Maps>,
}

/// Tries everything; 0 when a run would work, 1 when not.
pub fn doctor(root: Option<&Path>, wish: Map, json: bool) -> Result<u8> {
    let mut doctor = Doctor { checks: Vec::new(), caller: Caller::of_process(), maps: None };
    doctor.kernel();
    doctor.rights(wish);
    doctor.overlay();
    doctor.proc();
    doctor.network();
    if let Some(root) = root {
        doctor.image(root)?;
    }
    let failed = doctor.checks.iter().any(|c| c.verdict == Verdict::Fails);
    crate::sys::signal::default_sigpipe();
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(
                &serde_json::json!({ "version": 1, "works": !failed, "checks": doctor.checks })
            )?
        );
    } else {
        for check in &doctor.checks {
            let word = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Limit => "limit",
                Verdict::Fails => "FAILS",
            };
            println!("{word:<6} {:<18} {}", check.what, check.said);
            if let Some(fix) = &check.fix {
                println!("       {:<18} fix: {fix}", "");
            }
        }
    }
    Ok(u8::from(failed))
}

impl Doctor {
    fn add(&mut self, what: &'static str, verdict: Verdict, said: impl Into<String>, fix: Option<String>) {
        self.checks.push(Check { what, verdict, said: said.into(), fix });
    }

    /// Adds the result of a trial.
    fn tried(&mut self, what: &'static str, good: &str, result: Result<()>, otherwise: Verdict, fix: &str) {
        match result {
            Ok(()) => self.add(what, Verdict::Ok, good, None),
            Err(error) => {
                let fault = Fault::from_error(error);
                let fix = fault.hints.first().cloned().unwrap_or_else(|| fix.to_owned());
                self.add(what, otherwise, fault.to_string(), Some(fix));
            }
        }
    }

    fn kernel(&mut self) {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let (verdict, fix) = match version {
            (5, 12..) | (6.., _) => (Verdict::Ok, None),
            _ => (
                Verdict::Fails,
                Some("Upgrade the kernel: dropcloth needs Linux 5.12 (mount_setattr, volatile overlays).".to_owned()),
            ),
        };
        self.add("kernel", verdict, format!("Linux {release}"), fix);
    }

    /// Root, or the way to be root of a user namespace.
    fn rights(&mut self, wish: Map) {
        if crate::host::may_mount() {
            let said = if crate::host::in_user_namespace() {
                "CAP_SYS_ADMIN in a user namespace: everything works, with the overlay of an ordinary user"
            } else {
                "root: CAP_SYS_ADMIN"
            };
            return self.add("rights", Verdict::Ok, said, None);
        }
        self.add(
            "rights",
            Verdict::Ok,
            format!("an ordinary user ({}), through a user namespace", self.caller.uid),
            None,
        );
        let alone = in_child(|| namespaces::unshare().map_err(|error| userns::forbidden(error.errno).into()));
        self.tried("user namespace", "can be made", alone, Verdict::Fails, "");
        let maps = match userns::maps(&mut self.caller, wish) {
            Ok(maps) => maps,
            Err(error) => return self.tried("subordinate ids", "", Err(error), Verdict::Fails, ""),
        };
        if maps.is_single() {
            let why = self.caller.single_because.clone().unwrap_or_else(|| "--map single".to_owned());
            self.add(
                "subordinate ids",
                Verdict::Limit,
                format!("{why}: one id only, so chown and programs that change their user fail"),
                Some("Have root run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, or use --suppress-chown.".to_owned()),
            );
        } else {
            let count: u32 = maps.users.iter().map(|e| e.count).sum();
            let entered = in_child(|| userns::enter_with(&self.caller, &maps));
            self.tried(
                "subordinate ids",
                &format!("{count} ids, mapped by newuidmap and newgidmap"),
                entered,
                Verdict::Fails,
                "",
            );
        }
        self.maps = Some(maps);
    }

    /// Runs a trial in a child with the rights that a run would have, in a mount namespace of its own.
    fn attempt(&self, trial: impl FnOnce() -> Result<()>) -> Result<()> {
        in_child(|| {
            if let Some(maps) = &self.maps {
                userns::enter_with(&self.caller, maps)?;
            }
            namespaces::unshare_mounts()?;
            mount::make_all_private()?;
            trial()
        })
    }

    fn overlay(&mut self) {
        let trial = self.attempt(|| {
            let tmpfs = mount_tmpfs_on_tmp()?;
            overlay_below(tmpfs.as_fd())
        });
        self.tried("overlay", "can be mounted", trial, Verdict::Fails, "Load it with `modprobe overlay` as root.");
        let user = self.maps.is_some() || crate::host::in_user_namespace();
        if user {
            self.add(
                "exactness",
                Verdict::Limit,
                "in a user namespace an overlay renames no directory of the image (EXDEV, programs copy) and breaks its hard links",
                Some("--exact works on a copy of the image instead; a commit names the hard links that it broke.".to_owned()),
            );
        }
    }

    fn proc(&mut self) {
        let trial = self.attempt(|| {
            let forked = process::clone_into(libc::CLONE_NEWPID | libc::CLONE_NEWNS)?;
            match forked {
                Forked::Child => {
                    let made = FsContext::open("proc").and_then(|proc| proc.mount(Attr::empty()));
                    process::exit_now(i32::from(made.is_err()))
                }
                Forked::Parent { pid, .. } => match process::wait_for(pid, 0)? {
                    Some((_, process::Ended::Exited(0))) => Ok(()),
                    _ => {
                        Err(Fault::new("the kernel makes no new /proc here: a container masks parts of the old one")
                            .into())
                    }
                },
            }
        });
        let fix = "The step sees the container's /proc. Start the container with `--security-opt systempaths=unconfined` (Docker) or `--security-opt unmask=ALL` (Podman).";
        self.tried("/proc", "new for each step", trial, Verdict::Limit, fix);
    }

    fn network(&mut self) {
        let trial = self.attempt(|| {
            let forked = process::clone_into(libc::CLONE_NEWNET)?;
            match forked {
                Forked::Child => process::exit_now(i32::from(crate::sys::net::interface_up("lo").is_err())),
                Forked::Parent { pid, .. } => match process::wait_for(pid, 0)? {
                    Some((_, process::Ended::Exited(0))) => Ok(()),
                    _ => Err(Fault::new("the loopback interface cannot be brought up").into()),
                },
            }
        });
        self.tried(
            "--network none",
            "works",
            trial,
            Verdict::Limit,
            "Have root run `sysctl user.max_net_namespaces=15000`.",
        );
    }

    /// What the image itself asks.
    fn image(&mut self, root: &Path) -> Result<()> {
        let image = Image::open(root)?;
        self.owner(&image)?;
        self.architecture(&image)?;
        let above = image.path().parent().map(Path::to_owned).unwrap_or_default();
        let kind = volume::kind(image.directory())?;
        let path = image.path().to_owned();
        let trial = self.attempt(|| beside(&above, &path));
        let fix = format!("Use --backend copy, or move the image; it is on {kind}.");
        self.tried("transaction", "an overlay over the image can be kept beside it", trial, Verdict::Fails, &fix);
        self.options(&image)
    }

    fn owner(&mut self, image: &Image) -> Result<()> {
        let Some(maps) = &self.maps else { return Ok(()) };
        let stat = fs::fstat(image.directory())?;
        let good = ids::has(&maps.users, stat.st_uid) && ids::has(&maps.groups, stat.st_gid);
        let said = format!("the image's root belongs to {}:{}", stat.st_uid, stat.st_gid);
        let fix = "Unpack the image again with `dropcloth unpack`, or run dropcloth with sudo.";
        match good {
            true => self.add("owner", Verdict::Ok, said, None),
            false => {
                self.add("owner", Verdict::Fails, format!("{said}, who is not in the id map"), Some(fix.to_owned()))
            }
        }
        Ok(())
    }

    /// The image's own programs have to run here, or by binfmt_misc.
    fn architecture(&mut self, image: &Image) -> Result<()> {
        let names = ["/bin/sh", "/usr/bin/env", "/bin/busybox"];
        let machine = names.iter().filter_map(|name| elf_machine(image, name)).next();
        let (verdict, said, fix) = match machine {
            None => (Verdict::Limit, "no program found in the image that tells".to_owned(), None),
            Some(machine) if machine == elf_machine_here() => {
                (Verdict::Ok, format!("ELF machine {machine}, this machine's"), None)
            }
            Some(machine) => match interpreter(machine) {
                Some(name) => (Verdict::Ok, format!("ELF machine {machine}, by binfmt_misc {name}"), None),
                None => (
                    Verdict::Fails,
                    format!("ELF machine {machine}, and nothing here runs it"),
                    Some("Install an emulator: `apt-get install qemu-user-static binfmt-support`.".to_owned()),
                ),
            },
        };
        self.add("architecture", verdict, said, fix);
        Ok(())
    }

    fn options(&mut self, image: &Image) -> Result<()> {
        let attributes = mount::attributes_of(image.directory())?;
        let table = [
            (Attr::MOUNT_ATTR_NOEXEC, "noexec", Verdict::Fails, "programs of the image cannot run"),
            (Attr::MOUNT_ATTR_NOSUID, "nosuid", Verdict::Limit, "set-uid programs of the image have no effect"),
        ];
        let before = self.checks.len();
        for (_, name, verdict, what) in table.into_iter().filter(|(flag, ..)| attributes.contains(*flag)) {
            let fix =
                format!("Have root run `mount -o remount,{} DIR`, or move the image.", name.trim_start_matches("no"));
            self.add("mount options", verdict, format!("the image is mounted {name}: {what}"), Some(fix));
        }
        if mount::is_read_only(image.directory())? {
            self.add(
                "mount options",
                Verdict::Fails,
                "the image is mounted read-only",
                Some("`mount -o remount,rw`, or --mode discard.".to_owned()),
            );
        }
        if self.checks.len() == before {
            self.add("mount options", Verdict::Ok, "nothing in the way", None);
        }
        Ok(())
    }
}

/// `e_machine` of an ELF program, elf(5); none: it is something else.
fn elf_machine(image: &Image, name: &str) -> Option<u16> {
    use std::io::Read;
    let place = image.resolve(&Inside::lexical(Path::new(name))?).ok()?;
    let (parent, base) = place.path.split()?;
    let directory = fs::open_dir_below(image.directory(), parent.bytes()).ok()?;
    let mut header = [0_u8; 20];
    std::fs::File::from(fs::open_read(directory.as_fd(), base).ok()?).read_exact(&mut header).ok()?;
    let little = header[5] == 1;
    let machine = [header[18], header[19]];
    (header[..4] == *b"\x7fELF").then(|| if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) })
}

/// EM_X86_64 or EM_AARCH64, elf.h.
fn elf_machine_here() -> u16 {
    if cfg!(target_arch = "x86_64") { 62 } else { 183 }
}

/// The enabled interpreter of binfmt_misc for this machine, by the magic it waits for.
fn interpreter(machine: u16) -> Option<String> {
    let wanted: String = machine.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
    for entry in std::fs::read_dir("/proc/sys/fs/binfmt_misc").ok()?.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let Some(magic) = text.lines().find_map(|line| line.strip_prefix("magic ")) else { continue };
        // Bytes 18 and 19 of the header.
        if text.starts_with("enabled") && magic.get(36..40) == Some(&wanted) {
            return Some(entry.file_name().to_string_lossy().into_owned());
        }
    }
    None
}
