// SPDX-License-Identifier: Apache-2.0
//! The mesh in a real Kubernetes cluster of two nodes: what `deployments/` says, applied as people do.
//!
//! `cargo xtask test kubernetes` builds the images, starts the cluster, and runs this, with `NSM_CLUSTER`, the program
//! that runs clusters, and its variables in the environment. Without them there is nothing to run.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::Trial;
use libtest_mimic::{Arguments, Failed};

mod cluster;
mod wires;

use cluster::Cluster;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // What is measured is not disturbed, and what is left is whose it is.
    arguments.test_threads = Some(1);
    let Some(cluster) = Cluster::of_environment() else {
        eprintln!("no cluster to test: run `cargo xtask test kubernetes`, which starts one");
        return ExitCode::FAILURE;
    };
    libtest_mimic::run(&arguments, trials(Arc::new(cluster))).exit_code()
}

/// The tests, in the order in which they run: the first one makes the mesh, the last one removes it.
fn trials(cluster: Arc<Cluster>) -> Vec<Trial> {
    type Test = fn(&Cluster) -> anyhow::Result<()>;
    let tests: [(&str, Test); 5] = [
        (
            "one_command_makes_a_mesh_and_pods_on_one_node_get_a_wire",
            wires::first,
        ),
        ("pods_on_two_nodes_get_a_wire_of_ethernet", wires::of_ethernet),
        ("pods_on_two_nodes_get_a_wire_of_ip", wires::of_ip),
        ("a_pod_that_is_made_again_gets_its_wire_again", wires::again),
        (
            "one_command_removes_the_mesh_and_nothing_is_left",
            wires::nothing_is_left,
        ),
    ];
    let trial = |(name, test): (&str, Test)| {
        let cluster = Arc::clone(&cluster);
        Trial::test(name, move || {
            test(&cluster).map_err(|error| Failed::from(format!("{error:#}\n{}", cluster.tell())))
        })
    };
    tests.map(trial).into()
}
