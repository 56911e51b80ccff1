// SPDX-License-Identifier: Apache-2.0
//! A configuration file that is followed while the program runs.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::core::{Component, Task};

/// The longest time between two looks at a file, for file systems that do not tell.
const LOOK: Duration = Duration::from_secs(30);

/// How large a file may be, bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a file says.
///
/// Follows changes, also those by a swap of a symbolic link, as mounted volumes do. A file that is not there means
/// the default. One that cannot be understood (we may see a change half done) is logged and changes nothing.
pub(super) struct Watched<T> {
    now: watch::Receiver<Arc<T>>,
    _follower: Task,
}

type Parse<T> = fn(&str) -> Result<T, String>;

impl<T: Default + Send + Sync + 'static> Watched<T> {
    /// Reads the file at `path`, and follows it until this is dropped.
    pub(super) fn new(component: &Component, path: &Path, parse: Parse<T>) -> Self {
        let (told, now) = watch::channel(Arc::<T>::default());
        let mut file = File {
            path: path.into(),
            seen: None,
        };
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = watch_folder(path, &changed);
        file.look(&told, parse);
        let follower = component.spawn("watch file", async move {
            loop {
                let _it_is_time_to_look = timeout(LOOK, changes.recv()).await;
                if watcher.is_none() {
                    watcher = watch_folder(&file.path, &changed);
                }
                file.look(&told, parse);
            }
        });
        Self {
            now,
            _follower: follower,
        }
    }

    /// What it says now.
    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&self.now.borrow())
    }

    /// What it says now, and whatever comes after.
    pub(super) fn follow(&self) -> (Arc<T>, watch::Receiver<Arc<T>>) {
        let mut changes = self.now.clone();
        let now = Arc::clone(&changes.borrow_and_update());
        (now, changes)
    }
}

/// Watches the directory, since what a mounted volume changes is a link in it. `None` while there is none.
fn watch_folder(path: &Path, changed: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let changed = changed.clone();
    let told = move |event: notify::Result<notify::Event>| {
        let is_our_look = event.is_ok_and(|event| event.kind.is_access());
        if !is_our_look {
            let _a_look_is_due_already = changed.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(told).ok()?;
    watcher.watch(path.parent()?, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

struct File {
    path: PathBuf,
    /// What it held when we looked last; `None` when it was not there.
    seen: Option<String>,
}

impl File {
    fn look<T: Default>(&mut self, told: &watch::Sender<Arc<T>>, parse: Parse<T>) {
        let path = self.path.display();
        let found = match read(&self.path) {
            Ok(found) => found,
            Err(error) => return warn!(%path, error, "keeping what the file said before"),
        };
        if found == self.seen {
            return;
        }
        self.seen = found;
        match self.seen.as_deref().map_or_else(|| Ok(T::default()), parse) {
            Ok(value) => {
                info!(%path, "took over what the file says");
                told.send_replace(Arc::new(value));
            }
            Err(error) => error!(%path, error, "the file is not taken over: what it said before counts"),
        }
    }
}

/// The file's text, `None` when it is not there.
fn read(path: &Path) -> Result<Option<String>, String> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_FILE => Err(format!("it is larger than {MAX_FILE} bytes")),
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn number(text: &str) -> Result<u32, String> {
        text.trim()
            .parse()
            .map_err(|error| format!("{text:?} is no number: {error}"))
    }

    fn watched(path: &Path) -> Watched<u32> {
        Watched::new(&Component::new("test"), path, number)
    }

    /// Waits until the file says this.
    async fn says(watched: &Watched<u32>, expected: u32) {
        while *watched.get() != expected {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn changes_are_taken_over_and_what_cannot_be_understood_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let watched = watched(&path);
        assert_eq!(*watched.get(), 0, "no file means the default");
        fs::write(&path, "7").unwrap();
        says(&watched, 7).await;
        fs::write(&path, "seven").unwrap();
        fs::write(folder.path().join("other"), "8").unwrap();
        fs::write(&path, "9").unwrap();
        says(&watched, 9).await;
        fs::remove_file(&path).unwrap();
        says(&watched, 0).await;
    }

    #[tokio::test]
    async fn a_swapped_link_is_a_change_as_in_mounted_volumes() {
        let folder = tempfile::tempdir().unwrap();
        for (version, text) in [("v1", "1"), ("v2", "2")] {
            fs::create_dir(folder.path().join(version)).unwrap();
            fs::write(folder.path().join(version).join("number"), text).unwrap();
        }
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, folder.path().join(at)).unwrap();
        link("v1", "..data");
        link("..data/number", "number");
        let watched = watched(&folder.path().join("number"));
        assert_eq!(*watched.get(), 1, "it is read at once");
        link("v2", "..data_tmp");
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        says(&watched, 2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_comes_later_is_found_at_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later").join("number");
        let watched = watched(&path);
        fs::create_dir(folder.path().join("later")).unwrap();
        fs::write(&path, "7").unwrap();
        tokio::time::sleep(LOOK + Duration::from_secs(1)).await;
        assert_eq!(*watched.get(), 7);
    }

    #[test]
    fn a_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        fs::write(&path, vec![b' '; (MAX_FILE + 1) as usize]).unwrap();
        assert!(read(&path).unwrap_err().contains("larger"));
        assert_eq!(read(&folder.path().join("none")), Ok(None));
    }
}
