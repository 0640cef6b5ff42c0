//! A path inside an image: raw bytes, relative to its root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A path inside an image: components joined by `/`, no leading slash, no `.`, `..` or empty component. Empty: the root.
///
/// Its text form (`Display`, serde) starts with `/`; a byte that is not part of UTF-8, and the backslash, is written `\xNN`,
/// so that every name can be read back from a journal or a JSON report. A copy shares the bytes: a commit has several of each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Inside(Arc<[u8]>);

/// The same order and the same hash as the bytes.
impl std::borrow::Borrow<[u8]> for Inside {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Inside {
    /// The root.
    pub fn root() -> Inside {
        Inside::default()
    }

    /// From components that are known to be names.
    pub fn from_components<'a>(components: impl IntoIterator<Item = &'a [u8]>) -> Inside {
        let mut bytes = Vec::with_capacity(64);
        for name in components {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name);
        }
        Inside(bytes.into())
    }

    /// From names that are joined already.
    pub(super) fn from_names(bytes: &[u8]) -> Inside {
        Inside(bytes.into())
    }

    /// From a path as a user writes it: absolute or not, read from the root; `None` when it has a `..`.
    pub fn lexical(path: &Path) -> Option<Inside> {
        let bytes = path.as_os_str().as_bytes();
        let plain = bytes.strip_prefix(b"/").unwrap_or(bytes);
        // Most are written as they are kept.
        if plain.split(|b| *b == b'/').all(|name| !matches!(name, b"" | b"." | b"..")) {
            return Some(Inside(plain.into()));
        }
        let names = bytes.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b"."));
        (!names.clone().any(|name| name == b"..")).then(|| Inside::from_components(names))
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// How many components it has.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The entry `name` below this directory.
    pub fn join(&self, name: &[u8]) -> Inside {
        let slash: &[u8] = if self.0.is_empty() || name.is_empty() { b"" } else { b"/" };
        let (start, end) = (self.0.len() + slash.len(), self.0.len() + slash.len() + name.len());
        // Most paths are short: no other memory than that which they stay in.
        let mut short = [0; 256];
        let Some(bytes) = short.get_mut(..end) else { return Inside([&self.0, slash, name].concat().into()) };
        bytes[..self.0.len()].copy_from_slice(&self.0);
        bytes[self.0.len()..start].copy_from_slice(slash);
        bytes[start..].copy_from_slice(name);
        Inside((&*bytes).into())
    }

    /// This path seen from `other`, which it lies below.
    pub fn relative_to(&self, other: &Inside) -> Inside {
        let rest = self.0.get(other.0.len()..).unwrap_or_default();
        Inside(rest.strip_prefix(b"/").unwrap_or(rest).into())
    }

    /// The directory above and the last name; `None` for the root.
    pub fn split(&self) -> Option<(Inside, &[u8])> {
        self.split_bytes().map(|(parent, name)| (Inside(parent.into()), name))
    }

    /// The same without a copy.
    pub fn split_bytes(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None => Some((b"", &self.0)),
        }
    }

    /// The directory above; the root is above itself.
    pub fn parent(&self) -> Inside {
        self.split().map_or_else(Inside::root, |(parent, _)| parent)
    }

    /// Whether this path is `other` or lies below it.
    pub fn is_below(&self, other: &Inside) -> bool {
        other.is_root()
            || self == other
            || (self.0.starts_with(&other.0[..]) && self.0.get(other.0.len()) == Some(&b'/'))
    }

    /// As a relative host path (for the few calls that take one below an open directory).
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// As an absolute path of the image.
    pub fn to_path(&self) -> PathBuf {
        Path::new("/").join(self.as_path())
    }

    fn parse(text: &str) -> Option<Inside> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.strip_prefix('/')?.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            if byte == b'\\' {
                let digits = tail.get(1..3).filter(|_| tail[0] == b'x')?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = &tail[3..];
            } else {
                bytes.push(byte);
                rest = tail;
            }
        }
        Some(Inside(bytes.into()))
    }
}

/// Bytes as reversible text: `\xNN` for what is not UTF-8, for control characters and for the backslash.
pub fn escape(bytes: &[u8]) -> String {
    // Most names are plain.
    if let Ok(text) = std::str::from_utf8(bytes)
        && bytes.iter().all(|b| matches!(b, b' '..=b'[' | b']'..=b'~'))
    {
        return text.to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\x5c"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    c.encode_utf8(&mut buffer).bytes().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out
}

impl std::fmt::Display for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("/")?;
        f.write_str(&escape(&self.0))
    }
}

impl serde::Serialize for Inside {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Inside {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Inside, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Inside::parse(&text).ok_or_else(|| serde::de::Error::custom("not a path inside an image"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_name_survives_the_journal(bytes in proptest::collection::vec(1_u8..=255, 0..60)) {
            let path = Inside::from_components(bytes.split(|b| *b == b'/').filter(|c| !c.is_empty()));
            let text = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<Inside>(&text).unwrap(), path);
        }
    }

    #[test]
    fn a_path_with_dot_dot_is_no_inside_path() {
        assert_eq!(Inside::lexical(Path::new("/etc/../passwd")), None);
        assert_eq!(Inside::lexical(Path::new("//etc/./pip.conf")).unwrap().bytes(), b"etc/pip.conf");
    }

    #[test]
    fn a_name_is_joined_and_taken_apart_whatever_its_length() {
        for length in [1, 100, 250, 251, 252, 253, 300] {
            let (above, name) = (Inside::from_names(b"srv"), vec![b'n'; length]);
            let joined = above.join(&name);
            assert_eq!(joined.bytes(), [b"srv/", &name[..]].concat());
            assert_eq!(joined.split(), Some((above.clone(), &name[..])));
            assert_eq!(joined.join(b"x").relative_to(&above).bytes(), [&name[..], b"/x"].concat());
            assert_eq!(Inside::root().join(&name).bytes(), name);
        }
        let same = Inside::from_names(b"a/b");
        assert_eq!((same.join(b""), same.relative_to(&Inside::root())), (same.clone(), same.clone()));
        assert_eq!(same.relative_to(&same), Inside::root());
    }

    #[test]
    fn below_goes_by_whole_components() {
        let of = |t: &str| Inside::lexical(Path::new(t)).unwrap();
        assert!(of("/a/b").is_below(&of("/a")));
        assert!(of("/a").is_below(&of("/a")));
        assert!(!of("/ab").is_below(&of("/a")));
        assert!(of("/ab").is_below(&Inside::root()));
    }
}
