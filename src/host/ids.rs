//! Subordinate ids and the id maps of a user namespace: subuid(5), user_namespaces(7). Pure but for [`subordinate`].

use std::path::Path;

/// Ids that an ordinary user may use beside his own: first id and how many.
pub type Range = (u32, u32);

/// One extent of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Extent {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The maps of user and group ids.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Maps {
    /// User ids.
    pub users: Vec<Extent>,
    /// Group ids.
    pub groups: Vec<Extent>,
}

impl Maps {
    /// Root is the caller, and nobody else is there.
    pub fn single(uid: u32, gid: u32) -> Maps {
        let one = |outside| vec![Extent { inside: 0, outside, count: 1 }];
        Maps { users: one(uid), groups: one(gid) }
    }

    /// Root is the caller, the ids from 1 on are the subordinate ones.
    pub fn with_subordinates(uid: u32, users: &[Range], gid: u32, groups: &[Range]) -> Maps {
        Maps { users: stacked(uid, users), groups: stacked(gid, groups) }
    }

    /// Whether there is more than one user.
    pub fn is_single(&self) -> bool {
        self.users.iter().map(|e| e.count).sum::<u32>() == 1
    }

    /// The maps of a namespace inside this one in which `uid` and `gid` are root, the ids above them follow, and the caller
    /// comes last: an image whose files belong to the first subordinate id.
    pub fn with_root(&self, uid: u32, gid: u32) -> Maps {
        let total = |extents: &[Extent]| extents.iter().map(|e| e.inside + e.count).max().unwrap_or(1);
        let shifted = |root: u32, total: u32| {
            let count = total.saturating_sub(root);
            vec![Extent { inside: 0, outside: root, count }, Extent { inside: count, outside: 0, count: root.min(1) }]
        };
        Maps { users: shifted(uid, total(&self.users)), groups: shifted(gid, total(&self.groups)) }
    }
}

fn stacked(own: u32, ranges: &[Range]) -> Vec<Extent> {
    let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
    let mut inside = 1_u32;
    for (outside, count) in ranges {
        let count = (*count).min(u32::MAX - inside);
        if count > 0 {
            extents.push(Extent { inside, outside: *outside, count });
        }
        inside = inside.saturating_add(count);
    }
    extents
}

/// Where an id inside is outside; none: nowhere.
pub fn outside(extents: &[Extent], id: u32) -> Option<u32> {
    extents.iter().find(|e| id >= e.inside && id - e.inside < e.count).map(|e| e.outside + (id - e.inside))
}

/// Whether an id outside has a place inside.
pub fn has(extents: &[Extent], id: u32) -> bool {
    extents.iter().any(|e| id >= e.outside && id - e.outside < e.count)
}

/// The ranges of `file` (/etc/subuid or /etc/subgid) for a user, by name or number.
pub fn subordinate(file: &Path, name: Option<&str>, uid: u32) -> Vec<Range> {
    parse(&std::fs::read_to_string(file).unwrap_or_default(), name, uid)
}

fn parse(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    let mut ranges = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut fields = line.split(':');
        let (Some(user), Some(first), Some(count)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (Ok(first), Ok(count)) = (first.trim().parse(), count.trim().parse()) else { continue };
        if (Some(user) == name || user == number) && count > 0 {
            ranges.push((first, count));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_by_name_or_number() {
        let text = "# who:first:count\nada:100000:65536\n\nbob:1:1\n1001:300000:10\nada:x:1\nada:5\nada:7:0\n";
        assert_eq!(parse(text, Some("ada"), 1001), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(parse(text, None, 5), []);
    }

    #[test]
    fn root_is_the_caller_and_the_subordinate_ids_follow() {
        let maps = Maps::with_subordinates(1000, &[(100_000, 65_536), (300_000, 10)], 1000, &[(100_000, 65_536)]);
        assert_eq!(outside(&maps.users, 0), Some(1000));
        assert_eq!(outside(&maps.users, 1), Some(100_000));
        assert_eq!(outside(&maps.users, 65_537), Some(300_000));
        assert_eq!(outside(&maps.users, 65_547), None);
        assert!(has(&maps.users, 165_535) && !has(&maps.users, 165_536) && has(&maps.users, 1000));
        assert!(!maps.is_single() && Maps::single(1000, 1000).is_single());
    }

    #[test]
    fn an_image_of_the_first_subordinate_id_has_it_as_root() {
        let maps = Maps::with_subordinates(1000, &[(100_000, 65_536)], 1000, &[(100_000, 65_536)]);
        let inner = maps.with_root(1, 1);
        assert_eq!(outside(&inner.users, 0), Some(1));
        assert_eq!(outside(&inner.users, 65_535), Some(65_536));
        assert_eq!(outside(&inner.users, 65_536), Some(0), "the caller comes last");
    }
}
