// SPDX-License-Identifier: Apache-2.0
//! A file that tells the next life of this program which wires this one has made.
//!
//! **Guarantees**: what was written before a crash of the program is there after it (not of the machine: its
//! interfaces die with it). A line that was cut by the crash is left out. One program at a time uses the file, which
//! nobody else may read.
//! **On failure**: a line that cannot be written is reported and left out: recovery suffers, not the call.
//! **Cost**: one `write` of about 1 KiB to the page cache a change; a rewrite when most lines are stale; the lines
//! that are not are kept in memory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nsm_sdk::core::{Error, Result};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::record::{Place, Record};

/// Only we may read and write it.
const MODE: u32 = 0o600;

/// How many stale lines are not worth a rewrite.
const MIN_STALE: usize = 1024;

/// How much of a file is read: more than any number of wires can need.
const MAX_SIZE: u64 = 1 << 30;

/// What the file says of one wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) connection: String,
    /// The ends on this node, the client's first.
    pub(crate) ends: Vec<Place>,
    /// It was made to the end.
    pub(crate) complete: bool,
    /// Its removal was decided.
    #[serde(default)]
    pub(crate) doomed: bool,
}

/// The first line of the file. What another run of the kernel had is gone with it.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    boot: String,
}

impl Header {
    fn current() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            boot: boot.trim_end().to_string(),
        })
    }
}

/// A line of the file: what is now known of the wire with this number.
#[derive(Serialize, Deserialize)]
struct Line {
    serial: u64,
    /// Absent when the wire is gone.
    wire: Option<Entry>,
}

/// See the [module](self).
pub(crate) struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    lines: usize,
    live: BTreeMap<u64, Entry>,
}

impl Journal {
    /// Opens or creates the file, and reads what it says.
    ///
    /// Errors: `journal`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let unusable = |error: &dyn std::fmt::Display| {
            let path = path.display();
            Error::internal("journal", format!("cannot use the journal {path}: {error}"))
        };
        let mut file = open(path).map_err(|error| unusable(&error))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| unusable(&format!("{errno}; does another forwarder use it?")))?;
        let mut bytes = Vec::new();
        let mut reader = (&mut file).take(MAX_SIZE);
        reader.read_to_end(&mut bytes).map_err(|error| unusable(&error))?;
        let boot = Header::current().map_err(|error| unusable(&error))?;
        let live = read(&bytes, &boot);
        let journal = Self {
            path: path.to_path_buf(),
            inner: Mutex::new(Inner { file, lines: 0, live }),
        };
        let mut inner = journal.inner.lock();
        journal.rewrite(&mut inner).map_err(|error| unusable(&error))?;
        drop(inner);
        Ok(journal)
    }

    /// The wires that the file tells of, by their numbers.
    pub(crate) fn entries(&self) -> BTreeMap<u64, Entry> {
        self.inner.lock().live.clone()
    }

    /// Writes down a wire as it is, or is about to be.
    pub(crate) fn set(&self, record: &Record) {
        let entry = Entry {
            connection: record.connection.clone(),
            ends: record.ends.clone(),
            complete: record.asked.is_some() || record.orphan,
            doomed: false,
        };
        self.append(record.serial, Some(entry));
    }

    /// Writes down that a wire is to be removed.
    pub(crate) fn doom(&self, serial: u64) {
        let entry = self.inner.lock().live.get(&serial).cloned();
        if let Some(entry) = entry {
            self.append(
                serial,
                Some(Entry {
                    doomed: true,
                    ..entry
                }),
            );
        }
    }

    /// Writes down that a wire is gone.
    pub(crate) fn gone(&self, serial: u64) {
        if self.inner.lock().live.contains_key(&serial) {
            self.append(serial, None);
        }
    }

    fn append(&self, serial: u64, wire: Option<Entry>) {
        let mut inner = self.inner.lock();
        if wire.is_some() && inner.live.get(&serial) == wire.as_ref() {
            return;
        }
        let line = Line { serial, wire };
        let written = serialize(&line).and_then(|bytes| inner.file.write_all(&bytes));
        match line.wire {
            Some(entry) => drop(inner.live.insert(serial, entry)),
            None => drop(inner.live.remove(&serial)),
        }
        inner.lines += 1;
        let is_stale = inner.lines > 2 * inner.live.len() + MIN_STALE;
        let written = written.and_then(|()| {
            if is_stale {
                self.rewrite(&mut inner)
            } else {
                Ok(())
            }
        });
        if let Err(error) = written {
            let path = self.path.display();
            tracing::error!(%error, %path, "the journal is incomplete: a crash now would leave something behind");
        }
    }

    /// Replaces the file by one that holds nothing stale.
    fn rewrite(&self, inner: &mut Inner) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = open(&new)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut bytes = serialize(&Header::current()?)?;
        for (serial, entry) in &inner.live {
            bytes.extend(serialize(&Line {
                serial: *serial,
                wire: Some(entry.clone()),
            })?);
        }
        file.write_all(&bytes)?;
        fs::rename(&new, &self.path)?;
        inner.file = file;
        inner.lines = inner.live.len();
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

fn serialize(line: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn read(bytes: &[u8], boot: &Header) -> BTreeMap<u64, Entry> {
    let mut live = BTreeMap::new();
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let header: Option<Header> = lines.next().and_then(|line| serde_json::from_slice(line).ok());
    if header.as_ref() != Some(boot) {
        return live;
    }
    for line in lines.filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line {
                serial,
                wire: Some(entry),
            }) => drop(live.insert(serial, entry)),
            Ok(Line { serial, wire: None }) => drop(live.remove(&serial)),
            Err(error) => tracing::warn!(%error, "a line of the journal is not readable; it is left out"),
        }
    }
    live
}

#[cfg(test)]
mod tests;
