// SPDX-License-Identifier: Apache-2.0
//! Splits a template into texts and actions, and an action into operands.

use std::str::Chars;

use super::Problem;

/// Opens an action.
pub(super) const OPEN: &str = "{{";
/// Closes an action.
const CLOSE: &str = "}}";
/// What trimming and separating look at.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// A part of a template.
pub(super) enum Piece<'a> {
    /// Text that is printed as it is.
    Text(&'a str),
    /// The operands of an action.
    Action(Vec<Token<'a>>),
}

/// An operand of an action.
pub(super) enum Token<'a> {
    /// The function `index`.
    Index,
    /// `.a.b` as the names of its fields; `.` and `$` have none.
    Fields(Vec<&'a str>),
    /// A quoted text.
    Constant(String),
    /// A decimal number.
    Number(u64),
    /// Another function, by its name.
    Call(&'a str),
}

/// Reads a template piece by piece.
pub(super) struct Scanner<'a> {
    /// What is not read yet.
    rest: &'a str,
    /// Whether `rest` starts with the inside of an action.
    inside: bool,
}

impl<'a> Scanner<'a> {
    /// Reads `template` from its start.
    pub(super) fn new(template: &'a str) -> Self {
        Self {
            rest: template,
            inside: false,
        }
    }

    /// The next piece, none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Piece<'a>>, Problem> {
        if self.inside {
            self.inside = false;
            if let Some(comment) = self.rest.strip_prefix("/*") {
                self.skip_comment(comment)?;
                return Ok(Some(Piece::Text("")));
            }
            return self.action().map(Piece::Action).map(Some);
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        Ok(Some(Piece::Text(self.text())))
    }

    /// The text up to the next action, which it enters.
    fn text(&mut self) -> &'a str {
        let Some((text, rest)) = self.rest.split_once(OPEN) else {
            return std::mem::take(&mut self.rest);
        };
        self.inside = true;
        self.rest = rest;
        let Some(rest) = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(BLANKS)) else {
            return text;
        };
        self.rest = rest;
        text.trim_end_matches(BLANKS)
    }

    /// A comment fills its action: nothing may stand around it but marks to trim.
    fn skip_comment(&mut self, comment: &'a str) -> Result<(), Problem> {
        let (_, rest) = comment.split_once("*/").ok_or(Problem::Open)?;
        self.rest = rest;
        if self.close() {
            Ok(())
        } else {
            Err(Problem::Syntax)
        }
    }

    /// The operands up to the end of the action, which it leaves.
    fn action(&mut self) -> Result<Vec<Token<'a>>, Problem> {
        let mut tokens = Vec::new();
        loop {
            let before = self.rest.len();
            while let (None, Some(rest)) = (self.trimming_close(), self.rest.strip_prefix(BLANKS)) {
                self.rest = rest;
            }
            if self.close() {
                return Ok(tokens);
            }
            if self.rest.is_empty() {
                return Err(Problem::Open);
            }
            if !tokens.is_empty() && self.rest.len() == before {
                return Err(Problem::Syntax);
            }
            tokens.push(self.token()?);
        }
    }

    fn token(&mut self) -> Result<Token<'a>, Problem> {
        let rest = self.rest;
        let mut characters = rest.chars();
        match characters.next() {
            Some('.') => self.fields(true),
            Some('$') => {
                self.rest = characters.as_str();
                self.fields(false)
            }
            Some('"') => self.quoted(characters),
            Some('`') => self.raw(characters.as_str()),
            Some('0'..='9') => self.number(),
            _ => match self.word() {
                "" => Err(Problem::Syntax),
                "index" => Ok(Token::Index),
                name => Ok(Token::Call(name)),
            },
        }
    }

    /// Names of fields, a dot before each. A dot may stand `alone`.
    fn fields(&mut self, alone: bool) -> Result<Token<'a>, Problem> {
        let mut names = Vec::new();
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            let name = self.word();
            if name.is_empty() && names.is_empty() && alone {
                break;
            }
            if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
                return Err(Problem::Syntax);
            }
            names.push(name);
        }
        Ok(Token::Fields(names))
    }

    fn quoted(&mut self, mut characters: Chars<'a>) -> Result<Token<'a>, Problem> {
        let mut text = String::new();
        while let Some(character) = characters.next() {
            match character {
                '"' => {
                    self.rest = characters.as_str();
                    return Ok(Token::Constant(text));
                }
                '\\' => match characters.next() {
                    Some(escaped @ ('"' | '\\')) => text.push(escaped),
                    _ => return Err(Problem::Syntax),
                },
                '\n' => return Err(Problem::Syntax),
                _ => text.push(character),
            }
        }
        Err(Problem::Open)
    }

    fn raw(&mut self, quoted: &'a str) -> Result<Token<'a>, Problem> {
        let (text, rest) = quoted.split_once('`').ok_or(Problem::Open)?;
        self.rest = rest;
        Ok(Token::Constant(text.replace('\r', "")))
    }

    fn number(&mut self) -> Result<Token<'a>, Problem> {
        let word = self.word();
        let is_octal = word.len() > 1 && word.starts_with('0');
        let number = crate::text::decimal(word).filter(|_| !is_octal);
        number.map(Token::Number).ok_or(Problem::Syntax)
    }

    /// The letters and digits that come next.
    fn word(&mut self) -> &'a str {
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        let end = self.rest.find(|character| !is_part(character));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    /// Leaves the action if it ends here, and tells whether it did.
    fn close(&mut self) -> bool {
        let trimmed = self.trimming_close().map(|rest| rest.trim_start_matches(BLANKS));
        let Some(rest) = trimmed.or_else(|| self.rest.strip_prefix(CLOSE)) else {
            return false;
        };
        self.rest = rest;
        true
    }

    /// What follows the action if a blank, a dash and the closing sign come next.
    fn trimming_close(&self) -> Option<&'a str> {
        let rest = self.rest.strip_prefix(BLANKS)?;
        rest.strip_prefix('-')?.strip_prefix(CLOSE)
    }
}
