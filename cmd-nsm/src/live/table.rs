// SPDX-License-Identifier: Apache-2.0
//! The rows of the table, and what of them is drawn.

use std::collections::BTreeMap;

use super::{Size, Told};
use crate::commands::monitor::Changed;
use crate::seen::Seen;

/// The most that is kept of a name, which a peer has chosen.
const MAX_NAME: usize = 256;

/// The blanks between two columns.
const GAP: usize = 2;

/// The state of connections of a node that tells no more.
const SILENT: &str = "unheard";

/// The state of what carries packets, as far as anybody knows.
const UP: &str = "up";

/// The heads of the columns. The first is there when there is more than one node.
const HEADS: [&str; COLUMNS] = [
    "NODE",
    "ID",
    "CLIENT",
    "SERVICE",
    "ENDPOINT",
    "MECHANISM",
    "STATE",
    "SINCE",
    "PATH",
];
const COLUMNS: usize = 9;

/// Those that tell enough when they are cut, down to so many letters.
const NAMES: [&str; 5] = ["ID", "CLIENT", "SERVICE", "ENDPOINT", "PATH"];
const SHORT: usize = 6;

/// The connections that are known, by their nodes and ids.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<(String, String), Row>,
}

/// A connection.
#[derive(Debug)]
struct Row {
    node: String,
    id: String,
    client: String,
    service: String,
    endpoint: String,
    mechanism: String,
    state: String,
    /// When it came into that state.
    since: String,
    path: String,
}

impl Row {
    fn of(node: &str, seen: &Seen, since: String) -> Self {
        let hops: Vec<_> = seen.hops.iter().map(|hop| name(&hop.name)).collect();
        Self {
            node: name(node),
            id: name(&seen.id),
            client: name(&seen.client),
            service: name(&seen.network_service),
            endpoint: name(&seen.endpoint),
            mechanism: name(&seen.mechanism),
            state: name(&seen.state),
            since,
            path: hops.join(" > "),
        }
    }

    fn cells(&self) -> [&str; COLUMNS] {
        [
            &self.node,
            &self.id,
            &self.client,
            &self.service,
            &self.endpoint,
            &self.mechanism,
            &self.state,
            &self.since,
            &self.path,
        ]
    }
}

impl Table {
    /// Takes note of what is told.
    pub(super) fn tell(&mut self, told: Told) {
        match told {
            Told::Changed(node, changed) => self.change(node, &changed),
            Told::Silent(node) => {
                let of_node = self.rows.values_mut().filter(|row| row.node == name(&node));
                of_node.for_each(|row| row.state = SILENT.to_string());
            }
        }
    }

    fn change(&mut self, node: String, changed: &Changed) {
        let seen = &changed.connection;
        let key = (node, seen.id.clone());
        if changed.is_delete() {
            self.rows.remove(&key);
            return;
        }
        let old = self
            .rows
            .remove(&key)
            .filter(|old| old.state == name(&seen.state));
        let since = old.map_or_else(|| since(changed), |old| old.since);
        let row = Row::of(&key.0, seen, since);
        self.rows.insert(key, row);
    }

    /// What is drawn in so much room, of which the last line is the cursor's: what is not up comes first.
    pub(super) fn lines(&self, size: Size) -> Vec<String> {
        let room = size.rows.saturating_sub(1);
        let mut rows: Vec<_> = self.rows.values().map(Row::cells).collect();
        rows.sort_by_key(|cells| (cells[6] == UP, cells[2], cells[0], cells[1]));
        let for_rows = room.saturating_sub(2);
        let shown = match rows.len() > for_rows {
            true => for_rows.saturating_sub(1),
            false => rows.len(),
        };
        let hidden = rows.len() - shown;
        rows.truncate(shown);
        let mut lines = vec![self.sum()];
        if !self.rows.is_empty() {
            rows.insert(0, HEADS);
            let first = usize::from(self.rows.values().all(|row| row.node.is_empty()));
            let rows: Vec<_> = rows.iter().map(|cells| &cells[first..]).collect();
            lines.extend(columns(&rows, size.columns));
        }
        if hidden > 0 {
            lines.push(format!("… and {hidden} more"));
        }
        lines.truncate(room);
        lines.iter().map(|line| cut(line, size.columns)).collect()
    }

    /// How many there are, and in which states.
    fn sum(&self) -> String {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for row in self.rows.values() {
            *states.entry(&row.state).or_default() += 1;
        }
        let states: Vec<_> = states
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        match self.rows.len() {
            0 => "no connections".to_string(),
            1 => format!("1 connection: {}", states.join(", ")),
            count => format!("{count} connections: {}", states.join(", ")),
        }
    }
}

/// Since when it is so, UTC: what was there when we came has been so before.
fn since(changed: &Changed) -> String {
    let time = changed
        .at
        .split(['T', '.', 'Z'])
        .nth(1)
        .map(name)
        .unwrap_or_default();
    match changed.is_initial() {
        true => format!("before {time}"),
        false => time,
    }
}

/// A name as it may be printed: each letter takes one place, and none is a command to the terminal.
fn name(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_graphic() || letter == ' ';
    let letters = text.chars().take(MAX_NAME);
    letters
        .map(|letter| if is_plain(letter) { letter } else { '?' })
        .collect()
}

/// The rows below each other, cut where they are widest until they fit, names first.
fn columns(rows: &[&[&str]], room: usize) -> Vec<String> {
    let count = rows.first().map_or(0, |row| row.len());
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let mut widths: Vec<_> = (0..count).map(width).collect();
    let room = room.saturating_sub(GAP * count.saturating_sub(1));
    let is_name = |column: usize| rows.first().is_some_and(|heads| NAMES.contains(&heads[column]));
    while widths.iter().sum::<usize>() > room {
        let names = (0..count).filter(|&column| is_name(column) && widths[column] > SHORT);
        let widest = names.max_by_key(|&column| widths[column]);
        let widest = widest.or_else(|| (0..count).max_by_key(|&column| widths[column]));
        match widest {
            Some(column) if widths[column] > 1 => widths[column] -= 1,
            _ => break,
        }
    }
    let line = |row: &&[&str]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, &width)| format!("{:<width$}", cut(cell, width)))
            .collect();
        cells.join(&" ".repeat(GAP)).trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

/// The text, or so much of it as there is room for.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_string();
    }
    let mut cut: String = text.chars().take(room.saturating_sub(1)).collect();
    if room > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::{Connection, Path, PathSegment, State};

    use super::*;

    const WIDE: Size = Size {
        rows: 24,
        columns: 120,
    };

    fn changed(event: &str, id: &str, client: &str, state: State) -> Changed {
        let segment = |name: &str| PathSegment {
            name: name.into(),
            ..Default::default()
        };
        let mut connection = Connection {
            id: id.into(),
            network_service: "vpn".into(),
            network_service_endpoint_name: "vpn-1".into(),
            path: Some(Path {
                index: 1,
                path_segments: vec![segment(client), segment("nsmgr"), segment("vpn-1")],
            }),
            ..Default::default()
        };
        connection.set_state(state);
        Changed {
            event: event.into(),
            at: "2026-11-26T12:00:07.123Z".into(),
            connection: Seen::of(&connection, std::time::UNIX_EPOCH),
        }
    }

    fn tell(table: &mut Table, event: &str, id: &str, state: State) {
        let told = changed(event, id, "nsc", state);
        table.tell(Told::Changed(String::new(), Box::new(told)));
    }

    #[test]
    fn a_row_is_there_from_the_first_word_to_the_last_and_tells_since_when_its_state_is_so() {
        let mut table = Table::default();
        assert_eq!(table.lines(WIDE), ["no connections"]);
        tell(&mut table, "initial", "a", State::Up);
        tell(&mut table, "update", "b", State::Up);
        let heads = "ID  CLIENT  SERVICE  ENDPOINT  MECHANISM  STATE  SINCE            PATH";
        let first = "a   nsc     vpn      vpn-1                up     before 12:00:07  nsc > nsmgr > vpn-1";
        let second = "b   nsc     vpn      vpn-1                up     12:00:07         nsc > nsmgr > vpn-1";
        assert_eq!(table.lines(WIDE), ["2 connections: 2 up", heads, first, second]);
        tell(&mut table, "update", "a", State::Up);
        assert_eq!(table.lines(WIDE)[2], first, "an update of something else");
        tell(&mut table, "update", "b", State::Down);
        let down = second.replace("up     ", "down   ");
        assert_eq!(
            table.lines(WIDE),
            ["2 connections: 1 down, 1 up", heads, down.as_str(), first],
            "what is not up comes first"
        );
        tell(&mut table, "delete", "b", State::Down);
        tell(&mut table, "delete", "a", State::Up);
        assert_eq!(table.lines(WIDE), ["no connections"]);
    }

    #[test]
    fn several_nodes_have_a_column_and_one_that_is_silent_shows() {
        let mut table = Table::default();
        for node in ["n1", "n2"] {
            let told = changed("update", "a", "nsc", State::Up);
            table.tell(Told::Changed(node.into(), Box::new(told)));
        }
        assert_eq!(table.lines(WIDE).len(), 4, "one id at two nodes are two rows");
        table.tell(Told::Silent("n2".into()));
        let lines = table.lines(WIDE);
        assert_eq!(lines[0], "2 connections: 1 unheard, 1 up");
        assert!(lines[1].starts_with("NODE  ID"), "{lines:?}");
        assert!(
            lines[2].starts_with("n2") && lines[3].starts_with("n1"),
            "{lines:?}"
        );
    }

    #[test]
    fn no_line_and_no_row_is_more_than_there_is_room_for() {
        let mut table = Table::default();
        for number in 0..40 {
            let id = format!("{number:02}-{}", "x".repeat(34));
            tell(&mut table, "update", &id, State::Up);
        }
        for rows in 0..60 {
            for columns in 0..150 {
                let lines = table.lines(Size { rows, columns });
                assert!(lines.len() < rows.max(1), "{rows}: {}", lines.len());
                let widest = lines.iter().map(|line| line.chars().count()).max();
                assert!(widest.unwrap_or_default() <= columns, "{columns}: {lines:?}");
            }
        }
        let lines = table.lines(Size {
            rows: 10,
            columns: 80,
        });
        assert_eq!((lines.len(), &*lines[8]), (9, "… and 34 more"));
        let all = table.lines(Size {
            rows: 43,
            columns: 80,
        });
        assert!(all.len() == 42 && all[41].starts_with("39-"), "{all:?}");
        for columns in [73, 80] {
            let lines = table.lines(Size { rows: 10, columns });
            for word in ["MECHANISM", "up     12:00:07"] {
                let shown = lines.iter().any(|line| line.contains(word));
                assert!(shown, "{word} is cut off: {lines:?}");
            }
        }
    }

    #[test]
    fn names_of_peers_are_no_commands_to_the_terminal() {
        let mut table = Table::default();
        let told = changed("update", "a\x1b[2J\u{9b}31m\r\n", &"ü".repeat(1000), State::Up);
        table.tell(Told::Changed("n\x07".into(), Box::new(told)));
        for line in table.lines(Size {
            rows: 24,
            columns: 5000,
        }) {
            assert!(
                line.chars()
                    .all(|letter| letter.is_ascii_graphic() || letter == ' '),
                "{line:?}"
            );
            assert!(line.chars().count() < 3 * MAX_NAME);
        }
        table.tell(Told::Silent("n\x07".into()));
        assert!(table.lines(WIDE)[0].contains("1 unheard"));
    }
}
