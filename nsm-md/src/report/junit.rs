// SPDX-License-Identifier: Apache-2.0
//! The report as JUnit XML, which every build server reads.

use std::fmt::Write;

use super::{Done, Outcome, Report};

/// One suite; a test case is a document.
pub(crate) fn junit(report: &Report) -> String {
    let failures =
        [Outcome::Failed, Outcome::Left, Outcome::Interrupted].map(|outcome| report.count(outcome));
    let skipped = report.count(Outcome::NotRun) + report.count(Outcome::Elsewhere);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"nsm-md\" tests=\"{}\" failures=\"{}\" \
         skipped=\"{skipped}\" time=\"{:.3}\">\n",
        report.documents.len(),
        failures.iter().sum::<usize>(),
        report.took.as_secs_f64()
    );
    for done in &report.documents {
        case(&mut text, done);
    }
    text + "</testsuite>\n</testsuites>\n"
}

fn case(text: &mut String, done: &Done) {
    let within = done.within.join(" / ");
    let head = format!(
        "<testcase name=\"{}\" classname=\"{}\" file=\"{}\" time=\"{:.3}\">",
        escaped(&done.name),
        escaped(&within),
        escaped(&done.file),
        done.took.as_secs_f64()
    );
    let _infallible = writeln!(text, "{head}");
    let why = done.why.clone().unwrap_or_default();
    match done.outcome {
        Outcome::Passed | Outcome::Before => {}
        Outcome::NotRun | Outcome::Elsewhere => {
            let _infallible = writeln!(text, "<skipped message=\"{}\"/>", escaped(&why));
        }
        Outcome::Left => {
            let left = done.left.join("\n");
            let _infallible = writeln!(
                text,
                "<failure message=\"left behind\">{}</failure>",
                escaped(&left)
            );
        }
        Outcome::Failed | Outcome::Interrupted => {
            let failed = done
                .blocks
                .iter()
                .filter(|block| block.outcome != Outcome::Passed);
            let told: Vec<_> = failed
                .map(|block| {
                    let why = block.why.as_deref().unwrap_or("interrupted");
                    format!("{}:{}: {why}\n{}", done.file, block.line, block.end_of_output())
                })
                .collect();
            let message = told.first().and_then(|told| told.lines().next()).unwrap_or(&why);
            let (message, told) = (escaped(message), escaped(&told.join("\n")));
            let _infallible = writeln!(text, "<failure message=\"{message}\">{told}</failure>");
        }
    }
    text.push_str("</testcase>\n");
}

/// Text as XML has it: what XML cannot have is a question mark.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '&' => "&amp;".to_string(),
            '<' => "&lt;".to_string(),
            '>' => "&gt;".to_string(),
            '"' => "&quot;".to_string(),
            '\n' | '\t' => char.to_string(),
            char if char.is_control() => "?".to_string(),
            char => char.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_the_document() {
        assert_eq!(escaped("a<b>&\"\u{1b}[0m\n"), "a&lt;b&gt;&amp;&quot;?[0m\n");
    }
}
