//! Mirror servers for the length of a run.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/packages.rs"]
mod packages;
mod support;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use packages::{Package, tree};
use support::{Field, assert_code, stderr, stdout};

/// Serves a tree by http, as its command line says where.
const SERVER: &str = "exec python3 -m http.server $PORT --bind 127.0.0.1 --directory \"$DATA/../../served\"";

struct Ground {
    field: Field,
    files: tempfile::TempDir,
}

impl Ground {
    fn new(field: Field) -> Ground {
        let files = tempfile::tempdir().unwrap();
        let served = files.path().join("served/simple");
        tree(&served, &[Package::wheel("only-here", "1.0")]);
        Ground { field, files }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.field.dropcloth(arguments);
        command.env("DIB_IMAGE_CACHE", self.files.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Processes with the folder of this ground in their command lines or environments.
    fn servers(&self) -> Vec<String> {
        let name = self.files.path().to_str().unwrap().as_bytes();
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let of_ours = |path: &PathBuf| {
            let has = |file: &str| {
                std::fs::read(path.join(file)).is_ok_and(|text| text.windows(name.len()).any(|w| w == name))
            };
            has("cmdline") || has("environ")
        };
        processes.filter(of_ours).map(|path| path.display().to_string()).collect()
    }
}

#[test]
fn a_server_is_there_while_the_step_runs_and_gone_afterwards() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    let script = "wget -q -O - $(sed -n 's/^index-url = //p' /etc/pip.conf)only-here/";
    let output = ground.run(&["run", "--serve", SERVER, "./rootfs", "--", "sh", "-c", script]);
    assert!(stdout(&output).contains("only_here-1.0-py3-none-any.whl"), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(ground.servers(), Vec::<String>::new());
}

#[test]
fn a_killed_run_takes_its_server_and_all_that_it_started_with_it() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    let server = format!("sleep 1000 & {}", SERVER.replace("exec ", ""));
    let mut child = ground
        .command(&["run", "--serve", &server, "./rootfs", "--", "sh", "-c", "echo ready; sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    assert!(ground.servers().len() >= 3, "the server, its shell and what it started: {:?}", ground.servers());
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = (0..100).find(|_| {
        std::thread::sleep(Duration::from_millis(50));
        ground.servers().is_empty()
    });
    assert!(gone.is_some(), "{:?}", ground.servers());
    assert_code(&ground.run(&["recover", "./rootfs"]), 0);
}

#[test]
fn a_server_that_does_not_serve_is_told_with_what_it_said_and_the_step_is_not_started() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    let output =
        ground.run(&["run", "--serve", "echo no licence; exit 3", "./rootfs", "--", "sh", "-c", "echo started"]);
    assert_code(&output, 125);
    let said = stderr(&output);
    assert!(said.contains("it ended with code 3") && said.contains("no licence"), "{said}");
    assert_eq!(stdout(&output), "");
    let output = ground.run(&["run", "--serve", "devpi=ftp://x/", "--network", "none", "./rootfs", "--", "true"]);
    assert_code(&output, 125);
    let said = stderr(&output);
    assert!(said.contains("ftp://x/") && said.contains("--network none"), "{said}");
}

mod as_root {
    use super::*;

    /// The official index as devpi-server caches it: online once, then without anybody to ask.
    #[test]
    fn what_devpi_has_seen_once_it_serves_offline() {
        needs_root!();
        let ground = Ground::new(Field::of(&support::debian_root()));
        let programs = support::project().join("target/frameworks/devpi/bin");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        let install = |options: &[&str], package: &str| {
            let pip = ["./rootfs", "--", "pip", "install", "--break-system-packages", "--no-deps", package];
            let arguments = [&["run", "--mode", "discard", "--serve", "devpi"], options, &pip[..]].concat();
            // What this machine needs to get out.
            let way_out = std::env::vars_os().filter(|(name, _)| {
                let name = name.to_string_lossy().to_lowercase();
                name.ends_with("_proxy") || name.contains("cert") || name.contains("ca_bundle")
            });
            ground.command(&arguments).envs(way_out).env("PATH", &path).output().unwrap()
        };
        let online = install(&[], "six");
        assert_code(&online, 0);
        assert!(stdout(&online).contains("/root/pypi/+simple/"), "{}", stdout(&online));
        assert_eq!(ground.servers(), Vec::<String>::new());
        let offline = install(&["--offline"], "six");
        assert_code(&offline, 0);
        assert!(stdout(&offline).contains("Successfully installed six"), "{}", stdout(&offline));
        assert_code(&install(&["--offline"], "attrs"), 1);
    }
}
