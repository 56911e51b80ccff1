// SPDX-License-Identifier: Apache-2.0
//! Settings by environment variables: old names, dead names, misspelt names.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::Command;
use tracing::warn;

use super::{LogSettings, ObservabilitySettings};
use crate::yaml::distance;

/// The settings of one program.
///
/// Each flag names its `NSM_*` variable; what the command line says wins over the environment.
pub trait Settings: clap::Parser {
    /// Other names of its variables, as `(old, today)`, for manifests of version 1.0.0.
    const ALIASES: &'static [(&'static str, &'static str)] = &[];
    /// Variables that the predecessor's program reads and this one has no use for.
    const DEAD: &'static [&'static str] = &[];

    /// The name that the program writes into paths and logs.
    fn name(&self) -> &str;

    /// Where it runs, if it is the only one of its name there and its next life can be told by it
    /// ([`Component::placed`](crate::core::Component::placed)).
    fn place(&self) -> Option<String> {
        None
    }

    /// How it logs.
    fn log(&self) -> &LogSettings;

    /// Whether and whom it tells what it counts and does, if it can.
    fn observability(&self) -> Option<&ObservabilitySettings> {
        None
    }
}

/// Variables of every program of the predecessor that have no effect here.
const DEAD: [&str; 4] = [
    "NSM_OPEN_TELEMETRY_ENDPOINT",
    "NSM_METRICS_EXPORT_INTERVAL",
    "NSM_PPROF_ENABLED",
    "NSM_PPROF_LISTEN_ON",
];

/// Variables that programs read outside their settings.
const SHARED: [&str; 1] = ["NSM_IDENTITY_DIR"];

/// The command line with the values of variables under their old names, where neither the flag nor today's name
/// is given.
pub(super) fn arguments<S: Settings>(
    given: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.into_iter().collect();
    let command = S::command();
    for (old, today) in S::ALIASES {
        let Some(value) = variable(old).filter(|_| variable(today).is_none()) else {
            continue;
        };
        let Some(flag) = flag_of(&command, today) else {
            continue;
        };
        let is_given = arguments.iter().any(|argument| {
            let argument = argument.to_string_lossy();
            argument == flag || argument.starts_with(&format!("{flag}="))
        });
        if !is_given {
            let mut argument = OsString::from(format!("{flag}="));
            argument.push(value);
            arguments.push(argument);
        }
    }
    arguments
}

fn flag_of(command: &Command, variable: &str) -> Option<String> {
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_env().is_some_and(|env| env == variable))?;
    argument.get_long().map(|long| format!("--{long}"))
}

/// What is wrong with the names of the variables that are set, one line each.
pub(super) fn remarks<S: Settings>(set: impl IntoIterator<Item = String>) -> Vec<String> {
    let command = S::command();
    let known: BTreeSet<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env())
        .map(|env| env.to_string_lossy().into_owned())
        .collect();
    let prefixes: BTreeSet<&str> = S::ALIASES
        .iter()
        .filter_map(|(old, _)| old.split_once('_').map(|(prefix, _)| prefix))
        .chain(["NSM"])
        .collect();
    let mut remarks: Vec<String> = set
        .into_iter()
        .filter(|name| {
            name.split_once('_')
                .is_some_and(|(prefix, _)| prefixes.contains(prefix))
        })
        .filter(|name| !known.contains(name) && !SHARED.contains(&name.as_str()))
        .filter_map(|name| remark::<S>(&name, &known))
        .collect();
    remarks.sort();
    remarks
}

fn remark<S: Settings>(name: &str, known: &BTreeSet<String>) -> Option<String> {
    if let Some((_, today)) = S::ALIASES.iter().find(|(old, _)| *old == name) {
        return Some(format!("{name} is the old name of {today}: use {today}"));
    }
    if S::DEAD.contains(&name) || DEAD.contains(&name) {
        return Some(format!("{name} has no effect in this program"));
    }
    if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.contains("_PORT_") {
        return None;
    }
    let nearest = known.iter().min_by_key(|candidate| distance(name, candidate))?;
    let hint = if distance(name, nearest) <= 3 {
        format!(": did you mean {nearest}?")
    } else {
        ": see --help for those that are".to_string()
    };
    Some(format!("{name} is not known to this program{hint}"))
}

/// Warns about each.
pub(super) fn warn_about<S: Settings>() {
    for remark in remarks::<S>(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())) {
        warn!("{remark}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Endpoint {
        #[arg(long, env = "NSM_NAME", default_value = "nse")]
        name: String,
        #[arg(long, env = "NSM_SERVICE_NAMES", default_value = "icmp-responder")]
        service_names: String,
        #[command(flatten)]
        log: LogSettings,
    }

    impl Settings for Endpoint {
        const ALIASES: &'static [(&'static str, &'static str)] = &[("NSE_SERVICE_NAME", "NSM_SERVICE_NAMES")];
        const DEAD: &'static [&'static str] = &["NSM_BASE_DIR"];

        fn name(&self) -> &str {
            &self.name
        }

        fn log(&self) -> &LogSettings {
            &self.log
        }
    }

    fn parsed(command_line: &[&str], variables: &[(&str, &str)]) -> String {
        let given = command_line.iter().map(OsString::from);
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Endpoint::parse_from(arguments::<Endpoint>(given, variable)).service_names
    }

    #[test]
    fn an_old_name_counts_unless_todays_or_the_flag_is_given() {
        let old = [("NSE_SERVICE_NAME", "old")];
        assert_eq!(parsed(&["nse"], &old), "old");
        assert_eq!(parsed(&["nse", "--service-names=flag"], &old), "flag");
        let both = [("NSE_SERVICE_NAME", "old"), ("NSM_SERVICE_NAMES", "today")];
        assert_eq!(parsed(&["nse"], &both), "icmp-responder");
    }

    #[test]
    fn each_strange_variable_is_named_with_its_remedy() {
        let set = [
            "NSM_NMAE",
            "NSM_BASE_DIR",
            "NSE_SERVICE_NAME",
            "NSM_NAME",
            "PATH",
            "NSM_REGISTRY_SERVICE_HOST",
        ];
        assert_eq!(
            remarks::<Endpoint>(set.map(String::from)),
            [
                "NSE_SERVICE_NAME is the old name of NSM_SERVICE_NAMES: use NSM_SERVICE_NAMES",
                "NSM_BASE_DIR has no effect in this program",
                "NSM_NMAE is not known to this program: did you mean NSM_NAME?",
            ]
        );
    }
}
