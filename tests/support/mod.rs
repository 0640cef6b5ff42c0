//! What every sandbox test needs: a copy of a root, a way to run dropcloth on it, and the leak check at the end.
#![allow(dead_code, missing_docs, reason = "each test target uses a part of this")]

pub mod disk;
pub mod fuse;
pub mod host;
pub mod rich;
pub mod tree;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use host::HostState;
use tree::Snapshot;

/// Skips the test where it cannot run, with the reason; under DROPCLOTH_TESTS_MUST_RUN=1 (CI) that is a failure.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::support::is_root() {
            $crate::support::skip("it needs root");
            return;
        }
    };
}

/// The same where a user namespace will do.
#[macro_export]
macro_rules! needs_sandbox {
    () => {
        if !$crate::support::is_root() && !$crate::support::has_user_namespaces() {
            $crate::support::skip("it needs root or user namespaces");
            return;
        }
    };
}

pub fn has_user_namespaces() -> bool {
    Command::new("unshare").args(["--user", "--mount", "true"]).status().is_ok_and(|status| status.success())
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

pub fn skip(why: &str) {
    assert!(std::env::var_os("DROPCLOTH_TESTS_MUST_RUN").is_none(), "this test must run here, and {why}");
    println!("SKIP: {why}");
}

pub fn binary() -> PathBuf {
    std::env::var_os("DROPCLOTH_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_dropcloth")), PathBuf::from)
}

pub fn project() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Makes what a script makes (a root, a mirror) unless it is there, and says where it is.
pub fn made(script: &[&str], result: &str) -> PathBuf {
    let path = project().join("target").join(result);
    let status =
        Command::new(project().join("scripts").join(script[0])).args(&script[1..]).stdout(Stdio::null()).status();
    assert!(status.expect("the script starts").success(), "scripts/{} failed", script.join(" "));
    path
}

pub fn small_root() -> PathBuf {
    made(&["make-root", "--small"], "roots/small")
}

pub fn debian_root() -> PathBuf {
    made(&["make-root"], "roots/debian")
}

pub fn mirror() -> PathBuf {
    made(&["make-mirror"], "mirror")
}

/// A folder of the test's own with a copy of a root in it. At the end nothing may be left: no process, no mount, no file
/// beside the root.
pub struct Field {
    directory: tempfile::TempDir,
    pub root: PathBuf,
    /// Not the machine's, which all tests have together.
    pub state: tempfile::TempDir,
    host: Option<HostState>,
}

impl Field {
    pub fn small() -> Field {
        Field::of(&small_root())
    }

    pub fn of(original: &Path) -> Field {
        let directory = tempfile::Builder::new().prefix("field").tempdir_in(temporary()).unwrap();
        let root = directory.path().join("rootfs");
        copy(original, &root);
        let host = HostState::now(&marker(directory.path()), &[directory.path()]);
        let state = tempfile::Builder::new().prefix("state").tempdir_in(temporary()).unwrap();
        Field { directory, root, state, host: Some(host) }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A dropcloth command in an environment without mirror settings, with a HOME that has none either.
    pub fn dropcloth<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("DROPCLOTH_STATE", self.state.path())
            .env("DROPCLOTH_TEST", marker(self.path()))
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// `dropcloth run OPTIONS rootfs -- sh -c SCRIPT`.
    pub fn run(&self, options: &[&str], script: &str) -> Output {
        self.run_command(options, &["sh", "-c", script])
    }

    pub fn run_command(&self, options: &[&str], command: &[&str]) -> Output {
        let arguments = ["run"].iter().chain(options).chain(&["./rootfs", "--"]).chain(command);
        self.dropcloth(arguments).output().unwrap()
    }

    pub fn snapshot(&self) -> Snapshot {
        tree::snapshot(&self.root)
    }

    /// The leak check: on the host no mount, process or file more than before.
    pub fn check_leaks(&mut self) {
        if let Some(host) = self.host.take() {
            host::assert_no_more(&host);
        }
    }

    /// Files that the test itself made beside the root are no leak.
    pub fn forget_leaks(&mut self) {
        self.host = None;
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_leaks();
        }
        let _ = Command::new("chattr")
            .args(["-R", "-f", "-i", "-a"])
            .arg(self.directory.path())
            .stderr(Stdio::null())
            .status();
    }
}

pub fn temporary() -> PathBuf {
    std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

fn marker(directory: &Path) -> String {
    format!("dropcloth-test-{}", directory.file_name().unwrap().to_string_lossy())
}

/// An exact copy: owners, modes, times, attributes, hard links.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg("--reflink=auto").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

/// Runs a script of the test's own on the host.
#[track_caller]
pub fn shell(script: &str, directory: &Path) {
    let output = Command::new("bash").args(["-ec", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", stderr(&output));
}

/// Puts a program of this machine into a root, with its libraries at the same paths: busybox has no chattr(1).
#[track_caller]
pub fn install(tool: &str, root: &Path) {
    let script = format!(
        "p=$(command -v {tool}); cp -L \"$p\" ./bin/
         for l in $(ldd \"$p\" | grep -o '/[^ ]*'); do mkdir -p \".${{l%/*}}\"; cp -L \"$l\" \".$l\"; done"
    );
    shell(&script, root);
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit code, with everything the command said if it is another.
pub fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}
