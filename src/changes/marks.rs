//! What overlayfs writes into an upper directory, as pure functions. See overlayfs.rst and EXACTNESS in docs/commit.md.

use rustix::fs::{FileType, Stat};

/// The attribute prefix of a mount made with `userxattr` or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefix {
    /// `trusted.overlay.`: mounts of root.
    Trusted,
    /// `user.overlay.`: mounts in a user namespace.
    User,
}

impl Prefix {
    /// The prefix with its last dot.
    pub fn text(self) -> &'static [u8] {
        match self {
            Prefix::Trusted => b"trusted.overlay.",
            Prefix::User => b"user.overlay.",
        }
    }

    /// The full name of one of overlayfs's own attributes.
    pub fn name(self, attribute: &str) -> Vec<u8> {
        [self.text(), attribute.as_bytes()].concat()
    }

    /// What an attribute found in the upper is.
    pub fn read(self, name: &[u8]) -> Attribute {
        match name.strip_prefix(self.text()) {
            None => Attribute::Plain,
            // An attribute that the step itself sets below the prefix is stored with the prefix's last word twice.
            Some(rest) => match rest.strip_prefix(b"overlay.") {
                Some(inner) => Attribute::Escaped([self.text(), inner].concat()),
                None => Attribute::Overlay,
            },
        }
    }
}

/// Whether an attribute is another view of an ACL, as XFS shows it: the ACL itself is carried, and the view of one file system
/// would be an attribute like any other on the next.
pub fn is_acl_view(name: &[u8]) -> bool {
    [&b"trusted.SGI_ACL_FILE"[..], b"trusted.SGI_ACL_DEFAULT"].contains(&name)
}

/// Whether only one kind of file system has an attribute: where it is missing, the upper may have had no place for it.
pub fn is_of_one_file_system(name: &[u8]) -> bool {
    name.starts_with(b"btrfs.")
}

/// Whose an attribute is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// The step's or the image's.
    Plain,
    /// overlayfs's own: never reaches the image.
    Overlay,
    /// The step's, under this name.
    Escaped(Vec<u8>),
}

/// A whiteout: a character device 0:0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Where a redirected directory comes from, as a path in the image: absolute from its root, or a sibling of `parent`.
pub fn redirect_source(redirect: &[u8], parent: Option<&crate::image::Inside>) -> Option<crate::image::Inside> {
    match redirect.strip_prefix(b"/") {
        Some(absolute) => {
            Some(crate::image::Inside::from_components(absolute.split(|b| *b == b'/').filter(|c| !c.is_empty())))
        }
        None => parent.map(|p| p.join(redirect)),
    }
}

/// Type and bytes of the file handle in an `origin` attribute; none: the file system of the image has no handles, or this
/// one cannot name it. `struct ovl_fb`, fs/overlayfs/overlayfs.h: version, magic, length, flags, type (a byte each),
/// uuid (16 bytes), handle.
pub fn handle(origin: &[u8]) -> Option<(u8, &[u8])> {
    let known = origin.first() == Some(&0) && origin.get(1) == Some(&0xfb);
    if known { Some((*origin.get(4)?, origin.get(21..).filter(|bytes| !bytes.is_empty())?)) } else { None }
}

/// The inode flags (`i`, `a`) in a `protattr` value.
pub fn protected(value: &[u8]) -> u32 {
    let bit = |letter: u8, flag: u32| if value.contains(&letter) { flag } else { 0 };
    bit(b'i', crate::sys::fs::IMMUTABLE) | bit(b'a', crate::sys::fs::APPEND)
}

/// Flags that a user can set on a file or directory (FS_FL_USER_MODIFIABLE without the ones about extents), ioctl_iflags(2).
pub const USER_FLAGS: u32 = 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x10
    | 0x20
    | 0x40
    | 0x80
    | 0x400
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000
    | 0x80_0000
    | 0x2000_0000;
/// Flags that overlayfs copies up (`S`, `A`).
pub const COPIED_FLAGS: u32 = 0x8 | 0x80;
/// Flags kept in the `protattr` attribute (`i`, `a`).
pub const PROTECTED_FLAGS: u32 = 0x10 | 0x20;
/// Flags that a new entry inherits from its directory on some file system.
pub const INHERITED_FLAGS: u32 =
    0x1 | 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x400 | 0x4000 | 0x8000 | 0x1_0000 | 0x80_0000 | 0x2000_0000;

/// Those that it inherits on the file system with this magic number (statfs(2)): EXT4_FL_INHERITED and its like in f2fs,
/// xfs_inode_inherit_flags(), btrfs_inherit_iflags(), SHMEM_FL_INHERITED. All of them where it is not known.
pub fn inherited_on(magic: u64) -> u32 {
    match magic {
        0xef53 | 0xf2f5_2010 => INHERITED_FLAGS & !0x80_0000,
        0x5846_5342 => 0x8 | 0x40 | 0x80 | PROJECT_INHERIT,
        0x9123_683e => 0x4 | 0x400 | 0x80_0000,
        0x0102_1994 => 0x40 | 0x80,
        _ => INHERITED_FLAGS,
    }
}
/// New entries get the project id of the directory (`P`).
pub const PROJECT_INHERIT: u32 = 0x2000_0000;
/// Flags that only a directory can have (`D`, `T`).
pub const DIRECTORY_FLAGS: u32 = 0x1_0000 | 0x2_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Inside;

    #[test]
    fn a_redirect_is_absolute_or_a_sibling() {
        let parent = Inside::from_components([&b"a"[..]]);
        assert_eq!(redirect_source(b"/x/y", Some(&parent)).unwrap().to_string(), "/x/y");
        assert_eq!(redirect_source(b"old", Some(&parent)).unwrap().to_string(), "/a/old");
        assert_eq!(redirect_source(b"old", None), None);
    }

    #[test]
    fn attributes_of_the_step_below_the_prefix_are_told_from_those_of_overlayfs() {
        let table: [(&[u8], Attribute); 4] = [
            (b"user.comment", Attribute::Plain),
            (b"trusted.overlay.origin", Attribute::Overlay),
            (b"trusted.overlay.overlay.opaque", Attribute::Escaped(b"trusted.overlay.opaque".to_vec())),
            (b"user.overlay.opaque", Attribute::Plain),
        ];
        for (name, expected) in table {
            assert_eq!(Prefix::Trusted.read(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn the_handle_of_an_origin_is_behind_the_uuid() {
        let origin = [&[0, 0xfb, 29, 0, 0x81][..], &[7; 16], b"12345678"].concat();
        assert_eq!(handle(&origin), Some((0x81, &b"12345678"[..])));
        for other in [&b""[..], b"y", &origin[..21], &origin[1..]] {
            assert_eq!(handle(other), None);
        }
    }

    #[test]
    fn protattr_letters_are_flags() {
        assert_eq!(protected(b"ai"), 0x30);
        assert_eq!(protected(b"a"), 0x20);
        assert_eq!(protected(b""), 0);
    }
}
