//! The times of the image's root while an entry of dropcloth's goes from it: an attribute changes neither, and has them when a
//! power cut comes between the removal and the times' being set again.

use crate::error::Result;
use crate::image::Image;
use crate::sys::fs::{self, Times};
use crate::sys::xattr;

/// xattr(7): the class every owner of a directory may set.
const ATTRIBUTE: &[u8] = b"user.dropcloth.times";

/// Removes something from the root as `remove` does; then the root has `times` again.
pub fn keep(image: &Image, times: Times, remove: impl FnOnce() -> Result<()>) -> Result<()> {
    // The times are all that is lost on a file system without attributes.
    let _ = xattr::set(image.directory(), b"", ATTRIBUTE, text(image, times).as_bytes());
    remove()?;
    restore(image, times)
}

/// What was being kept when the power went.
pub fn kept(image: &Image) -> Result<Option<Times>> {
    let value = xattr::get(image.directory(), b"", ATTRIBUTE)?;
    // One that came with a copy of another image names that one.
    Ok(value.and_then(|value| parse(image, &String::from_utf8_lossy(&value))))
}

/// Sets the times that a power cut kept from being set.
pub fn recover(image: &Image) -> Result<()> {
    kept(image)?.map_or(Ok(()), |times| restore(image, times))
}

fn restore(image: &Image, times: Times) -> Result<()> {
    fs::set_times_of(image.directory(), times)?;
    let _ = xattr::remove(image.directory(), b"", ATTRIBUTE);
    Ok(())
}

fn text(image: &Image, Times { atime, mtime }: Times) -> String {
    format!("{} {} {} {} {}", image.identity().inode, atime.0, atime.1, mtime.0, mtime.1)
}

fn parse(image: &Image, text: &str) -> Option<Times> {
    let mut numbers = text.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let inode = u64::try_from(next()?).ok()?;
    let times = Times { atime: (next()?, next()?), mtime: (next()?, next()?) };
    (inode == image.identity().inode).then_some(times)
}
