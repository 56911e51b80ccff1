// SPDX-License-Identifier: Apache-2.0
//! From `main` to the exit code.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};

use super::Settings;
use super::environment::{arguments, warn_about};
use super::log::Levels;
use super::probe;
use crate::core::{Component, Error};

/// How long a program may take to end after it was told to.
const DRAIN: Duration = Duration::from_secs(20);

/// How many sockets are looked at before those that had something are served: what has come in leaves for the next
/// hop before more comes in, so that hops work side by side.
pub const EVENTS: usize = 4;

/// Why a program ends early, as its exit code tells.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A setting can never work. Exit code 64.
    #[error("{0}")]
    Settings(String),
    /// Something that the program needs to start is not there. Exit code 69.
    #[error("{0}")]
    Unavailable(Error),
    /// So many tasks did not end in time. Exit code 70.
    #[error("gave up waiting for {0} tasks to end")]
    Stuck(usize),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Unavailable(error)
    }
}

impl Failure {
    /// A setting that can never work, told by the error that it met.
    pub fn settings(error: impl std::fmt::Display) -> Self {
        Self::Settings(error.to_string())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Settings(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Stuck(_) => 70,
        }
    }
}

/// Lets the program open as many files as it is allowed to: the soft limit is for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => debug!(files = limit.maximum, "the limit of open files is raised"),
        Err(error) => warn!(%error, "the limit of open files stays as it is"),
    }
}

/// Runs a program: reads its settings, starts its log, and calls `run` with them and with the component that it is.
///
/// `run` returns when its work is done or soon after [`Component::stop`] fires: on SIGTERM, SIGINT, SIGHUP or
/// SIGQUIT. A second one of these ends the process at once. Exit codes: 0 after an orderly end, 64 for settings
/// that can never work, 69 when something is missing that the program needs to start, 70 when it did not end in
/// time, 130 after a second signal.
///
/// A program that is started by the name `grpc-health-probe`, as probes of published manifests do, asks another one for
/// its health instead.
pub fn main<S: Settings>(run: impl AsyncFnOnce(Component, S) -> Result<(), Failure>) -> ExitCode {
    if probe::is_meant(std::env::args_os().next().as_deref()) {
        return probe::run(std::env::args().skip(1));
    }
    let settings = match S::try_parse_from(arguments::<S>(std::env::args_os(), |name| std::env::var_os(name)))
    {
        Ok(settings) => settings,
        Err(error) => {
            let _closed_terminal = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let levels = Levels::start(settings.log());
    let name = settings.name().to_string();
    info!(
        name,
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "starting"
    );
    warn_about::<S>();
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "the runtime cannot start");
            return ExitCode::from(69);
        }
    };
    let component = match settings.place() {
        Some(place) => Component::placed(name, &place),
        None => Component::new(name),
    };
    match runtime.block_on(serve(component, settings, &levels, run)) {
        Ok(()) => {
            info!("ended");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            error!("{failure}");
            // What is stuck is not waited for.
            runtime.shutdown_background();
            ExitCode::from(failure.code())
        }
    }
}

async fn serve<S: Settings>(
    component: Component,
    settings: S,
    levels: &Levels,
    run: impl AsyncFnOnce(Component, S) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let signals = Signals::listen().map_err(|error| Error::internal("signals", error.to_string()))?;
    let work = async {
        let ended = match settings.observability() {
            Some(observability) => observability.start(&component).await,
            None => Ok(()),
        };
        let ended = match ended {
            Ok(()) => run(component.clone(), settings).await,
            Err(failure) => Err(failure),
        };
        if tokio::time::timeout(DRAIN, component.end()).await.is_err() {
            return Err(Failure::Stuck(component.tasks()));
        }
        ended
    };
    tokio::select! {
        ended = work => ended,
        never = signals.serve(&component, levels) => match never {},
    }
}

struct Signals {
    ends: [Signal; 4],
    more: Signal,
    less: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            ends: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
                signal(SignalKind::quit())?,
            ],
            more: signal(SignalKind::user_defined1())?,
            less: signal(SignalKind::user_defined2())?,
        })
    }

    /// Obeys signals.
    async fn serve(mut self, component: &Component, levels: &Levels) -> Infallible {
        let [terminate, interrupt, hangup, quit] = &mut self.ends;
        loop {
            tokio::select! {
                _ = terminate.recv() => end(component, "SIGTERM"),
                _ = interrupt.recv() => end(component, "SIGINT"),
                _ = hangup.recv() => end(component, "SIGHUP"),
                _ = quit.recv() => end(component, "SIGQUIT"),
                _ = self.more.recv() => levels.trace(),
                _ = self.less.recv() => levels.restore(),
            }
        }
    }
}

fn end(component: &Component, signal: &'static str) {
    if component.stop().is_cancelled() {
        error!(signal, "ending at once");
        std::process::exit(130);
    }
    info!(signal, "ending");
    component.stop().cancel();
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::LogSettings;
    use super::*;

    #[derive(clap::Parser)]
    struct Nothing {
        #[command(flatten)]
        log: LogSettings,
    }

    impl Settings for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }

        fn log(&self) -> &LogSettings {
            &self.log
        }
    }

    async fn served(run: impl AsyncFnOnce(Component, Nothing) -> Result<(), Failure>) -> Result<(), Failure> {
        let settings = <Nothing as clap::Parser>::parse_from(["nothing", "--log-level=error"]);
        let levels = Levels::start(&settings.log);
        serve(Component::new("nothing"), settings, &levels, run).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_whose_tasks_do_not_end_is_given_up_after_a_while() {
        let began = Instant::now();
        let stuck = served(async |component, _| {
            component.spawn_detached("stuck", std::future::pending());
            Ok(())
        });
        let failure = stuck.await.expect_err("it is stuck");
        assert!(matches!(failure, Failure::Stuck(1)), "{failure:?}");
        assert_eq!((failure.code(), began.elapsed()), (70, DRAIN));
    }

    #[tokio::test(start_paused = true)]
    async fn exit_codes_tell_why_a_program_ended() {
        let missing = || Error::unavailable("told-so", "it is missing");
        for (failure, code) in [
            (Failure::settings("it is bad"), 64),
            (Failure::from(missing()), 69),
        ] {
            let failed = served(async |_, _| Err(failure)).await;
            assert_eq!(failed.expect_err("it failed").code(), code);
        }
        served(async |_, _| Ok(())).await.expect("ended in order");
    }
}
