// SPDX-License-Identifier: Apache-2.0
//! Go: one that is new enough, and what is built with it once for all work trees.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::report::run;
use crate::root;
use crate::tools::{Missing, answers, cache, numbers};

/// The oldest that fetches by itself the version that modules ask for.
const OLDEST: [u64; 2] = [1, 21];

/// The version that one which is older than that is told to fetch, as the newer ones do: as a module.
const FETCHED: &str = "1.23.12";

/// The module that has SPIRE's programs as tools.
const SPIRE: &str = "tests/interop/spire";

/// The programs of SPIRE, and the packages that they are built of.
const SPIRE_PROGRAMS: [(&str, &str); 3] = [
    ("spire-agent", "github.com/spiffe/spire/cmd/spire-agent"),
    ("spire-server", "github.com/spiffe/spire/cmd/spire-server"),
    (
        "spire-controller-manager",
        "github.com/spiffe/spire-controller-manager/cmd",
    ),
];

/// Whether one that is new enough is on the path, or has been fetched.
pub(crate) fn is_there() -> bool {
    is_new_enough(Command::new("go"))
        || fetched().is_some_and(|folder| is_new_enough(Command::new(folder.join("go"))))
}

fn is_new_enough(mut go: Command) -> bool {
    let told = go.args(["env", "GOVERSION"]).stderr(Stdio::null()).output();
    let version = told.ok().and_then(|told| String::from_utf8(told.stdout).ok());
    version.is_some_and(|version| numbers(&version).as_slice() >= OLDEST.as_slice())
}

/// The path on which programs are found: that of ours, and before it the Go that was fetched when that one is too old.
pub(crate) fn path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match fetched() {
        Some(folder) if !is_new_enough(Command::new("go")) => {
            let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
            std::env::join_paths(folders).unwrap_or(path)
        }
        _ => path,
    }
}

/// Lets a Go that is too old fetch one that is not. Debian 12 has such a one.
///
/// Errors: [`Missing`] when there is none, or it cannot.
pub(crate) fn fetch() -> Result<()> {
    let Some(module) = module() else {
        return Err(missing("there is none for this machine"));
    };
    println!("fetching Go {FETCHED} by the older one, once");
    let fetched = Command::new("go")
        .args(["mod", "download", &module])
        .current_dir(root())
        .status();
    match fetched {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(missing(&format!("the older one ended with {status}"))),
        Err(error) => return Err(missing(&error.to_string())),
    }
    // What comes as a module has no file that can be run.
    let folder = folder().context("go has a folder for modules")?;
    for files in [
        folder.join("bin"),
        folder.join("pkg/tool").join(platform("_").unwrap_or_default()),
    ] {
        for file in fs::read_dir(&files)? {
            fs::set_permissions(file?.path(), Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

fn missing(why: &str) -> anyhow::Error {
    let text = format!(
        "Go 1.21 or newer is not there, and Go {FETCHED} cannot be fetched: {why}; install one from the backports of \
         your distribution, as\n    sudo apt-get install -y -t bookworm-backports golang-go\nor from Go's own site"
    );
    Missing::new(text).into()
}

/// The operating system and processor as Go names them.
fn platform(between: &str) -> Option<String> {
    let processor = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        _ => return None,
    };
    Some(format!("linux{between}{processor}"))
}

/// The module that is the version to fetch.
fn module() -> Option<String> {
    Some(format!(
        "golang.org/toolchain@v0.0.1-go{FETCHED}.{}",
        platform("-")?
    ))
}

/// Where that is, when it was fetched.
fn folder() -> Option<PathBuf> {
    let told = Command::new("go")
        .args(["env", "GOMODCACHE"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let modules = String::from_utf8(told.stdout).ok()?;
    Some(Path::new(modules.trim()).join(module()?))
}

/// Where its program is, if it can be run.
fn fetched() -> Option<PathBuf> {
    let folder = folder()?.join("bin");
    answers(Command::new(folder.join("go")).arg("version")).then_some(folder)
}

/// Programs in Go, and which of their packages `go vet` looks at: with those that link Kubernetes it takes ten minutes.
const MODULES: [(&str, &[&str]); 2] = [
    ("tests/interop/peer", &["./..."]),
    ("tests/cluster", &[".", "./pause"]),
];

/// The format and `go vet` of programs in Go.
pub(crate) fn check() -> Result<()> {
    for (folder, packages) in MODULES {
        let folder = root().join(folder);
        let told = Command::new("gofmt")
            .env("PATH", path())
            .arg("-l")
            .arg(&folder)
            .output()?;
        let unformatted = String::from_utf8_lossy(&told.stdout);
        ensure!(
            told.status.success() && unformatted.is_empty(),
            "gofmt would change {unformatted}"
        );
        run(Command::new("go")
            .env("PATH", path())
            .arg("-C")
            .arg(folder)
            .args(["vet", "-mod=readonly"])
            .args(packages))?;
    }
    Ok(())
}

/// The folder with the programs of SPIRE, and with the kinds of its controller manager in `crds`, built once for all work
/// trees of this user.
///
/// Errors: [`Missing`] when they cannot be built.
pub(crate) fn spire() -> Result<PathBuf> {
    let module = root().join(SPIRE);
    let made_of = fs::read_to_string(module.join("go.mod"))?;
    let version = version_of(&made_of, "github.com/spiffe/spire").context("go.mod does not name SPIRE")?;
    let folder = cache()?.join(format!("spire-{version}"));
    let stamp = folder.join("made-of");
    if fs::read_to_string(&stamp).is_ok_and(|before| before == made_of) {
        return Ok(folder);
    }
    println!(
        "building SPIRE {version} into {}, once: some minutes",
        folder.display()
    );
    for (program, package) in SPIRE_PROGRAMS {
        let mut build = Command::new("go");
        build
            .arg("-C")
            .arg(&module)
            .args([
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-mod=readonly",
                "-ldflags=-s -w",
                "-o",
            ])
            .arg(folder.join(program))
            .arg(package);
        run(&mut build).map_err(|error| Missing::new(format!("SPIRE could not be built: {error:#}")))?;
    }
    copy_kinds(&module, &folder.join("crds"))?;
    fs::write(stamp, made_of)?;
    Ok(folder)
}

/// Copies the definitions that the controller manager's module has.
fn copy_kinds(module: &Path, to: &Path) -> Result<()> {
    let manager = Command::new("go")
        .arg("-C")
        .arg(module)
        .args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}"])
        .arg("github.com/spiffe/spire-controller-manager")
        .output()?;
    ensure!(
        manager.status.success(),
        "go list: {}",
        String::from_utf8_lossy(&manager.stderr)
    );
    let manager = String::from_utf8(manager.stdout)?;
    fs::create_dir_all(to)?;
    for file in fs::read_dir(Path::new(manager.trim()).join("config/crd/bases"))? {
        let file = file?;
        fs::write(to.join(file.file_name()), fs::read(file.path())?)?;
    }
    Ok(())
}

/// The version of a module that `go.mod` requires.
fn version_of(go_mod: &str, module: &str) -> Option<String> {
    let required = go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix(module)?.strip_prefix(" v"))?;
    Some(required.split_whitespace().next()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_is_required() {
        let text = "require (\n\tx.y/zz v0.1.0\n\tx.y/z v1.2.3 // indirect\n)";
        assert_eq!(version_of(text, "x.y/z").as_deref(), Some("1.2.3"));
        assert_eq!(version_of(text, "x.y"), None);
    }

    #[test]
    fn the_versions_of_spire_are_pinned_in_its_module() {
        let text = fs::read_to_string(root().join(SPIRE).join("go.mod")).expect("it is there");
        for module in [
            "github.com/spiffe/spire",
            "github.com/spiffe/spire-controller-manager",
        ] {
            assert!(version_of(&text, module).is_some(), "{module}");
        }
    }
}
