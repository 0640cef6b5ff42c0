//! Random programs: a tree, and what is done to it. The same seed gives the same program on every machine.

use std::collections::BTreeMap;

/// Lines of perl for the interpreter beside this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Make the image's tree.
    pub tree: Vec<String>,
    /// Set flags in it, after its times: some of them forbid any other change.
    pub flags: Vec<String>,
    /// What the step does. In it, END ends a step of several, and FAIL one that fails.
    pub steps: Vec<String>,
    pub way: Way,
    /// The directory that the image is in gives attributes to what is made in it.
    pub giving: bool,
}

/// Lines that are no perl.
pub const END: &str = "# a step ends";
pub const FAIL: &str = "# a step fails";

/// How the program's changes come into the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `dropcloth run`.
    Run,
    /// `dropcloth begin`, `run --in` for each step, and `commit`.
    Steps,
    /// `dropcloth run --scratch`, on another file system.
    Scratch,
}

pub fn program(seed: u64) -> Program {
    let mut world = World::new(seed);
    let tree = world.tree();
    let flags = world.flags();
    let steps = world.steps();
    let giving = world.random.one_in(6);
    Program { tree, flags, steps, way: world.way, giving }
}

/// splitmix64, of which a few lines are a whole generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
    Other,
}

type Path = Vec<u8>;

/// What the tree will roughly be: enough to name what is there more often than not. An operation that fails does so in both
/// trees, and that is compared as well.
struct World {
    random: Random,
    paths: BTreeMap<Path, Kind>,
    /// Which of the groups of operations this program prefers.
    taste: usize,
    way: Way,
}

/// Few and simple, so that names are used again; the others now and then.
const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"];
const ODD_NAMES: [&[u8]; 10] = [
    b"\xff\xfe",
    b"new\nline",
    b"back\\slash",
    b" ",
    b"a:b,c",
    b".wh.a",
    b".wh..wh..opq",
    b"$x@y\"'",
    b"\x01\x7f",
    &[b'n'; 255],
];
const FLAGGED_NAMES: [&[u8]; 3] = [b"F1", b"F2", b"F3"];
const ATTRIBUTES: [&str; 9] = [
    "user.a",
    "user.b",
    "trusted.a",
    "trusted.b",
    "security.a",
    "trusted.overlay.opaque",
    "trusted.overlay.redirect",
    "trusted.overlay.overlay.x",
    "user.overlay.origin",
];
/// Those of an image: what has overlayfs's own names there is hidden from a step or shown under another, so that it does
/// nothing to it.
const IMAGE_ATTRIBUTES: [&str; 7] = [
    "user.a",
    "user.b",
    "trusted.a",
    "trusted.b",
    "security.a",
    "trusted.overlay.image",
    "trusted.overlay.overlay.image2",
];
const MODES: [u32; 10] = [0o644, 0o600, 0o755, 0o700, 0, 0o4755, 0o2775, 0o1777, 0o6777, 0o444];
const OWNERS: [(u32, u32); 4] = [(0, 0), (1000, 1000), (3, 4), (0, 1000)];

// ioctl_iflags(2)
const SYNC: u32 = 0x8;
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;
const COMPRESS: u32 = 0x4;
const NO_DUMP: u32 = 0x40;
const NO_ATIME: u32 = 0x80;
const DIR_SYNC: u32 = 0x1_0000;
const TOP_DIR: u32 = 0x2_0000;

/// The same on all Linux of README's table.
const CREATE: u32 = 0o100;
const EXCLUSIVE: u32 = 0o200;
const TRUNCATE: u32 = 0o1000;
const APPENDING: u32 = 0o2000;
const READ_WRITE: u32 = 2;

type Maker = fn(&mut World) -> String;

/// Operations with how often each is chosen, in groups: a program prefers one of them.
const GROUPS: [&[(usize, Maker)]; 5] = [
    &[
        (6, World::rename),
        (2, World::exchange),
        (2, World::swap_in),
        (1, World::no_replace),
        (2, World::rename_directory),
        (1, World::pour),
        (1, World::invert),
        (1, World::renew),
        (1, World::inside),
    ],
    &[
        (4, World::write),
        (2, World::append),
        (1, World::truncate),
        (1, World::fallocate),
        (1, World::map),
        (1, World::unlinked),
        (1, World::open),
        (1, World::tmpfile),
        (1, World::hold),
        (3, World::held),
        (1, World::copy),
    ],
    &[
        (3, World::mkdir),
        (2, World::symlink),
        (1, World::mknod),
        (1, World::socket),
        (3, World::unlink),
        (2, World::remove),
        (1, World::rmdir),
        (3, World::create),
        (1, World::inside),
        (1, World::deep),
    ],
    &[
        (4, World::link),
        (1, World::through_each_name),
        (2, World::write),
        (2, World::unlink),
        (2, World::rename),
        (1, World::chmod),
    ],
    &[
        (2, World::chmod),
        (2, World::chown),
        (2, World::times),
        (3, World::setxattr),
        (1, World::removexattr),
        (2, World::acl),
        (1, World::remove_acl),
        (2, World::chattr),
        (1, World::capability),
        (1, World::each),
        (1, World::project),
    ],
];
const OBSERVERS: &[(usize, Maker)] =
    &[(1, World::read), (1, World::list), (2, World::stat), (1, World::readlink), (1, World::xattrs)];

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let taste = random.below(GROUPS.len() + 1);
        let way = match random.below(8) {
            0..5 => Way::Run,
            5..7 => Way::Steps,
            _ => Way::Scratch,
        };
        World { random, paths: BTreeMap::new(), taste, way }
    }

    /// What is copied up to the scratch directory meets another file system, here tmpfs: it has not all flags, and cannot zero
    /// a range, or copy one from the image.
    fn elsewhere(&self) -> bool {
        self.way == Way::Scratch
    }

    // ---- the image ----

    fn tree(&mut self) -> Vec<String> {
        let mut lines = vec!["op('chmod', '.', 0755);".to_owned()];
        for _ in 0..3 + self.random.below(6) {
            lines.push(self.mkdir());
        }
        for _ in 0..5 + self.random.below(25) {
            lines.push(self.initial());
        }
        lines.iter().flat_map(|line| line.lines()).map(str::to_owned).collect()
    }

    fn initial(&mut self) -> String {
        match self.random.below(23) {
            0..3 => self.mkdir(),
            3..9 => self.create(),
            9..12 => self.link(),
            12 => self.symlink(),
            13 => self.mknod(),
            14 => self.socket(),
            15 => self.image_xattr(),
            16 => self.acl(),
            17 => self.chown(),
            18 => self.chmod(),
            19 => self.flagged_directory(),
            20 => self.capability(),
            21 => self.project(),
            _ => self.write_sparse(),
        }
    }

    /// New entries get the flags of their directory; the names of these begin with F (see the interpreter).
    fn flagged_directory(&mut self) -> String {
        let path = joined(&self.known_or_top(), self.random.of(&FLAGGED_NAMES));
        let flags = self.random.of(&[
            NO_DUMP,
            DIR_SYNC,
            TOP_DIR,
            NO_DUMP | DIR_SYNC,
            COMPRESS,
            NO_ATIME,
            SYNC,
            NO_DUMP | NO_ATIME,
        ]);
        // The last are copied up: tmpfs cannot have the one, and gives the other to new entries where the image does not.
        let flags = if self.elsewhere() { flags & !(NO_ATIME | SYNC) } else { flags };
        let flag = match self.random.below(4) {
            0 => format!("op('project', {}, {}, 1);", quoted(&path), self.random.below(3)),
            _ => format!("op('chattr', {}, {flags:#x}, 0);", quoted(&path)),
        };
        format!("{}\n{flag}", self.made(Kind::Directory, path, "mkdir", "0755"))
    }

    /// Immutable and append-only ones, and files with flags that do not come from their directory.
    fn flags(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..self.random.below(6) {
            let sync = if self.elsewhere() { NO_DUMP } else { SYNC };
            let flags = self.random.of(&[NO_DUMP, NO_ATIME, sync, NO_DUMP | NO_ATIME, IMMUTABLE, APPEND, NO_DUMP]);
            let path = if flags & (IMMUTABLE | APPEND) != 0 { self.any() } else { self.known(Kind::File) };
            lines.push(format!("op('chattr', {}, {flags:#x}, 0);", quoted(&path)));
        }
        lines
    }

    // ---- the step ----

    fn steps(&mut self) -> Vec<String> {
        let many = if self.random.one_in(4) { 60 } else { 20 };
        let count = 2 + self.random.below(many);
        let mut steps = Vec::new();
        let mut start = self.paths.clone();
        for _ in 0..count {
            steps.extend(self.step().lines().map(str::to_owned));
            if self.way == Way::Steps && self.random.one_in(6) {
                let fails = self.random.one_in(3);
                steps.push(if fails { FAIL } else { END }.to_owned());
                if fails {
                    self.paths = start
                }
                start = self.paths.clone();
            }
        }
        steps
    }

    fn step(&mut self) -> String {
        if self.random.one_in(8) {
            return self.one_of(OBSERVERS);
        }
        // One taste is none.
        let any = self.taste == GROUPS.len() || self.random.one_in(3);
        let group = if any { self.random.below(GROUPS.len()) } else { self.taste };
        let before = self.paths.clone();
        let line = self.one_of(GROUPS[group]);
        if !self.random.one_in(15) {
            return line;
        }
        // Mostly that is refused.
        self.paths = before;
        line.replacen("op('", "op('as', 1000, '", 1)
    }

    fn one_of(&mut self, table: &[(usize, Maker)]) -> String {
        let total = table.iter().map(|(weight, _)| weight).sum();
        let mut left = self.random.below(total);
        for (weight, maker) in table {
            if left < *weight {
                return maker(self);
            }
            left -= weight;
        }
        unreachable!("the weights are summed up")
    }

    // ---- choice of paths ----

    fn known(&mut self, kind: Kind) -> Path {
        let all: Vec<&Path> = self.paths.iter().filter(|(_, k)| **k == kind).map(|(path, _)| path).collect();
        if all.is_empty() { self.fresh() } else { all[self.random.below(all.len())].clone() }
    }

    fn any(&mut self) -> Path {
        let all: Vec<&Path> = self.paths.keys().collect();
        if all.is_empty() { self.fresh() } else { all[self.random.below(all.len())].clone() }
    }

    /// A directory to put something into: /t itself, one of it, now and then through a link, or one beside the files that are
    /// laid over the image.
    fn directory(&mut self) -> Path {
        match self.random.below(24) {
            0..3 => b".".to_vec(),
            3..5 => self.known(Kind::Link),
            5 => self.random.of(&[&b"/etc"[..], b"/", b"/var/lib", b"/usr/bin"]).to_vec(),
            _ => self.known_or_top(),
        }
    }

    fn known_or_top(&mut self) -> Path {
        if self.paths.values().any(|kind| *kind == Kind::Directory) {
            self.known(Kind::Directory)
        } else {
            b".".to_vec()
        }
    }

    fn name(&mut self) -> &'static [u8] {
        if self.random.one_in(10) { self.random.of(&ODD_NAMES) } else { self.random.of(&NAMES) }
    }

    /// A name that may be there or not.
    fn fresh(&mut self) -> Path {
        let directory = if self.paths.is_empty() { b".".to_vec() } else { self.directory() };
        let name = self.name();
        joined(&directory, name)
    }

    fn target(&mut self) -> Path {
        if self.random.one_in(2) { self.any() } else { self.fresh() }
    }

    // ---- the model ----

    fn made(&mut self, kind: Kind, path: Path, op: &str, rest: &str) -> String {
        let line = format!("op('{op}', {}, {rest});", quoted(&path));
        self.add(path, kind);
        line
    }

    fn add(&mut self, path: Path, kind: Kind) {
        if self.has_place(&path) {
            self.paths.entry(path).or_insert(kind);
        }
    }

    /// Whether the directory is there, as far as is known: what comes through a link is not followed.
    fn has_place(&self, path: &[u8]) -> bool {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return true };
        path.starts_with(b"/") || self.paths.get(&path[..slash]) == Some(&Kind::Directory)
    }

    fn forget(&mut self, path: &[u8]) -> Vec<(Path, Kind)> {
        let gone = |p: &Path| p == path || within(p, path);
        let all: Vec<(Path, Kind)> = self.paths.iter().filter(|(p, _)| gone(p)).map(|(p, k)| (p.clone(), *k)).collect();
        self.paths.retain(|p, _| !gone(p));
        all
    }

    fn moved(&mut self, from: &Path, to: &Path) {
        let (old, new) = (self.paths.get(from), self.paths.get(to));
        let directories = [old, new].map(|kind| kind == Some(&Kind::Directory));
        let full = self.paths.keys().any(|path| within(path, to));
        let mixed = new.is_some() && directories[0] != directories[1];
        if old.is_none() || from == to || within(to, from) || full || mixed || !self.has_place(to) {
            return;
        }
        self.carry(from, to);
    }

    fn carry(&mut self, from: &[u8], to: &[u8]) {
        let entries = self.forget(from);
        self.forget(to);
        self.paths.extend(entries.into_iter().map(|(path, kind)| ([to, &path[from.len()..]].concat(), kind)));
    }

    // ---- names ----

    fn rename(&mut self) -> String {
        let (from, to) = (self.any(), self.target());
        self.rename_to(from, to)
    }

    fn rename_directory(&mut self) -> String {
        let (from, mut to) = (self.known(Kind::Directory), self.target());
        if FLAGGED_NAMES.iter().any(|name| from.ends_with(name)) {
            to = joined(&self.directory(), self.random.of(&FLAGGED_NAMES));
        }
        self.rename_to(from, to)
    }

    fn pour(&mut self) -> String {
        let (from, to) = (self.known_or_top(), self.known_or_top());
        if from == b"." || within(&to, &from) {
            return self.rename_directory();
        }
        let below: Vec<Path> = self.paths.keys().filter(|path| within(path, &from)).cloned().collect();
        for path in below {
            let name = path[from.len() + 1..].to_vec();
            if !name.contains(&b'/') {
                self.moved(&path, &joined(&to, &name));
            }
        }
        format!("op('pour', {}, {});", quoted(&from), quoted(&to))
    }

    /// By a handle that was opened before the directory went elsewhere.
    fn inside(&mut self) -> String {
        let slot = self.random.of(&["'d1'", "'d2'"]);
        let path = self.known_or_top();
        if self.random.one_in(2) {
            return format!("op('enter', {slot}, {});", quoted(&path));
        }
        let (name, size, byte) = (self.name(), self.size(), self.byte());
        let name = quoted(name);
        match self.random.below(5) {
            0 => format!("op('inside', {slot}, 'write', {name}, {}, 0, {size}, {byte});", octal(1 | CREATE)),
            1 => format!("op('inside', {slot}, 'mkdir', {name}, 0755);"),
            2 => format!("op('inside', {slot}, 'remove', {name});"),
            3 => format!("op('inside', {slot}, 'chmod', '.', 0711);"),
            _ => format!("op('inside', {slot}, 'rename', {name}, {});", quoted(&self.fresh_from_top())),
        }
    }

    fn fresh_from_top(&mut self) -> Path {
        let path = self.fresh();
        if path.starts_with(b"/") { path } else { [&b"/t/"[..], &path].concat() }
    }

    /// A few directories in each other, and a file.
    fn deep(&mut self) -> String {
        let mut path = self.fresh();
        let mut lines = Vec::new();
        for _ in 0..2 + self.random.below(3) {
            lines.push(self.made(Kind::Directory, path.clone(), "mkdir", "0755"));
            path = joined(&path, self.random.of(&NAMES));
        }
        lines.push(self.made(Kind::File, path, "write", &format!("{}, 0, 10, 120", octal(1 | CREATE))));
        lines.join("\n")
    }

    fn rename_to(&mut self, from: Path, to: Path) -> String {
        self.moved(&from, &to);
        format!("op('rename', {}, {});", quoted(&from), quoted(&to))
    }

    fn exchange(&mut self) -> String {
        let (one, other) = (self.any(), self.any());
        if one != other && !within(&one, &other) && !within(&other, &one) {
            self.carry(&one, b"\0");
            self.carry(&other, &one);
            self.carry(b"\0", &other);
        }
        format!("op('renameat2', {}, {}, 2);", quoted(&one), quoted(&other))
    }

    fn no_replace(&mut self) -> String {
        let (from, to) = (self.any(), self.fresh());
        self.moved(&from, &to);
        format!("op('renameat2', {}, {}, 1);", quoted(&from), quoted(&to))
    }

    /// A directory goes away and another, new or old, takes its name.
    fn swap_in(&mut self) -> String {
        let old = self.known(Kind::Directory);
        let away = self.fresh();
        let first = self.rename_to(old.clone(), away);
        let second = if self.random.one_in(2) {
            let new = self.known(Kind::Directory);
            self.rename_to(new, old)
        } else {
            self.made(Kind::Directory, old, "mkdir", "0755")
        };
        format!("{first}\n{second}")
    }

    /// A directory goes into one that was below it.
    fn invert(&mut self) -> String {
        let inner = self.known(Kind::Directory);
        let Some(slash) = inner.iter().position(|byte| *byte == b'/').filter(|slash| *slash > 0) else {
            return self.rename_directory();
        };
        let outer = inner[..slash].to_vec();
        let (aside, name) = (self.random.of(&NAMES).to_vec(), self.random.of(&NAMES));
        let first = self.rename_to(inner, aside.clone());
        let second = self.rename_to(outer.clone(), joined(&aside, name));
        if self.random.one_in(2) {
            return format!("{first}\n{second}");
        }
        let third = self.rename_to(aside, outer);
        format!("{first}\n{second}\n{third}")
    }

    /// A new directory with something in it takes the place of an old one, as an update does it.
    fn renew(&mut self) -> String {
        let old = self.known(Kind::Directory);
        let new = self.fresh();
        let make = self.made(Kind::Directory, new.clone(), "mkdir", "0750");
        let child = joined(&new, self.random.of(&NAMES));
        let fill = match self.random.below(3) {
            0 => self.made(Kind::File, child, "write", &format!("{}, 0, 9, 99", octal(1 | CREATE))),
            1 => {
                let moved = self.any();
                self.rename_to(moved, child)
            }
            _ => self.made(Kind::Directory, child, "mkdir", "0700"),
        };
        self.forget(&old);
        let remove = format!("op('remove', {});", quoted(&old));
        format!("{make}\n{fill}\n{remove}\n{}", self.rename_to(new, old))
    }

    /// Each name of one file is used for something else.
    fn through_each_name(&mut self) -> String {
        let file = self.known(Kind::File);
        let names = [self.fresh(), self.fresh()];
        let mut lines = Vec::new();
        for name in &names {
            lines.push(format!("op('link', {}, {});", quoted(&file), quoted(name)));
            self.add(name.clone(), Kind::File);
        }
        let mut all = vec![file];
        all.extend(names);
        for name in all {
            let path = quoted(&name);
            lines.push(match self.random.below(6) {
                0 => format!("op('write', {path}, 02001, 0, 3, 122);"),
                1 => format!("op('chmod', {path}, 0640);"),
                2 => format!("op('setxattr', {path}, 'user.name', 'x', 0);"),
                3 => format!("op('unlink', {path});"),
                4 => format!("op('times', {path}, 1000000000, 5);"),
                _ => format!("op('stat', {path});"),
            });
        }
        lines.join("\n")
    }

    fn link(&mut self) -> String {
        let from = if self.random.one_in(6) { self.any() } else { self.known(Kind::File) };
        let to = self.fresh();
        let kind = self.paths.get(&from).copied().unwrap_or(Kind::File);
        self.add(to.clone(), kind);
        format!("op('link', {}, {});", quoted(&from), quoted(&to))
    }

    fn mkdir(&mut self) -> String {
        let path = self.fresh();
        let mode = self.random.of(&[0o755, 0o755, 0o700, 0o1777, 0o2775]);
        self.made(Kind::Directory, path, "mkdir", &octal(mode))
    }

    fn symlink(&mut self) -> String {
        let path = self.fresh();
        let target = match self.random.below(3) {
            0 => self.name().to_vec(),
            1 => [&b"/t/"[..], &self.any()].concat(),
            _ => [&b"/t/"[..], &self.known(Kind::Directory)].concat(),
        };
        let line = format!("op('symlink', {}, {});", quoted(&target), quoted(&path));
        self.add(path, Kind::Link);
        line
    }

    /// Never the device 0:0: for overlayfs that is a removed name.
    fn mknod(&mut self) -> String {
        let path = self.fresh();
        let mode =
            self.random.of(&[0o010_000, 0o010_000, 0o020_000, 0o060_000]) | self.random.of(&[0o644, 0o600, 0o755]);
        let device = self.random.of(&[0x103, 0x105, 0x7c8, 0x901]);
        self.made(Kind::Other, path, "mknod", &format!("{}, {device:#x}", octal(mode)))
    }

    fn socket(&mut self) -> String {
        let path = self.fresh();
        let line = format!("op('socket', {});", quoted(&path));
        self.add(path, Kind::Other);
        line
    }

    fn unlink(&mut self) -> String {
        let path = if self.random.one_in(4) { self.any() } else { self.known(Kind::File) };
        if self.paths.get(&path) != Some(&Kind::Directory) {
            self.paths.remove(&path);
        }
        format!("op('unlink', {});", quoted(&path))
    }

    fn remove(&mut self) -> String {
        let path = self.any();
        self.forget(&path);
        let again = self.random.one_in(2);
        let line = format!("op('remove', {});", quoted(&path));
        if again { format!("{line}\n{}", self.made(Kind::Directory, path, "mkdir", "0711")) } else { line }
    }

    fn rmdir(&mut self) -> String {
        let path = self.known(Kind::Directory);
        format!("op('rmdir', {});", quoted(&path))
    }

    // ---- contents ----

    fn size(&mut self) -> usize {
        self.random.of(&[0, 1, 10, 4096, 5000, 70_000])
    }

    fn byte(&mut self) -> usize {
        97 + self.random.below(26)
    }

    fn create(&mut self) -> String {
        let (path, size, byte) = (self.fresh(), self.size(), self.byte());
        let flags = 1 | CREATE | self.random.of(&[EXCLUSIVE, TRUNCATE]);
        self.made(Kind::File, path, "write", &format!("{}, 0, {size}, {byte}", octal(flags)))
    }

    fn write_sparse(&mut self) -> String {
        let (path, size, byte) = (self.fresh(), self.size(), self.byte());
        let at = self.random.of(&[5000, 1_200_000, 3_000_000]);
        self.made(Kind::File, path, "write", &format!("{}, {at}, {size}, {byte}", octal(1 | CREATE)))
    }

    fn write(&mut self) -> String {
        let (path, size, byte) = (self.known(Kind::File), self.size(), self.byte());
        let flags = self.random.of(&[1, READ_WRITE, 1 | TRUNCATE, 1 | CREATE]);
        let at = self.random.of(&[0, 0, 3, 100_000]);
        format!("op('write', {}, {}, {at}, {size}, {byte});", quoted(&path), octal(flags))
    }

    fn append(&mut self) -> String {
        let (path, byte) = (self.known(Kind::File), self.byte());
        format!("op('write', {}, {}, 0, 5, {byte});", quoted(&path), octal(1 | APPENDING))
    }

    /// For writing, and nothing is written.
    fn open(&mut self) -> String {
        let path = self.known(Kind::File);
        let flags = self.random.of(&[1, READ_WRITE, 1 | APPENDING]);
        format!("op('write', {}, {}, 0, 0, 97);", quoted(&path), octal(flags))
    }

    fn truncate(&mut self) -> String {
        let (path, size) = (self.known(Kind::File), self.size());
        format!("op('truncate', {}, {size});", quoted(&path))
    }

    fn fallocate(&mut self) -> String {
        let path = self.known(Kind::File);
        // Keep the size, punch a hole, zero a range; and without any, make it longer.
        let mode = self.random.of(if self.elsewhere() { &[0, 1, 3] } else { &[0, 1, 3, 0x10] });
        format!("op('fallocate', {}, {mode}, 100, 5000);", quoted(&path))
    }

    fn map(&mut self) -> String {
        let (path, byte) = (self.known(Kind::File), self.byte());
        format!("op('map', {}, 10, {byte});", quoted(&path))
    }

    fn unlinked(&mut self) -> String {
        let (path, byte) = (self.known(Kind::File), self.byte());
        self.paths.remove(&path);
        format!("op('unlinked', {}, 20, {byte});", quoted(&path))
    }

    fn tmpfile(&mut self) -> String {
        let (directory, path, size) = (self.directory(), self.fresh(), self.size());
        let line = format!("op('tmpfile', {}, {}, {size});", quoted(&directory), quoted(&path));
        self.add(path, Kind::File);
        line
    }

    fn copy(&mut self) -> String {
        if self.elsewhere() {
            return self.write();
        }
        let (from, to, size) = (self.known(Kind::File), self.target(), self.size());
        self.add(to.clone(), Kind::File);
        format!("op('copy', {}, {}, {size});", quoted(&from), quoted(&to))
    }

    fn hold(&mut self) -> String {
        let (slot, path) = (self.random.below(3), self.known(Kind::File));
        let flags = self.random.of(&[0, 0, 1 | APPENDING, READ_WRITE]);
        format!("op('hold', {slot}, {}, {});", quoted(&path), octal(flags))
    }

    fn held(&mut self) -> String {
        let (slot, byte) = (self.random.below(3), self.byte());
        let (mode, (user, group)) = (self.random.of(&MODES), self.random.of(&OWNERS));
        match self.random.below(6) {
            0 => format!("op('release', {slot});"),
            1 => format!("op('held_read', {slot});"),
            2 => format!("op('held_truncate', {slot}, 100);"),
            3 => format!("op('held_chmod', {slot}, {});", octal(mode)),
            4 => format!("op('held_chown', {slot}, {user}, {group});"),
            _ => format!("op('held_write', {slot}, 12, {byte});"),
        }
    }

    // ---- attributes ----

    /// Any entry, and now and then /t or the root of the image.
    fn any_or_root(&mut self) -> Path {
        match self.random.below(20) {
            0 => b"/".to_vec(),
            1 => b"/t".to_vec(),
            2 => b"/etc".to_vec(),
            _ => self.any(),
        }
    }

    fn chmod(&mut self) -> String {
        let (path, mode) = (self.any_or_root(), self.random.of(&MODES));
        format!("op('chmod', {}, {});", quoted(&path), octal(mode))
    }

    fn chown(&mut self) -> String {
        let (path, (user, group)) = (self.any_or_root(), self.random.of(&OWNERS));
        let op = self.random.of(&["chown", "lchown"]);
        format!("op('{op}', {}, {user}, {group});", quoted(&path))
    }

    fn times(&mut self) -> String {
        let path = self.any_or_root();
        let seconds = self.random.of(&[-300_000_000, 0, 1_000_000_000, 10_000_000_000_i64]);
        let fraction = self.random.of(&[0, 1, 123_456_789, (1 << 30) - 1]);
        format!("op('times', {}, {seconds}, {fraction});", quoted(&path))
    }

    /// Small values: a file with several names and full attributes cannot be copied up, nor a directory renamed.
    fn setxattr(&mut self) -> String {
        let (path, name) = (self.any_or_root(), self.random.of(&ATTRIBUTES));
        let value = self.random.of(&["", "y", "/t/a", "value", "0123456789012345678901234567890123456789"]);
        let flags = self.random.of(&[0, 0, 1, 2]);
        format!("op('setxattr', {}, '{name}', '{value}', {flags});", quoted(&path))
    }

    fn image_xattr(&mut self) -> String {
        let (path, name) = (self.any(), self.random.of(&IMAGE_ATTRIBUTES));
        format!("op('setxattr', {}, '{name}', 'image', 0);", quoted(&path))
    }

    fn removexattr(&mut self) -> String {
        let (path, name) = (self.any_or_root(), self.random.of(&ATTRIBUTES));
        format!("op('removexattr', {}, '{name}');", quoted(&path))
    }

    fn acl(&mut self) -> String {
        let (path, kind) = (self.any_or_root(), self.random.of(&["access", "default"]));
        let (user, bits) = (self.random.of(&[1, 1000]), self.random.below(8));
        format!("op('acl', {}, '{kind}', {user}, {bits});", quoted(&path))
    }

    fn remove_acl(&mut self) -> String {
        let (path, kind) = (self.any_or_root(), self.random.of(&["access", "default"]));
        format!("op('removexattr', {}, 'system.posix_acl_{kind}');", quoted(&path))
    }

    /// Never without `d`, `D`, `T`: a file that was copied up does not show them, so that nobody can tell.
    fn chattr(&mut self) -> String {
        if self.elsewhere() {
            return self.chmod();
        }
        let path = self.any_or_root();
        let sync = if self.elsewhere() { NO_DUMP } else { SYNC };
        let (add, drop) = self.random.of(&[
            (IMMUTABLE, 0),
            (0, IMMUTABLE),
            (0, IMMUTABLE),
            (APPEND, 0),
            (0, APPEND),
            (0, IMMUTABLE | APPEND),
            (NO_ATIME, 0),
            (sync, 0),
            (NO_DUMP, 0),
        ]);
        format!("op('chattr', {}, {add:#x}, {drop:#x});", quoted(&path))
    }

    fn capability(&mut self) -> String {
        let path = self.known(Kind::File);
        format!("op('capability', {});", quoted(&path))
    }

    fn project(&mut self) -> String {
        if self.elsewhere() {
            return self.chmod();
        }
        let path = self.any();
        format!("op('project', {}, {}, 0);", quoted(&path), self.random.below(3))
    }

    fn each(&mut self) -> String {
        let path = quoted(&self.known_or_top());
        match self.random.below(5) {
            0 => format!("op('each', {path}, 'chmod', 0711);"),
            1 => format!("op('each', {path}, 'lchown', 3, 4);"),
            2 => format!("op('each', {path}, 'times', 1000000000, 0);"),
            3 => format!("op('each', {path}, 'setxattr', 'trusted.each', 'x', 0);"),
            _ => format!("op('each', {path}, 'write', 02001, 0, 3, 122);"),
        }
    }

    // ---- what a program sees ----

    fn read(&mut self) -> String {
        let path = self.known(Kind::File);
        format!("op('read', {});", quoted(&path))
    }

    fn list(&mut self) -> String {
        let path = self.known_or_top();
        format!("op('list', {});", quoted(&path))
    }

    fn stat(&mut self) -> String {
        let path = self.any();
        format!("op('stat', {});", quoted(&path))
    }

    fn readlink(&mut self) -> String {
        let path = self.known(Kind::Link);
        format!("op('readlink', {});", quoted(&path))
    }

    fn xattrs(&mut self) -> String {
        let path = self.any_or_root();
        format!("op('xattrs', {});", quoted(&path))
    }
}

fn within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

fn joined(directory: &[u8], name: &[u8]) -> Path {
    if directory == b"." { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn octal(number: u32) -> String {
    format!("0{number:o}")
}

/// A perl string; what is not a plain letter as its number.
fn quoted(path: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-".contains(&byte);
    let text = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("\\x{byte:02x}") };
    format!("\"{}\"", path.iter().map(text).collect::<String>())
}
