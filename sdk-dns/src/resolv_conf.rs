// SPDX-License-Identifier: Apache-2.0
//! The file that tells programs of the pod whom to ask.
//!
//! All containers of a pod have the same file, each mounted by itself, so that it can be neither replaced nor kept
//! beside: what it said before is kept in it, behind `#`, as the Go client keeps it. So whoever comes after a crash,
//! even in a fresh container, finds it. One call writes all of it: nobody reads half of a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

/// The first line of a file that somebody has taken over.
const MARK: &str = "# modified";

/// A file of more bytes is nobody's: programs read less.
const MOST: u64 = 64 * 1024;

/// A file that names us, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    path: PathBuf,
    original: String,
    ours: String,
}

impl Taken {
    /// Lets the file name `server` alone.
    pub(crate) fn take(path: &Path, server: IpAddr) -> io::Result<Self> {
        let text = read(path)?;
        let original = kept(&text).unwrap_or_else(|| text.clone());
        let ours = naming(&original, server);
        write(path, &text, &ours)?;
        Ok(Self {
            path: path.to_path_buf(),
            original,
            ours,
        })
    }

    fn give_back(&self) -> io::Result<()> {
        let text = read(&self.path)?;
        if text != self.ours {
            info!(path = %self.path.display(), "somebody else has written it, so it stays");
            return Ok(());
        }
        write(&self.path, &text, &self.original)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        match self.give_back() {
            Ok(()) => info!(path = %self.path.display(), "given back as it was"),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "not given back; the next start does it")
            }
        }
    }
}

/// Makes `path` a copy of `from`, unless there is one.
pub(crate) fn copy(from: &Path, path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    // Whoever is killed here leaves nothing that looks whole.
    let half = path.with_extension("new");
    std::fs::write(&half, original(from)?)?;
    std::fs::rename(half, path)
}

/// What the file says, or said before somebody took it over; nothing when there is none.
pub(crate) fn original(path: &Path) -> io::Result<String> {
    match read(path) {
        Ok(text) => Ok(kept(&text).unwrap_or(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Whether somebody has taken it over and not given it back.
pub(crate) fn is_taken(path: &Path) -> bool {
    read(path).is_ok_and(|text| kept(&text).is_some())
}

/// Gives back what somebody else has left taken over.
pub(crate) fn restore(path: &Path) -> io::Result<()> {
    let text = read(path)?;
    match kept(&text) {
        Some(original) => write(path, &text, &original),
        None => Ok(()),
    }
}

/// The servers that a file names; those that are no addresses are left out.
pub(crate) fn servers(text: &str) -> Vec<IpAddr> {
    let words = text.lines().map(str::split_ascii_whitespace);
    let server = |mut words: std::str::SplitAsciiWhitespace<'_>| {
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)?.parse().ok()
    };
    words.filter_map(server).collect()
}

/// The text that is kept in one that was taken over.
fn kept(text: &str) -> Option<String> {
    let mut lines = text.split('\n');
    if lines.next() != Some(MARK) {
        return None;
    }
    let kept: Vec<_> = lines.map_while(|line| line.strip_prefix('#')).collect();
    Some(kept.join("\n"))
}

/// The text that keeps `original` and names `server` in the place of its servers.
fn naming(original: &str, server: IpAddr) -> String {
    let mut text = format!("{MARK}\n");
    for line in original.split('\n') {
        text.push_str(&format!("#{line}\n"));
    }
    text.push_str(&format!("\nnameserver {server}\n"));
    let stays =
        |line: &&str| matches!(line.split_ascii_whitespace().next(), Some(word) if word != "nameserver");
    for line in original.lines().filter(|line| !line.starts_with(['#', ';'])) {
        if stays(&line) {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is longer than 64 KiB",
        ));
    }
    Ok(text)
}

/// Writes `text` in place of `before`. A file that was longer is first filled up by empty lines, which say nothing.
fn write(path: &Path, before: &str, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut filled = text.to_string();
    while filled.len() < before.len() {
        filled.push('\n');
    }
    file.write_all_at(filled.as_bytes(), 0)?;
    if filled.len() > text.len() {
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = "# of the cluster\nsearch ns.svc.cluster.local svc.cluster.local\n\
        nameserver 10.96.0.10\nnameserver fd00::10\noptions ndots:5\n";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_that_is_taken_names_us_alone_and_keeps_domains_and_options() {
        let (_folder, path) = file(ORIGINAL);
        let taken = Taken::take(&path, "127.0.0.1".parse().unwrap()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(servers(&text), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(text.ends_with(
            "\nnameserver 127.0.0.1\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
        ));
        drop(taken);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), ORIGINAL);
    }

    #[test]
    fn a_file_that_was_left_by_a_crash_is_adopted_and_given_back_as_it_was() {
        let (_folder, path) = file(ORIGINAL);
        let us = "127.0.0.1".parse().unwrap();
        std::mem::forget(Taken::take(&path, us).unwrap());
        assert!(is_taken(&path));
        assert_eq!(original(&path).unwrap(), ORIGINAL);
        drop(Taken::take(&path, us).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), ORIGINAL);
        std::mem::forget(Taken::take(&path, us).unwrap());
        restore(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), ORIGINAL);
        assert!(!is_taken(&path));
    }

    #[test]
    fn a_copy_is_made_once_and_of_what_the_file_said_before_it_was_taken() {
        let (folder, path) = file(ORIGINAL);
        std::mem::forget(Taken::take(&path, "127.0.0.1".parse().unwrap()).unwrap());
        let shared = folder.path().join("shared");
        copy(&path, &shared).unwrap();
        assert_eq!(std::fs::read_to_string(&shared).unwrap(), ORIGINAL);
        std::fs::write(&shared, "nameserver 10.0.0.1\n").unwrap();
        copy(&path, &shared).unwrap();
        assert_eq!(std::fs::read_to_string(&shared).unwrap(), "nameserver 10.0.0.1\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        copy(&path, &folder.path().join("nowhere/shared")).unwrap_err();
    }

    #[test]
    fn what_the_go_client_has_left_is_given_back() {
        let (_folder, path) =
            file("# modified\n#nameserver 10.96.0.10\n#search a b\n#\n\nnameserver 127.0.0.1\n");
        restore(&path).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "nameserver 10.96.0.10\nsearch a b\n"
        );
    }

    #[test]
    fn the_file_is_the_same_one_for_whoever_has_it_mounted() {
        use std::os::unix::fs::MetadataExt;
        let (_folder, path) = file(ORIGINAL);
        let number = |path: &Path| std::fs::metadata(path).unwrap().ino();
        let before = number(&path);
        let taken = Taken::take(&path, "::1".parse().unwrap()).unwrap();
        assert_eq!(number(&path), before);
        drop(taken);
        assert_eq!(number(&path), before);
    }

    #[test]
    fn what_somebody_else_has_written_meanwhile_stays() {
        let (_folder, path) = file(ORIGINAL);
        let taken = Taken::take(&path, "127.0.0.1".parse().unwrap()).unwrap();
        std::fs::write(&path, "nameserver 1.1.1.1\n").unwrap();
        drop(taken);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn a_missing_file_names_nobody_and_a_long_one_is_refused() {
        let (folder, path) = file(&"#\n".repeat(40_000));
        assert_eq!(original(&folder.path().join("none")).unwrap(), "");
        assert!(Taken::take(&path, "127.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn whatever_was_there_comes_back() {
        for text in [
            "",
            "\n",
            "#",
            "# a\n#b",
            "no newline",
            "a\n\n\n#\n",
            ORIGINAL,
            "# modified",
        ] {
            let ours = naming(text, "127.0.0.1".parse().unwrap());
            assert_eq!(kept(&ours).unwrap(), text);
            assert_eq!(servers(&ours), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        }
    }
}
