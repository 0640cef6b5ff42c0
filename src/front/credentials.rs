//! `--userspec` and `--groups` of chroot(8): names are those of the new root, numbers need no name.

use crate::image::account::{Group, User};

/// Who the command runs as; what is `None` stays the caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Supplementary groups.
    pub groups: Option<Vec<u32>>,
}

/// The users and groups of the new root.
pub struct Known {
    /// passwd(5).
    pub users: Vec<User>,
    /// group(5).
    pub groups: Vec<Group>,
}

impl Known {
    fn user(&self, text: &str) -> Result<(u32, Option<u32>), String> {
        let invalid = || "invalid user".to_owned();
        let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        if let Some(plain) = text.strip_prefix('+') {
            return number(plain).map(|uid| (uid, None)).ok_or_else(invalid);
        }
        match self.users.iter().find(|user| user.name == text) {
            Some(user) => Ok((user.uid, Some(user.gid))),
            None => number(text).map(|uid| (uid, None)).ok_or_else(invalid),
        }
    }

    fn group(&self, text: &str) -> Option<u32> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        if let Some(plain) = text.strip_prefix('+') {
            return number(plain);
        }
        self.groups.iter().find(|group| group.name == text).map(|group| group.gid).or_else(|| number(text))
    }

    /// Reads both options. The error is the text after `chroot: `.
    pub fn credentials(&self, userspec: Option<&str>, groups: Option<&str>) -> Result<Credentials, String> {
        let mut found = Credentials::default();
        if let Some(spec) = userspec {
            let (user, group) = spec.split_once(':').map_or((spec, None), |(user, group)| (user, Some(group)));
            if !user.is_empty() {
                let (uid, login) = self.user(user)?;
                found.uid = Some(uid);
                // With a colon and nothing after it the login group is meant; that of a number is looked up below.
                if group == Some("") {
                    found.gid = login;
                }
            }
            if let Some(group) = group.filter(|group| !group.is_empty()) {
                found.gid = Some(self.group(group).ok_or_else(|| "invalid group".to_owned())?);
            }
        }
        let mut name = None;
        if let Some(uid) = found.uid {
            let user = self.users.iter().find(|user| user.uid == uid);
            if found.gid.is_none() {
                let user = user.ok_or_else(|| format!("no group specified for unknown uid: {uid}"))?;
                found.gid = Some(user.gid);
            }
            name = user.map(|user| user.name.as_str());
        }
        found.groups = match (groups, found.uid) {
            (Some(""), _) => Some(Vec::new()),
            (Some(list), _) => Some(self.list(list)?),
            (None, Some(_)) => Some(name.map_or_else(Vec::new, |name| self.groups_of(name, found.gid))),
            (None, None) => None,
        };
        Ok(found)
    }

    /// Extra commas are no matter, other words that are no group are.
    fn list(&self, list: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        for word in list.split(',').filter(|word| !word.is_empty()) {
            let trimmed = word.trim_start();
            let found = self.group(if trimmed.is_empty() { word } else { trimmed });
            ids.push(found.ok_or_else(|| format!("invalid group '{word}'"))?);
        }
        if ids.is_empty() { Err(format!("invalid group list '{list}'")) } else { Ok(ids) }
    }

    fn groups_of(&self, name: &str, own: Option<u32>) -> Vec<u32> {
        let mut ids: Vec<u32> = own.into_iter().collect();
        for group in self.groups.iter().filter(|group| group.members.iter().any(|member| member == name)) {
            if !ids.contains(&group.gid) {
                ids.push(group.gid);
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let user = |name: &str, uid, gid| User { name: name.into(), uid, gid, home: "/".into() };
        let group = |name: &str, gid, members: &[&str]| Group {
            name: name.into(),
            gid,
            members: members.iter().map(|m| (*m).to_owned()).collect(),
        };
        Known {
            users: vec![user("root", 0, 0), user("me", 1000, 1001)],
            groups: vec![group("root", 0, &[]), group("me", 1001, &[]), group("wheel", 10, &["me", "x"])],
        }
    }

    type Ids = (Option<u32>, Option<u32>, Option<Vec<u32>>);

    fn read(userspec: Option<&str>, groups: Option<&str>) -> Result<Ids, String> {
        known().credentials(userspec, groups).map(|c| (c.uid, c.gid, c.groups))
    }

    #[test]
    fn every_form_of_a_user_is_read() {
        assert_eq!(read(Some("me"), None), Ok((Some(1000), Some(1001), Some(vec![1001, 10]))));
        assert_eq!(read(Some("me:"), None), Ok((Some(1000), Some(1001), Some(vec![1001, 10]))));
        assert_eq!(read(Some(":wheel"), None), Ok((None, Some(10), None)));
        assert_eq!(read(Some("me:0"), None), Ok((Some(1000), Some(0), Some(vec![0, 10]))));
        assert_eq!(read(Some("+5:+6"), None), Ok((Some(5), Some(6), Some(vec![]))));
        assert_eq!(read(Some("77"), None), Err("no group specified for unknown uid: 77".to_owned()));
        assert_eq!(read(Some("nobody-there"), None), Err("invalid user".to_owned()));
        assert_eq!(read(None, None), Ok((None, None, None)));
    }

    #[test]
    fn lists_of_groups_are_not_added_to_those_of_the_user() {
        assert_eq!(read(Some("me"), Some("root,+99,")), Ok((Some(1000), Some(1001), Some(vec![0, 99]))));
        assert_eq!(read(None, Some(" +8765,4321")), Ok((None, None, Some(vec![8765, 4321]))));
        assert_eq!(read(Some("me"), Some("")), Ok((Some(1000), Some(1001), Some(vec![]))));
        for list in [" ", ",", "0trail", "no-such"] {
            assert!(read(None, Some(list)).is_err(), "{list:?}");
        }
    }
}
