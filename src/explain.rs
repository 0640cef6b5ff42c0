//! Faults as text, and advice for the error numbers that lie. Pure.

use std::fmt::Write;

use crate::error::Fault;

/// The error as people read it: what was being done, why it failed, the kernel's own words, what to do.
pub fn render(fault: &Fault) -> String {
    let mut out = format!("error: {}\n", line(&fault.doing));
    for cause in &fault.because {
        let _ = writeln!(out, "  because: {}", line(cause));
    }
    if let Some(kernel) = &fault.kernel {
        let _ = writeln!(out, "  kernel:  {}", line(kernel));
    }
    let advice = fault.call.as_ref().filter(|_| fault.hints.is_empty()).and_then(|(call, errno)| advice(call, *errno));
    for hint in fault.hints.iter().map(String::as_str).chain(advice) {
        let _ = writeln!(out, "  hint:    {}", line(hint));
    }
    out
}

/// Text as one line. Names of the image are in it, and the image is not trusted: a control character could write to the
/// terminal what no error said, and so could one that turns the direction of writing.
fn line(text: &str) -> String {
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        if odd(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// What an error number really means for this call, with the next step; none where it says what it means.
pub fn advice(call: &str, errno: i32) -> Option<&'static str> {
    let mounting = ["fsconfig", "fsmount", "move_mount", "open_tree", "mount_setattr", "mount"].contains(&call);
    Some(match (call, errno) {
        // For "fsconfig", the overlay makes directories of its own in the transaction.
        (_, libc::ENOSPC) if mounting && call != "fsconfig" => {
            "The kernel allows no more mounts in this namespace: raise it with `sysctl fs.mount-max=…`, or unmount what is not needed."
        }
        ("fsconfig", libc::EINVAL) => {
            "The scratch directory is on a file system that overlayfs cannot write to (another overlay, a network or FAT file system). Put it on ext4, xfs, btrfs or tmpfs with --scratch DIR."
        }
        ("fsconfig", libc::ELOOP) => {
            "The scratch directory lies inside the image: name one outside with --scratch DIR."
        }
        ("fsconfig", libc::EBUSY) => "Another overlay uses this transaction's directories: `dropcloth list` shows who.",
        (_, libc::EIO | libc::ESTALE) if mounting => {
            "The overlay's layers do not fit together: look at `dmesg | tail`."
        }
        ("fsopen", libc::ENODEV) => "The kernel has no such file system: load it with `modprobe overlay`.",
        (_, libc::ENOSYS) => "The kernel is too old: dropcloth needs Linux 5.12 or newer.",
        ("clone3" | "unshare", libc::EPERM) => {
            "Making namespaces is forbidden here: run it as root, or look at `sysctl user.max_mnt_namespaces`, AppArmor and the container's seccomp profile."
        }
        ("clone3" | "unshare", libc::ENOSPC) => {
            "There are too many namespaces: raise the limits under /proc/sys/user (max_mnt_namespaces, max_pid_namespaces)."
        }
        (_, libc::EPERM) if mounting => {
            "Mounting is forbidden here: run it as root; in a container it needs CAP_SYS_ADMIN."
        }
        (_, libc::EOVERFLOW) => "A file's owner has no place in this user namespace's id map: run it as root.",
        (_, libc::ETXTBSY) => "The file is being executed: wait until that program has ended.",
        ("renameat2", libc::EXDEV) => "The scratch directory is on another mount than the image: leave --scratch out.",
        (_, libc::ENOSPC) => {
            "The file system is full: free space, or put the transaction elsewhere with --scratch DIR."
        }
        (_, libc::EDQUOT) => {
            "The disk quota is used up: free space, or put the transaction elsewhere with --scratch DIR."
        }
        (_, libc::EROFS) => {
            "The file system is read-only: remount it, or put the transaction elsewhere with --scratch DIR."
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_rendered_line_by_line() {
        let fault = Fault::new("cannot lay the overlay over /srv/base").because("fsconfig(): EINVAL").hint("Do this.");
        let fault = Fault { kernel: Some("overlay: no".to_owned()), ..fault };
        let expected = "error: cannot lay the overlay over /srv/base\n  because: fsconfig(): EINVAL\n  kernel:  overlay: no\n  hint:    Do this.\n";
        assert_eq!(render(&fault), expected);
    }

    #[test]
    fn a_name_of_the_image_writes_no_line_and_no_control_character() {
        let fault = Fault::new("cannot open \u{1b}[2J\u{9b}x").because("a\nhint: run me\r").hint("Do \u{202e}this.");
        let expected =
            "error: cannot open \\u{1b}[2J\\u{9b}x\n  because: a\\nhint: run me\n  hint:    Do \\u{202e}this.\n";
        assert_eq!(render(&fault), expected);
    }

    #[test]
    fn an_error_number_that_lies_is_translated_unless_there_is_a_hint() {
        let fault = Fault { call: Some(("fsconfig".to_owned(), libc::EINVAL)), ..Fault::new("x") };
        assert!(render(&fault).contains("--scratch"));
        assert!(!render(&fault.hint("Other.")).contains("--scratch"));
    }

    #[test]
    fn every_advice_is_a_sentence_with_something_to_do() {
        let calls = ["fsconfig", "fsopen", "clone3", "mount", "renameat2", "write"];
        let numbers =
            [libc::ENOSPC, libc::EINVAL, libc::ELOOP, libc::EPERM, libc::EOVERFLOW, libc::ENOSYS, libc::EXDEV];
        for (call, errno) in calls.iter().flat_map(|c| numbers.iter().map(move |n| (*c, *n))) {
            if let Some(text) = advice(call, errno) {
                assert!(text.ends_with('.') && text.len() > 30, "{call} {errno}: {text}");
            }
        }
    }
}
