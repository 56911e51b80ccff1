// SPDX-License-Identifier: Apache-2.0
//! The mesh in a real Kubernetes cluster of two nodes: what `deployments/` says, applied as people do.
//!
//! `cargo xtask test kubernetes` builds the images, starts the cluster, and runs this, with `NSM_CLUSTER`, the program
//! that runs clusters, and its variables in the environment. Without them there is nothing to run.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::Trial;
use libtest_mimic::{Arguments, Failed};

mod annotation;
mod explain;
mod outages;
mod wires;

use nsm_tests::kubectl::Cluster;

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

/// The tests, in the order in which they run: each needs what those before it have left.
fn trials(cluster: Arc<Cluster>) -> Vec<Trial> {
    type Test = fn(&Cluster) -> anyhow::Result<()>;
    let tests: [(&str, Test); 23] = [
        (
            "one_command_makes_a_mesh_and_pods_on_one_node_get_a_wire",
            wires::first,
        ),
        ("pods_on_two_nodes_get_a_wire_of_ethernet", wires::of_ethernet),
        ("pods_on_two_nodes_get_a_wire_of_ip", wires::of_ip),
        ("an_annotated_workload_gets_a_wire", annotation::workload),
        (
            "an_annotated_pod_has_its_wire_before_it_starts",
            annotation::single_pod,
        ),
        (
            "a_pod_that_is_deleted_closes_its_wire_at_once",
            annotation::deletion,
        ),
        (
            "pods_of_an_annotated_namespace_get_a_wire",
            annotation::of_namespace,
        ),
        ("a_job_with_a_wire_ends", annotation::job),
        (
            "a_mistaken_annotation_is_refused_with_its_remedy",
            annotation::mistakes,
        ),
        (
            "a_dead_webhook_hinders_nobody_who_does_not_need_it",
            annotation::no_webhook,
        ),
        ("events_on_a_pod_tell_refusal_success_and_heal", explain::events),
        ("kubectl_nsm_explains_ten_refusals", explain::refusals),
        ("kubectl_nsm_shows_what_a_cluster_has", explain::shows),
        ("a_pod_that_is_made_again_gets_its_wire_again", wires::again),
        (
            "an_object_that_is_deleted_under_a_wire_comes_back",
            outages::object_is_deleted,
        ),
        ("wires_live_while_the_api_server_is_away", outages::no_api_server),
        (
            "managers_are_updated_without_a_lost_packet",
            outages::managers_are_updated,
        ),
        (
            "forwarders_are_updated_without_a_lost_packet",
            outages::forwarders_are_updated,
        ),
        (
            "the_registry_is_updated_without_a_lost_packet",
            outages::registry_is_updated,
        ),
        (
            "pods_of_a_drained_node_get_their_wires_elsewhere",
            outages::node_is_drained,
        ),
        (
            "a_deleted_namespace_leaves_nothing_registered",
            annotation::namespace_is_deleted,
        ),
        (
            "one_command_removes_the_mesh_and_nothing_is_left",
            wires::nothing_is_left,
        ),
        ("a_mesh_in_memory_comes_and_goes", wires::in_memory),
    ];
    let trial = |(name, test): (&str, Test)| {
        let cluster = Arc::clone(&cluster);
        Trial::test(name, move || {
            test(&cluster).map_err(|error| Failed::from(format!("{error:#}\n{}", cluster.tell())))
        })
    };
    tests.map(trial).into()
}
