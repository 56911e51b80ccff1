// SPDX-License-Identifier: Apache-2.0
//! Endpoints that are processes of this machine.
//!
//! For each place there is a file, which the process of its endpoint has as its standard input and holds the lock of. So
//! the lock lives as long as the process, whatever becomes of the supplier: one that comes back, or another one of the
//! same machine, finds the endpoint running, and two never start two.
//!
//! A process that is being started holds, until its program runs, all that we hold, and so the locks of others too: within
//! one supplier nobody looks at a lock meanwhile.

mod process;

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use nsm_api::matching::Labels;
use nsm_sdk::core::{Error, Request, Result};
use nsm_sdk::networkservice::supply::{Place, Started, Starter};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use crate::template::text;
use process::Process;

/// How much of a file is read, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// How often a file may be replaced before its lock is ours.
const TRIES: u32 = 10;

/// Who has it may look at locks, or start a process.
static LOCKS: Mutex<()> = Mutex::new(());

/// Variables that say where we run, and not where an endpoint does.
const OURS: [&str; 2] = ["NODE_NAME", "POD_NAME"];

/// See the [module](self).
pub(crate) struct Commands {
    /// The program and its arguments, each a template.
    words: Vec<String>,
    /// Names of variables, and templates.
    variables: Vec<(String, String)>,
    folder: PathBuf,
    most: usize,
}

/// What a file says.
#[derive(Default, Deserialize, Serialize)]
struct Kept {
    /// The process; 0 until it is known.
    pid: i32,
    service: String,
    labels: Labels,
}

/// A file whose lock we hold, or somebody else.
enum Lock {
    Ours(File),
    Theirs(Kept),
}

impl Commands {
    /// Runs `command` with the variables `envs`, at most `most` times at once, and keeps files in `folder`. Errors: what
    /// is wrong with the settings.
    pub(crate) fn new(command: &str, envs: &[String], folder: &Path, most: usize) -> Result<Self, String> {
        let words = words(command)?;
        if words.is_empty() {
            return Err("NSM_COMMAND names no program".into());
        }
        let pairs = envs.iter().filter(|pair| !pair.trim().is_empty());
        let variables = pairs.map(|pair| {
            let pair = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty());
            let (name, value) = pair.ok_or("NSM_COMMAND_ENVS is not of the form KEY=VALUE,...")?;
            Ok::<_, String>((name.trim().to_string(), value.to_string()))
        });
        let variables = variables.collect::<Result<Vec<_>, _>>()?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| format!("NSM_STATE_DIR {} cannot be made: {error}", folder.display()))?;
        Ok(Self {
            words,
            variables,
            folder: folder.into(),
            most,
        })
    }

    /// Checks that the templates can be rendered. Errors: `bad-template`.
    pub(crate) fn check(&self, service: &str) -> Result<()> {
        let mut request = Request::default();
        request.connection.network_service = service.into();
        request.connection.labels = [("nodeName".to_string(), "node".to_string())].into();
        self.command(&Place::of(&request)?, &request).map(drop)
    }

    /// The command for a place. Errors: `bad-template`.
    fn command(&self, place: &Place, request: &Request) -> Result<tokio::process::Command> {
        let words = self
            .words
            .iter()
            .map(|word| text("NSM_COMMAND", word, place, request));
        let words = words.collect::<Result<Vec<_>>>()?;
        let [program, arguments @ ..] = &words[..] else {
            return Err(Error::internal("no-command", "the command has no program"));
        };
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env_clear().envs(inherited());
        for (name, value) in &self.variables {
            command.env(name, text("NSM_COMMAND_ENVS", value, place, request)?);
        }
        Ok(command)
    }

    /// The lock of the file at `path`.
    fn lock(path: &Path) -> std::io::Result<Lock> {
        for _ in 0..TRIES {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                let mut text = String::new();
                (&mut file).take(MAX_FILE).read_to_string(&mut text)?;
                return Ok(Lock::Theirs(serde_json::from_str(&text).unwrap_or_default()));
            }
            // Whoever cleans up may have removed it in between.
            let is_it = std::fs::metadata(path).map(|there| there.ino());
            if is_it.ok() == Some(file.metadata()?.ino()) {
                return Ok(Lock::Ours(file));
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }

    /// Every endpoint that runs, by its file; files of those that do not are removed.
    fn running(&self) -> Vec<(PathBuf, Kept)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let locks = paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "lock"));
        locks
            .filter_map(|path| match Self::lock(&path) {
                Ok(Lock::Theirs(kept)) => Some((path, kept)),
                Ok(Lock::Ours(_file)) => {
                    let _nobody_needs_it = std::fs::remove_file(&path);
                    None
                }
                Err(error) => {
                    warn!(file = %path.display(), %error, "cannot be looked at");
                    None
                }
            })
            .collect()
    }

    fn path(&self, place: &Place) -> PathBuf {
        let name = format!("{}\n{}", place.service, place.node);
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes());
        self.folder.join(format!("{name}.lock"))
    }

    /// Starts the command with the file whose lock we hold as its input.
    fn spawn(&self, file: File, path: &Path, place: &Place, request: &Request) -> Result<Process> {
        let failed = |what: &str, error: std::io::Error| {
            let text = format!("cannot {what}: {error}; look at NSM_COMMAND and NSM_STATE_DIR");
            Error::unavailable("endpoint-not-started", text)
        };
        let mut kept = Kept {
            pid: 0,
            service: place.service.clone(),
            labels: request.connection.labels.clone(),
        };
        let mut writer = file.try_clone().map_err(|error| failed("share a file", error))?;
        write(&mut writer, &kept).map_err(|error| failed("write a file", error))?;
        let mut command = self.command(place, request)?;
        command.stdin(Stdio::from(file)).process_group(0);
        let program = self.words[0].clone();
        let child = command
            .spawn()
            .map_err(|error| failed(&format!("start {program}"), error))?;
        kept.pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        write(&mut writer, &kept).map_err(|error| failed("write a file", error))?;
        Ok(Process::ours(child, path, kept.pid))
    }
}

/// Writes what a file says, in the place of what it said.
fn write(file: &mut File, kept: &Kept) -> std::io::Result<()> {
    let text = serde_json::to_vec(kept)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)?;
    // Who reads its input finds nothing.
    file.seek(SeekFrom::End(0)).map(drop)
}

/// The variables that a command gets of ours: all but settings.
fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        !name.starts_with("NSM_") && !OURS.contains(&&*name)
    })
}

/// The words of a command line, apart at blanks that are not quoted.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    // Blanks and quotes in an action of a template are its own.
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        if let Some(action) = rest.strip_prefix("{{") {
            let inside = action.split_once("}}").map_or(action, |(inside, _)| inside);
            let (action, after) = rest.split_at((inside.len() + 4).min(rest.len()));
            word.get_or_insert_default().push_str(action);
            rest = after;
            continue;
        }
        rest = &rest[first.len_utf8()..];
        match (quote, first) {
            (Some(open), _) if open == first => quote = None,
            (None, '"' | '\'') => {
                quote = Some(first);
                word.get_or_insert_default();
            }
            (None, _) if first.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(first),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("NSM_COMMAND has a {quote} that is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[async_trait]
impl Starter for Commands {
    async fn start(&self, place: &Place, request: &Request) -> Result<Box<dyn Started>> {
        let path = self.path(place);
        let failed = |error: std::io::Error| {
            let text = format!("cannot lock {}: {error}; look at NSM_STATE_DIR", path.display());
            Error::unavailable("endpoint-not-started", text)
        };
        let _nobody_else = LOCKS.lock();
        let running = self.running();
        if let Some((_, kept)) = running.iter().find(|(file, _)| *file == path) {
            return Ok(Box::new(Process::theirs(&path, kept.pid)));
        }
        if running.len() >= self.most {
            let text = format!(
                "{} endpoints run, and NSM_MAX_ENDPOINTS allows no more",
                running.len()
            );
            return Err(Error::exhausted("too-many-endpoints", text));
        }
        Ok(Box::new(match Self::lock(&path).map_err(failed)? {
            Lock::Ours(file) => self.spawn(file, &path, place, request)?,
            Lock::Theirs(kept) => Process::theirs(&path, kept.pid),
        }))
    }

    async fn left(&self) -> Vec<Request> {
        let of = |kept: Kept| {
            let mut request = Request::default();
            request.connection.network_service = kept.service;
            request.connection.labels = kept.labels;
            request
        };
        let running = {
            let _nobody_else = LOCKS.lock();
            self.running().into_iter().map(|(_, kept)| kept)
        };
        running.filter(|kept| !kept.service.is_empty()).map(of).collect()
    }
}

#[cfg(test)]
mod tests;
