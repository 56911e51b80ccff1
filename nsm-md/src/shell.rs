// SPDX-License-Identifier: Apache-2.0
//! One bash for all blocks of a document.
//!
//! Variables, functions, options and the folder live from block to block. When the shell is killed or has ended, the
//! next block gets a new one, with all of that as it was after the last block that succeeded.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

/// As much of the output of a block is looked at, from its end.
const MOST_OUTPUT: u64 = 1 << 20;

/// How long what runs in the background may take to end, for each signal.
const TO_END: Duration = Duration::from_secs(2);

/// The pause between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// What `wait` of bash answers about a process that another shell has started.
const NOT_ITS_CHILD: i32 = 127;

/// A variable of the environment.
pub(crate) type Variable = (String, String);

/// The shell of a document.
#[derive(Debug)]
pub(crate) struct Shell {
    folder: PathBuf,
    environment: Vec<Variable>,
    /// The blocks, what they print, and the shell's state.
    files: TempDir,
    bash: Option<Bash>,
    background: usize,
}

#[derive(Debug)]
struct Bash {
    child: Child,
    group: Pid,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// What runs in the background.
#[derive(Debug)]
pub(crate) struct Background {
    group: Pid,
    output: PathBuf,
}

impl Shell {
    /// A shell in `folder`, with these variables besides ours.
    pub(crate) fn new(folder: &Path, environment: Vec<Variable>) -> Result<Self> {
        Ok(Self {
            folder: folder.to_path_buf(),
            environment,
            files: tempfile::Builder::new().prefix("nsm-md-").tempdir()?,
            bash: None,
            background: 0,
        })
    }

    /// Runs commands; answers with their exit code, which is that of the shell if they have ended it.
    pub(crate) async fn run(&mut self, code: &str) -> Result<i32> {
        std::fs::write(self.file("block"), code)?;
        let (block, output) = (quoted(&self.file("block")), quoted(&self.output()));
        std::fs::write(self.output(), "")?;
        let answer = self
            .ask(&format!(
                ". {block} </dev/null >{output} 2>&1; printf '%s\\n' \"$?\""
            ))
            .await?;
        match answer {
            Some(answer) => answer.parse().context("bash did not tell an exit code"),
            None => self.ended().await,
        }
    }

    /// Keeps what a later shell begins with.
    pub(crate) async fn save(&mut self) -> Result<()> {
        let state = quoted(&self.state());
        // Options are the last: what a shell begins with shall not stop at them.
        let line = format!(
            "{{ declare -p; declare -f; alias -p; printf 'cd -- %q\\n' \"$PWD\"; shopt -p; set +o; }} \
             >{state} 2>/dev/null; printf '%s\\n' saved"
        );
        self.ask(&line).await.map(drop)
    }

    /// The file with what a later shell begins with; a copy of one from elsewhere begins this one.
    pub(crate) fn state(&self) -> PathBuf {
        self.file("state")
    }

    /// What the last block has printed, from its end.
    pub(crate) fn printed(&self) -> String {
        tail(&self.output())
    }

    /// The variables that programs of this shell see.
    pub(crate) async fn exported(&mut self) -> Result<Vec<Variable>> {
        let file = self.file("environment");
        self.ask(&format!("env -0 >{}; printf '%s\\n' told", quoted(&file)))
            .await?;
        let text = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
        Ok(pairs
            .filter(|(name, _)| !matches!(*name, "_" | "PWD" | "OLDPWD" | "SHLVL"))
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect())
    }

    /// Starts commands and leaves them running, in a process group of their own.
    pub(crate) async fn start(&mut self, code: &str) -> Result<Background> {
        self.background += 1;
        let block = self.file(&format!("background-{}", self.background));
        let output = block.with_extension("output");
        std::fs::write(&block, code)?;
        let line = format!(
            "set -m; ( . {} ) </dev/null >{} 2>&1 & set +m; printf '%s\\n' \"$!\"",
            quoted(&block),
            quoted(&output)
        );
        let answer = self.ask(&line).await?.context("bash ended")?;
        let group = answer.parse().ok().and_then(Pid::from_raw);
        Ok(Background {
            group: group.context("bash did not tell a process id")?,
            output,
        })
    }

    /// Ends what runs in the background, first as Ctrl-C does; answers with its exit code, if the shell still knows it,
    /// and with what it has printed.
    pub(crate) async fn end(&mut self, background: Background) -> Result<(Option<i32>, String)> {
        let Background { group, output } = background;
        let mut code = None;
        for signal in [Signal::INT, Signal::TERM] {
            if code.is_some() || kill_process_group(group, signal).is_err() {
                break;
            }
            code = self.wait(group).await?;
        }
        let _what_is_left_of_it = kill_process_group(group, Signal::KILL);
        Ok((code, tail(&output)))
    }

    /// Waits a while until a group ends, and tells its exit code if this shell has started it.
    async fn wait(&mut self, group: Pid) -> Result<Option<i32>> {
        let wait = format!(
            "wait {} 2>/dev/null; printf '%s\\n' \"$?\"",
            group.as_raw_nonzero()
        );
        let until = Instant::now() + TO_END;
        match tokio::time::timeout_at(until, self.ask(&wait)).await {
            Ok(answer) => {
                let code = answer?.and_then(|code| code.parse().ok());
                if code != Some(NOT_ITS_CHILD) {
                    return Ok(code);
                }
            }
            // The shell still waits, and so would whatever we ask.
            Err(_) => self.kill(),
        }
        while test_kill_process_group(group).is_ok() && Instant::now() < until {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// Kills the shell and everything that it runs in the foreground.
    pub(crate) fn kill(&mut self) {
        if let Some(bash) = self.bash.take() {
            let _it_may_have_ended = kill_process_group(bash.group, Signal::KILL);
        }
    }

    /// Lets bash read a line and tell one; none if it has ended before.
    async fn ask(&mut self, line: &str) -> Result<Option<String>> {
        if self.bash.is_none() {
            self.bash = Some(self.begin().await?);
        }
        let bash = self.bash.as_mut().context("it was begun")?;
        let written = bash.input.write_all(format!("{line}\n").as_bytes()).await;
        match written {
            Ok(()) => Ok(bash.answers.next_line().await?),
            Err(_) => Ok(None),
        }
    }

    async fn begin(&self) -> Result<Bash> {
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(&self.folder)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start bash: is it installed?")?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut bash = Bash {
            group: group.context("bash has no process id")?,
            input: child.stdin.take().context("its input is piped")?,
            answers: BufReader::new(child.stdout.take().context("its output is piped")?).lines(),
            child,
        };
        if self.state().exists() {
            let line = format!(". {} 2>/dev/null\n", quoted(&self.state()));
            bash.input.write_all(line.as_bytes()).await?;
        }
        Ok(bash)
    }

    /// The exit code of a shell that has ended by itself.
    async fn ended(&mut self) -> Result<i32> {
        let Some(mut bash) = self.bash.take() else {
            return Ok(1);
        };
        let status = bash.child.wait().await?;
        let _what_it_has_left = kill_process_group(bash.group, Signal::KILL);
        Ok(status.code().unwrap_or(128))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn output(&self) -> PathBuf {
        self.file("output")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of a file, as text.
fn tail(file: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST_OUTPUT)))?;
        let mut bytes = Vec::new();
        file.take(MOST_OUTPUT).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Shell {
        Shell::new(Path::new("/"), Vec::new()).expect("a shell")
    }

    #[tokio::test]
    async fn variables_functions_and_the_folder_live_on() {
        let mut shell = shell();
        let first = "NAME=x; LIST=(a 'b c'); cd /tmp; greet() { echo \"hello $1\"; }";
        assert_eq!(shell.run(first).await.expect("it runs"), 0);
        assert_eq!(
            shell
                .run("greet $NAME; echo ${LIST[1]}; pwd")
                .await
                .expect("it runs"),
            0
        );
        assert_eq!(shell.printed(), "hello x\nb c\n/tmp\n");
    }

    #[tokio::test]
    async fn after_a_kill_everything_is_as_after_the_last_success() {
        let mut shell = shell();
        shell
            .run("A='one\ntwo'; f() { echo f; }; cd /tmp; set -u")
            .await
            .expect("it runs");
        shell.save().await.expect("it is kept");
        shell.run("A=lost").await.expect("it runs");
        shell.kill();
        assert_eq!(
            shell.run("echo \"$A\"; f; pwd; echo $-").await.expect("it runs"),
            0
        );
        let printed = shell.printed();
        assert!(printed.starts_with("one\ntwo\nf\n/tmp\n"), "{printed}");
        assert!(
            printed.trim_end().ends_with('u') || printed.contains('u'),
            "{printed}"
        );
    }

    #[tokio::test]
    async fn a_block_that_ends_the_shell_has_its_exit_code() {
        let mut shell = shell();
        assert_eq!(shell.run("echo bye; exit 7").await.expect("it runs"), 7);
        assert_eq!(shell.printed(), "bye\n");
        assert_eq!(shell.run("true").await.expect("it runs"), 0);
    }

    #[tokio::test]
    async fn what_reads_its_input_reads_nothing_of_ours() {
        let mut shell = shell();
        assert_eq!(shell.run("cat; echo end").await.expect("it runs"), 0);
        assert_eq!(shell.printed(), "end\n");
    }

    #[tokio::test]
    async fn only_exported_variables_are_told() {
        let mut shell = shell();
        shell.run("export OUT='a b'; INSIDE=1").await.expect("it runs");
        let exported = shell.exported().await.expect("they are told");
        assert!(exported.contains(&("OUT".to_string(), "a b".to_string())));
        assert!(!exported.iter().any(|(name, _)| name == "INSIDE"));
    }

    #[tokio::test]
    async fn what_runs_in_the_background_ends_as_by_ctrl_c_and_knows_the_variables() {
        let mut shell = shell();
        shell.run("WORD=said").await.expect("it runs");
        // Bash forgets a SIGINT that comes just as a command ends which it waits for.
        let code = "trap 'echo $WORD; exit 3' INT; echo on; while :; do :; done";
        let background = shell.start(code).await.expect("it starts");
        while !tail(&background.output).contains("on") {
            tokio::task::yield_now().await;
        }
        let (code, printed) = shell.end(background).await.expect("it ends");
        assert_eq!((code, printed.as_str()), (Some(3), "on\nsaid\n"));
    }

    #[tokio::test]
    async fn what_hears_no_signal_in_the_background_is_killed() {
        let mut shell = shell();
        let background = shell.start("trap '' INT TERM; echo on; while :; do sleep 0.01; done");
        let background = background.await.expect("it starts");
        let group = background.group;
        while !tail(&background.output).contains("on") {
            tokio::task::yield_now().await;
        }
        shell.end(background).await.expect("it ends");
        let gone = async {
            // Whoever was killed is in its group until it is waited for, by us or by init.
            while test_kill_process_group(group).is_ok() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), gone).await;
        waited.expect("nobody is left");
    }
}
