//! Disks that remember: a file server of the test's own (FUSE, the raw protocol of /dev/fuse) serves one file for each disk
//! and logs every write, discard and flush in the order in which the kernel sends them. A loop device over such a file is a
//! disk of which each moment can be made again, with or without the writes that no flush has confirmed.
#![allow(dead_code, reason = "every test program takes in the whole module and uses its part of it")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;

/// What the kernel sent to a disk. A discard is a write of zeros.
#[derive(Clone, Debug)]
pub enum Event {
    Write { disk: usize, offset: usize, data: Vec<u8> },
    Flush { disk: usize },
}

struct Shared {
    contents: Vec<Vec<u8>>,
    log: Vec<Event>,
}

/// The served disks, mounted in the mount namespace of the thread that made them.
pub struct Disks {
    shared: Arc<Mutex<Shared>>,
    at: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Disks {
    pub fn serve(at: &Path, contents: Vec<Vec<u8>>) -> Disks {
        let shared = Arc::new(Mutex::new(Shared { contents, log: Vec::new() }));
        let (ready, mounted) = mpsc::channel();
        let (for_server, folder) = (Arc::clone(&shared), at.to_owned());
        let server = thread::spawn(move || {
            let server = Server { device: mount_alone(&folder), shared: for_server };
            ready.send(()).unwrap();
            server.run();
        });
        mounted.recv().expect("the server mounts its folder");
        Disks { shared, at: at.to_owned(), server: Some(server) }
    }

    pub fn file(&self, disk: usize) -> PathBuf {
        self.at.join(disk.to_string())
    }

    /// How many events there have been: a moment in the log.
    pub fn now(&self) -> usize {
        lock(&self.shared).log.len()
    }

    /// Ends the server, and returns all that was sent to it.
    pub fn finish(mut self) -> Vec<Event> {
        self.end();
        std::mem::take(&mut lock(&self.shared).log)
    }

    /// The loop devices may be in use for a moment after their last unmount: the kernel ends the mounts of a dead sandbox
    /// when it has time.
    fn end(&mut self) {
        let Some(server) = self.server.take() else { return };
        for _ in 0..500 {
            if umount2(&self.at, MntFlags::empty()).is_ok() {
                let _ = server.join();
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // The server ends with the test program, and with it whatever still waits for it.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        assert!(thread::panicking(), "the disks are still in use");
    }
}

/// Mounts the folder, on a thread that shares no descriptor with the others. When the test program is killed the kernel has
/// to see that the server is gone: it would not as long as another thread had the server's device too, and such a thread may
/// itself be waiting for the disk.
fn mount_alone(at: &Path) -> File {
    unshare(CloneFlags::CLONE_FILES).unwrap();
    // SAFETY: what the other threads have open stays open for them, and this one has not opened anything yet.
    assert_eq!(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) }, 0);
    let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse opens");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(Some("dropcloth-test"), at, Some("fuse"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(&*options)).unwrap();
    device
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The most that one write carries, and the room that a request needs besides.
const MAX_WRITE: u32 = 128 << 10;
const ROOM: usize = 4096;

/// Node numbers: the folder, then the disks.
const FOLDER: u64 = 1;
const FIRST_DISK: u64 = 2;

/// The requests that are answered, fuse(4).
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const FALLOCATE: u32 = 43;

type Answer = Result<Vec<u8>, Errno>;

struct Server {
    device: File,
    shared: Arc<Mutex<Shared>>,
}

/// A request's fixed fields, read one after the other; the kernel's structures hold no padding that is not named.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn u32(&mut self) -> u32 {
        let (bytes, rest) = self.0.split_first_chunk().expect("a whole request");
        self.0 = rest;
        u32::from_ne_bytes(*bytes)
    }

    fn u64(&mut self) -> u64 {
        let (bytes, rest) = self.0.split_first_chunk().expect("a whole request");
        self.0 = rest;
        u64::from_ne_bytes(*bytes)
    }

    fn size(&mut self) -> usize {
        usize::try_from(self.u64()).expect("a size of this machine")
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

impl Server {
    fn run(self) {
        let mut buffer = vec![0; MAX_WRITE as usize + ROOM];
        loop {
            match rustix::io::read(&self.device, &mut buffer) {
                Ok(length) => self.request(&buffer[..length]),
                // The request was taken back before it was read.
                Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => {}
                // Unmounted.
                Err(_) => return,
            }
        }
    }

    /// struct fuse_in_header, then what belongs to the request.
    fn request(&self, bytes: &[u8]) {
        let mut fields = Fields(bytes);
        let (_length, request, unique, node) = (fields.u32(), fields.u32(), fields.u64(), fields.u64());
        let (_owner, _group, _pid, _padding) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
        if [FORGET, BATCH_FORGET, INTERRUPT].contains(&request) {
            return;
        }
        let (error, body) = match self.answer(request, node, fields) {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).expect("a short answer");
        let answer = [words(&[length, error.cast_unsigned()]), longs(&[unique]), body].concat();
        // An error here says that nobody waits for the answer any more.
        let _ = rustix::io::write(&self.device, &answer);
    }

    fn answer(&self, request: u32, node: u64, fields: Fields<'_>) -> Answer {
        match request {
            INIT => Ok(init()),
            LOOKUP => self.lookup(fields.0),
            GETATTR => Ok([longs(&[3600, 0]), self.attributes(node)?].concat()),
            OPEN => Ok(longs(&[0, 0])),
            READ => self.read(node, fields),
            WRITE => self.write(node, fields),
            FALLOCATE => self.discard(node, fields),
            FSYNC => self.flush(node),
            // Closed by one of its holders: nothing is promised.
            FLUSH | RELEASE => Ok(Vec::new()),
            STATFS => Ok([longs(&[0; 5]), words(&[4096, 255, 4096]), words(&[0; 7])].concat()),
            _ => Err(Errno::NOSYS),
        }
    }

    fn lookup(&self, name: &[u8]) -> Answer {
        let name = name.strip_suffix(b"\0").and_then(|name| std::str::from_utf8(name).ok());
        let disk = name.and_then(|name| name.parse::<u64>().ok()).ok_or(Errno::NOENT)?;
        let attributes = self.attributes(FIRST_DISK + disk)?;
        Ok([longs(&[FIRST_DISK + disk, 0, 3600, 3600, 0]), attributes].concat())
    }

    /// struct fuse_attr.
    fn attributes(&self, node: u64) -> Answer {
        let (mode, size) = match node {
            FOLDER => (libc::S_IFDIR | 0o700, 0),
            _ => (libc::S_IFREG | 0o600, self.with(node, |content, _| Ok(content.len()))?),
        };
        let size = size as u64;
        Ok([longs(&[node, size, size / 512, 0, 0, 0]), words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])].concat())
    }

    fn read(&self, node: u64, mut fields: Fields<'_>) -> Answer {
        let (_file, offset, size) = (fields.u64(), fields.size(), fields.u32() as usize);
        self.with(node, |content, _| {
            let start = offset.min(content.len());
            Ok(content[start..(start + size).min(content.len())].to_vec())
        })
    }

    fn write(&self, node: u64, mut fields: Fields<'_>) -> Answer {
        let (_file, offset, size) = (fields.u64(), fields.size(), fields.u32());
        let (_flags, _owner, _open, _padding) = (fields.u32(), fields.u64(), fields.u32(), fields.u32());
        let data = fields.0.get(..size as usize).ok_or(Errno::INVAL)?.to_vec();
        self.put(node, offset, data)?;
        Ok(words(&[size, 0]))
    }

    /// Discards and zeroed ranges; the loop device knows no other.
    fn discard(&self, node: u64, mut fields: Fields<'_>) -> Answer {
        let (_file, offset, length) = (fields.u64(), fields.size(), fields.size());
        self.put(node, offset, vec![0; length])?;
        Ok(Vec::new())
    }

    fn put(&self, node: u64, offset: usize, data: Vec<u8>) -> Result<(), Errno> {
        self.with(node, |content, log| {
            content.get_mut(offset..offset + data.len()).ok_or(Errno::FBIG)?.copy_from_slice(&data);
            log.push(Event::Write { disk: disk(node), offset, data });
            Ok(())
        })
    }

    fn flush(&self, node: u64) -> Answer {
        self.with(node, |_, log| {
            log.push(Event::Flush { disk: disk(node) });
            Ok(Vec::new())
        })
    }

    fn with<T>(
        &self,
        node: u64,
        work: impl FnOnce(&mut Vec<u8>, &mut Vec<Event>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut shared = lock(&self.shared);
        let Shared { contents, log } = &mut *shared;
        if node < FIRST_DISK {
            return Err(Errno::ISDIR);
        }
        work(contents.get_mut(disk(node)).ok_or(Errno::NOENT)?, log)
    }
}

fn disk(node: u64) -> usize {
    usize::try_from(node - FIRST_DISK).expect("a small number")
}

/// struct fuse_init_out of protocol 7.31; FUSE_BIG_WRITES and FUSE_MAX_PAGES, or each write would be one page.
fn init() -> Vec<u8> {
    const FLAGS: u32 = 1 << 5 | 1 << 22;
    const PAGES: u16 = (MAX_WRITE / 4096) as u16;
    let pages: Vec<u8> = [PAGES, 0].iter().flat_map(|value: &u16| value.to_ne_bytes()).collect();
    [words(&[7, 31, MAX_WRITE, FLAGS, 0, MAX_WRITE, 1]), pages, words(&[0; 8])].concat()
}
