//! A view of indexes by http on the loopback interface: their pages with every link led back to the view, files passed on as
//! they come. So all that an installer gets is seen, can be written down, and can be left out by its time of upload.

pub mod answer;
pub mod record;

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use super::synthesise::Pages;
use crate::error::{Doing, Result};
use crate::pypi::simple_page::FileLink;

/// The port in a network of the step's own, beside that of the view of the mirror.
pub const OWN_PORT: u16 = 3142;

/// Links of pages, by index and project.
pub type Seen = HashMap<(usize, String), Arc<Vec<FileLink>>>;

/// A view that has not been started.
#[derive(Debug)]
pub struct Relay {
    /// The indexes, as the step would have them.
    pub indexes: Vec<String>,
    /// The local mirror, for those that are in it.
    pub mirror: Option<PathBuf>,
    /// The pages that it lacks.
    pub pages: Pages,
    /// Where what was served is written.
    pub record: Option<PathBuf>,
    /// Nothing that was uploaded later, seconds since 1970.
    pub until: Option<i64>,
    /// A mirror whose files are served instead of the same ones from elsewhere.
    pub stock: Option<PathBuf>,
    /// A directory of more such files, by SHA-256.
    pub ahead: Option<PathBuf>,
    /// Pages that need not be asked for.
    pub seen: Seen,
    /// `None`: the sandbox will send one, of its own network.
    listener: Option<TcpListener>,
}

impl Relay {
    /// A view of `indexes`; nothing is started. `own_network`: for a step that has only a loopback interface.
    ///
    /// # Errors
    /// No free port.
    pub fn new(indexes: Vec<String>, own_network: bool) -> Result<Relay> {
        let listener = match own_network {
            true => None,
            false => Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "cannot find a free port")?),
        };
        let (mirror, record, until, stock, ahead) = (None, None, None, None, None);
        let (pages, seen) = (Pages::new(), Seen::new());
        Ok(Relay { indexes, mirror, pages, record, until, stock, ahead, seen, listener })
    }

    /// Whether its listener comes from the sandbox.
    pub fn is_for_own_network(&self) -> bool {
        self.listener.is_none()
    }

    /// The URLs by which a step asks for the indexes, in their order.
    pub fn urls(&self) -> Vec<String> {
        let port =
            self.listener.as_ref().and_then(|listener| listener.local_addr().ok()).map_or(OWN_PORT, |a| a.port());
        (0..self.indexes.len()).map(|number| format!("http://127.0.0.1:{port}/{number}")).collect()
    }
}
