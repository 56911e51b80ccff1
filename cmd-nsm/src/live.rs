// SPDX-License-Identifier: Apache-2.0
//! A table of connections on a terminal, which follows what becomes of them.
//!
//! **Guarantees**: no more is drawn than the terminal has room for, and at most ten times a second. What is on the
//! terminal above the table stays. The cursor is there again at the end, also when a signal is the end.

use std::fmt::Write as _;
use std::io::{IsTerminal, Stdout, Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use futures::{Stream, StreamExt};
use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::commands::monitor::Changed;
use table::Table;

mod table;

/// The pause between two drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// No cursor, and what is too long for a line is cut: it would make two of it.
const BEGIN: &str = "\x1b[?25l\x1b[?7l";
const END: &str = "\x1b[?7h\x1b[?25h";

/// Everything is gone, and the cursor at the top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What somebody tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// A connection has changed, as a node tells; without a name where there is one node only.
    Changed(String, Box<Changed>),
    /// A node tells no more.
    Silent(String),
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// Of a terminal that does not tell, as serial lines do not.
const USUAL: Size = Size {
    rows: 24,
    columns: 80,
};

impl Size {
    /// That of the terminal to which we print.
    fn now() -> Self {
        let Ok(size) = tcgetwinsize(stdout()) else {
            return USUAL;
        };
        let told = |told: u16, usual| if told == 0 { usual } else { usize::from(told) };
        Self {
            rows: told(size.ws_row, USUAL.rows),
            columns: told(size.ws_col, USUAL.columns),
        }
    }
}

/// Whether there is a terminal for the table, and nobody asks for something else.
pub(crate) fn is_wanted(is_other: bool) -> bool {
    !is_other && stdout().is_terminal()
}

/// Draws what is told until nobody tells any more, or until a signal ends it, whose exit code is returned.
pub(crate) async fn follow(told: impl Stream<Item = Result<Told>>) -> Result<Option<ExitCode>> {
    let mut told = std::pin::pin!(told);
    let mut ends = Ends::listen()?;
    let mut resized = signal(SignalKind::window_change())?;
    let (mut table, mut screen) = (Table::default(), Screen::<Stdout>::begin(stdout())?);
    let mut last = Instant::now();
    let mut next = Some(last);
    loop {
        let drawing = async move {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            code = ends.next() => return Ok(Some(code)),
            () = drawing => {
                screen.draw(&table.lines(Size::now()))?;
                (last, next) = (Instant::now(), None);
            }
            _ = resized.recv() => {
                screen.clear()?;
                next = Some(Instant::now());
            }
            told = told.next() => match told {
                Some(told) => {
                    table.tell(told?);
                    next.get_or_insert(last + PAUSE);
                }
                None => {
                    screen.draw(&table.lines(Size::now()))?;
                    return Ok(None);
                }
            },
        }
    }
}

/// The signals that end it.
struct Ends([(Signal, u8); 3]);

impl Ends {
    fn listen() -> Result<Self> {
        let listen = |kind: SignalKind| -> Result<_> {
            let code = u8::try_from(128 + kind.as_raw_value())?;
            Ok((signal(kind)?, code))
        };
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// The exit code of the next one, as shells have it.
    async fn next(&mut self) -> ExitCode {
        let [one, two, three] = &mut self.0;
        let code = tokio::select! {
            _ = one.0.recv() => one.1,
            _ = two.0.recv() => two.1,
            _ = three.0.recv() => three.1,
        };
        ExitCode::from(code)
    }
}

/// The place on a terminal where lines are drawn, below what is there. It has no cursor until this is dropped.
struct Screen<W: Write> {
    out: W,
    /// How many lines are drawn, above the cursor.
    drawn: usize,
}

impl<W: Write> Screen<W> {
    fn begin(mut out: W) -> Result<Self> {
        out.write_all(BEGIN.as_bytes())?;
        Ok(Self { out, drawn: 0 })
    }

    /// Draws these lines in place of those before.
    fn draw(&mut self, lines: &[String]) -> Result<()> {
        let mut text = String::from("\r");
        if self.drawn > 0 {
            write!(text, "\x1b[{}A", self.drawn)?;
        }
        for line in lines {
            write!(text, "{line}\x1b[K\r\n")?;
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Forgets everything on the terminal: with another width, lines are elsewhere.
    fn clear(&mut self) -> Result<()> {
        self.drawn = 0;
        Ok(self.out.write_all(CLEAR.as_bytes())?)
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        // A terminal that is gone has no cursor.
        let _gone = self.out.write_all(END.as_bytes()).and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_drawn_in_place_of_those_before_and_the_cursor_comes_back() {
        let mut out = Vec::new();
        let mut screen = Screen::begin(&mut out).expect("it writes");
        for lines in [&["a", "b"][..], &["c"], &[]] {
            let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
            screen.draw(&lines).expect("it writes");
        }
        screen.clear().expect("it writes");
        screen.draw(&["d".to_string()]).expect("it writes");
        drop(screen);
        let text = String::from_utf8(out).expect("text");
        let drawn = [
            "\x1b[?25l\x1b[?7l",
            "\ra\x1b[K\r\nb\x1b[K\r\n\x1b[J",
            "\r\x1b[2Ac\x1b[K\r\n\x1b[J",
            "\r\x1b[1A\x1b[J",
            "\x1b[H\x1b[2J",
            "\rd\x1b[K\r\n\x1b[J",
            "\x1b[?7h\x1b[?25h",
        ];
        assert_eq!(text, drawn.concat());
    }
}
