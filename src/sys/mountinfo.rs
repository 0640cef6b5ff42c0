//! /proc/self/mountinfo, proc(5): only to find what is mounted below a directory, never to decide what to unmount. Where the kernel
//! tells the same without a text of every mount, [`super::statmount`] asks it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::{Called, SysResult};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount point, unescaped.
    pub point: PathBuf,
    /// File system type.
    pub kind: String,
}

/// Bytes, of some dozens of mounts.
const BUFFER: usize = 8 << 10;

/// The mounts of this process's namespace whose mount point is `directory` or lies below it.
pub fn at_and_below(directory: &Path) -> SysResult<Vec<Mount>> {
    let mut file = File::open("/proc/self/mountinfo").called(|| "open(\"/proc/self/mountinfo\")")?;
    // Its size is not known before, and reading would begin with a few bytes.
    let mut text = Vec::with_capacity(BUFFER);
    file.read_to_end(&mut text).called(|| "read(\"/proc/self/mountinfo\")")?;
    // A host can have thousands of mounts: a line is looked at closely only when it may be one of those.
    let wanted = directory.as_os_str().as_bytes();
    let may_be = |line: &&[u8]| {
        let point = line.split(|b| *b == b' ').nth(4).unwrap_or_default();
        point.starts_with(wanted) || point.contains(&b'\\') || wanted == b"/"
    };
    let lines = text.split(|b| *b == b'\n').filter(may_be);
    Ok(lines.filter_map(parse).filter(|m| m.point.starts_with(directory)).collect())
}

/// One line: the fifth field is the mount point, the type is the first field after the separating "-".
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let point = unescape(fields.nth(4)?);
    let kind = fields.skip_while(|f| *f != b"-").nth(1)?;
    Some(Mount { point: PathBuf::from(OsString::from_vec(point)), kind: String::from_utf8_lossy(kind).into_owned() })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| byte == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(d) = digits {
            out.push((d[0] - b'0').wrapping_mul(64) + (d[1] - b'0') * 8 + (d[2] - b'0'));
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_and_a_foreign_byte_is_read_back_exactly() {
        let line = b"36 35 98:0 /x /mnt\\040a\\134b\xff rw,noatime shared:1 master:2 - ext4 /dev/root rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point.into_os_string().into_vec(), b"/mnt a\\b\xff");
        assert_eq!(mount.kind, "ext4");
    }

    #[test]
    fn a_line_without_the_separator_is_passed_over() {
        assert_eq!(parse(b"36 35 98:0 / /mnt rw"), None);
        assert_eq!(parse(b""), None);
    }
}
