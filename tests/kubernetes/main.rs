// SPDX-License-Identifier: Apache-2.0
//! The mesh in a real Kubernetes cluster of two nodes: what `deployments/` says, applied as people do.
//!
//! `cargo xtask test kubernetes` builds the images, starts the cluster, and runs this, with `NSM_CLUSTER`, the program
//! that runs clusters, and its variables in the environment. Without them there is nothing to run. `NSM_SPIRE` names the
//! folder with SPIRE's programs.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::Trial;
use libtest_mimic::{Arguments, Failed};

mod annotation;
mod certificates;
mod explain;
mod faults;
mod networks;
mod outages;
mod pods;
mod restricted;
mod spire;
mod standstill;
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
    let trials = match certificates::are_there(&cluster) {
        Ok(they_are) => trials(Arc::new(cluster), they_are),
        Err(error) => {
            eprintln!("the cluster tells no version: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

type Test = fn(&Cluster) -> anyhow::Result<()>;

/// The tests, in the order in which they run: each needs what those before it have left.
fn trials(cluster: Arc<Cluster>, has_pod_certificates: bool) -> Vec<Trial> {
    let mut tests = everywhere().to_vec();
    if has_pod_certificates {
        tests.extend(with_pod_certificates());
    }
    tests.extend(with_spire());
    let trial = |(name, test): (&str, Test)| {
        let cluster = Arc::clone(&cluster);
        Trial::test(name, move || {
            test(&cluster).map_err(|error| Failed::from(format!("{error:#}\n{}", cluster.tell())))
        })
    };
    tests.into_iter().map(trial).collect()
}

/// What Kubernetes can from 1.37 on.
fn with_pod_certificates() -> [(&'static str, Test); 4] {
    [
        (
            "pods_get_their_identities_from_kubernetes_itself",
            certificates::first,
        ),
        (
            "the_signer_may_sign_for_its_name_and_nothing_else",
            certificates::rights,
        ),
        (
            "pod_certificates_are_renewed_without_a_lost_packet",
            certificates::renewed,
        ),
        (
            "a_mesh_with_pod_certificates_leaves_nothing",
            certificates::nothing_is_left,
        ),
    ]
}

fn with_spire() -> [(&'static str, Test); 4] {
    [
        ("pods_get_their_identities_from_spire", spire::first),
        (
            "identities_of_spire_are_renewed_without_a_lost_packet",
            spire::renewed,
        ),
        (
            "a_webhook_with_its_svid_is_trusted_as_spire_tells_the_api_server",
            spire::webhook,
        ),
        (
            "a_mesh_with_identities_of_spire_leaves_nothing",
            spire::nothing_is_left,
        ),
    ]
}

fn everywhere() -> [(&'static str, Test); 36] {
    [
        (
            "one_command_makes_a_mesh_and_pods_on_one_node_get_a_wire",
            wires::first,
        ),
        ("pods_on_two_nodes_get_a_wire_of_ethernet", wires::of_ethernet),
        ("pods_on_two_nodes_get_a_wire_of_ip", wires::of_ip),
        (
            "no_wire_has_an_address_of_the_clusters_networks",
            networks::are_excluded,
        ),
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
        ("a_pod_with_fifty_services_has_fifty_wires", pods::fifty_services),
        (
            "pods_that_are_killed_while_their_wires_are_made_leave_nothing",
            pods::deleted_too_early,
        ),
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
            "wires_live_while_the_control_plane_is_started_anew",
            faults::control_plane_starts_anew,
        ),
        (
            "wires_live_while_a_kubelet_is_started_anew",
            faults::kubelet_starts_anew,
        ),
        ("two_pods_of_one_name_have_a_wire_each", faults::twins),
        (
            "managers_are_updated_without_a_lost_packet",
            outages::managers_are_updated,
        ),
        (
            "forwarders_are_updated_without_a_lost_packet",
            outages::forwarders_are_updated,
        ),
        (
            "a_wire_of_wireguard_lives_on_while_forwarders_are_updated",
            outages::forwarders_of_wireguard_are_updated,
        ),
        (
            "the_registry_is_updated_without_a_lost_packet",
            outages::registry_is_updated,
        ),
        (
            "a_node_that_lost_its_power_gets_its_wires_again",
            faults::node_loses_its_power,
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
        (
            "a_restricted_workload_gets_a_wire_and_mounts_nothing_of_its_node",
            restricted::workload,
        ),
        ("what_is_not_restricted_is_refused_there", restricted::enforced),
        ("a_restricted_job_with_a_wire_ends", restricted::job),
        (
            "restricted_volumes_of_killed_drivers_are_removed_by_the_next",
            restricted::killed,
        ),
        (
            "a_mesh_for_restricted_pods_leaves_nothing",
            restricted::nothing_is_left,
        ),
    ]
}
