// SPDX-License-Identifier: Apache-2.0
//! The part of Go's `text/template` that selectors of labels and rules of mechanisms are written in.
//!
//! | Written | Means |
//! |---|---|
//! | `text` | itself |
//! | `{{.nodeName}}`, `{{ $.nodeName }}` | the value of a field; of a label that is not there, `<no value>` |
//! | `{{index . "node-name"}}`, `{{index .NsmSrcIPs 0}}` | an element; of a label that is not there, nothing |
//! | `{{"text"}}`, ``{{`text`}}``, `{{12}}`, `{{.}}` | a constant, or everything there is, as Go prints it |
//! | `{{- x -}}` | without the white space before and behind |
//! | `{{/* text */}}` | nothing |
//!
//! Everything else (pipelines, other functions, conditions, loops, variables, escapes in constants but `\"`
//! and
//! `\\`) is an error, and so is what fails in Go, such as `{{.a-b}}` or `{{.label.field}}`. Where labels are
//! compared a template with an error means itself, literally.
//!
//! **Cost**: linear in template and result. The result is bounded by [`MAX_RENDERED`], as templates come from peers.

mod scan;

use std::borrow::Cow;
use std::collections::BTreeMap;

use thiserror::Error;

use crate::text::excerpt;
use scan::{Piece, Scanner, Token};

/// The longest result, bytes.
pub const MAX_RENDERED: usize = 64 * 1024;

/// What Go prints for a label that is not there.
const NO_VALUE: &str = "<no value>";

/// What a template can refer to.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// A text.
    Text(&'a str),
    /// Texts by number, from 0.
    List(&'a [String]),
    /// Texts by name; a name that is not there has no value.
    Labels(&'a BTreeMap<String, String>),
    /// Data by name; a name that is not there is an error.
    Fields(&'a [(&'a str, Data<'a>)]),
}

/// Why a template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("template {template:?} {problem}, use text, {{{{.field}}}} and {{{{index . \"key\"}}}}")]
pub struct TemplateError {
    template: String,
    problem: Problem,
}

/// What is wrong with a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
enum Problem {
    #[error("has an action that does not end")]
    Open,
    #[error("has an action that is not understood")]
    Syntax,
    #[error("has an action without a value")]
    Empty,
    #[error("gives arguments to what takes none")]
    Arguments,
    #[error("refers to a field that does not exist")]
    NoField,
    #[error("refers to an element that does not exist")]
    NoElement,
    #[error("prints what has no text")]
    NoText,
    #[error("renders to more than {MAX_RENDERED} bytes")]
    TooLong,
}

/// Renders `template` with `data` as its dot.
///
/// ```
/// use nsm_api::template::{Data, render};
/// let labels = [("nodeName".to_string(), "n1".to_string())].into();
/// let text = render("on {{ .nodeName }}", Data::Labels(&labels));
/// assert_eq!(text.expect("a good template"), "on n1");
/// ```
pub fn render<'a>(template: &'a str, data: Data<'_>) -> Result<Cow<'a, str>, TemplateError> {
    render_calling(template, data, |_| None)
}

/// The same for a template that may call functions without arguments, such as `{{ uuid }}`: `call` answers what the one
/// of this name returns, and nothing for one that does not exist.
pub fn render_calling<'a>(
    template: &'a str,
    data: Data<'_>,
    mut call: impl FnMut(&str) -> Option<String>,
) -> Result<Cow<'a, str>, TemplateError> {
    if !template.contains(scan::OPEN) {
        return Ok(Cow::Borrowed(template));
    }
    rendered(template, data, &mut call)
        .map(Cow::Owned)
        .map_err(|problem| TemplateError {
            template: excerpt(template),
            problem,
        })
}

fn rendered(
    template: &str,
    data: Data<'_>,
    call: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<String, Problem> {
    let mut scanner = Scanner::new(template);
    let mut result = String::new();
    while let Some(piece) = scanner.next()? {
        match piece {
            Piece::Text(text) => push(&mut result, text)?,
            Piece::Action(tokens) => match tokens[..] {
                [Token::Call(name)] => push(&mut result, &call(name).ok_or(Problem::Syntax)?)?,
                _ => evaluate(&tokens, data)?.print(&mut result)?,
            },
        }
    }
    Ok(result)
}

fn push(result: &mut String, text: &str) -> Result<(), Problem> {
    if result.len() + text.len() > MAX_RENDERED {
        return Err(Problem::TooLong);
    }
    result.push_str(text);
    Ok(())
}

/// What an action evaluates to.
enum Value<'a> {
    Missing,
    Number(u64),
    Constant(String),
    Data(Data<'a>),
}

/// The value of an action: of one operand, or of `index` and its operands.
fn evaluate<'a>(tokens: &[Token], data: Data<'a>) -> Result<Value<'a>, Problem> {
    match tokens {
        [] => Err(Problem::Empty),
        [Token::Index, collection, keys @ ..] => {
            let mut value = operand(collection, data)?;
            if matches!(value, Value::Missing) {
                return Err(Problem::NoElement);
            }
            for key in keys {
                value = value.element(&operand(key, data)?)?;
            }
            Ok(value)
        }
        [Token::Index] => Err(Problem::Arguments),
        [single] => operand(single, data),
        _ => Err(Problem::Arguments),
    }
}

fn operand<'a>(token: &Token, data: Data<'a>) -> Result<Value<'a>, Problem> {
    match token {
        Token::Index => Err(Problem::Arguments),
        Token::Call(_) => Err(Problem::Syntax),
        Token::Number(number) => Ok(Value::Number(*number)),
        Token::Constant(text) => Ok(Value::Constant(text.clone())),
        Token::Fields(names) => {
            let mut value = Value::Data(data);
            for name in names {
                value = value.field(name)?;
            }
            Ok(value)
        }
    }
}

impl<'a> Value<'a> {
    /// The field `name`, as `.name` means it.
    fn field(self, name: &str) -> Result<Self, Problem> {
        match self {
            Self::Missing => Ok(Self::Missing),
            Self::Data(Data::Labels(labels)) => {
                Ok(labels.get(name).map_or(Self::Missing, |text| text.into()))
            }
            Self::Data(Data::Fields(fields)) => {
                let field = fields.iter().find(|(field, _)| *field == name);
                field.map(|(_, data)| Self::Data(*data)).ok_or(Problem::NoField)
            }
            _ => Err(Problem::NoField),
        }
    }

    /// The element under `key`, as `index` means it.
    fn element(self, key: &Self) -> Result<Self, Problem> {
        match (self, key) {
            (Self::Data(Data::Labels(labels)), key) => {
                let key = key.text().ok_or(Problem::NoElement)?;
                Ok(Self::Data(Data::Text(labels.get(key).map_or("", String::as_str))))
            }
            (Self::Data(Data::List(list)), Self::Number(number)) => {
                let element = usize::try_from(*number).ok().and_then(|number| list.get(number));
                element.map(Self::from).ok_or(Problem::NoElement)
            }
            _ => Err(Problem::NoElement),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Constant(text) => Some(text),
            Self::Data(Data::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn print(&self, result: &mut String) -> Result<(), Problem> {
        match self {
            Self::Missing => push(result, NO_VALUE),
            Self::Number(number) => push(result, &number.to_string()),
            Self::Constant(text) => push(result, text),
            Self::Data(Data::Text(text)) => push(result, text),
            Self::Data(Data::List(list)) => {
                push(result, "[")?;
                separated(result, list.iter(), |result, text| push(result, text))?;
                push(result, "]")
            }
            Self::Data(Data::Labels(labels)) => {
                push(result, "map[")?;
                separated(result, labels.iter(), |result, (key, text)| {
                    push(result, key)?;
                    push(result, ":")?;
                    push(result, text)
                })?;
                push(result, "]")
            }
            Self::Data(Data::Fields(_)) => Err(Problem::NoText),
        }
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Data(Data::Text(text))
    }
}

/// Prints each item, blanks between them.
fn separated<T>(
    result: &mut String,
    items: impl Iterator<Item = T>,
    print: impl Fn(&mut String, T) -> Result<(), Problem>,
) -> Result<(), Problem> {
    for (number, item) in items.enumerate() {
        if number > 0 {
            push(result, " ")?;
        }
        print(result, item)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
