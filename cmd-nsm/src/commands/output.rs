// SPDX-License-Identifier: Apache-2.0
//! What commands have in common that ask and print.

use std::fmt::Display;
use std::future::Future;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// Prints for people, or JSON. A reader that has gone is no error.
pub(crate) fn print<T: Serialize + Display>(json: bool, what: &T) -> Result<()> {
    let mut text = match json {
        true => serde_json::to_string_pretty(what)?,
        false => what.to_string(),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Runs what asks.
pub(crate) fn block_on<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(asking)
}

/// Columns below each other, two blanks apart.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<_> = cells.map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["NAME".to_string(), "URL".to_string()],
            vec!["a-long-name".to_string(), "unix:///x".to_string()],
        ];
        assert_eq!(columns(&rows), "NAME         URL\na-long-name  unix:///x\n");
    }
}
