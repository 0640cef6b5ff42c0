//! The records of a commit: each is one idempotent operation whose "done already?" is answered by facts.

use crate::image::Inside;
use crate::sys::fs::Times;

/// Extended attributes by name, as hexadecimal text in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Attributes(pub Vec<(Hex, Hex)>);

/// Raw bytes, hexadecimal in text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hex(pub Vec<u8>);

impl serde::Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }
}

impl<'de> serde::Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hex, D::Error> {
        let text = String::deserialize(deserializer)?;
        let byte = |i: usize| text.get(i..i + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
        bytes.map(Hex).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
    }
}

/// What an entry has to have that the overlay could not carry.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Restore {
    /// Attributes to set after overlayfs's own were stripped.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub set: Attributes,
    /// Inode flags to add.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u32,
    /// Project id to set.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub project: u32,
    /// Times to set, where its own are too new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
}

fn is_empty(attributes: &Attributes) -> bool {
    attributes.0.is_empty()
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// One operation of a commit. Paths are inside the image; `upper` holds the same path. Slots are names in `stage` and `trash`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Record {
    /// Moves a directory of the image that the step renamed out of the way, to `stage/slot`.
    Stage {
        /// Its old place.
        from: Inside,
        /// Slot.
        slot: u32,
        /// Its inode number: when the old place has another one, it is staged already.
        inode: u64,
    },
    /// Makes an empty directory `stage/slot`, once.
    MakeStage {
        /// Slot.
        slot: u32,
    },
    /// Removes an entry of the image: moves it to `trash/slot`.
    Trash {
        /// Its place.
        at: Inside,
        /// Slot.
        slot: u32,
    },
    /// Puts `stage/slot` at its new place.
    Place {
        /// Slot of the stage.
        slot: u32,
        /// The new place.
        at: Inside,
        /// Slot of the trash for what stands there.
        trash: u32,
    },
    /// Moves an entry from the upper to the image.
    Move {
        /// Its place in both.
        at: Inside,
        /// Its inode number in the upper.
        inode: u64,
        /// It is a directory, moved whole.
        directory: bool,
        /// The image had nothing there.
        #[serde(default)]
        new: bool,
        /// Slot of the trash for what stands there.
        trash: u32,
    },
    /// Strips overlayfs's attributes from a moved entry and restores what the overlay lost.
    Scrub {
        /// Its place.
        at: Inside,
        /// What it has to have.
        restore: Restore,
    },
    /// The same for a whole moved directory: the directories (relative to it) that hold something to strip.
    ScrubTree {
        /// Its place.
        at: Inside,
        /// Entries below it that carry attributes of overlayfs, or need something restored.
        entries: Vec<(Inside, Restore)>,
        /// Whiteouts below it, which mean nothing in a directory that is new, and the times of their directories.
        whiteouts: Vec<(Inside, Times)>,
    },
    /// Copies owner, mode, attributes and flags of an upper directory to the image's, and sets the recorded times.
    Meta {
        /// The directory.
        at: Inside,
        /// Times, taken before the first rename changed them.
        times: Times,
        /// Flags of the image's directory that stand in the way of the commit: taken away first, they are put back here.
        #[serde(default, skip_serializing_if = "is_zero")]
        flags: u32,
    },
    /// Makes another name of a hard-linked file point at the file the step changed.
    Link {
        /// Name in `work/index`.
        index: String,
        /// Its inode number.
        inode: u64,
        /// The name to relink.
        at: Inside,
        /// Times of its directory.
        times: Times,
        /// Flags of its directory that the commit takes away to put the name there.
        flags: u32,
        /// What the file has to have.
        restore: Box<Restore>,
    },
    /// Removes `work`: from here on no name of a committed inode is left in the transaction.
    DropWork,
    /// Sets `i` and `a` flags, last of all.
    Protect {
        /// The entry.
        at: Inside,
        /// The flags.
        flags: u32,
    },
}
