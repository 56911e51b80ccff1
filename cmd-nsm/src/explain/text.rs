// SPDX-License-Identifier: Apache-2.0
//! An explanation for people.

use std::fmt::{self, Display, Formatter};

use super::{Became, Explanation, Judged, Matched, cause};

/// How many candidates of a kind are shown.
const MAX_SHOWN: usize = 20;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "network service {}", self.network_service)?;
        if !self.payload.is_empty() {
            write!(f, " ({})", self.payload)?;
        }
        writeln!(f, " for a client with {}", cause::labels(&self.labels))?;
        if !self.matches.is_empty() {
            writeln!(f, "\nmatches")?;
        }
        for matched in &self.matches {
            matched.fmt(f)?;
        }
        judged(f, "endpoints", &self.endpoints)?;
        judged(f, "forwarders", &self.forwarders)?;
        let verdict = &self.verdict;
        writeln!(f)?;
        if let Some(endpoint) = &self.is_at {
            writeln!(f, "the connection is at {endpoint}; a new one would be")?;
        }
        match verdict.is_served {
            true => writeln!(f, "served: {}", verdict.cause),
            false => {
                writeln!(f, "refused ({}): {}", verdict.reason, verdict.cause)?;
                writeln!(f, "remedy: {}", verdict.remedy)
            }
        }
    }
}

impl Display for Matched {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let what = match self.outcome {
            Became::NotAsked => "is not asked".to_string(),
            Became::DoesNotApply => format!(
                "does not apply: {}",
                self.cause.as_deref().unwrap_or("it is for others")
            ),
            Became::Chose => format!("applies and chooses {}", self.chosen),
            Became::FellThrough => "applies, chooses nobody and falls through".to_string(),
            Became::ChoseNobody => "applies and chooses nobody, which is the end".to_string(),
        };
        let wanted = cause::labels(&self.source_selector);
        writeln!(f, "  {}. for a client with {wanted}: {what}", self.number)?;
        for (route, labels) in self.routes.iter().enumerate() {
            let wanted = cause::labels(labels);
            writeln!(f, "     route {}: to an endpoint with {wanted}", route + 1)?;
        }
        match &self.forwarder_selector {
            Some(labels) => writeln!(f, "     by a forwarder with {}", cause::labels(labels)),
            None => Ok(()),
        }
    }
}

/// Those who were chosen first, and as many as a person reads.
fn judged(f: &mut Formatter<'_>, title: &str, all: &[Judged]) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    for (is_chosen, sign) in [(true, '+'), (false, '-')] {
        let mut some = all.iter().filter(|judged| judged.is_chosen == is_chosen);
        for judged in some.by_ref().take(MAX_SHOWN) {
            let Judged { name, url, cause, .. } = judged;
            writeln!(f, "  {sign} {name}  {url}  {cause}")?;
        }
        match some.count() {
            0 => {}
            more => writeln!(f, "  {sign} and {more} more; --json has all of them")?,
        }
    }
    Ok(())
}
