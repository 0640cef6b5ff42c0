//! `dropcloth-chroot` beside chroot(8) itself, and `dropcloth wrap`.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/packages.rs"]
mod packages;
mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use packages::{Package, tree};
use support::{Field, assert_code, stderr, stdout};

/// A field with the front by its name, and a state directory that is not the machine's.
struct Ground {
    field: Field,
    files: tempfile::TempDir,
}

impl std::ops::Deref for Ground {
    type Target = Field;

    fn deref(&self) -> &Field {
        &self.field
    }
}

impl Ground {
    fn of(field: Field) -> Ground {
        let files = tempfile::tempdir().unwrap();
        for name in ["chroot", "dropcloth-chroot"] {
            std::os::unix::fs::symlink(support::binary(), files.path().join(name)).unwrap();
        }
        tree(&files.path().join("mirror"), &[Package::wheel("only-here", "1.0")]);
        Ground { field, files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .current_dir(self.field.path());
        command.stdin(Stdio::null());
        command
    }

    fn front(&self, arguments: &[&str]) -> Output {
        let mirror = self.file("mirror");
        let flags = format!("--offline --mirror {}", mirror.display());
        self.command(&self.file("chroot")).args(arguments).env("DROPCLOTH_FLAGS", flags).output().unwrap()
    }

    /// Both it and dropcloth, with SIGKILL, once the mount points are there.
    fn kill_a_command(&self) {
        let flags = format!("--offline --mirror {}", self.file("mirror").display());
        let mut command = self.command(&self.file("chroot"));
        let mut child = command.args(["rootfs", "sleep", "60"]).env("DROPCLOTH_FLAGS", flags).spawn().unwrap();
        let step = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let sleeps = shell(&format!("pgrep -x -P {} sleep || true", child.id()));
            sleeps.trim().parse().ok()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let step = nix::unistd::Pid::from_raw(step.expect("the command does not start"));
        nix::sys::signal::kill(step, nix::sys::signal::Signal::SIGKILL).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }

    fn real(&self, arguments: &[&str]) -> Output {
        self.command(Path::new("/usr/sbin/chroot")).args(arguments).output().unwrap()
    }
}

/// What a shell of the machine prints.
fn shell(script: &str) -> String {
    stdout(&Command::new("sh").args(["-c", script]).output().unwrap())
}

/// GNU's quotes and its name depend on locale and path.
fn plain(text: &str) -> String {
    text.replace(['\u{2018}', '\u{2019}'], "'").replace("/usr/sbin/chroot", "chroot")
}

mod as_root {
    use super::*;

    #[test]
    fn arguments_exit_codes_and_credentials_are_those_of_chroot() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let id = "echo $(id -u):$(id -g):$(id -G); pwd";
        let cases: &[&[&str]] = &[
            &["rootfs", "sh", "-c", "echo out; echo err >&2; exit 42"],
            &["rootfs", "sh", "-c", "pwd; echo $0 $1", "a", "b"],
            &["rootfs", "true"],
            &["rootfs", "false"],
            &["rootfs", "no-such-command"],
            &["rootfs", "/etc"],
            &["rootfs", "/etc/passwd"],
            &["no-such-root", "true"],
            &["rootfs/etc/passwd", "true"],
            &["--userspec=user:user", "rootfs", "sh", "-c", id],
            &["--userspec=user", "rootfs", "sh", "-c", id],
            &["--userspec=user:", "rootfs", "sh", "-c", id],
            &["--userspec=:user", "rootfs", "sh", "-c", id],
            &["--userspec=+1000:+5", "rootfs", "sh", "-c", id],
            &["--userspec=1000:5", "--groups=7,8", "rootfs", "sh", "-c", id],
            &["--user=1000:5", "--groups=", "rootfs", "sh", "-c", id],
            &["--groups= +8765,4321", "rootfs", "sh", "-c", id],
            &["--groups=,3,,4,", "rootfs", "sh", "-c", id],
            &["--groups=user", "rootfs", "sh", "-c", id],
            &["--groups=0trail", "rootfs", "true"],
            &["--groups= ", "rootfs", "true"],
            &["--groups=,", "rootfs", "true"],
            &["--userspec=4242", "rootfs", "true"],
            &["--userspec=nobody-here", "rootfs", "true"],
            &["--userspec=user:nobody-here", "rootfs", "true"],
            &["--skip-chdir", "rootfs", "true"],
            &["--skip-chdir", "/", "pwd"],
            &["--skip-chdir", "/../", "pwd"],
            &["/", "pwd"],
            &["/.", "sh", "-c", "exit 9"],
            &["--groups=5", "--userspec=1:2", "/", "sh", "-c", id],
            &["--", "rootfs", "echo", "--help"],
            &["--no-such-option", "rootfs"],
            &["-x", "rootfs"],
            &["--userspec"],
            &[],
        ];
        let before = ground.snapshot();
        for arguments in cases {
            let (ours, real) = (ground.front(arguments), ground.real(arguments));
            assert_eq!(ours.status, real.status, "{arguments:?}: {} / {}", stderr(&ours), stderr(&real));
            assert_eq!(stdout(&ours), stdout(&real), "{arguments:?}");
            assert_eq!(plain(&stderr(&ours)), plain(&stderr(&real)), "{arguments:?}");
        }
        support::tree::assert_same(&before, &ground.snapshot(), "commands that change nothing");
    }

    #[test]
    fn a_signal_that_ends_the_command_is_seen_by_the_caller() {
        needs_root!();
        use std::os::unix::process::ExitStatusExt;
        let ground = Ground::of(Field::small());
        for number in [9, 15, 11] {
            let output = ground.front(&["rootfs", "sh", "-c", &format!("kill -{number} $$")]);
            assert_eq!(output.status.signal(), Some(number));
        }
    }

    #[test]
    fn standard_input_and_output_are_binary_clean_and_descriptors_pass() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let data: Vec<u8> = (0..=255_u8).cycle().take(300_000).collect();
        let mut command = ground.command(&ground.file("chroot"));
        command.args(["rootfs", "dd", "of=/root/blob", "bs=65536"]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&data).unwrap();
        assert!(child.wait().unwrap().success());
        let back = ground.front(&["rootfs", "cat", "/root/blob"]);
        assert!(back.stdout == data && back.stderr.is_empty());
        let script = format!("exec 7<{}; {} rootfs sh -c 'cat <&7'", "/etc/hostname", ground.file("chroot").display());
        let output = ground.command(Path::new("/bin/sh")).args(["-c", &script]).output().unwrap();
        assert_eq!(output.stdout, std::fs::read("/etc/hostname").unwrap());
    }

    #[test]
    fn the_configuration_is_seen_inside_and_gone_afterwards_for_many_at_a_time() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let before = ground.snapshot();
        let script =
            "grep -q no-index /etc/pip.conf && test -e /tmp/pypi/only-here/index.html && test -n \"$PIP_NO_INDEX\"";
        std::thread::scope(|scope| {
            let run = |seconds: u32| {
                let output = ground.front(&["rootfs", "sh", "-c", &format!("sleep 0.{seconds}; {script}")]);
                assert_code(&output, 0);
            };
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || run(n))).collect();
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
        support::tree::assert_same(&before, &ground.snapshot(), "eight commands side by side");
    }

    #[test]
    fn what_a_killed_command_left_goes_with_the_next_or_by_recover() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let before = ground.snapshot();
        let next = |ground: &Ground| ground.front(&["rootfs", "true"]);
        let recover =
            |ground: &Ground| ground.command(&support::binary()).args(["recover", "rootfs"]).output().unwrap();
        for mend in [next, recover] {
            ground.kill_a_command();
            assert!(ground.root.join("tmp/pypi").exists(), "a mount point that nobody could remove");
            assert_code(&mend(&ground), 0);
            support::tree::assert_same(&before, &ground.snapshot(), "after a killed command and a good one");
        }
    }

    #[test]
    fn what_the_command_leaves_running_goes_on_and_what_it_writes_stays() {
        needs_root!();
        let ground = Ground::of(Field::small());
        // A shell reads background input from there.
        std::fs::write(ground.root.join("dev/null"), "").unwrap();
        let script = "(sleep 0.3; grep -c no-index /etc/pip.conf > /root/later; echo end >> /root/later) </etc/hosts >/root/log 2>&1 & echo now > /root/now";
        let hold = std::thread::scope(|scope| {
            // Another command holds the mount points meanwhile, as the next task of a play does.
            let other = scope.spawn(|| ground.front(&["rootfs", "sleep", "1"]));
            std::thread::sleep(Duration::from_millis(200));
            assert_code(&ground.front(&["rootfs", "sh", "-c", script]), 0);
            other.join().unwrap()
        });
        assert_code(&hold, 0);
        let read = |name: &str| std::fs::read_to_string(ground.root.join("root").join(name)).unwrap();
        assert_eq!(read("now"), "now\n");
        assert!(read("later").ends_with("end\n"));
    }

    #[test]
    fn a_root_that_is_still_being_made_gets_no_directory_that_packages_bring() {
        needs_root!();
        let ground = Ground::of(Field::small());
        for name in ["root", "tmp", "run"] {
            std::fs::remove_dir_all(ground.root.join(name)).unwrap();
        }
        let output = ground.front(&["rootfs", "sh", "-c", "ls -d /root /tmp /run /etc/pip.conf 2>/dev/null"]);
        assert_eq!(stdout(&output), "/etc/pip.conf\n");
    }

    fn wrap(ground: &Ground, script: &str) -> Output {
        let mut command = ground.command(&support::binary());
        command.args([
            "wrap",
            "--offline",
            "--mirror",
            ground.file("mirror").to_str().unwrap(),
            "--",
            "sh",
            "-c",
            script,
        ]);
        command.output().unwrap()
    }

    #[test]
    fn every_chroot_of_a_wrapped_framework_gets_the_mirror_and_the_host_keeps_nothing() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let before = ground.snapshot();
        let script = "
            env -i /usr/sbin/chroot rootfs sh -c 'grep -q no-index /etc/pip.conf; ls /tmp/pypi; echo $PIP_NO_INDEX'
            mount -t tmpfs none /mnt && touch /mnt/here
            sleep 1000 &
            exit 7";
        let output = wrap(&ground, script);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "links.html\nonly-here\n1\n"));
        assert!(!Path::new("/mnt/here").exists());
        support::tree::assert_same(&before, &ground.snapshot(), "a wrapped framework");
    }

    #[test]
    fn the_mirror_survives_a_clean_up_through_its_mount() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let mirror = ground.file("mirror");
        let count = || shell(&format!("find {} -type f | wc -l", mirror.display()));
        let before = count();
        wrap(
            &ground,
            &format!("/usr/sbin/chroot rootfs sh -c 'rm -rf /tmp/pypi /tmp/*'; rm -rf {}/*", mirror.display()),
        );
        assert_eq!(count(), before);
    }

    #[test]
    fn a_framework_that_is_killed_takes_mounts_processes_and_loop_devices_with_it() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let file = ground.file("disk.img");
        for signal in ["KILL", "TERM"] {
            let script = format!("truncate -s 1M {0}; losetup -f --show {0}; sleep 1000", file.display());
            let mut command = ground.command(&support::binary());
            command.args(["wrap", "--", "sh", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let mut device = [0_u8; 32];
            let length = std::io::Read::read(child.stdout.as_mut().unwrap(), &mut device).unwrap();
            let device = String::from_utf8_lossy(&device[..length]).trim().to_owned();
            shell(&format!("kill -{signal} {}", child.id()));
            child.wait().unwrap();
            let gone = |what: &str| shell(&format!("{what} || true")).trim().is_empty();
            let clean =
                || gone(&format!("losetup -a | grep {}", file.display())) && gone("pgrep -f 'disk.im[g]; sleep 1000'");
            let waited = (0..100).find(|_| {
                std::thread::sleep(Duration::from_millis(50));
                clean()
            });
            assert!(
                waited.is_some(),
                "{signal}: {device} or a process is left: {}",
                shell("losetup -a; ps ax | grep 1000")
            );
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn steps_of_a_transaction_are_joined_by_a_variable() {
        needs_root!();
        let ground = Ground::of(Field::small());
        let before = ground.snapshot();
        let dropcloth = |arguments: &[&str]| ground.dropcloth(arguments).output().unwrap();
        assert_code(&dropcloth(&["begin", "--name", "play", "./rootfs"]), 0);
        let joined = |script: &str| {
            let mut command = ground.command(&ground.file("chroot"));
            command.args(["rootfs", "sh", "-c", script]).env("DROPCLOTH_TRANSACTION", "play");
            command.output().unwrap()
        };
        assert_code(&joined("echo 1 > /root/one"), 0);
        assert_eq!(stdout(&joined("cat /root/one; echo 2 > /root/two")), "1\n");
        assert_code(&joined("rm /root/one; exit 3"), 3);
        support::tree::assert_same(&before, &ground.snapshot(), "an open transaction");
        assert_code(&dropcloth(&["commit", "play"]), 0);
        let read = |name: &str| std::fs::read_to_string(ground.root.join("root").join(name)).unwrap();
        assert_eq!((read("one"), read("two")), ("1\n".to_owned(), "2\n".to_owned()));
    }
}
