// SPDX-License-Identifier: Apache-2.0
//! Runs what is planned: each document, what is in it, and its cleanup, whatever has happened.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::document::{Block, Document};
use crate::kept::Kept;
use crate::leaks::Look;
use crate::library::Library;
use crate::plan::Step;
use crate::report::{Done, Outcome, Screen, Section, Tried};
use crate::shell::{Background, Shell, Variable};
use crate::stop::Stop;
use crate::trial::{self, Limits};

/// Why nothing more is run.
pub(crate) const TOLD_TO_END: &str = "we were told to end";

/// How documents are run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What this is: blocks for something else are left out.
    pub(crate) on: Vec<String>,
    /// How long a block may take that does not say it itself.
    pub(crate) timeout: Duration,
    /// Whether cleanups are left out.
    pub(crate) is_kept: bool,
    /// A command that lists everything that could be left behind.
    pub(crate) leak_check: Option<String>,
}

/// Who runs documents, and what has become of them.
pub(crate) struct Runner<'a> {
    pub(crate) library: &'a Library,
    pub(crate) settings: &'a Settings,
    pub(crate) screen: Screen,
    pub(crate) stop: Stop,
    /// How far an earlier run came.
    pub(crate) before: Option<Kept>,
    /// How far this one came, to be kept.
    pub(crate) kept: Option<Kept>,
    /// The documents in which the next one runs.
    pub(crate) within: Vec<usize>,
    /// Those that are done.
    pub(crate) done: Vec<Done>,
}

/// A document whose steps have been run, and whose cleanup has not.
struct Open<'a> {
    document: &'a Document,
    shell: Result<Shell>,
    look: Option<Look<'a>>,
    background: Vec<(&'a Block, Background)>,
    done: Done,
}

impl<'a> Runner<'a> {
    /// Runs a step: what is set up for it, itself, what is in it, and all cleanups in reverse.
    pub(crate) fn visit<'b>(
        &'b mut self,
        step: &'b Step,
        mut environment: Vec<Variable>,
    ) -> LocalBoxFuture<'b, ()> {
        async move {
            let (mut opened, mut why) = (Vec::new(), None);
            for document in setups(step).into_iter().chain([step.document]) {
                if self.stop.is_reached(1) {
                    why.get_or_insert_with(|| TOLD_TO_END.to_string());
                }
                if let Some(why) = &why {
                    self.skip(document, why);
                    continue;
                }
                let mut open = self.open(document, &environment).await;
                if let Ok(shell) = &mut open.shell
                    && let Ok(exported) = shell.exported().await
                {
                    environment = exported;
                }
                if matches!(open.done.outcome, Outcome::Failed | Outcome::Interrupted) {
                    why = Some(format!("{} did not succeed", open.done.name));
                }
                opened.push(open);
            }
            self.within.push(step.document);
            for inner in &step.inner {
                match &why {
                    None => self.visit(inner, environment.clone()).await,
                    Some(why) => inner
                        .documents()
                        .into_iter()
                        .for_each(|number| self.skip(number, why)),
                }
            }
            self.within.pop();
            for open in opened.into_iter().rev() {
                self.close(open).await;
            }
        }
        .boxed_local()
    }

    /// Notes that a document is not run.
    fn skip(&mut self, number: usize, why: &str) {
        let mut done = self.begin(number);
        done.outcome = Outcome::NotRun;
        done.why = Some(why.to_string());
        self.finish(done);
    }

    /// Runs the steps of a document.
    async fn open(&mut self, number: usize, environment: &[Variable]) -> Open<'a> {
        let document = &self.library.documents[number];
        let mut done = self.begin(number);
        self.screen.begins(&done.name, done.within.len());
        let folder = folder(document);
        let mut open = Open {
            document,
            shell: Shell::new(folder, environment.to_vec()),
            look: None,
            background: Vec::new(),
            done: done.clone(),
        };
        let blocks: Vec<_> = document
            .run
            .iter()
            .filter(|block| self.is_for_here(block))
            .collect();
        if blocks.is_empty() && !document.run.is_empty() {
            done.outcome = Outcome::Elsewhere;
            done.why = Some(format!("it has no steps for {}", self.settings.on.join(", ")));
            return Open { done, ..open };
        }
        if let Some(command) = &self.settings.leak_check {
            match Look::before(command, folder, environment.to_vec()).await {
                Ok(look) => open.look = Some(look),
                Err(error) => open.fail(format!("{error:#}")),
            }
        }
        if open.done.outcome != Outcome::Failed {
            self.steps(&mut open, &blocks).await;
        }
        open
    }

    async fn steps(&mut self, open: &mut Open<'a>, blocks: &[&'a Block]) {
        let key = self.key(&open.done);
        let earlier = self.before.as_ref().and_then(|before| before.of(&key));
        let (from, state) = earlier.unwrap_or_default();
        if let Ok(shell) = &open.shell
            && state.exists()
            && let Err(error) = std::fs::copy(&state, shell.state())
        {
            return open.fail(format!("cannot read {}: {error}", state.display()));
        }
        if from > 0 && from >= blocks.len() {
            open.done.outcome = Outcome::Before;
        }
        self.note(&key, from, open);
        for (number, block) in blocks.iter().enumerate().skip(from) {
            let tried = match &mut open.shell {
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
                Ok(shell) if block.attributes.is_background => match shell.start(&block.code).await {
                    Ok(background) => {
                        open.background.push((block, background));
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Ok(shell) => {
                    let limits = Limits {
                        timeout: self.settings.timeout,
                        stop: &mut self.stop,
                        signals: 1,
                    };
                    trial::run(shell, block, Section::Run, limits).await
                }
            };
            if !self.take(open, block, Section::Run, tried) {
                return;
            }
            self.note(&key, number + 1, open);
        }
    }

    /// Cleans up after a document, and looks at what is left.
    async fn close(&mut self, mut open: Open<'a>) {
        for (block, background) in std::mem::take(&mut open.background) {
            if let Ok(shell) = &mut open.shell {
                let ended = trial::end(shell, block, background).await;
                self.take(&mut open, block, Section::Run, ended);
            }
        }
        if open.done.outcome == Outcome::Elsewhere || self.settings.is_kept {
            return self.finish(open.done);
        }
        let document = open.document;
        for block in document
            .cleanup
            .iter()
            .filter(|block| self.is_for_here(block))
            .collect::<Vec<_>>()
        {
            let Ok(shell) = &mut open.shell else { break };
            let limits = Limits {
                timeout: self.settings.timeout,
                stop: &mut self.stop,
                signals: 2,
            };
            let tried = trial::run(shell, block, Section::Cleanup, limits).await;
            self.take(&mut open, block, Section::Cleanup, tried);
        }
        if let Some(look) = open.look.take().filter(|_| !self.stop.is_reached(2)) {
            match look.after().await {
                Ok(left) if left.is_empty() => {}
                Ok(left) => {
                    open.done.left = left;
                    if matches!(open.done.outcome, Outcome::Passed | Outcome::Before) {
                        open.done.outcome = Outcome::Left;
                    }
                }
                Err(error) => open.fail(format!("{error:#}")),
            }
        }
        self.finish(open.done);
    }

    /// Adds what has become of a block; answers whether the next one may run.
    fn take(&self, open: &mut Open<'a>, block: &Block, section: Section, tried: Result<Tried>) -> bool {
        let tried = tried.unwrap_or_else(|error| {
            let mut tried = Tried::begun(section, block.line);
            tried.fail(format!("{error:#}"));
            tried
        });
        self.screen.block(&open.done.file, &tried, open.done.within.len());
        let (outcome, is_good) = (tried.outcome, tried.outcome == Outcome::Passed);
        open.done.took += tried.took;
        open.done.blocks.push(tried);
        if !is_good && open.done.outcome != Outcome::Failed {
            open.done.outcome = outcome;
        }
        is_good
    }

    fn begin(&self, number: usize) -> Done {
        let document = &self.library.documents[number];
        Done {
            name: self.library.name(number),
            file: document.file.display().to_string(),
            title: document.title.clone(),
            within: self
                .within
                .iter()
                .map(|number| self.library.name(*number))
                .collect(),
            outcome: Outcome::Passed,
            took: Duration::ZERO,
            why: None,
            blocks: Vec::new(),
            left: Vec::new(),
        }
    }

    fn finish(&mut self, done: Done) {
        self.screen.done(&done);
        self.done.push(done);
    }

    /// Keeps how far a document came, if that is wanted.
    fn note(&mut self, key: &str, blocks: usize, open: &mut Open<'a>) {
        if let (Some(kept), Ok(shell)) = (&mut self.kept, &open.shell)
            && let Err(error) = kept.note(key, blocks, &shell.state())
        {
            open.fail(format!("{error:#}"));
        }
    }

    /// The name of a document where it runs.
    fn key(&self, done: &Done) -> String {
        let names = done.within.iter().chain([&done.name]);
        names.map(String::as_str).collect::<Vec<_>>().join(" > ")
    }

    fn is_for_here(&self, block: &Block) -> bool {
        let only = &block.attributes.only;
        only.is_empty() || only.iter().any(|word| self.settings.on.contains(word))
    }
}

impl Open<'_> {
    fn fail(&mut self, why: String) {
        self.done.outcome = Outcome::Failed;
        self.done.why = Some(why);
    }
}

/// All that is set up for a step, in order.
fn setups(step: &Step) -> Vec<usize> {
    let of = |setup: &Step| {
        setups(setup)
            .into_iter()
            .chain([setup.document])
            .collect::<Vec<_>>()
    };
    step.setups.iter().flat_map(of).collect()
}

/// Where the blocks of a document run.
fn folder(document: &Document) -> &Path {
    let folder = document.file.parent().unwrap_or(Path::new("."));
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}
