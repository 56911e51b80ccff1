// SPDX-License-Identifier: Apache-2.0
use crate::end::End;
use crate::netns::NetnsId;

use super::*;

fn record(serial: u64, orphan: bool) -> Record {
    let place = |index| Place {
        netns: NetnsId { device: 4, inode: 77 },
        index,
        end: End::default(),
    };
    Record {
        serial,
        connection: format!("connection-{serial}"),
        ends: vec![place(1 << 24), place((1 << 24) + 1)],
        asked: None,
        settling: false,
        broken: false,
        orphan,
        joined: None,
    }
}

fn journal() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    (directory, path)
}

#[test]
fn the_next_life_reads_what_this_one_wrote() {
    let (_directory, path) = journal();
    let one = Journal::open(&path).expect("opens");
    one.set(&record(1, false));
    one.set(&record(2, false));
    one.set(&record(2, true));
    one.set(&record(3, true));
    one.doom(3);
    one.set(&record(4, true));
    one.gone(4);
    one.gone(99);
    drop(one);
    let entries = Journal::open(&path).expect("opens again").entries();
    let found: Vec<_> = entries
        .iter()
        .map(|(serial, entry)| (*serial, entry.complete, entry.doomed))
        .collect();
    assert_eq!(found, [(1, false, false), (2, true, false), (3, true, true)]);
    assert_eq!(entries[&2].ends, record(2, true).ends);
}

#[test]
fn a_line_that_was_cut_is_left_out() {
    let (_directory, path) = journal();
    let one = Journal::open(&path).expect("opens");
    one.set(&record(1, true));
    one.set(&record(2, true));
    drop(one);
    let whole = fs::read(&path).expect("readable");
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).expect("writable");
        let entries = Journal::open(&path).expect("opens").entries();
        assert!(entries.len() <= 2 && !entries.contains_key(&3), "cut at {end}");
    }
}

#[test]
fn what_another_run_of_the_kernel_had_is_forgotten() {
    let (_directory, path) = journal();
    let one = Journal::open(&path).expect("opens");
    one.set(&record(1, true));
    drop(one);
    let text = fs::read_to_string(&path).expect("readable");
    let (_, rest) = text.split_once('\n').expect("a line");
    fs::write(&path, format!("{{\"boot\":\"another\"}}\n{rest}")).expect("writable");
    assert!(Journal::open(&path).expect("opens").entries().is_empty());
}

#[test]
fn it_does_not_grow_with_what_is_stale() {
    let (_directory, path) = journal();
    let journal = Journal::open(&path).expect("opens");
    for serial in 0..3 * MIN_STALE as u64 {
        journal.set(&record(serial, true));
        journal.gone(serial);
    }
    let lines = fs::read_to_string(&path).expect("readable").lines().count();
    assert!(lines <= MIN_STALE + 2, "{lines} lines");
}

#[test]
fn what_has_not_changed_is_not_written() {
    let (_directory, path) = journal();
    let journal = Journal::open(&path).expect("opens");
    journal.set(&record(1, true));
    let length = fs::metadata(&path).expect("there").len();
    journal.set(&record(1, true));
    assert_eq!(fs::metadata(&path).expect("there").len(), length);
}

#[test]
fn only_we_may_read_it_and_only_one_of_us() {
    let (_directory, path) = journal();
    fs::write(&path, "").expect("writable");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("changed");
    let journal = Journal::open(&path).expect("opens");
    assert_eq!(
        fs::metadata(&path).expect("there").permissions().mode() & 0o777,
        0o600
    );
    let error = Journal::open(&path).map(drop).expect_err("in use");
    assert_eq!(error.reason(), "journal");
    drop(journal);
    Journal::open(&path).expect("free again");
}

#[test]
fn a_place_where_nothing_can_be_written_is_named() {
    let error = Journal::open(Path::new("/proc/nowhere/journal"))
        .map(drop)
        .expect_err("no such place");
    assert!(error.text().contains("/proc/nowhere/journal"), "{error}");
}
