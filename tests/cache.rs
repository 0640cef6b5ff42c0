//! Caches that outlive steps and never get into an image.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use support::{Field, assert_code, stderr, stdout};

struct Ground {
    field: Field,
    home: tempfile::TempDir,
}

impl Ground {
    fn new(field: Field) -> Ground {
        Ground { field, home: tempfile::tempdir_in(support::temporary()).unwrap() }
    }

    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let arguments = ["run"].iter().chain(options).chain(&["./rootfs", "--"]).chain(command);
        let mut command = self.field.dropcloth(arguments);
        command.env("XDG_CACHE_HOME", self.home.path());
        command
    }

    fn run(&self, options: &[&str], script: &str) -> std::process::Output {
        self.command(options, &["sh", "-c", script]).output().unwrap()
    }

    /// The one directory of this name below the caches.
    fn cache(&self, name: &str) -> PathBuf {
        let mut found = Vec::new();
        for release in std::fs::read_dir(self.home.path().join("dropcloth/caches")).unwrap().flatten() {
            let names = std::fs::read_dir(release.path()).unwrap().flatten().map(|entry| entry.path());
            found.extend(names.filter(|path| path.is_dir() && path.file_name().unwrap() == name));
        }
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found.remove(0)
    }

    /// A run that says `ready` and then waits until the file `go` is in the cache.
    fn waiting(&self, cache: &str) -> Child {
        let script = "echo mine > /srv/c/$$; echo ready; while [ ! -e /srv/c/go ]; do sleep 0.05; done";
        let mut command = self.command(&["--mode", "discard", "--cache", cache], &["sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }
}

#[test]
fn a_cache_is_there_again_in_every_mode_and_never_in_the_image() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    let before = ground.field.snapshot();
    let options = ["--cache", "things=/srv/deep/things"];
    let modes: [&[&str]; 5] =
        [&["--mode", "discard"], &["--mode", "commit"], &["--mode", "through"], &["--backend", "copy"], &[]];
    for (number, mode) in modes.iter().enumerate() {
        let script = format!("[ $(ls /srv/deep/things | wc -l) = {number} ] && echo x > /srv/deep/things/{number}");
        assert_code(&ground.run(&[&options[..], mode].concat(), &script), 0);
    }
    // What a failed step has put there stays, too.
    assert_code(&ground.run(&options, "echo x > /srv/deep/things/failed; exit 3"), 3);
    assert!(ground.cache("things").join("failed").is_file());
    support::tree::assert_same(&before, &ground.field.snapshot(), "steps with a cache");
}

#[test]
fn shared_runs_have_it_at_once_a_locked_one_waits_and_a_private_one_has_its_own() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    let mut first = ground.waiting("c=/srv/c");
    let count = |cache: &str| ground.run(&["--mode", "discard", "--cache", cache], "ls /srv/c | wc -l");
    assert_eq!(stdout(&count("c=/srv/c:shared")), "1\n");
    assert_eq!(stdout(&count("c=/srv/c:private")), "0\n", "its own, and empty");
    let locked = ground.command(&["--mode", "discard", "--cache", "c=/srv/c:locked"], &["ls", "/srv/c"]);
    let mut locked = { locked }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(locked.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waiting for the run that has the cache c") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it does not wait");
    }
    assert!(locked.try_wait().unwrap().is_none());
    std::fs::write(ground.cache("c").join("go"), "").unwrap();
    assert!(first.wait().unwrap().success());
    std::io::copy(&mut said, &mut std::io::sink()).unwrap();
    assert_eq!(stdout(&locked.wait_with_output().unwrap()).lines().count(), 2);
    assert_eq!(stdout(&count("c=/srv/c:private")), "2\n", "nobody has it, so it is the common one");
}

#[test]
fn a_killed_run_holds_nothing() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    let mut first = ground.waiting("c=/srv/c:locked");
    first.kill().unwrap();
    first.wait().unwrap();
    let next = ground.run(&["--mode", "discard", "--cache", "c=/srv/c:locked"], "ls /srv/c");
    assert_code(&next, 0);
    assert!(!stderr(&next).contains("waiting"), "{}", stderr(&next));
    assert_code(&ground.field.dropcloth(["recover", "./rootfs"]).output().unwrap(), 0);
}

#[test]
fn the_settings_file_has_them_and_what_makes_no_sense_is_refused() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    std::fs::write(ground.home.path().join("c.yaml"), "cache: [pip, 'npm=/root/.npm:private']\n").unwrap();
    let file = ground.home.path().join("c.yaml");
    let plan = ground.field.dropcloth(["--config", file.to_str().unwrap(), "plan", "./rootfs"]).output().unwrap();
    assert_code(&plan, 0);
    let text = stdout(&plan);
    for words in ["/root/.cache/pip", "the cache npm, private", "PIP_CACHE_DIR=/root/.cache/pip"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    for (cache, words) in
        [("npm", "NAME=PATH"), ("x=/..", "has a .. in it"), ("x=/", "is the root"), ("x=/bin/sh", "is not a directory")]
    {
        let output = ground.run(&["--cache", cache], "true");
        assert_code(&output, 125);
        assert!(stderr(&output).contains(words), "{cache}: {}", stderr(&output));
    }
    assert_code(&ground.run(&["--cache", "x=/a", "--cache", "x=/b"], "true"), 125);
}

#[test]
fn a_link_in_the_place_of_a_cache_is_not_followed() {
    needs_sandbox!();
    let ground = Ground::new(Field::small());
    assert_code(&ground.run(&["--mode", "discard", "--cache", "c=/srv/c"], "true"), 0);
    let place = ground.cache("c");
    std::fs::remove_dir(&place).unwrap();
    std::os::unix::fs::symlink("/etc", &place).unwrap();
    let output = ground.run(&["--mode", "discard", "--cache", "c=/srv/c"], "true");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("is no directory of user"), "{}", stderr(&output));
}

#[test]
fn pip_takes_from_its_cache_what_another_image_has_built() {
    needs_sandbox!();
    let ground = Ground::new(Field::of(&support::debian_root()));
    let mirror = support::mirror();
    let install = || {
        let options = ["--mode", "discard", "--offline", "--mirror", mirror.to_str().unwrap(), "--cache", "pip"];
        let output = ground.run(&options, "pip install --break-system-packages --no-deps docopt && python3 -m docopt");
        assert_code(&output, 0);
        stdout(&output)
    };
    assert!(install().contains("Building wheel for docopt"));
    let again = install();
    assert!(again.contains("Using cached docopt-0.6.2") || !again.contains("Building wheel"), "{again}");
    assert!(ground.cache("pip").join("wheels").is_dir());
}

#[test]
fn apt_keeps_its_archives_and_its_cleaner_is_laid_over() {
    needs_sandbox!();
    let ground = Ground::new(Field::of(&support::debian_root()));
    let cleaner = ground.field.root.join("etc/apt/apt.conf.d/docker-clean");
    std::fs::write(&cleaner, "APT::Keep-Downloaded-Packages \"false\";\n").unwrap();
    let script = "apt-config dump | grep ^APT::Keep; ls -d /var/cache/apt/archives/partial; cat /etc/apt/apt.conf.d/docker-clean";
    let output = ground.run(&["--cache", "apt"], script);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "APT::Keep-Downloaded-Packages \"true\";\n/var/cache/apt/archives/partial\n");
    assert!(std::fs::read_to_string(&cleaner).unwrap().contains("false"));
    assert!(!ground.field.root.join("etc/apt/apt.conf.d/zz-dropcloth").exists());
}

mod as_root {
    use super::*;

    #[test]
    fn uv_keeps_its_cache_outside() {
        needs_root!();
        let root = support::made(&["make-tools"], "roots/tools");
        let ground = Ground::new(Field::small());
        let mirror = support::mirror();
        let home = ground.home.path();
        let arguments =
            ["run", "--mode", "discard", "--offline", "--mirror", mirror.to_str().unwrap(), "--cache", "uv"];
        let uv = ["/opt/tools/uv/bin/uv", "pip", "install", "--target", "/tmp/t", "docopt"];
        let command = [&arguments[..], &[root.to_str().unwrap(), "--"], &uv].concat();
        let output = ground.field.dropcloth(command).env("XDG_CACHE_HOME", home).output().unwrap();
        assert_code(&output, 0);
        assert!(!stderr(&output).contains("hardlink"), "{}", stderr(&output));
        assert!(std::fs::read_dir(ground.cache("uv")).unwrap().count() > 1);
    }

    /// chroot(8)'s interface makes the same mounts by itself.
    #[test]
    fn a_chroot_has_the_caches_too() {
        needs_root!();
        let ground = Ground::new(Field::small());
        let before = ground.field.snapshot();
        for _ in 0..2 {
            let mut command = ground.field.dropcloth(["chroot", "./rootfs", "sh", "-c"]);
            command.arg("echo x >> /srv/c/file; echo $PIP_CACHE_DIR");
            command.env("XDG_CACHE_HOME", ground.home.path()).env("DROPCLOTH_FLAGS", "--cache c=/srv/c --cache pip");
            let output = command.output().unwrap();
            assert_code(&output, 0);
            assert_eq!(stdout(&output), "/root/.cache/pip\n");
        }
        assert_eq!(std::fs::read_to_string(ground.cache("c").join("file")).unwrap(), "x\nx\n");
        support::tree::assert_same(&before, &ground.field.snapshot(), "a chroot with a cache");
        let attach = ground.field.dropcloth(["attach", "--cache", "pip", "./rootfs"]).output().unwrap();
        assert_code(&attach, 125);
        assert!(stderr(&attach).contains("cannot share a cache"), "{}", stderr(&attach));
    }

    /// Another user's cache is his, and pip takes no other.
    #[test]
    fn each_user_of_the_step_has_his_own() {
        needs_root!();
        let ground = Ground::new(Field::small());
        let options = ["--mode", "discard", "--cache", "c=/srv/c", "--user", "1234"];
        assert_code(&ground.run(&options, "echo x > /srv/c/file"), 0);
        assert!(ground.cache("c.1234").join("file").is_file());
    }
}
