// SPDX-License-Identifier: Apache-2.0
//! A real Kubernetes cluster on this machine, for developers and for tests.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use crate::oci::{Entry, Image};
use crate::report::run;
use crate::tools::{self, CNI, CONTAINERD, GO, IP, NFT, NSENTER, RUNC, Tool};
use crate::{busybox, coredns, images, root};

/// What a cluster needs of the machine.
pub(crate) const TOOLS: &[Tool] = &[GO, CONTAINERD, RUNC, CNI, NFT, IP, NSENTER];

/// How often the build tells how far it is, in packages.
const OFTEN: usize = 100;

/// Run a real Kubernetes cluster of several nodes on this machine.
///
/// etcd, Kubernetes and CoreDNS are built of their Go modules, once: that takes 10 to 20 minutes on two cores. From then
/// on a cluster is up in seconds, down in two, and leaves nothing behind. Needs root. Clusters of different names run
/// side by side.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name of the cluster
    #[arg(long, default_value = "nsm")]
    name: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the programs, unless that was done
    Build {
        #[command(flatten)]
        version: Version,
    },
    /// Start a cluster and wait until pods can be made
    Up {
        #[command(flatten)]
        version: Version,
        /// How many nodes
        #[arg(long, default_value_t = 2)]
        nodes: u32,
    },
    /// End it and remove everything that it made
    Down,
    /// Give every node images: the given archives, or those of all programs, built for development
    Load { archives: Vec<PathBuf> },
    /// Run kubectl as the administrator
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command on a node (node1, node2 ...) or where the control plane is (control)
    On {
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Version {
    /// The version of Kubernetes
    #[arg(long, value_enum, default_value_t)]
    kubernetes: Kubernetes,
}

/// The versions of Kubernetes that there are modules for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kubernetes {
    /// 1.34.4.
    #[default]
    #[value(name = "1.34")]
    V1_34,
    /// 1.37.2.
    #[value(name = "1.37")]
    V1_37,
}

impl Args {
    /// Does what is asked.
    pub(crate) fn run(self) -> Result<()> {
        let cluster = Cluster::named(&self.name)?;
        match self.command {
            Action::Build { version } => build(version.kubernetes).map(drop),
            Action::Up { version, nodes } => cluster.up(version.kubernetes, nodes),
            Action::Down => cluster.down(),
            Action::Load { archives } if archives.is_empty() => cluster.load(&images_for_development()?),
            Action::Load { archives } => cluster.load(&archives),
            Action::Kubectl { arguments } => {
                let mut kubectl = cluster.command("kubectl")?;
                Err(kubectl.args(arguments).exec()).context("could not start kubectl")
            }
            Action::On { host, command } => {
                let mut on = cluster.command("on")?;
                Err(on.arg(host).args(command).exec()).context("could not start the command")
            }
        }
    }
}

/// The images of all programs, built for development, and those of other containers in examples.
pub(crate) fn images_for_development() -> Result<Vec<PathBuf>> {
    images_built_for("dev")
}

/// The same of programs that are built so.
pub(crate) fn images_built_for(profile: &str) -> Result<Vec<PathBuf>> {
    let images = images::build(profile, "localhost/nsm", "dev", &[])?;
    let mut archives: Vec<_> = images.into_iter().map(|(archive, _)| archive).collect();
    archives.extend([busybox::image()?, coredns::image()?]);
    Ok(archives)
}

/// One cluster of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    group: String,
}

impl Cluster {
    /// The cluster of this name, which there may be or not.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        ensure!(
            !name.is_empty() && name.chars().all(is_plain),
            "{name:?} cannot be the name of a cluster: use letters, digits and dashes"
        );
        Ok(Self {
            group: format!("cluster-{name}"),
        })
    }

    /// Starts it, and waits until pods can be made.
    pub(crate) fn up(&self, version: Kubernetes, nodes: u32) -> Result<()> {
        tools::need(TOOLS)?;
        let programs = build(version)?;
        let mut up = self.command("up")?;
        run(up
            .env("CLUSTER_PROGRAMS", programs)
            .env("CLUSTER_NODES", nodes.to_string()))?;
        println!(
            "{} is up; its logs are in {}",
            self.group,
            self.state().join("logs").display()
        );
        Ok(())
    }

    /// Ends it and removes what it made.
    pub(crate) fn down(&self) -> Result<()> {
        run(&mut self.command("down")?)
    }

    /// Gives every node the images of these archives.
    pub(crate) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        let archives: Vec<_> = archives
            .iter()
            .map(std::path::absolute)
            .collect::<std::io::Result<_>>()?;
        run(self.command("load")?.args(archives))
    }

    /// A command of the program that runs clusters, about this one.
    pub(crate) fn command(&self, command: &str) -> Result<Command> {
        ensure!(
            tools::is_root(),
            "a cluster needs root: its nodes mount file systems and make devices"
        );
        let mut started = Command::new(program()?);
        started.arg(command).envs(self.variables());
        Ok(started)
    }

    /// The variables by which that program finds it.
    pub(crate) fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("CLUSTER_STATE", self.state()),
            ("CLUSTER_GROUP", PathBuf::from(&self.group)),
        ]
    }

    fn state(&self) -> PathBuf {
        std::env::temp_dir().join(&self.group)
    }
}

/// The folder with the sources of what a cluster is made of.
fn sources() -> PathBuf {
    root().join("tests/cluster")
}

/// The program that runs clusters: built in a moment, and only when it has changed.
pub(crate) fn program() -> Result<PathBuf> {
    tools::need(&[GO])?;
    let program = tools::cache()?.join("cluster/cluster");
    go_build(
        &sources(),
        &["-o".into(), program.display().to_string(), ".".into()],
    )?;
    Ok(program)
}

/// Builds the programs that a cluster runs, unless they are there. Returns their folder.
pub(crate) fn build(version: Kubernetes) -> Result<PathBuf> {
    tools::need(&[GO])?;
    let (modules, number) = (version.modules(), version.number()?);
    let folder = tools::cache()?.join(format!("cluster/kubernetes-{number}"));
    let made_of = inputs(modules)?;
    let stamp = folder.join("made-of");
    if fs::read_to_string(&stamp).is_ok_and(|before| before == made_of) {
        return Ok(folder);
    }
    println!("building Kubernetes {number} into {}, once", folder.display());
    fs::create_dir_all(&folder)?;
    let output = |name: &str| folder.join(name).display().to_string();
    let flags = format!("-s -w{}", stamps(&number));
    let build = |from: &Path, modules: &str, name: &str, package: &str, flags: &str| {
        let arguments = [
            "-modfile",
            modules,
            "-ldflags",
            flags,
            "-o",
            &output(name),
            package,
        ];
        go_build(from, &arguments.map(String::from)).with_context(|| format!("could not build {name}"))
    };
    build(&sources(), modules, "pause", "./pause", "-s -w")?;
    build(&sources(), modules, "kube", "./kube", &flags)?;
    build(&sources().join("dns"), "go.mod", "coredns", ".", "-s -w")?;
    pause(&folder)?;
    fs::write(stamp, made_of)?;
    Ok(folder)
}

impl Kubernetes {
    fn modules(self) -> &'static str {
        match self {
            Self::V1_34 => "go.mod",
            Self::V1_37 => "go-1.37.mod",
        }
    }

    /// The number of the version that its modules name.
    fn number(self) -> Result<String> {
        let modules = fs::read_to_string(sources().join(self.modules()))?;
        let number = modules
            .lines()
            .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
        Ok(number
            .context("the modules name no version of k8s.io/kubernetes")?
            .to_string())
    }
}

/// All that decides what is built.
fn inputs(modules: &str) -> Result<String> {
    let files = [
        modules,
        "kube/main.go",
        "pause/main.go",
        "dns/go.mod",
        "dns/main.go",
    ];
    files
        .iter()
        .map(|file| Ok(fs::read_to_string(sources().join(file))?))
        .collect()
}

/// What tells Kubernetes' programs which version they are.
fn stamps(number: &str) -> String {
    let mut parts = number.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut flags = String::new();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [
            ("gitVersion", format!("v{number}").as_str()),
            ("gitMajor", major),
            ("gitMinor", minor),
        ] {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

/// The image of the first process of every pod.
fn pause(folder: &Path) -> Result<()> {
    let image = Image {
        name: "localhost/pause:1".into(),
        entries: vec![("/pause".into(), Entry::Program(folder.join("pause")))],
        entrypoint: "/pause".into(),
        user: "65535:65535".into(),
        created: "1970-01-01T00:00:00Z".into(),
        ..Image::default()
    };
    image.write(&folder.join("pause.tar")).map(drop)
}

/// Runs `go build`, and tells now and then how many packages it has built.
fn go_build(folder: &Path, arguments: &[String]) -> Result<()> {
    let mut build = Command::new("go");
    build
        .args(["build", "-v", "-trimpath", "-mod=readonly"])
        .args(arguments);
    let mut build = build
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .stderr(Stdio::piped())
        .spawn()
        .context("could not start go")?;
    let told = build.stderr.take().context("what go tells is piped")?;
    let (mut built, mut others) = (0, Vec::new());
    for line in BufReader::new(told).lines() {
        let line = line?;
        if line.contains(' ') {
            others.push(line);
            continue;
        }
        built += 1;
        if built % OFTEN == 0 {
            println!("  {built} packages are built");
        }
    }
    if !build.wait()?.success() {
        bail!("go build in {}:\n{}", folder.display(), others.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_name_the_versions() {
        assert_eq!(Kubernetes::V1_34.number().expect("named"), "1.34.4");
        assert_eq!(Kubernetes::V1_37.number().expect("named"), "1.37.2");
        assert!(stamps("1.34.4").contains(" -X k8s.io/component-base/version.gitMinor=34"));
    }

    #[test]
    fn names_of_clusters_are_plain() {
        assert!(Cluster::named("try-2").is_ok());
        for name in ["", "a/b", "..", "a b"] {
            assert!(Cluster::named(name).is_err(), "{name:?}");
        }
    }
}
