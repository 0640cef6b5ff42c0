//! Images and steps that try to reach the host: whatever they are, the host and the rest of the image stay as they were.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use support::{Field, assert_code, stderr, stdout, tree};

/// A mirror with one page, in the test's own folder.
fn mirror(field: &Field) -> PathBuf {
    let mirror = field.path().join("mirror");
    std::fs::create_dir_all(mirror.join("six")).unwrap();
    std::fs::write(mirror.join("six/index.html"), "<!DOCTYPE html><a href=x>x</a>").unwrap();
    mirror
}

#[test]
fn links_of_the_image_lead_inside_it_and_nowhere_else() {
    needs_sandbox!();
    // Each place that dropcloth mounts at or lays over is a link, to the host's directories as it would be from outside.
    let links: [(&str, &str); 6] = [
        ("tmp", "/../../../../../../../etc"),
        ("root", "../../../../../../../../../root"),
        ("run", "/var/run-elsewhere"),
        ("etc/pip.conf", "/../../../../../../../../../etc/hostname"),
        ("usr/local", "../../../../tmp"),
        ("etc/resolv.conf", "/proc/self/root/etc/resolv.conf"),
    ];
    for (name, target) in links {
        let mut field = Field::small();
        let path = field.root.join(name);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else {
            let _ = std::fs::remove_file(&path);
        }
        symlink(target, &path).unwrap();
        let mirror = mirror(&field);
        let before = (field.snapshot(), tree::snapshot(&mirror));
        let host = std::fs::read_dir("/etc").unwrap().count();
        let output =
            field.run(&["--mirror", mirror.to_str().unwrap()], "cat /tmp/pypi/six/index.html >/dev/null 2>&1; true");
        assert!([0, 125].contains(&output.status.code().unwrap()), "{name}: {}", stderr(&output));
        tree::assert_same(&before.0, &field.snapshot(), name);
        tree::assert_same(&before.1, &tree::snapshot(&mirror), name);
        assert_eq!(std::fs::read_dir("/etc").unwrap().count(), host, "{name}");
        field.forget_leaks();
    }
}

#[test]
fn directories_that_must_be_real_are_refused_as_links() {
    needs_sandbox!();
    for name in ["proc", "sys", "dev"] {
        let field = Field::small();
        std::fs::remove_dir(field.root.join(name)).unwrap();
        symlink("/etc", field.root.join(name)).unwrap();
        let before = field.snapshot();
        let output = field.run(&[], "true");
        assert_code(&output, 125);
        assert!(stderr(&output).contains(&format!("/{name} of the image is not a directory")), "{}", stderr(&output));
        tree::assert_same(&before, &field.snapshot(), name);
    }
}

#[test]
fn the_mirror_cannot_be_changed_removed_or_remounted() {
    needs_sandbox!();
    let mut field = Field::small();
    let mirror = mirror(&field);
    let before = tree::snapshot(&mirror);
    let script = "! touch /tmp/pypi/x && ! rm -rf /tmp/pypi/six && ! umount /tmp/pypi && ! mount -o remount,rw,bind /tmp/pypi && \
                  ! mv /tmp/pypi /tmp/gone; rm -rf /tmp/* /tmp/.[!.]*; true";
    assert_code(&field.run(&["--mirror", mirror.to_str().unwrap()], script), 0);
    tree::assert_same(&before, &tree::snapshot(&mirror), "the mirror");
    assert!(!field.root.join("tmp/pypi").exists());
    field.forget_leaks();
}

#[test]
fn a_step_without_privileges_of_its_own_gets_none_from_dropcloth() {
    needs_sandbox!();
    let field = Field::small();
    let output = field.run(
        &["--mode", "discard"],
        "grep -E '^Cap(Eff|Prm|Bnd|Inh|Amb)' /proc/self/status; grep NoNewPrivs /proc/self/status",
    );
    assert_code(&output, 0);
    let text = stdout(&output);
    // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP
    let expected = "00000000a80405fb";
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert!(text.contains(&format!("{set}:\t{expected}")), "{text}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert!(text.contains(&format!("{set}:\t0000000000000000")), "{text}");
    }
}

#[test]
fn a_step_that_fights_its_end_ends() {
    needs_sandbox!();
    let field = Field::small();
    let script = "trap '' TERM INT HUP; (while :; do (sleep 300 &) ; sleep 0.01; done) & sleep 0.3; exit 3";
    assert_code(&field.run(&[], script), 3);
}

#[test]
fn a_deep_tree_can_be_made_and_thrown_away() {
    needs_sandbox!();
    let field = Field::small();
    let before = field.snapshot();
    let script = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 9; i=$((i+1)); done; echo x > f; chattr +i f 2>/dev/null; exit 4";
    assert_code(&field.run(&[], script), 4);
    tree::assert_same(&before, &field.snapshot(), "a deep tree");
}

#[test]
fn a_journal_that_came_with_the_image_is_not_obeyed() {
    needs_sandbox!();
    let field = Field::small();
    let journal = field.root.join(".dropcloth-0123abcd-1.000000000");
    let plan = r#"{"op":"trash","at":"/etc","slot":1}"#;
    let state = |inode: u64| {
        format!(
            r#"{{"version":1,"id":"0123abcd","image":"/","root":{{"device":0,"inode":{inode}}},"mode":"commit","kept":false,
            "pid":1,"started":1,"policy":{{"overrides":{{}},"made":[]}},"prefix":"trusted","same_file_system":true}}"#
        )
    };
    let script = format!(
        "mkdir -m 700 {0} {0}/upper {0}/stage {0}/trash; printf '%s\\nend\\n' '{plan}' > {0}/plan",
        journal.display()
    );
    support::shell(&script, &field.root);
    // One of another image, one that cannot be read, none.
    for state in [Some(state(1)), Some("{".to_owned()), None] {
        match state {
            Some(state) => std::fs::write(journal.join("state"), state).unwrap(),
            None => std::fs::remove_file(journal.join("state")).unwrap(),
        }
        let before = field.snapshot();
        assert_code(&field.run(&[], "true"), 0);
        tree::assert_same(&before, &field.snapshot(), "the image");
    }
}

/// Those that do something on the host, or to the image beforehand, that only root of the machine may, and those of what an
/// overlay of root alone can do.
mod as_root {
    use super::*;

    #[test]
    fn immutable_directories_of_the_image_do_not_stop_a_step() {
        needs_root!();
        let mut field = Field::small();
        let mirror = mirror(&field);
        for name in ["tmp", "root", "etc"] {
            let status = std::process::Command::new("chattr").arg("+i").arg(field.root.join(name)).status().unwrap();
            assert!(status.success());
        }
        let before = field.snapshot();
        let output = field
            .run(&["--mirror", mirror.to_str().unwrap()], "ls /tmp/pypi && cat /root/.pip/pip.conf && ! touch /etc/no");
        assert_code(&output, 0);
        assert!(stdout(&output).contains("index-url = file:///tmp/pypi"));
        tree::assert_same(&before, &field.snapshot(), "immutable directories");
        field.forget_leaks();
    }
}
