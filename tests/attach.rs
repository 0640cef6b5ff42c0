//! What is laid into an image for a framework that enters it itself: seen there, and gone with `detach`, whatever happened
//! meanwhile. Everything runs in a mount namespace of its own, so that the machine's mounts never change.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::process::{Command, Output};

use support::{Field, assert_code, rich, shell, stderr, stdout, tree};

const ATTACH: &str = "--mirror pypi --no-official --resolver resolv --lay /etc/hosts=laid --lay /srv/deep/new=laid --tmpfs /mnt/a ./rootfs";

fn field() -> Field {
    let mut field = Field::small();
    field.forget_leaks();
    for (name, text) in [("laid", "laid over\n"), ("resolv", "nameserver 192.0.2.1\n")] {
        std::fs::write(field.path().join(name), text).unwrap();
    }
    // One that lacks pages: they are laid over it.
    shell("mkdir -p pypi; : > pypi/six-1.0-py3-none-any.whl", field.path());
    shell("rm -rf srv; mkdir srv; find . -exec touch -h -d '2001-02-03 04:05:06.789012345' {} +", &field.root);
    field
}

/// A script in a mount namespace: `attach` and `detach` are dropcloth's, and at the end nothing may be mounted.
fn script(field: &Field, text: &str) -> Output {
    let prelude = format!(
        "dropcloth={}; attach() {{ $dropcloth attach {ATTACH}; }}; detach() {{ $dropcloth detach ./rootfs; }}
         mounts() {{ grep -c {}/ /proc/self/mountinfo; }}\n",
        support::binary().display(),
        field.path().display()
    );
    Command::new("unshare")
        .args(["--mount", "bash", "-c", &(prelude + text)])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", field.path())
        .current_dir(field.path())
        .output()
        .unwrap()
}

#[track_caller]
fn nothing_left(field: &Field, before: &tree::Snapshot) {
    tree::assert_same(before, &field.snapshot(), "after detach");
    assert!(!field.path().join(".dropcloth").exists(), "something of dropcloth is left beside the image");
}

#[test]
fn a_framework_sees_the_overrides_until_detach() {
    needs_root!();
    let field = field();
    let before = field.snapshot();
    let output = script(
        &field,
        "attach && chroot rootfs sh -c 'cat /etc/hosts /etc/resolv.conf /srv/deep/new; ls /tmp/pypi/; cat /tmp/pypi/six/index.html | grep -c six-1.0; grep -m1 file: /root/.config/pip/pip.conf; echo x > /tmp/pypi/x; echo x > /mnt/a/x'
         rm -rf rootfs/tmp/* 2>/dev/null; detach && mounts",
    );
    let said = stdout(&output);
    assert!(
        said.starts_with("laid over\nnameserver 192.0.2.1\nlaid over\nlinks.html\nsix\nsix-1.0-py3-none-any.whl\n1\n"),
        "{said}{}",
        stderr(&output)
    );
    assert!(said.contains("file:///tmp/pypi") && said.ends_with("\n0\n"), "{said}{}", stderr(&output));
    assert!(stderr(&output).contains("Read-only file system"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(field.path().join("pypi")).unwrap().count(), 1);
    nothing_left(&field, &before);
}

#[test]
fn both_can_be_said_twice() {
    needs_root!();
    let field = field();
    let before = field.snapshot();
    let output =
        script(&field, "detach; echo $?; attach; mounts; attach; echo $?; mounts; detach; detach; echo $?; mounts");
    let (said, told) = (stdout(&output), stderr(&output));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[2], lines[4], lines[5]), ("0", "0", "0", "0"), "{said}{told}");
    assert_eq!(lines[1], lines[3], "the second attach mounts nothing");
    assert!(told.contains("already") && told.matches("nothing is attached").count() == 2, "{told}");
    nothing_left(&field, &before);
}

#[test]
fn what_the_framework_wrote_meanwhile_stays() {
    needs_root!();
    let field = field();
    let output = script(
        &field,
        "attach; echo framework > rootfs/etc/resolv.conf; echo x > rootfs/etc/own; echo x > rootfs/srv/deep/own
         # In another namespace nothing is in the way.
         unshare --mount bash -c 'umount rootfs/etc/hosts rootfs/tmp/pypi; rm rootfs/etc/hosts; ln -s own rootfs/etc/hosts; rm -rf rootfs/tmp/*'
         detach; echo $?; mounts; ls -A rootfs/tmp; readlink rootfs/etc/hosts; ls rootfs/srv/deep; cat rootfs/etc/resolv.conf",
    );
    let said = stdout(&output);
    assert!(said.starts_with("0\n0\nown\nown\n") && !said.contains("framework"), "{said}{}", stderr(&output));
    assert!(stderr(&output).contains("somebody changed /etc/resolv.conf"), "{}", stderr(&output));
}

#[test]
fn mounts_that_are_gone_leave_only_what_detach_clears() {
    needs_root!();
    let field = field();
    let before = field.snapshot();
    // With the namespace the mounts go, as with a reboot.
    assert_code(&script(&field, "attach"), 0);
    assert!(field.root.join("srv/deep/new").exists());
    assert_code(&field.dropcloth(["recover", "./rootfs"]).output().unwrap(), 0);
    assert!(field.root.join("srv/deep/new").exists(), "recover leaves it: the framework may be elsewhere");
    assert_code(&script(&field, "detach"), 0);
    nothing_left(&field, &before);
    // A framework that unmounts all it sees; and one that attaches again.
    let output = script(
        &field,
        "attach; umount -l $(findmnt -Rno TARGET -l | grep rootfs/); attach; mounts; umount -l rootfs/etc/hosts; detach; mounts",
    );
    let said = stdout(&output);
    assert!(said.ends_with("\n0\n") && !said.starts_with('0'), "{said}{}", stderr(&output));
    assert!(stderr(&output).contains("did not last"), "{}", stderr(&output));
    nothing_left(&field, &before);
}

#[test]
fn nothing_is_removed_through_a_mount() {
    needs_root!();
    let field = field();
    let before = field.snapshot();
    let output = script(
        &field,
        "mkdir other; echo x > other/x; attach; mount --bind other rootfs/tmp/pypi; detach; echo $?
         umount rootfs/tmp/pypi; mount -t tmpfs none rootfs/srv; mkdir -p rootfs/srv/deep; : > rootfs/srv/deep/new; detach; echo $?; ls rootfs/srv/deep; umount rootfs/srv
         detach; cat other/x; rm -r other; mounts",
    );
    let (said, told) = (stdout(&output), stderr(&output));
    assert!(told.contains("something else is mounted at"), "{told}");
    assert!(said.starts_with("125\n") && said.contains("\nnew\n") && said.ends_with("x\n0\n"), "{said}{told}");
    nothing_left(&field, &before);
}

#[test]
fn an_image_that_is_gone_is_detached_too() {
    needs_root!();
    let field = field();
    let output = script(
        &field,
        "attach; umount -l $(findmnt -Rno TARGET -l | grep rootfs/); rm -rf rootfs; detach; echo $?; mounts",
    );
    assert_eq!(stdout(&output), "0\n0\n", "{}", stderr(&output));
    assert!(stderr(&output).contains("is gone") && !field.path().join(".dropcloth").exists(), "{}", stderr(&output));
}

#[test]
fn an_image_that_is_a_mount_point_itself_can_be_attached() {
    needs_root!();
    let field = field();
    let before = field.snapshot();
    let output = script(
        &field,
        "mount --bind rootfs rootfs; mount -t proc proc rootfs/proc; mount --bind /dev rootfs/dev
         $dropcloth attach --scratch scratch --lay /top=laid ./rootfs; chroot rootfs cat /top; $dropcloth detach --scratch scratch ./rootfs; echo $?; ls rootfs/top; ls scratch",
    );
    assert_eq!(stdout(&output), "laid over\n0\n", "{}", stderr(&output));
    nothing_left(&field, &before);
}

#[test]
fn without_the_right_to_mount_nothing_is_tried() {
    needs_root!();
    let field = field();
    let before = field.snapshot();
    for verb in ["attach", "detach"] {
        let output = script(&field, &format!("exec setpriv --bounding-set -sys_admin $dropcloth {verb} ./rootfs"));
        assert_code(&output, 125);
        assert!(stderr(&output).contains("CAP_SYS_ADMIN"), "{}", stderr(&output));
    }
    let output = script(&field, "$dropcloth attach --secret a=laid ./rootfs");
    assert_code(&output, 125);
    nothing_left(&field, &before);
}

#[test]
fn an_attach_and_a_detach_killed_at_any_call_are_cleared_by_the_next_detach() {
    needs_root!();
    if !rich::has_strace() {
        return support::skip("it needs strace");
    }
    const CALLS: &str = "move_mount,mount_setattr,umount2,renameat2,unlinkat,mkdirat,fsync,utimensat,fchownat,write";
    let count = |verb: &str, log: &str| {
        let field = field();
        let traced = format!("strace -o {log} -e trace={CALLS} $dropcloth");
        let attach = if verb == "attach" { format!("{traced} attach {ATTACH}") } else { "attach".to_owned() };
        let detach = if verb == "detach" { format!("{traced} detach ./rootfs") } else { "true".to_owned() };
        assert_code(&script(&field, &format!("{attach}; {detach}")), 0);
        let text = std::fs::read_to_string(field.path().join(log)).unwrap();
        let mut calls: Vec<(String, usize)> = Vec::new();
        for name in text.lines().filter_map(|line| Some(line.split_once('(')?.0)) {
            let nth = calls.iter().filter(|(known, _)| known == name).count() + 1;
            calls.push((name.to_owned(), nth));
        }
        calls
    };
    let stride = if std::env::var_os("DROPCLOTH_LONG").is_some() { 1 } else { 19 };
    for verb in ["attach", "detach"] {
        let calls = count(verb, "log");
        assert!(calls.len() > 60, "{verb}: {calls:?}");
        for (name, nth) in calls.iter().step_by(stride) {
            let field = field();
            let before = field.snapshot();
            let killed =
                format!("strace -o /dev/null -e trace={name} -e inject={name}:signal=KILL:when={nth} $dropcloth");
            let text = match verb {
                "attach" => format!("{killed} attach {ATTACH}; detach; mounts"),
                _ => format!("attach; {killed} detach ./rootfs; detach; mounts"),
            };
            let output = script(&field, &text);
            let left = tree::diff(&before, &field.snapshot());
            assert!(left.is_empty(), "{verb}, {name} ({nth}): {}\n{}", left.join("\n"), stderr(&output));
            assert_eq!(stdout(&output), "0\n", "{verb}, {name} ({nth}): {}", stderr(&output));
            nothing_left(&field, &before);
        }
    }
}
