// SPDX-License-Identifier: Apache-2.0
//! Makes a container image of each program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::oci::{Entry, Image};
use crate::report::run;
use crate::sbom::sbom;
use crate::suites;
use crate::tools::{self, MUSL, STRIP};
use crate::{profile_folder, root};

/// What images are built for: programs that need nothing of a system.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// How large an image may be, bytes.
const LARGEST: u64 = 15_000_000;

/// Those whose work is root's: the sockets and folders of a node belong to it.
const FOR_ROOT: [&str; 4] = ["cmd-csi-driver", "cmd-nsmgr", "cmd-forwarder", "cmd-issuer-k8s"];

/// Everybody else is nobody in particular.
const NOBODY: &str = "65532:65532";

/// Build one container image of each program, as an OCI archive, with a list of what it is made of beside it.
///
/// An image is one static program on nothing (FROM scratch). No builder of images is used, since there is nothing to
/// build in one: an archive is three files of JSON and one of the program, and these are the same bytes for the same
/// commit. `cargo xtask cluster load` gives them to a test cluster, `ctr images import FILE` to any containerd, and
/// `skopeo copy oci-archive:FILE docker://HOST/NAME:TAG` to a registry.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which packages; all that are programs of a mesh by default
    packages: Vec<String>,
    /// How they are built: release as people get them; dev of the programs that tests are built with, and the
    /// libraries that these need of this machine, in a fraction of the time
    #[arg(long, default_value = "release")]
    profile: String,
    /// What comes before the names of images
    #[arg(long, default_value = "localhost/nsm")]
    prefix: String,
    /// What comes behind them
    #[arg(long, default_value = "dev")]
    tag: String,
}

impl Args {
    /// Builds them, and tells how large they are.
    pub(crate) fn run(self) -> Result<()> {
        let images = build(&self.profile, &self.prefix, &self.tag, &self.packages)?;
        let mut too_large = Vec::new();
        for (archive, size) in &images {
            println!("{:6.2} MB  {}", *size as f64 / 1e6, archive.display());
            if *size > LARGEST {
                too_large.push(archive.display().to_string());
            }
        }
        ensure!(
            self.profile != "release" || too_large.is_empty(),
            "larger than {} MB: {}",
            LARGEST / 1_000_000,
            too_large.join(" ")
        );
        Ok(())
    }
}

/// A package that becomes an image.
struct Component {
    package: String,
    program: String,
    about: String,
    version: String,
    /// Whether it has crates for Kubernetes.
    is_for_kubernetes: bool,
}

/// The crates for Kubernetes that ours depend on.
const FOR_KUBERNETES: [&str; 2] = ["kube", "nsm-sdk-k8s"];

/// The commit that is built.
struct Commit {
    hash: String,
    /// As RFC 3339 says it.
    time: String,
}

/// Builds the images of `packages`, or of all when none is named. Returns the archives and the images' sizes.
pub(crate) fn build(
    profile: &str,
    prefix: &str,
    tag: &str,
    packages: &[String],
) -> Result<Vec<(PathBuf, u64)>> {
    let is_dev = profile == "dev";
    let metadata = metadata()?;
    let components = components(&metadata, packages)?;
    let programs = if is_dev {
        compile_for_here(&components)?
    } else {
        compile(profile, &components)?
    };
    let commit = commit()?;
    let folder = profile_folder("images")?.join(profile);
    fs::create_dir_all(&folder)?;
    let mut images = Vec::new();
    for component in &components {
        let mut image = component.image(
            &programs,
            &format!("{prefix}/{}:{tag}", component.package),
            &commit,
        );
        if is_dev {
            image
                .entries
                .extend(libraries(&programs.join(&component.program))?);
        }
        let archive = folder.join(format!("{}.tar", component.package));
        let list = sbom(&metadata, &component.package, &commit.time)?;
        fs::write(archive.with_extension("cdx.json"), format!("{list:#}\n"))?;
        let size = image.write(&archive)?;
        images.push((archive, size));
    }
    Ok(images)
}

impl Component {
    fn image(&self, programs: &Path, name: &str, commit: &Commit) -> Image {
        let labels = [
            ("title", self.package.as_str()),
            ("description", &self.about),
            ("version", &self.version),
            ("revision", &commit.hash),
            ("created", &commit.time),
            ("licenses", "Apache-2.0"),
        ];
        let program = format!("/bin/{}", self.program);
        Image {
            name: name.into(),
            entries: vec![
                ("/bin".into(), Entry::Folder(0o755)),
                (program.clone(), Entry::Program(programs.join(&self.program))),
                // Probes of published manifests start it by this name.
                ("/bin/grpc-health-probe".into(), Entry::Link(self.program.clone())),
                ("/tmp".into(), Entry::Folder(0o1777)),
            ],
            entrypoint: program,
            user: if FOR_ROOT.contains(&self.package.as_str()) {
                "0:0"
            } else {
                NOBODY
            }
            .into(),
            labels: labels
                .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_string()))
                .into(),
            created: commit.time.clone(),
        }
    }
}

fn metadata() -> Result<Value> {
    let mut command = Command::new("cargo");
    command.args([
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
        TARGET,
    ]);
    let told = command
        .current_dir(root())
        .output()
        .context("could not start cargo")?;
    ensure!(
        told.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&told.stderr)
    );
    serde_json::from_slice(&told.stdout).context("cargo metadata printed no JSON")
}

/// The packages that are programs of a mesh: those whose names begin like theirs.
fn components(metadata: &Value, packages: &[String]) -> Result<Vec<Component>> {
    let all = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let mut found = BTreeMap::new();
    for package in all.iter().filter(|package| package["source"].is_null()) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let name = text(&package["name"]);
        let targets = package["targets"].as_array().into_iter().flatten();
        let program = targets
            .filter(|target| target["kind"][0] == "bin")
            .map(|target| text(&target["name"]))
            .next();
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let mut dependencies = dependencies.filter(|one| one["kind"].is_null());
        let is_for_kubernetes = dependencies.any(|one| {
            one["name"]
                .as_str()
                .is_some_and(|name| FOR_KUBERNETES.contains(&name))
        });
        if let Some(program) = program.filter(|_| name.starts_with("cmd-")) {
            let component = Component {
                package: name.clone(),
                program,
                about: text(&package["description"]),
                version: text(&package["version"]),
                is_for_kubernetes,
            };
            found.insert(name, component);
        }
    }
    if packages.is_empty() {
        return Ok(found.into_values().collect());
    }
    let known = found.keys().cloned().collect::<Vec<_>>().join(" ");
    let wanted = |name: &String| {
        found
            .remove(name)
            .with_context(|| format!("{name} is none of {known}"))
    };
    packages.iter().map(wanted).collect()
}

/// Builds the programs of a mesh as people get them, and what measures them. Returns the folder that they are in.
pub(crate) fn programs() -> Result<PathBuf> {
    compile("release", &components(&metadata()?, &[])?)
}

/// Builds the programs as people get them, and what measures them, so that both are built once. Returns the folder that
/// they are in.
fn compile(profile: &str, components: &[Component]) -> Result<PathBuf> {
    tools::need(&[MUSL])?;
    tools::need_target(TARGET)?;
    // What is built together has what any of it asks of a crate: TLS 1.2, which the API server's client has, is half a
    // megabyte of memory in programs that do not speak it.
    let packages = |is_for_kubernetes| {
        let together = components
            .iter()
            .filter(move |component| component.is_for_kubernetes == is_for_kubernetes);
        together.map(|component| component.package.as_str())
    };
    compile_together(profile, packages(false).chain(["nsm-benches", "nsm-md"]))?;
    if packages(true).next().is_some() {
        compile_together(profile, packages(true))?;
    }
    profile_folder(TARGET).map(|target| target.join(profile))
}

fn compile_together<'p>(profile: &str, packages: impl Iterator<Item = &'p str>) -> Result<()> {
    let mut build = Command::new("cargo");
    build.args([
        "build",
        "--locked",
        "--bins",
        "--target",
        TARGET,
        "--profile",
        profile,
    ]);
    build.args(packages.map(|package| format!("--package={package}")));
    same_everywhere(&mut build)?;
    run(&mut build)
}

/// Builds the programs for this machine, which tests have done mostly, or takes those of the folder that `NSM_PROGRAMS`
/// names. Returns a folder with them, without what debuggers need.
fn compile_for_here(components: &[Component]) -> Result<PathBuf> {
    tools::need(&[STRIP])?;
    let built = match std::env::var_os("NSM_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            run(&mut suites::everything())?;
            profile_folder("debug")?
        }
    };
    let folder = profile_folder("images/programs")?;
    fs::create_dir_all(&folder)?;
    for component in components {
        let (from, to) = (built.join(&component.program), folder.join(&component.program));
        run(Command::new("strip").arg("-o").args([to, from]))?;
    }
    Ok(folder)
}

/// What a program that is not static needs of this machine, at the same places.
fn libraries(program: &Path) -> Result<Vec<(String, Entry)>> {
    let told = Command::new("ldd")
        .arg(program)
        .output()
        .context("could not start ldd")?;
    ensure!(told.status.success(), "ldd does not know {}", program.display());
    let told = String::from_utf8_lossy(&told.stdout);
    let paths = told
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths
        .map(|path| (path.to_string(), Entry::Program(path.into())))
        .collect())
}

/// Keeps out of programs in which folders they were built.
fn same_everywhere(build: &mut Command) -> Result<()> {
    let home = |variable: &str, usual: &str| match std::env::var_os(variable) {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => std::env::home_dir()
            .context("HOME is not set")
            .map(|home| home.join(usual)),
    };
    let places = [
        (root(), "/nsm"),
        (home("CARGO_HOME", ".cargo")?, "/cargo"),
        (home("RUSTUP_HOME", ".rustup")?, "/rustup"),
        (profile_folder("")?, "/target"),
    ];
    let (mut rust, mut c) = (Vec::new(), Vec::new());
    for (folder, name) in places {
        let folder = folder.display().to_string();
        let folder = folder.trim_end_matches('/');
        rust.push(format!("--remap-path-prefix={folder}={name}"));
        c.push(format!("-ffile-prefix-map={folder}={name}"));
    }
    // Beside those of the workspace, in place of which RUSTFLAGS would be taken.
    let rust = serde_json::to_string(&rust)?;
    build
        .arg("--config")
        .arg(format!("target.{TARGET}.rustflags={rust}"));
    build.env(format!("CFLAGS_{}", TARGET.replace('-', "_")), c.join(" "));
    Ok(())
}

fn commit() -> Result<Commit> {
    let git = |arguments: &[&str]| {
        let told = Command::new("git")
            .args(arguments)
            .env("TZ", "UTC")
            .current_dir(root())
            .output();
        let told = told.context("could not start git")?;
        if !told.status.success() {
            bail!("git {arguments:?}: {}", String::from_utf8_lossy(&told.stderr));
        }
        Ok(String::from_utf8_lossy(&told.stdout).trim().to_string())
    };
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let shown = git(&[
        "show",
        "--no-patch",
        "--date=format-local:%Y-%m-%dT%H:%M:%SZ",
        "--format=%H %cd",
    ])?;
    let (hash, time) = shown.split_once(' ').context("git show printed no commit")?;
    Ok(Commit {
        hash: if changed {
            format!("{hash}-changed")
        } else {
            hash.to_string()
        },
        time: time.to_string(),
    })
}
