//! A step in an image: what it sees, how it ends, and that nothing of dropcloth stays.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::{Field, assert_code, shell, stderr, stdout, tree};

/// A minute early: the runs before it count.
fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() - 60
}

#[test]
fn what_a_step_writes_is_in_the_image_only_in_commit_mode() {
    needs_sandbox!();
    let field = Field::small();
    let before = field.snapshot();
    assert_code(&field.run(&["--mode", "discard"], "echo x > /etc/new && cat /etc/new"), 0);
    tree::assert_same(&before, &field.snapshot(), "discard");
    assert_code(&field.run(&[], "echo x > /etc/new"), 0);
    assert_eq!(std::fs::read_to_string(field.root.join("etc/new")).unwrap(), "x\n");
}

#[test]
fn a_failed_step_leaves_the_image_as_it_was_and_passes_its_status() {
    needs_sandbox!();
    let field = Field::small();
    let before = field.snapshot();
    let table = [
        ("rm -rf /etc /usr; exit 3", 3),
        ("echo > /etc/new; exit 255", 255),
        ("rm /etc/passwd; kill -TERM $$", 128 + 15),
        ("mv /var /gone; kill -KILL $$", 128 + 9),
    ];
    for (script, code) in table {
        assert_code(&field.run(&[], script), code);
        tree::assert_same(&before, &field.snapshot(), script);
    }
}

#[test]
fn the_callers_umask_is_the_steps_and_takes_nothing_from_its_dev() {
    needs_sandbox!();
    let field = Field::small();
    for mode in ["commit", "through", "discard"] {
        let script = "umask; stat -c %a /dev /dev/shm /dev/pts; grep -c ' /dev rw,nosuid,nodev' /proc/self/mountinfo";
        let command = field.dropcloth(["run", "--mode", mode, "rootfs", "--", "sh", "-c", script]);
        let output = std::process::Command::new("sh")
            .args(["-c", "umask 077; exec \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(field.path())
            .output()
            .unwrap();
        assert_code(&output, 0);
        assert_eq!(stdout(&output), "0077\n755\n1777\n755\n1\n", "{mode}");
    }
}

#[test]
fn commands_that_cannot_start_end_as_chroot_ends_them() {
    needs_sandbox!();
    let field = Field::small();
    std::fs::write(field.root.join("etc/script"), "echo ran by the shell\n").unwrap();
    std::fs::set_permissions(field.root.join("etc/script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    std::fs::write(field.root.join("etc/loader"), "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(field.root.join("etc/loader"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let before = field.snapshot();
    let table = [
        ("nonesuch", 127, "was not found in the image"),
        ("/bin/nonesuch", 127, "was not found in the image"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "it is a directory"),
        ("/etc/loader", 126, "interpreter or dynamic loader is missing"),
    ];
    for (command, code, words) in table {
        let output = field.run_command(&[], &[command]);
        assert_code(&output, code);
        assert!(stderr(&output).contains(words), "{command}: {}", stderr(&output));
    }
    let script = field.run_command(&[], &["/etc/script"]);
    assert_code(&script, 0);
    assert_eq!(stdout(&script), "ran by the shell\n");
    tree::assert_same(&before, &field.snapshot(), "commands that cannot start");
}

#[test]
fn the_environment_is_built_and_not_inherited() {
    needs_sandbox!();
    let field = Field::small();
    let output = field
        .dropcloth(["run", "--env", "GIVEN=1", "--env", "PASSED", "./rootfs", "--", "env"])
        .env("PIP_INDEX_URL", "http://evil.example/")
        .env("UV_INDEX", "http://evil.example/")
        .env("TMPDIR", "/nonexistent")
        .env("VIRTUAL_ENV", "/venv")
        .env("PASSED", "two")
        .env("TERM", "vt100")
        .output()
        .unwrap();
    assert_code(&output, 0);
    let mut names: Vec<_> = stdout(&output).lines().map(|l| l.split('=').next().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["GIVEN", "HOME", "LANG", "LOGNAME", "PASSED", "PATH", "TERM", "USER"]);
    assert!(stdout(&output).contains("HOME=/root\n"));
}

#[test]
fn the_host_cannot_be_seen_or_reached() {
    needs_sandbox!();
    let field = Field::small();
    let secret = field.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let script = format!(
        "! cat {} && ! mount -t tmpfs none /mnt && ! ls /proc/1/root/ && ! cat /proc/1/fd/0 && ! readlink /proc/1/exe && \
         ! sh -c 'echo x > /proc/sys/kernel/hostname' && ! sh -c 'echo b > /proc/sysrq-trigger' && \
         for disk in /tmp/disk /dev/disk; do mknod $disk b 7 0 && dd if=$disk of=/dev/null count=1 && exit 9; done; \
         test \"$(ls /proc/self/fd | wc -l)\" -le 4 && ! touch /sys/x",
        secret.display()
    );
    let output = field.run(&["--mode", "discard"], &script);
    assert_code(&output, 0);
    std::fs::remove_file(secret).unwrap();
}

#[test]
fn a_step_that_runs_proc_self_exe_gets_no_program_of_the_host() {
    needs_sandbox!();
    let field = Field::small();
    let script = field.root.join("etc/exe");
    std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let before = std::fs::read(support::binary()).unwrap();
    // The program that the kernel finds at /proc/self/exe is the trampoline: with descriptor 3 closed it can only fail.
    let output = field.run_command(&[], &["/etc/exe"]);
    assert_ne!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(!stdout(&output).contains("dropcloth") && !stderr(&output).contains("Usage"), "{}", stderr(&output));
    assert_eq!(std::fs::read(support::binary()).unwrap(), before);
}

#[test]
fn a_daemon_that_a_step_leaves_dies_with_it() {
    needs_sandbox!();
    let field = Field::small();
    let output = field
        .run(&[], "(setsid sh -c 'exec >/dev/null 2>&1 </dev/null; cd /etc; sleep 600' &) ; sleep 0.2; pidof sleep");
    assert_code(&output, 0);
    assert!(!stdout(&output).trim().is_empty(), "the daemon ran");
}

#[test]
fn the_hosts_resolver_is_seen_even_where_the_image_has_a_dangling_link() {
    needs_sandbox!();
    let Ok(host) = std::fs::read("/etc/resolv.conf") else { return support::skip("the host has no /etc/resolv.conf") };
    let field = Field::small();
    let path = field.root.join("etc/resolv.conf");
    for target in [None, Some("../run/systemd/resolve/stub-resolv.conf"), Some("/etc/hosts"), Some("../../../../run/r")]
    {
        if let Some(target) = target {
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(target, &path).unwrap();
        }
        let before = field.snapshot();
        let output = field.run(&[], "cat /etc/resolv.conf; echo broken > /etc/resolv.conf");
        assert_code(&output, 0);
        assert_eq!(output.stdout, host, "{target:?}");
        assert!(stderr(&output).contains("which is laid over: its version is dropped"), "{}", stderr(&output));
        tree::assert_same(&before, &field.snapshot(), &format!("{target:?}"));
    }
}

#[test]
fn a_resolver_file_that_the_step_replaces_by_a_link_is_kept() {
    needs_sandbox!();
    let field = Field::small();
    let script = "rm /etc/resolv.conf && ln -s ../run/resolv.conf /etc/resolv.conf";
    assert_code(&field.run(&[], script), 0);
    let target = std::fs::read_link(field.root.join("etc/resolv.conf")).unwrap();
    assert_eq!(target.to_str(), Some("../run/resolv.conf"));
    assert!(!field.root.join("run/resolv.conf").exists());
}

#[test]
fn files_and_directories_of_the_user_are_laid_over_and_do_not_stay() {
    needs_sandbox!();
    let field = Field::small();
    let (file, directory) = (field.path().join("laid"), field.path().join("cache"));
    std::fs::write(&file, "from the host").unwrap();
    std::fs::create_dir(&directory).unwrap();
    let lay = format!("/etc/hosts={}", file.display());
    let new = format!("/srv/deep/file={}", file.display());
    let bind = format!("{}:/var/cache/x", directory.display());
    let read_only = format!("{}:/var/cache/ro:ro", directory.display());
    let options = [
        "--lay",
        &lay,
        "--lay",
        &new,
        "--bind",
        &bind,
        "--bind",
        &read_only,
        "--tmpfs",
        "/scratch",
        "--workdir",
        "/scratch",
    ];
    let before = field.snapshot();
    let script = "cat /etc/hosts /srv/deep/file && echo out > /var/cache/x/written && ! touch /var/cache/ro/no && \
                  pwd && touch here && sed -i s/from/FROM/ /etc/hosts && rm /srv/deep/file";
    let output = field.run(&options, script);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "from the hostfrom the host/scratch\n");
    tree::assert_same(&before, &field.snapshot(), "overrides");
    assert_eq!(std::fs::read_to_string(directory.join("written")).unwrap(), "out\n");
    std::fs::remove_dir_all(directory).unwrap();
    std::fs::remove_file(file).unwrap();
}

#[test]
fn an_empty_network_has_the_loopback_interface_and_no_other() {
    needs_sandbox!();
    let field = Field::small();
    let output = field.run(&["--network", "none", "--mode", "discard"], "cat /proc/net/dev | grep : | cut -d: -f1; ping -c1 -w1 127.0.0.1 >/dev/null 2>&1; ip link show lo | grep -c UP");
    assert_code(&output, 0);
    let words: Vec<String> = stdout(&output).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["lo", "1"]);
}

#[test]
fn a_kept_transaction_can_be_looked_at_committed_and_discarded() {
    needs_sandbox!();
    let field = Field::small();
    let before = field.snapshot();
    let output = field.run(&["--on-failure", "keep"], "echo kept > /etc/kept; rm /etc/group; exit 4");
    assert_code(&output, 4);
    tree::assert_same(&before, &field.snapshot(), "kept");
    let changes = field.dropcloth(["changes", "./rootfs"]).output().unwrap();
    assert_code(&changes, 0);
    assert!(stdout(&changes).contains("+ kept") && stdout(&changes).contains("- group"), "{}", stdout(&changes));
    let list = field.dropcloth(["list", "./rootfs"]).output().unwrap();
    assert!(stdout(&list).contains("kept"), "{}", stdout(&list));
    // A later run leaves it alone.
    assert_code(&field.run(&[], "true"), 0);
    assert_code(&field.dropcloth(["commit", "./rootfs"]).output().unwrap(), 0);
    assert_eq!(std::fs::read_to_string(field.root.join("etc/kept")).unwrap(), "kept\n");
    assert!(!field.root.join("etc/group").exists());
    assert_code(&field.run(&["--on-failure", "keep"], "echo > /etc/other; false"), 1);
    assert_code(&field.dropcloth(["discard", "./rootfs"]).output().unwrap(), 0);
    assert!(!field.root.join("etc/other").exists());
}

#[test]
fn a_signal_to_the_runner_reaches_the_step_and_the_image_stays() {
    needs_sandbox!();
    let field = Field::small();
    let before = field.snapshot();
    for (signal, handler, code) in
        [("TERM", "exit 7", 7), ("INT", "exit 8", 8), ("USR1", "exit 9", 9), ("TERM", "exit 0", 128 + 15)]
    {
        let script = format!("trap '{handler}' {signal}; rm -rf /etc; echo ready; while :; do sleep 0.05; done");
        let mut child =
            field.dropcloth(["run", "./rootfs", "--", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        kill(signal, child.id());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        tree::assert_same(&before, &field.snapshot(), signal);
    }
}

#[test]
fn a_killed_runner_takes_everything_with_it_and_the_next_run_clears_up() {
    needs_sandbox!();
    let mut field = Field::small();
    let before = field.snapshot();
    let script = "rm -rf /etc; (setsid sleep 500 &); echo ready; sleep 500";
    let mut child =
        field.dropcloth(["run", "./rootfs", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    kill("KILL", child.id());
    child.wait().unwrap();
    tree::assert_same(&before, &field.snapshot(), "killed");
    wait_until_unlocked(&field);
    for verb in ["changes", "commit"] {
        let output = field.dropcloth([verb, "./rootfs"]).output().unwrap();
        assert_code(&output, 125);
        assert!(stderr(&output).contains("was killed") && stderr(&output).contains("recover"), "{}", stderr(&output));
    }
    tree::assert_same(&before, &field.snapshot(), "nobody commits half a step");
    let output = field.run(&[], "true");
    assert_code(&output, 0);
    assert!(stderr(&output).contains("removed the dead transaction"), "{}", stderr(&output));
    tree::assert_same(&before, &field.snapshot(), "after the next run");
    field.check_leaks();
}

/// The kernel kills the sandbox a moment after its supervisor: until then the image is locked.
fn wait_until_unlocked(field: &Field) {
    for _ in 0..200 {
        let list = field.dropcloth(["list", "./rootfs"]).output().unwrap();
        if !stdout(&list).contains("running") {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    panic!("the sandbox of a killed runner still runs");
}

fn kill(signal: &str, pid: u32) {
    let status = std::process::Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn two_runs_on_one_image_are_told_apart() {
    needs_sandbox!();
    let field = Field::small();
    let mut first = field
        .dropcloth(["run", "./rootfs", "--", "sh", "-c", "echo ready; sleep 500"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let second = field.run(&[], "true");
    kill("TERM", first.id());
    first.wait().unwrap();
    assert_code(&second, 125);
    assert!(stderr(&second).contains("in use by another run"), "{}", stderr(&second));
}

#[test]
fn a_scratch_directory_elsewhere_keeps_what_the_root_of_the_image_gives_and_has() {
    needs_sandbox!();
    let (plain, field) = (Field::small(), Field::small());
    for field in [&plain, &field] {
        shell("setfacl -d -m u:1:rwx .; chattr +dA .; touch -d 2001-01-01 .", &field.root);
    }
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let scratch = memory.path().join("scratch");
    let script = "rm /etc/group; echo x > /etc/group; chmod 700 /etc/passwd; touch /";
    assert_code(&plain.run(&[], script), 0);
    assert_code(&field.run(&["--scratch", scratch.to_str().unwrap()], script), 0);
    let start = now();
    let [left, right] = [&plain, &field].map(|field| field.snapshot().clock_times_alike(start));
    tree::assert_same(&left, &right, "by copy");
}

#[test]
fn a_scratch_directory_on_another_file_system_commits_by_copy() {
    needs_sandbox!();
    let field = Field::small();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let scratch = memory.path().join("scratch");
    let script = "mkdir -p /opt/a && echo one > /opt/a/f && ln /opt/a/f /opt/a/g && rm /etc/group && mv /var/lib /var/moved && \
                  chmod 700 /usr && rm -rf /usr/sbin && mkdir /usr/sbin && echo two > /usr/sbin/two && touch -d 2001-01-01 /opt";
    assert_code(&field.run(&["--scratch", scratch.to_str().unwrap()], script), 0);
    let control = Field::small();
    assert_code(&control.run(&[], script), 0);
    let differences: Vec<String> =
        tree::diff(&control.snapshot(), &field.snapshot()).into_iter().filter(|d| !d.contains("mtime")).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(!scratch.exists(), "the scratch directory goes with its last transaction");
}

#[test]
fn a_scratch_directory_that_everybody_may_write_to_holds_one_of_the_user() {
    needs_sandbox!();
    let field = Field::small();
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    let own = shared.path().join(format!("dropcloth-{}", rustix::process::geteuid().as_raw()));
    let scratch = ["--scratch", shared.path().to_str().unwrap()];
    let mode = |mode| std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o1777);
    let output = field.run(&scratch, "echo x > /new; grep ' / / ' /proc/self/mountinfo");
    assert_code(&output, 0);
    assert!(stdout(&output).contains(&format!("upperdir={}/", own.display())), "{}", stdout(&output));
    assert_eq!(std::fs::read_to_string(field.root.join("new")).unwrap(), "x\n");
    assert!(!own.exists() && shared.path().exists(), "it goes with its last transaction, and nothing else does");
    // Kept, it is found again there.
    assert_code(&field.run(&[&scratch[..], &["--on-failure", "keep"]].concat(), "echo y > /new; exit 7"), 7);
    assert!(own.is_dir());
    let recovered = field.dropcloth(["recover"].iter().chain(&scratch).chain(&["./rootfs"])).output().unwrap();
    assert!(stderr(&recovered).contains(&format!("kept or attached, {}", own.display())), "{}", stderr(&recovered));
    // What somebody else made under that name is not used.
    assert_code(&field.dropcloth(["discard", "./rootfs"]).output().unwrap(), 0);
    assert!(!own.exists());
    std::os::unix::fs::symlink(field.path(), &own).unwrap();
    let output = field.run(&scratch, "true");
    assert_code(&output, 125);
    assert!(stderr(&output).contains(own.to_str().unwrap()), "{}", stderr(&output));
    std::fs::remove_file(&own).unwrap();
    // Without the sticky bit, anybody could put another directory in its place.
    std::fs::write(shared.path().join("something"), "").unwrap();
    mode(0o777);
    let output = field.run(&scratch, "true");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("writable by somebody else"), "{}", stderr(&output));
}

#[test]
fn many_runs_beside_each_other_do_not_disturb_one_another() {
    needs_sandbox!();
    let field = Field::small();
    let roots: Vec<String> = (0..6).map(|n| format!("./rootfs{n}")).collect();
    for root in &roots {
        support::copy(&field.root, &field.path().join(root));
    }
    // Each begins and ends many times, and the last one out takes the common directory of the transactions away.
    std::thread::scope(|scope| {
        for root in &roots {
            let field = &field;
            scope.spawn(move || {
                for round in 0..8 {
                    let script = format!("echo {round} >> /etc/rounds");
                    let output = field.dropcloth(["run", root, "--", "sh", "-c", &script]).output().unwrap();
                    assert_code(&output, 0);
                }
            });
        }
    });
    for root in &roots {
        let path = field.path().join(root);
        assert_eq!(std::fs::read_to_string(path.join("etc/rounds")).unwrap(), "0\n1\n2\n3\n4\n5\n6\n7\n");
        std::fs::remove_dir_all(path).unwrap();
    }
}

/// Those that do something on the host, or to the image beforehand, that only root of the machine may, and those of what an
/// overlay of root alone can do.
mod as_root {
    use super::*;

    #[test]
    fn a_root_that_is_a_mount_point_keeps_what_is_mounted_below_it() {
        needs_root!();
        let field = Field::small();
        // In a mount namespace of the test's own: a tmpfs below the image, as a framework would have mounted it.
        let script = format!(
            "mount --make-rprivate / && mkdir -p rootfs/mnt && mount -t tmpfs none rootfs/mnt && echo in > rootfs/mnt/f && \
             {bin} run ./rootfs -- sh -c 'cat /mnt/f && echo out > /mnt/g && echo c > /etc/committed' && cat rootfs/mnt/g && \
             {bin} run --mode discard ./rootfs -- sh -c '! touch /mnt/no' && umount rootfs/mnt && rmdir rootfs/mnt",
            bin = support::binary().display()
        );
        let output = std::process::Command::new("unshare")
            .args(["-m", "sh", "-ec", &script])
            .current_dir(field.path())
            .output()
            .unwrap();
        assert_code(&output, 0);
        assert_eq!(stdout(&output), "in\nout\n");
        assert!(stderr(&output).contains("/mnt"), "the note names it: {}", stderr(&output));
        assert!(field.root.join("etc/committed").exists());
    }

    #[test]
    fn a_step_can_run_as_another_user_of_the_image() {
        needs_root!();
        let field = Field::small();
        let output = field.run(&["--user", "user"], "id -u; id -g; echo $HOME; ! touch /etc/no; touch /tmp/yes");
        assert_code(&output, 0);
        assert_eq!(stdout(&output), "1000\n1000\n/tmp\n");
        let data = std::fs::metadata(field.root.join("tmp/yes")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&data), 1000);
        let unknown = field.run(&["--user", "nobodyknows"], "true");
        assert_code(&unknown, 125);
        assert!(stderr(&unknown).contains("has no user"), "{}", stderr(&unknown));
    }

    #[test]
    fn a_step_that_changes_nothing_leaves_the_tree_as_it_was() {
        needs_root!();
        let field = Field::small();
        let rich = r#"setfattr -n user.note -v x etc/passwd; setfacl -m u:1:rw etc/group; chattr +d etc/hosts; chmod 4755 bin/busybox
            ln etc/passwd etc/passwd.link; mkfifo run/fifo; mknod dev/sda b 8 0; touch -d 1960-01-01T00:00:00.123456789 etc/hosts
            setfacl -d -m u:1:rwx var; chmod 2750 var/lib; chown 7:8 var/lib; touch "$(printf 'etc/odd \377\\name')""#;
        let made = std::process::Command::new("sh").arg("-ec").arg(rich).current_dir(&field.root).status().unwrap();
        assert!(made.success());
        let before = field.snapshot();
        for mode in ["commit", "discard"] {
            assert_code(&field.run(&["--mode", mode], "true"), 0);
            tree::assert_same(&before, &field.snapshot(), mode);
        }
    }

    #[test]
    fn the_overlay_is_laid_on_kernels_without_layers_by_descriptor() {
        needs_root!();
        // As a kernel before 6.5 answers: EINVAL for the first "lowerdir+", by descriptor and by path. Before them come three
        // calls for the scaffold's tmpfs and the overlay's source.
        let field = Field::small();
        let log = field.path().join("strace.log");
        let output = std::process::Command::new("strace")
            .args([
                "-f",
                "-o",
                log.to_str().unwrap(),
                "-e",
                "trace=fsconfig",
                "-e",
                "inject=fsconfig:error=EINVAL:when=5..6",
            ])
            .arg(support::binary())
            .args(["run", "./rootfs", "--", "sh", "-c", "rm /etc/group && mv /var/lib /var/moved && cat /proc/mounts"])
            .current_dir(field.path())
            .output()
            .unwrap();
        assert_code(&output, 0);
        let log_text = std::fs::read_to_string(&log).unwrap();
        let played = log_text.lines().filter(|line| line.contains("lowerdir+") && line.contains("INJECTED"));
        assert_eq!(played.count(), 2, "the old kernel was played: {log_text}");
        assert!(field.root.join("var/moved").is_dir() && !field.root.join("etc/group").exists());
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn the_report_lists_every_change() {
        needs_root!();
        let field = Field::small();
        let report = field.path().join("report.json");
        let script = "mkdir /opt && echo 12345 > /opt/f && rm /etc/group && mv /var/lib /var/moved";
        assert_code(&field.run(&["--report", report.to_str().unwrap()], script), 0);
        let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
        assert_eq!(
            (value["fate"].as_str(), value["files"].as_u64(), value["bytes"].as_u64()),
            (Some("committed"), Some(1), Some(6))
        );
        let list: Vec<(String, String)> = value["changes"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (c["path"].as_str().unwrap().to_owned(), c["what"].as_str().unwrap().to_owned()))
            .collect();
        for (path, what) in [
            ("/opt", "added"),
            ("/opt/f", "added"),
            ("/etc/group", "removed"),
            ("/var/lib", "removed"),
            ("/var/moved", "renamed"),
        ] {
            assert!(list.contains(&(path.to_owned(), what.to_owned())), "{path} {what}: {list:?}");
        }
        std::fs::remove_file(report).unwrap();
    }

    #[test]
    fn this_machine_itself_can_be_tried_in_discard_mode_without_a_trace() {
        needs_root!();
        let field = Field::small();
        let output = field
            .dropcloth([
                "run",
                "--mode",
                "discard",
                "/",
                "--",
                "sh",
                "-c",
                "echo x > /etc/dropcloth-was-here && cat /etc/dropcloth-was-here",
            ])
            .output()
            .unwrap();
        assert_code(&output, 0);
        assert_eq!(stdout(&output), "x\n");
        assert!(!std::path::Path::new("/etc/dropcloth-was-here").exists());
        let refused = field.dropcloth(["run", "/", "--", "true"]).output().unwrap();
        assert_code(&refused, 125);
        assert!(stderr(&refused).contains("--mode discard"), "{}", stderr(&refused));
    }

    #[test]
    fn what_the_directory_around_the_image_gives_to_new_entries_does_not_reach_it() {
        needs_root!();
        let (plain, field) = (Field::small(), Field::small());
        shell("chgrp 4 .; chmod g+s .; setfacl -d -m u:1:rwx .; chattr +dA .", field.path());
        let script = "rm /etc/group; echo x > /etc/group; chmod 700 /etc/passwd; mkdir -p /opt/a; echo > /opt/a/f; chmod 711 /var";
        assert_code(&plain.run(&[], script), 0);
        assert_code(&field.run(&[], script), 0);
        let start = now();
        let [left, right] = [&plain, &field].map(|field| field.snapshot().clock_times_alike(start));
        tree::assert_same(&left, &right, "in a directory with a default ACL, flags and set-gid");
    }
}
