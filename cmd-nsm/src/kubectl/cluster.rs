// SPDX-License-Identifier: Apache-2.0
//! A cluster, as kubectl shows it, and the agents of its nodes.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::doctor::AGENT;
use crate::seen::Seen;

/// How managers are labelled, beside whom agents are.
const MANAGERS: &str = "app=nsmgr";

/// The program in the agent's container.
const PROGRAM: &str = "/bin/agent-k8s";

/// How long the API server may take.
const TO_ANSWER: &str = "--request-timeout=15s";

/// Which cluster, and where in it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// The file that says where the cluster is, as kubectl reads it
    #[arg(long, global = true)]
    kubeconfig: Option<String>,
    /// The context in it
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace of pods that are named
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The namespace of the mesh
    #[arg(long, global = true, env = "NSM_NAMESPACE", default_value = "nsm-system")]
    mesh: String,
    /// The program kubectl
    #[arg(long, global = true, default_value = "kubectl")]
    kubectl: String,
}

/// A cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    program: String,
    flags: Vec<String>,
    namespace: Option<String>,
    mesh: String,
}

/// The agent of a node.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    /// The node.
    pub(crate) node: String,
    /// The pod, which is the manager's.
    pub(crate) pod: String,
}

impl Settings {
    /// The cluster that they mean.
    pub(crate) fn cluster(self) -> Cluster {
        let flag = |name: &str, value: Option<String>| value.map(|value| format!("--{name}={value}"));
        Cluster {
            program: self.kubectl,
            flags: [flag("kubeconfig", self.kubeconfig), flag("context", self.context)]
                .into_iter()
                .flatten()
                .collect(),
            namespace: self.namespace,
            mesh: self.mesh,
        }
    }
}

impl Cluster {
    /// kubectl with these arguments.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // What follows a double dash is another program's.
        let own = arguments.iter().position(|argument| *argument == "--");
        let (own, others) = arguments.split_at(own.unwrap_or(arguments.len()));
        command
            .args(own)
            .args(&self.flags)
            .args(others)
            .stdin(Stdio::null());
        command
    }

    /// What kubectl prints.
    pub(crate) fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments).output();
        let output = output.with_context(|| format!("cannot run {}", self.program))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("{}", told.trim().trim_start_matches("error: "))
    }

    /// Objects as JSON.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<Value> {
        let all = [&["get"], arguments, &["--output=json", TO_ANSWER]].concat();
        serde_json::from_str(&self.text(&all)?).context("kubectl printed no JSON")
    }

    /// Objects of a kind in the namespace that is asked about.
    pub(crate) fn get_in(&self, namespace: Option<&str>, arguments: &[&str]) -> Result<Value> {
        let Some(namespace) = namespace.or(self.namespace.as_deref()) else {
            return self.get(arguments);
        };
        let namespace = format!("--namespace={namespace}");
        self.get(&[arguments, &[namespace.as_str()]].concat())
    }

    /// The namespace of the mesh.
    pub(crate) fn mesh(&self) -> &str {
        &self.mesh
    }

    /// The program kubectl and its flags.
    pub(crate) fn program(&self) -> (&str, &[String]) {
        (&self.program, &self.flags)
    }

    /// Everything that is registered, as `kubectl get` prints it.
    pub(crate) fn registered(&self) -> Result<String> {
        let what = "networkservices.networkservicemesh.io,networkserviceendpoints.networkservicemesh.io";
        let get = ["get", what, "--all-namespaces", "--output=json", TO_ANSWER];
        self.text(&get).context(
            "services and endpoints cannot be read: they are objects where the registry is registry-k8s, which one \
             must be allowed to list in all namespaces",
        )
    }

    /// The agents of all nodes, or of one.
    pub(crate) fn agents(&self, node: Option<&str>) -> Result<Vec<Agent>> {
        let mesh = format!("--namespace={}", self.mesh);
        let pods = self.get(&["pods", &mesh, "--selector", MANAGERS])?;
        let pods = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
        let agents = pods.iter().filter(|pod| has_agent(pod)).filter_map(agent);
        let agents: Vec<_> = agents
            .filter(|agent| node.is_none_or(|node| agent.node == node))
            .collect();
        let place = node.map_or(String::new(), |node| format!(" on node {node}"));
        ensure!(
            !pods.is_empty(),
            "there is no manager in the namespace {}: name that of the mesh by --mesh",
            self.mesh
        );
        ensure!(
            !agents.is_empty(),
            "no manager{place} has a running agent beside it: apply an overlay with the component \
             deployments/apps/agent-k8s, as dev is"
        );
        Ok(agents)
    }

    /// Asks the agent of a node; its answer is JSON.
    pub(crate) fn ask(&self, agent: &Agent, question: &[&str]) -> Result<Value> {
        let mut all = self.at(agent);
        all.extend(question.iter().map(ToString::to_string));
        all.push("--json".into());
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let told = self.text(&all);
        let told = told.with_context(|| format!("asking the agent of {}", agent.node))?;
        serde_json::from_str(&told).with_context(|| format!("the agent of {} printed no JSON", agent.node))
    }

    /// The arguments of kubectl that begin a question to an agent.
    pub(crate) fn at(&self, agent: &Agent) -> Vec<String> {
        let words = [
            "exec",
            "--namespace",
            &self.mesh,
            &agent.pod,
            "--container",
            AGENT,
        ];
        let words = words.into_iter().chain(["--", PROGRAM, "ask"]);
        words.map(str::to_string).collect()
    }

    /// The connections that the managers of these nodes know, with the node that tells of each.
    pub(crate) fn connections(&self, agents: &[Agent]) -> Result<Vec<(String, Seen)>> {
        let mut all = Vec::new();
        for agent in agents {
            let told = self.ask(agent, &["connections"])?;
            let seen: Vec<Seen> = serde_json::from_value(told).context("the agent is of another version")?;
            all.extend(seen.into_iter().map(|seen| (agent.node.clone(), seen)));
        }
        Ok(all)
    }
}

fn has_agent(pod: &Value) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let mut statuses = statuses.into_iter().flatten();
    statuses.any(|status| status["name"] == AGENT && status["state"].get("running").is_some())
}

fn agent(pod: &Value) -> Option<Agent> {
    Some(Agent {
        node: pod["spec"]["nodeName"].as_str()?.to_string(),
        pod: pod["metadata"]["name"].as_str()?.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_stand_before_the_other_programs_arguments() {
        let settings = Settings {
            kubeconfig: Some("file".into()),
            context: None,
            namespace: None,
            mesh: "nsm-system".into(),
            kubectl: "kubectl".into(),
        };
        let command = settings.cluster().kubectl(&["exec", "pod", "--", "ls", "--all"]);
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(
            arguments,
            ["exec", "pod", "--kubeconfig=file", "--", "ls", "--all"]
        );
    }

    #[test]
    fn an_agent_is_a_container_that_runs_beside_a_manager() {
        let pod = |name: &str, state: &str| {
            json!({
                "metadata": {"name": "nsmgr-x"}, "spec": {"nodeName": "node1"},
                "status": {"containerStatuses": [{"name": name, "state": {state: {}}}]},
            })
        };
        assert!(has_agent(&pod("agent", "running")));
        assert!(!has_agent(&pod("agent", "waiting")) && !has_agent(&pod("nsmgr", "running")));
        let agent = agent(&pod("agent", "running")).expect("it is one");
        assert_eq!((&*agent.node, &*agent.pod), ("node1", "nsmgr-x"));
    }
}
