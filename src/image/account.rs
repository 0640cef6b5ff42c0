//! Users and groups of the image, from its own passwd(5) and group(5).

use std::path::PathBuf;

use super::inside::Resolver;
use super::{Image, Inside};
use crate::error::{Fault, Result, refuse};

/// Who the step runs as.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory; `/` when passwd(5) has none.
    pub home: PathBuf,
    /// The name, when there is one.
    pub name: Option<String>,
}

const LIMIT: usize = 4 << 20;

/// A line of passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Login group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// A line of group(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Users in it besides those who have it as login group.
    pub members: Vec<String>,
}

impl Image {
    /// The text of its passwd(5).
    pub fn passwd(&self) -> Result<String> {
        Ok(text(self.read_small("etc/passwd", LIMIT)?))
    }

    /// Looks up `USER[:GROUP]` (names or numbers) in the image, whose passwd(5) has this text; no user: root.
    pub fn account(&self, passwd: &str, user: Option<&str>) -> Result<Account> {
        let asked = user.unwrap_or("0");
        let (user, group) = match asked.split_once(':') {
            Some((user, group)) => (if user.is_empty() { "0" } else { user }, Some(group)),
            None => (asked, None),
        };
        let number = user.parse::<u32>();
        // Only a number as it is printed is one: `007` is a name.
        let printed = number.as_ref().ok().filter(|number| number.to_string() == user);
        let found = passwd.lines().filter_map(parse_user).find(|e| e.name == user || printed == Some(&e.uid));
        let (uid, mut gid, home, name) = match (found, number) {
            (Some(e), _) => (e.uid, e.gid, e.home.to_owned(), Some(e.name.to_owned())),
            (None, Ok(0)) => (0, 0, "/root".to_owned(), None),
            (None, Ok(uid)) => (uid, uid, "/".to_owned(), None),
            (None, Err(_)) => {
                let known: Vec<String> =
                    passwd.lines().filter_map(parse_user).map(|e| e.name.to_owned()).take(40).collect();
                return refuse(Fault::new(format!("the image has no user {user:?}")).hint(format!(
                    "Give a number with --user, or a name of the image's /etc/passwd: {}.",
                    known.join(", ")
                )));
            }
        };
        let group_text = text(self.read_small("etc/group", LIMIT)?);
        if let Some(group) = group {
            gid = parse_groups(&group_text)
                .find(|(name, id, _)| *name == group || id.to_string() == group)
                .map(|(_, id, _)| id)
                .or_else(|| group.parse().ok())
                .ok_or_else(|| {
                    Fault::new(format!("the image has no group {group:?}"))
                        .hint("Give a number after the colon of --user.")
                })?;
        }
        let member = |members: &str| name.as_deref().is_some_and(|n| members.split(',').any(|m| m == n));
        let mut groups: Vec<u32> =
            parse_groups(&group_text).filter(|(_, _, members)| member(members)).map(|(_, id, _)| id).collect();
        if !groups.contains(&gid) {
            groups.insert(0, gid);
        }
        let home = if home.starts_with('/') { PathBuf::from(home) } else { PathBuf::from("/") };
        Ok(Account { uid, gid, groups, home, name })
    }
}

impl Image {
    /// All users of the image's passwd(5).
    pub fn users(&self) -> Result<Vec<User>> {
        let user = |user: Line<'_>| User {
            name: user.name.to_owned(),
            uid: user.uid,
            gid: user.gid,
            home: user.home.to_owned(),
        };
        Ok(self.passwd()?.lines().filter_map(parse_user).map(user).collect())
    }

    /// All groups of the image's group(5).
    pub fn groups(&self) -> Result<Vec<Group>> {
        let text = text(self.read_small("etc/group", LIMIT)?);
        let group = |(name, gid, members): (&str, u32, &str)| Group {
            name: name.to_owned(),
            gid,
            members: members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
        };
        Ok(parse_groups(&text).map(group).collect())
    }
}

/// What Debian, Fedora, Arch and Alpine give as home to accounts that nobody works as: several share one, or it is where a
/// service has its data. Nobody keeps configuration of installers there, and looking for it is a part of each start.
const NOBODYS: [&str; 22] = [
    "/",
    "/bin",
    "/dev",
    "/nonexistent",
    "/run/ircd",
    "/sbin",
    "/usr/games",
    "/usr/lib/news",
    "/usr/sbin",
    "/var/adm",
    "/var/backups",
    "/var/cache/man",
    "/var/empty",
    "/var/ftp",
    "/var/list",
    "/var/mail",
    "/var/spool/cron",
    "/var/spool/lpd",
    "/var/spool/mail",
    "/var/spool/news",
    "/var/spool/uucp",
    "/var/spool/uucppublic",
];

/// The home directories in this text of passwd(5) that are there, each once, but for those that are nobody's.
pub fn homes(resolver: &mut Resolver<'_>, passwd: &str) -> Result<Vec<PathBuf>> {
    let mut homes: Vec<&str> = Vec::new();
    for home in passwd.lines().filter_map(parse_user).map(|e| e.home) {
        if home.starts_with('/') && !NOBODYS.contains(&home) && !homes.contains(&home) {
            homes.push(home);
        }
    }
    // Most accounts of a system have none.
    let mut found = Vec::with_capacity(homes.len());
    for home in homes {
        // A line of nonsense is nobody's home.
        let there = |inside: Inside| resolver.resolve(&inside).is_ok_and(|place| place.entry.is_some());
        if Inside::lexical(home.as_ref()).is_some_and(there) {
            found.push(PathBuf::from(home));
        }
    }
    Ok(found)
}

fn text(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// A line of passwd(5).
struct Line<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn parse_user(line: &str) -> Option<Line<'_>> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let home = fields.nth(1)?;
    Some(Line { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
}

fn parse_groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        fields.next().is_none().then_some((name, id.parse().ok()?, members))
    })
}
